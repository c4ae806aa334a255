/** The containers of a running VM, over all of its disks: a runtime may keep its state on a disk of its own. */
import { available, type Reading, unavailable } from '../model/reading.ts';
import { asDiskUnreadable } from './disk.ts';
import type { ContainersOnDisk } from './look-up.ts';
import { listDiskNodes, type Monitor, withQemuExport } from './qemu-export.ts';
import type { GuestDiskReader } from './reader.ts';

/** Reasons that a disk without containers gives; another disk of the VM may have them. */
const ELSEWHERE: readonly string[] = ['NotFound', 'NoFileSystem'];

/** `directory` belongs to this VM alone: QEMU's socket is made in it. One call at a time per VM. */
export async function listContainersOfVm(
  reader: GuestDiskReader,
  monitor: Monitor,
  vm: { readonly uuid: string; readonly directory: string; readonly seenAs?: string },
): Promise<Reading<ContainersOnDisk>> {
  try {
    const readings: Reading<ContainersOnDisk>[] = [];
    for (const nodeName of await listDiskNodes(monitor)) {
      readings.push(
        await withQemuExport(monitor, { ...vm, nodeName }, ({ source }) =>
          reader.listContainers(source, { diskId: `${vm.uuid}/${nodeName}` }),
        ),
      );
    }
    return together(readings) ?? unavailable('NotFound', `VM ${vm.uuid} has no fixed disk`);
  } catch (error) {
    const { reason, message } = asDiskUnreadable(error);
    return unavailable(reason, message);
  }
}

/** What all disks hold, as old as the oldest; a disk that cannot be read is a failure among the others. null: no disk. */
function together(readings: readonly Reading<ContainersOnDisk>[]): Reading<ContainersOnDisk> | null {
  const found = readings.flatMap((reading) => (reading.available ? [reading.value] : []));
  const unreadable = readings.flatMap((reading) =>
    reading.available || ELSEWHERE.includes(reading.reason) ? [] : [reading],
  );
  if (found.length === 0) return unreadable[0] ?? readings.at(-1) ?? null;
  return available({
    containers: found.flatMap(({ containers }) => containers),
    unreadable: found.flatMap((disk) => disk.unreadable),
    asOfUnixMs: Math.min(...found.map(({ asOfUnixMs }) => asOfUnixMs)),
    fileSystems: found.flatMap(({ fileSystems }) => fileSystems),
    failures: [
      ...found.flatMap(({ failures }) => failures),
      ...unreadable.map(({ reason, message }) => ({ runtime: null, place: 'disk', reason, message })),
    ],
  });
}

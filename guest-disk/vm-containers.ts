/** The containers of a running VM, whichever of its disks they are described on. */
import { type Reading, unavailable } from '../model/reading.ts';
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
  let last: Reading<ContainersOnDisk> = unavailable('NotFound', `VM ${vm.uuid} has no fixed disk`);
  try {
    for (const nodeName of await listDiskNodes(monitor)) {
      last = await withQemuExport(monitor, { ...vm, nodeName }, ({ source }) =>
        reader.listContainers(source, { diskId: `${vm.uuid}/${nodeName}` }),
      );
      if (last.available || !ELSEWHERE.includes(last.reason)) return last;
    }
    return last;
  } catch (error) {
    const { reason, message } = asDiskUnreadable(error);
    return unavailable(reason, message);
  }
}

/**
 * Which VM is meant, and how it can be read: by libvirt when it answers (state, CPU, and names through QEMU's own view of
 * the disk), else by its QEMU process alone.
 */
import { readdir } from 'node:fs/promises';
import { containersOnDiskOf } from '../activities/host-counters.ts';
import { GuestDiskReader } from '../guest-disk/reader.ts';
import { type Reading, type UnavailableReason, unavailable } from '../model/reading.ts';
import type { VmCounters } from '../model/usage.ts';
import { type DomainDescription, Libvirt } from '../native/libvirt.ts';
import { findQemu, processCpuNanoseconds, type QemuProcess, readQemu } from '../native/qemu-process.ts';
import { CommandError, type CommandProblem, EXIT } from './errors.ts';
import { printable } from './escape.ts';
import type { NamesOnDisk } from './names-on-disk.ts';
import { remedyFor, type VmPlace, virsh } from './remedies.ts';

export interface FoundVm {
  readonly uuid: string;
  readonly name: string;
  readonly pid: number;
  /** null: only its process is known. */
  readonly libvirtUri: string | null;
  readonly ramBytes: number | null;
  /** CPU time of the whole VM, and when that was, by the host's monotonic clock. */
  cpuNanoseconds(): Promise<{ readonly cpu: bigint; readonly at: bigint } | null>;
  names(): Promise<Reading<NamesOnDisk>>;
  close(): Promise<void>;
}

export interface VmQuery {
  readonly name: string | null;
  readonly pid: number | null;
  readonly hostUri: string | null;
  /** A raw disk image for names. */
  readonly disk: string | null;
}

const SYSTEM_URI = 'qemu:///system';

/** @throws CommandError: not found, not running, libvirt unreachable when it was named */
export async function findVm(query: VmQuery): Promise<FoundVm> {
  if (query.pid !== null) return byProcess(await qemuAt(query.pid), query);
  const name = query.name ?? '';
  const uri = query.hostUri ?? SYSTEM_URI;
  const tried = `looked for VM "${printable(name)}" at ${uri}`;
  let libvirt: Libvirt;
  try {
    libvirt = await Libvirt.connect(uri);
  } catch (error) {
    const found = error instanceof Error ? error.message : String(error);
    // Whoever named a URI wants that one; otherwise a QEMU without libvirt is looked for, too.
    const qemu = query.hostUri === null ? await qemuNamed(name) : null;
    if (qemu !== null) return byProcess(qemu, query);
    throw new CommandError({ ...unreachable(found), tried, found }, { cause: error });
  }
  try {
    const domain = await libvirt.lookup(name);
    if (domain === null) {
      const qemu = query.hostUri === null ? await qemuNamed(name) : null;
      if (qemu === null) throw await unknownVm(libvirt, tried);
      await libvirt.close();
      return byProcess(qemu, query);
    }
    return await byLibvirt(libvirt, domain, tried, query);
  } catch (error) {
    await libvirt.close();
    throw error;
  }
}

function unreachable(found: string): Pick<CommandProblem, 'exitCode' | 'reason' | 'remedy'> {
  if (/permission denied|authentication|access denied/i.test(found)) {
    const remedy = "run it as root, or let this user use libvirt's socket (Debian: the group libvirt)";
    return { exitCode: EXIT.failed, reason: 'PermissionDenied', remedy };
  }
  const remedy = 'start libvirtd, name its URI by --host-uri, or name the QEMU process by --pid';
  return { exitCode: EXIT.unreachable, reason: 'HypervisorUnreachable', remedy };
}

async function unknownVm(libvirt: Libvirt, tried: string): Promise<CommandError> {
  const names = (await libvirt.allStats()).map((vm) => printable(vm.name)).sort();
  const found = names.length === 0 ? 'libvirt has no VM there' : `no such VM; there are: ${names.join(', ')}`;
  const remedy = 'check the name, or name another libvirt by --host-uri';
  return new CommandError({ exitCode: EXIT.notFound, reason: 'UnknownVm', tried, found, remedy });
}

/** States in which there is nothing to read. A paused guest's memory would only tell how it was. */
const UNREADABLE: Partial<Record<VmCounters['state'], UnavailableReason>> = {
  shutoff: 'GuestOff',
  shutdown: 'GuestOff',
  crashed: 'GuestOff',
  paused: 'GuestPaused',
  suspended: 'GuestPaused',
};

function remedyOf(reason: UnavailableReason, state: VmCounters['state'], vm: VmPlace): string | null {
  if (state === 'suspended') return `it sleeps; wake it: ${virsh(vm, 'dompmwakeup')}`;
  return remedyFor(reason, vm);
}

async function byLibvirt(
  libvirt: Libvirt,
  { uuid, name, state }: DomainDescription,
  tried: string,
  { disk }: VmQuery,
): Promise<FoundVm> {
  const fail = (reason: string, found: string, remedy: string | null) =>
    new CommandError({ exitCode: EXIT.failed, reason, tried, found, remedy });
  const unreadable = UNREADABLE[state];
  if (unreadable !== undefined) {
    throw fail(unreadable, `it is ${state}`, remedyOf(unreadable, state, { name, libvirtUri: libvirt.uri }));
  }
  const qemu = await findQemu(uuid);
  if (qemu === null) {
    const remedy = 'run this on the machine where the VM runs, and see its processes (in a container: --pid=host)';
    throw fail('ProcessGone', 'libvirt says that it runs, but no QEMU process here has its UUID', remedy);
  }
  const disks = new GuestDiskReader();
  return {
    uuid,
    name,
    pid: qemu.pid,
    libvirtUri: libvirt.uri,
    ramBytes: qemu.ramBytes,
    cpuNanoseconds: () => cpuOf(qemu),
    names: () => (disk === null ? containersOnDiskOf(libvirt, disks, uuid) : namesInImage(disk)),
    close: async () => {
      await disks.close();
      await libvirt.close();
    },
  };
}

async function qemuAt(pid: number): Promise<QemuProcess> {
  const qemu = await readQemu(pid);
  if (qemu !== null) return qemu;
  throw new CommandError({
    exitCode: EXIT.notFound,
    reason: 'ProcessGone',
    tried: `looked at process ${pid}`,
    found: 'no QEMU process of an x86-64 VM there',
    remedy: 'see which there are: pgrep -a qemu',
  });
}

async function qemuNamed(nameOrUuid: string): Promise<QemuProcess | null> {
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const qemu = await readQemu(Number(entry));
    if (qemu !== null && (qemu.name === nameOrUuid || qemu.uuid === nameOrUuid.toLowerCase())) return qemu;
  }
  return null;
}

function byProcess(qemu: QemuProcess, { disk }: VmQuery): FoundVm {
  return {
    // A QEMU that was started without -uuid still needs a name while it is watched.
    uuid: qemu.uuid ?? `process-${qemu.pid}`,
    name: qemu.name ?? `process ${qemu.pid}`,
    pid: qemu.pid,
    libvirtUri: null,
    ramBytes: qemu.ramBytes,
    cpuNanoseconds: () => cpuOf(qemu),
    names: async () =>
      disk === null
        ? unavailable('Unsupported', "names are read through libvirt's monitor or --disk, and neither was given")
        : namesInImage(disk),
    close: async () => undefined,
  };
}

async function cpuOf({ pid }: QemuProcess) {
  const cpu = await processCpuNanoseconds(pid);
  return cpu === null ? null : { cpu, at: process.hrtime.bigint() };
}

export async function namesInImage(path: string): Promise<Reading<NamesOnDisk>> {
  const reader = new GuestDiskReader();
  try {
    return await reader.listContainers({ kind: 'raw', path });
  } finally {
    await reader.close();
  }
}

/** One look-up: from where a disk is to the containers that its file systems describe. Runs in the reader's thread. */
import type { UnavailableReason } from '../model/reading.ts';
import type { ContainerAround, ContainerRuntime } from '../model/usage.ts';
import {
  asDiskUnreadable,
  type BlockSource,
  type DiskSource,
  DiskUnreadable,
  type OpenBlockSource,
  withReadBudget,
} from './disk.ts';
import type { FileSystem, FileSystemAge } from './file-system.ts';
import { openNbd } from './nbd.ts';
import { MountedFileSystem } from './nested.ts';
import { type FoundFileSystem, openFileSystems } from './partitions.ts';
import { openRawFile } from './raw-file.ts';
import { containerd } from './runtimes/containerd.ts';
import { docker } from './runtimes/docker.ts';
import { lxc } from './runtimes/lxc.ts';
import { lxd } from './runtimes/lxd.ts';
import { podman } from './runtimes/podman.ts';
import type { ContainerOnDisk, Mount, RuntimeOnDisk, UnreadableContainer } from './runtimes/runtime.ts';

const RUNTIMES: readonly RuntimeOnDisk[] = [docker, containerd, podman, lxc, lxd];

/** More than the largest journal, read once, and every container's description. */
const READ_BUDGET = { bytes: 1.25 * 2 ** 30, reads: 200_000 };
/** kind in Docker in Docker, and one more. */
const MAX_NESTING = 3;
/** In one look-up: a guest may nest volumes in themselves. */
const MAX_NESTED_MOUNTS = 32;
/** Where runtimes keep their state; a volume elsewhere in a container holds none. */
const STATE_PLACES =
  /^\/(var(\/(lib(\/(docker|containerd|containers(\/storage)?|lxc|lxd|incus|rancher|k0s))?|snap))?)?\/?$/;

export interface ContainersOnDisk {
  readonly containers: readonly ContainerOnDisk[];
  readonly unreadable: readonly UnreadableContainer[];
  /** When the look-up began, by the host's wall clock: what the guest had committed by then is in it. */
  readonly asOfUnixMs: number;
  /** The file systems on which container runtimes were found. */
  readonly fileSystems: readonly FileSystemOnDisk[];
  /** What is there and could not be read: a runtime's state, or (null) a whole disk beside others. */
  readonly failures: readonly RuntimeFailure[];
}

export interface FileSystemOnDisk extends FileSystemAge {
  readonly format: string;
  /** "disk", "partition 2", or a volume of LVM: "group/volume". */
  readonly place: string;
  readonly runtimes: readonly ContainerRuntime[];
}

export interface RuntimeFailure {
  readonly runtime: ContainerRuntime | null;
  readonly place: string;
  readonly reason: UnavailableReason;
  readonly message: string;
}

export function openDisk(source: DiskSource): Promise<OpenBlockSource> {
  switch (source.kind) {
    case 'nbd':
      return openNbd(source.socketPath, source.exportName);
    case 'raw':
      return openRawFile(source.path);
  }
}

/** `known` is what the last look-up at the same disk found, and is replaced by what this one finds. */
export async function lookUpContainers(
  disk: BlockSource,
  known: { fileSystems: FoundFileSystem[] },
): Promise<ContainersOnDisk> {
  const asOfUnixMs = Date.now();
  known.fileSystems = await openFileSystems(withReadBudget(disk, READ_BUDGET), known.fileSystems);
  const found: Found = { containers: [], unreadable: [], failures: [], nestedMounts: 0 };
  const fileSystems: FileSystemOnDisk[] = [];
  try {
    for (const { format, place, fileSystem } of known.fileSystems) {
      const runtimes = await listRuntimes(fileSystem, { place, within: [] }, found);
      if (runtimes.length > 0) fileSystems.push({ format, place, runtimes, ...fileSystem.age });
    }
  } finally {
    for (const { fileSystem } of known.fileSystems) fileSystem.forget();
  }
  if (fileSystems.length === 0) {
    const [failure] = found.failures;
    if (failure) throw new DiskUnreadable(failure.reason, `${failure.runtime}'s state: ${failure.message}`);
    const names = RUNTIMES.map((runtime) => runtime.name).join(', ');
    const count = known.fileSystems.length;
    throw new DiskUnreadable(
      'NotFound',
      `no container runtime (${names}) has its data on the disk's ${count} file systems`,
    );
  }
  const { containers, unreadable, failures } = found;
  return { containers, unreadable, failures, asOfUnixMs, fileSystems };
}

interface Found {
  readonly containers: ContainerOnDisk[];
  readonly unreadable: UnreadableContainer[];
  readonly failures: RuntimeFailure[];
  nestedMounts: number;
}

/** @returns which were there and could be read. What is wrong with one runtime's state does not hide the others'. */
async function listRuntimes(
  fileSystem: FileSystem,
  where: { readonly place: string; readonly within: readonly ContainerAround[] },
  found: Found,
): Promise<ContainerRuntime[]> {
  const runtimes = new Set<ContainerRuntime>();
  const mounts: (Mount & { readonly runtime: ContainerRuntime })[] = [];
  for (const { name, list } of RUNTIMES) {
    try {
      const listing = await list(fileSystem);
      if (!listing) continue;
      runtimes.add(name);
      found.containers.push(...listing.containers.map((container) => ({ ...container, within: where.within })));
      found.unreadable.push(...listing.unreadable);
      for (const mount of listing.mounts ?? [])
        if (STATE_PLACES.test(mount.destination)) mounts.push({ ...mount, runtime: name });
    } catch (error) {
      const { reason, message } = asDiskUnreadable(error);
      if (reason === 'Exhausted') throw error;
      found.failures.push({ runtime: name, place: where.place, reason, message });
    }
  }
  if (where.within.length < MAX_NESTING) {
    for (const mount of mounts) {
      if (++found.nestedMounts > MAX_NESTED_MOUNTS) break;
      const around = { runtime: mount.runtime, id: mount.containerId };
      const inner = { place: where.place, within: [...where.within, around] };
      await listRuntimes(new MountedFileSystem(fileSystem, mount), inner, found);
    }
  }
  return [...runtimes];
}

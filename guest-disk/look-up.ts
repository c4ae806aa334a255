/** One look-up: from where a disk is to the containers that its file systems describe. Runs in the reader's thread. */
import { type BlockSource, type DiskSource, DiskUnreadable, type OpenBlockSource, withReadBudget } from './disk.ts';
import type { FileSystemAge } from './file-system.ts';
import { openNbd } from './nbd.ts';
import { type FoundFileSystem, openFileSystems } from './partitions.ts';
import { openRawFile } from './raw-file.ts';
import { docker } from './runtimes/docker.ts';
import type { ContainerListing, RuntimeOnDisk } from './runtimes/runtime.ts';

const RUNTIMES: readonly RuntimeOnDisk[] = [docker];

/** More than the largest journal, read once, and every container's description. */
const READ_BUDGET = { bytes: 1.25 * 2 ** 30, reads: 200_000 };

export interface ContainersOnDisk extends ContainerListing {
  /** When the look-up began, by the host's wall clock: what the guest had committed by then is in it. */
  readonly asOfUnixMs: number;
  /** The file systems on which container runtimes were found. */
  readonly fileSystems: readonly FileSystemOnDisk[];
}

export interface FileSystemOnDisk extends FileSystemAge {
  readonly format: string;
  readonly offsetBytes: number;
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
export async function lookUpContainers(disk: BlockSource, known: { fileSystems: FoundFileSystem[] }) {
  const asOfUnixMs = Date.now();
  known.fileSystems = await openFileSystems(withReadBudget(disk, READ_BUDGET), known.fileSystems);
  const listing: ContainerListing = { containers: [], unreadable: [] };
  const fileSystems: FileSystemOnDisk[] = [];
  try {
    for (const { format, offsetBytes, fileSystem } of known.fileSystems) {
      for (const runtime of RUNTIMES) {
        const found = await runtime.list(fileSystem);
        if (!found) continue;
        listing.containers.push(...found.containers);
        listing.unreadable.push(...found.unreadable);
        fileSystems.push({ format, offsetBytes, ...fileSystem.age });
      }
    }
  } finally {
    for (const { fileSystem } of known.fileSystems) fileSystem.forget();
  }
  if (fileSystems.length === 0) {
    const names = RUNTIMES.map((runtime) => runtime.name).join(', ');
    const count = known.fileSystems.length;
    throw new DiskUnreadable(
      'NotFound',
      `no container runtime (${names}) has its data on the disk's ${count} file systems`,
    );
  }
  return { ...listing, asOfUnixMs, fileSystems } satisfies ContainersOnDisk;
}

/** The thread behind reader.ts: one look-up at a time, and what is known of each disk between look-ups. */
import { parentPort } from 'node:worker_threads';
import { available, type Reading, unavailable } from '../model/reading.ts';
import { asDiskUnreadable, type DiskSource } from './disk.ts';
import { type ContainersOnDisk, lookUpContainers, openDisk } from './look-up.ts';
import type { FoundFileSystem } from './partitions.ts';

export interface LookUpRequest {
  readonly diskId: string;
  readonly source: DiskSource;
}

/** Disks whose journal is followed; the one that was not asked for longest is forgotten first. */
const MAX_KNOWN_DISKS = 64;
/** Over all known disks: about 50 MB. */
const MAX_JOURNALLED_BLOCKS = 400_000;

const knownDisks = new Map<string, { fileSystems: FoundFileSystem[] }>();

async function lookUp({ diskId, source }: LookUpRequest): Promise<Reading<ContainersOnDisk>> {
  const known = knownDisks.get(diskId) ?? { fileSystems: [] };
  knownDisks.delete(diskId);
  try {
    const disk = await openDisk(source);
    try {
      const containers = await lookUpContainers(disk, known);
      remember(diskId, known);
      return available(containers);
    } finally {
      await disk.close();
    }
  } catch (error) {
    const { reason, message } = asDiskUnreadable(error);
    return unavailable(reason, message);
  }
}

function remember(diskId: string, known: { fileSystems: FoundFileSystem[] }): void {
  knownDisks.set(diskId, known);
  const count = () =>
    [...knownDisks.values()]
      .flatMap((disk) => disk.fileSystems)
      .reduce((sum, { fileSystem }) => sum + fileSystem.age.journalledBlocks, 0);
  while (knownDisks.size > MAX_KNOWN_DISKS || count() > MAX_JOURNALLED_BLOCKS) {
    knownDisks.delete(knownDisks.keys().next().value as string);
  }
}

parentPort?.on('message', (request: LookUpRequest) => {
  lookUp(request).then(
    (reading) => parentPort?.postMessage(reading),
    (error: unknown) => {
      // A mistake of ours, not of the disk: let the thread die of it, loudly, and be started again.
      setImmediate(() => {
        throw error;
      });
    },
  );
});
// Everything is loaded: the time of a look-up counts from here on.
parentPort?.postMessage('ready');

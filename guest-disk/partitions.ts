/**
 * Finds the file systems of a disk: on the disk itself, or in the partitions of a GPT or MBR. Another kind of volume
 * (LVM) is another function that lists parts; another file system is another line in FORMATS.
 */
import { type BlockSource, DiskUnreadable, slice } from './disk.ts';
import { ext4 } from './ext4.ts';
import type { FileSystem, FileSystemFormat } from './file-system.ts';

const FORMATS: readonly FileSystemFormat[] = [ext4];

const SECTOR_BYTES = 512;
const MBR_ENTRIES = 4;
const MBR_ENTRY_BYTES = 16;
const MBR_PROTECTIVE = 0xee;
const MAX_GPT_ENTRIES = 128;
const MAX_GPT_ENTRY_BYTES = 512;

export interface FoundFileSystem {
  readonly format: string;
  readonly offsetBytes: number;
  readonly fileSystem: FileSystem;
}

export async function openFileSystems(
  disk: BlockSource,
  previous: readonly FoundFileSystem[],
): Promise<FoundFileSystem[]> {
  const whole = await openFileSystem(disk, 0, previous);
  if (whole) return [whole];
  const found: FoundFileSystem[] = [];
  let failure: DiskUnreadable | undefined;
  for (const { startBytes, sizeBytes } of await listPartitions(disk)) {
    // What is wrong with one partition concerns that one only.
    try {
      const part = await openFileSystem(slice(disk, startBytes, sizeBytes), startBytes, previous);
      if (part) found.push(part);
    } catch (error) {
      if (!(error instanceof DiskUnreadable) || error.reason === 'Exhausted') throw error;
      failure ??= error;
    }
  }
  if (found.length === 0) {
    if (failure) throw failure;
    const known = FORMATS.map((format) => format.name).join(', ');
    throw new DiskUnreadable(
      'NoFileSystem',
      `no file system that can be read (${known}) on the disk or its partitions`,
    );
  }
  return found;
}

async function openFileSystem(source: BlockSource, offsetBytes: number, previous: readonly FoundFileSystem[]) {
  for (const format of FORMATS) {
    const before = previous.find((other) => other.format === format.name && other.offsetBytes === offsetBytes);
    const fileSystem = await format.open(source, before?.fileSystem);
    if (fileSystem) return { format: format.name, offsetBytes, fileSystem };
  }
  return null;
}

async function listPartitions(disk: BlockSource): Promise<{ startBytes: number; sizeBytes: number }[]> {
  if (disk.sizeBytes < 2 * SECTOR_BYTES) return [];
  const head = await disk.read(0, 2 * SECTOR_BYTES);
  if (head.readUInt16LE(510) !== 0xaa55) return [];
  const entries = Array.from({ length: MBR_ENTRIES }, (_, index) => {
    const at = 446 + index * MBR_ENTRY_BYTES;
    return {
      type: head.readUInt8(at + 4),
      firstSector: head.readUInt32LE(at + 8),
      sectors: head.readUInt32LE(at + 12),
    };
  });
  if (entries.some((entry) => entry.type === MBR_PROTECTIVE))
    return listGptPartitions(disk, head.subarray(SECTOR_BYTES));
  return entries
    .filter((entry) => entry.type !== 0)
    .map(({ firstSector, sectors }) => ({ startBytes: firstSector * SECTOR_BYTES, sizeBytes: sectors * SECTOR_BYTES }));
}

async function listGptPartitions(disk: BlockSource, header: Buffer) {
  if (header.toString('latin1', 0, 8) !== 'EFI PART') return [];
  const tableSector = Number(header.readBigUInt64LE(72));
  const count = header.readUInt32LE(80);
  const entryBytes = header.readUInt32LE(84);
  if (count > MAX_GPT_ENTRIES || entryBytes < 128 || entryBytes > MAX_GPT_ENTRY_BYTES) {
    throw new DiskUnreadable('Malformed', `a GPT of ${count} entries of ${entryBytes} bytes`);
  }
  const table = await disk.read(tableSector * SECTOR_BYTES, count * entryBytes);
  const partitions: { startBytes: number; sizeBytes: number }[] = [];
  for (let index = 0; index < count; index++) {
    const entry = table.subarray(index * entryBytes, (index + 1) * entryBytes);
    const isUnused = entry.subarray(0, 16).every((byte) => byte === 0);
    if (isUnused) continue;
    const first = Number(entry.readBigUInt64LE(32));
    const last = Number(entry.readBigUInt64LE(40));
    partitions.push({ startBytes: first * SECTOR_BYTES, sizeBytes: (last - first + 1) * SECTOR_BYTES });
  }
  return partitions;
}

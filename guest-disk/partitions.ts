/**
 * Finds the file systems of a disk: on the disk itself, in the partitions of a GPT or MBR, and in the volumes of LVM on
 * either. Another kind of volume is another function that lists parts; another file system is another line in FORMATS.
 */
import { type BlockSource, DiskUnreadable, slice } from './disk.ts';
import { ext4 } from './ext4.ts';
import type { FileSystem, FileSystemFormat } from './file-system.ts';
import { openVolumeGroup } from './lvm.ts';
import { xfs } from './xfs.ts';

const FORMATS: readonly FileSystemFormat[] = [ext4, xfs];

const SECTOR_BYTES = 512;
const MBR_ENTRIES = 4;
const MBR_ENTRY_BYTES = 16;
const MBR_PROTECTIVE = 0xee;
/** Extended partitions: a chain of tables, each with one partition and the next table. */
const MBR_EXTENDED: readonly number[] = [0x05, 0x0f, 0x85];
const FIRST_LOGICAL_PARTITION = 5;
const MAX_LOGICAL_PARTITIONS = 32;
const MAX_GPT_ENTRIES = 128;
const MAX_GPT_ENTRY_BYTES = 512;

export interface FoundFileSystem {
  readonly format: string;
  /** "disk", "partition 2", or a volume of LVM: "group/volume". */
  readonly place: string;
  readonly fileSystem: FileSystem;
}

interface Part {
  readonly place: string;
  readonly startBytes: number;
  readonly sizeBytes: number;
}

/** `previous`: what the last look-up at the same disk found. */
export async function openFileSystems(
  disk: BlockSource,
  previous: readonly FoundFileSystem[],
): Promise<FoundFileSystem[]> {
  const search = new Search(previous);
  if (!(await search.in(disk, 'disk'))) {
    for (const { place, startBytes, sizeBytes } of await listPartitions(disk)) {
      await search.within(async () => search.in(slice(disk, startBytes, sizeBytes), place));
    }
  }
  return search.result();
}

class Search {
  readonly #previous: readonly FoundFileSystem[];
  readonly #found: FoundFileSystem[] = [];
  readonly #others: string[] = [];
  #failure: DiskUnreadable | undefined;

  constructor(previous: readonly FoundFileSystem[]) {
    this.#previous = previous;
  }

  /** Whether there is a file system, or a volume group. */
  async in(source: BlockSource, place: string): Promise<boolean> {
    if (await this.#open(source, place)) return true;
    const group = await openVolumeGroup(source);
    if (!group) return false;
    this.#others.push(...group.others);
    for (const volume of group.volumes) await this.within(() => this.#open(volume.source, volume.name));
    return true;
  }

  /** What is wrong with one part of a disk concerns that one only. */
  async within(search: () => Promise<unknown>): Promise<void> {
    try {
      await search();
    } catch (error) {
      if (!(error instanceof DiskUnreadable) || error.reason === 'Exhausted') throw error;
      this.#failure ??= error;
    }
  }

  async #open(source: BlockSource, place: string): Promise<boolean> {
    for (const format of FORMATS) {
      const before = this.#previous.find((other) => other.format === format.name && other.place === place);
      const fileSystem = await format.open(source, before?.fileSystem);
      if (!fileSystem) continue;
      this.#found.push({ format: format.name, place, fileSystem });
      return true;
    }
    return false;
  }

  result(): FoundFileSystem[] {
    if (this.#found.length > 0) return this.#found;
    if (this.#failure) throw this.#failure;
    const known = FORMATS.map((format) => format.name).join(', ');
    const others = this.#others.slice(0, 8).map((name) => JSON.stringify(name).slice(0, 80));
    const lvm = others.length > 0 ? `; LVM's ${others.join(', ')} are not linear volumes of this one disk` : '';
    throw new DiskUnreadable(
      'NoFileSystem',
      `no file system that can be read (${known}) on the disk, its partitions or LVM volumes${lvm}`,
    );
  }
}

async function listPartitions(disk: BlockSource): Promise<Part[]> {
  if (disk.sizeBytes < 2 * SECTOR_BYTES) return [];
  const head = await disk.read(0, 2 * SECTOR_BYTES);
  const entries = mbrEntries(head);
  if (entries.some((entry) => entry.type === MBR_PROTECTIVE)) {
    return listGptPartitions(disk, head.subarray(SECTOR_BYTES));
  }
  const primary = entries.flatMap((entry, index) =>
    entry.type === 0 || MBR_EXTENDED.includes(entry.type) ? [] : [partOf(entry, 0, index + 1)],
  );
  const extended = entries.find(({ type }) => MBR_EXTENDED.includes(type));
  return [...primary, ...(extended ? await listLogicalPartitions(disk, extended.firstSector) : [])];
}

interface MbrEntry {
  readonly type: number;
  readonly firstSector: number;
  readonly sectors: number;
}

/** None when there is no table. */
function mbrEntries(sector: Buffer): MbrEntry[] {
  if (sector.readUInt16LE(510) !== 0xaa55) return [];
  return Array.from({ length: MBR_ENTRIES }, (_, index) => {
    const at = 446 + index * MBR_ENTRY_BYTES;
    return {
      type: sector.readUInt8(at + 4),
      firstSector: sector.readUInt32LE(at + 8),
      sectors: sector.readUInt32LE(at + 12),
    };
  });
}

function partOf({ firstSector, sectors }: MbrEntry, base: number, number: number): Part {
  const startBytes = (base + firstSector) * SECTOR_BYTES;
  return { place: `partition ${number}`, startBytes, sizeBytes: sectors * SECTOR_BYTES };
}

async function listLogicalPartitions(disk: BlockSource, first: number): Promise<Part[]> {
  const parts: Part[] = [];
  let table = first;
  while (parts.length < MAX_LOGICAL_PARTITIONS) {
    if ((table + 1) * SECTOR_BYTES > disk.sizeBytes) break;
    const [partition, next] = mbrEntries(await disk.read(table * SECTOR_BYTES, SECTOR_BYTES));
    if (!partition || partition.type === 0) break;
    parts.push(partOf(partition, table, FIRST_LOGICAL_PARTITION + parts.length));
    if (!next || !MBR_EXTENDED.includes(next.type)) break;
    table = first + next.firstSector;
  }
  return parts;
}

async function listGptPartitions(disk: BlockSource, header: Buffer): Promise<Part[]> {
  if (header.toString('latin1', 0, 8) !== 'EFI PART') return [];
  const tableSector = Number(header.readBigUInt64LE(72));
  const count = header.readUInt32LE(80);
  const entryBytes = header.readUInt32LE(84);
  if (count > MAX_GPT_ENTRIES || entryBytes < 128 || entryBytes > MAX_GPT_ENTRY_BYTES) {
    throw new DiskUnreadable('Malformed', `a GPT of ${count} entries of ${entryBytes} bytes`);
  }
  const table = await disk.read(tableSector * SECTOR_BYTES, count * entryBytes);
  const parts: Part[] = [];
  for (let index = 0; index < count; index++) {
    const entry = table.subarray(index * entryBytes, (index + 1) * entryBytes);
    const isUnused = entry.subarray(0, 16).every((byte) => byte === 0);
    if (isUnused) continue;
    const first = Number(entry.readBigUInt64LE(32));
    const last = Number(entry.readBigUInt64LE(40));
    const sizeBytes = (last - first + 1) * SECTOR_BYTES;
    parts.push({ place: `partition ${index + 1}`, startBytes: first * SECTOR_BYTES, sizeBytes });
  }
  return parts;
}

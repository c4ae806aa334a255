/**
 * ext4 (and ext2, ext3), read only, as the guest's kernel would recover it at this moment: every block comes from the
 * journal's newest committed copy (journal.ts), or else from its home.
 *
 *   path → inode number, by directories read from end to end: a hash tree looks to a linear reader like empty entries
 *        → inode, in the inode table that its group's descriptor names
 *        → runs of blocks, by an extent tree or by ext3's indirect blocks; small files may lie in the inode itself
 *
 * Coherence. Between two commits nothing that is read here changes, except where the kernel writes a block home; then
 * the journal holds the same content. So coherently() follows the journal, reads, follows it again, and starts anew if a
 * block that it touched was committed meanwhile. That covers file content too: a file's freed blocks get new content only
 * after the transaction that freed them, and that one changes the inode, which was touched.
 *
 * Format: https://docs.kernel.org/filesystems/ext4/
 */
import { type BlockSource, DiskUnreadable, slice } from './disk.ts';
import { addRun, fileOf, type Run, readRuns, resolvePath, settle } from './file-blocks.ts';
import type { DirectoryEntry, FileStatus, FileSystem, FileSystemAge, FileSystemFormat } from './file-system.ts';
import { type Changed, type JournalBlocks, JournalOverlay, MAX_JOURNAL_BLOCKS } from './journal.ts';

const SUPERBLOCK_OFFSET = 1024;
const SUPERBLOCK_BYTES = 1024;
const MAGIC = 0xef53;
const EXTENT_MAGIC = 0xf30a;
const XATTR_MAGIC = 0xea02_0000;
const XATTR_INDEX_SYSTEM = 7;

const COMPAT_HAS_JOURNAL = 0x4;
const INCOMPAT_FILETYPE = 0x2;
const INCOMPAT_META_BG = 0x10;
const INCOMPAT_64BIT = 0x80;
/**
 * What changes nothing for a reader, or is handled: file types, a journal that wants recovery, meta block groups,
 * extents, 64 bits, multiple-mount protection, flexible groups, attributes in inodes, a checksum seed, large directories,
 * inline data, encrypted and case-folded directories (as opaque names).
 */
const INCOMPAT_KNOWN =
  0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x1_0000 | 0x2_0000;
const RO_COMPAT_SPARSE_SUPER = 0x1;

const INODE_ENCRYPTED = 0x800;
const INODE_EXTENTS = 0x8_0000;
const INODE_INLINE_DATA = 0x1000_0000;
const ROOT_INODE = 2;
const INODE_BLOCK_OFFSET = 40;
const INODE_BLOCK_BYTES = 60;
const BASIC_INODE_BYTES = 128;

const MAX_BLOCK_BYTES = 64 << 10;
const MAX_EXTENT_DEPTH = 5;
const MAX_SYMLINK_BYTES = 4096;
const MAX_DIRECTORY_BYTES = 16 << 20;
const MAX_DIRECTORY_ENTRIES = 65_536;
const MAX_CACHE_BYTES = 8 << 20;
/** Blocks looked at in one coherent read, cached ones included: ends what goes in circles without reading. */
const MAX_BLOCK_VISITS = 100_000;
const MAX_ATTEMPTS = 5;

interface Geometry {
  readonly blockSize: number;
  readonly blockCount: number;
  readonly firstDataBlock: number;
  readonly blocksPerGroup: number;
  readonly inodesPerGroup: number;
  readonly inodeCount: number;
  readonly inodeBytes: number;
  readonly descriptorBytes: number;
  readonly firstMetaGroup: number | null;
  readonly hasSparseSuperblocks: boolean;
  readonly hasFileTypes: boolean;
  readonly journalInode: number | null;
  readonly uuid: string;
}

interface Inode {
  readonly number: number;
  readonly type: DirectoryEntry['type'];
  readonly flags: number;
  readonly sizeBytes: number;
  readonly raw: Buffer;
}

interface NamedInode extends DirectoryEntry {
  readonly inode: number;
}

export const ext4: FileSystemFormat = {
  name: 'ext4',
  async open(source, previous) {
    if (source.sizeBytes < SUPERBLOCK_OFFSET + SUPERBLOCK_BYTES) return null;
    const raw = await source.read(SUPERBLOCK_OFFSET, SUPERBLOCK_BYTES);
    if (raw.readUInt16LE(56) !== MAGIC) return null;
    const geometry = parseSuperblock(raw, source.sizeBytes);
    const overlay =
      previous instanceof Ext4 && previous.uuid === geometry.uuid ? previous.overlay : new JournalOverlay();
    return Ext4.open(source, geometry, overlay);
  },
};

function parseSuperblock(raw: Buffer, sizeBytes: number): Geometry {
  const incompatible = raw.readUInt32LE(96);
  const unknown = incompatible & ~INCOMPAT_KNOWN;
  if (unknown !== 0) throw new DiskUnreadable('Unsupported', `an ext4 with features 0x${unknown.toString(16)}`);
  const blockSize = 1024 * 2 ** Math.min(raw.readUInt32LE(24), 16);
  const wide = (incompatible & INCOMPAT_64BIT) !== 0;
  const isOriginalRevision = raw.readUInt32LE(76) === 0;
  const hasJournal = (raw.readUInt32LE(92) & COMPAT_HAS_JOURNAL) !== 0;
  const geometry: Geometry = {
    blockSize,
    blockCount: raw.readUInt32LE(4) + (wide ? raw.readUInt32LE(336) * 2 ** 32 : 0),
    firstDataBlock: raw.readUInt32LE(20),
    blocksPerGroup: raw.readUInt32LE(32),
    inodesPerGroup: raw.readUInt32LE(40),
    inodeCount: raw.readUInt32LE(0),
    inodeBytes: isOriginalRevision ? BASIC_INODE_BYTES : raw.readUInt16LE(88),
    descriptorBytes: wide ? raw.readUInt16LE(254) : 32,
    firstMetaGroup: incompatible & INCOMPAT_META_BG ? raw.readUInt32LE(260) : null,
    hasSparseSuperblocks: (raw.readUInt32LE(100) & RO_COMPAT_SPARSE_SUPER) !== 0,
    hasFileTypes: (incompatible & INCOMPAT_FILETYPE) !== 0,
    journalInode: hasJournal ? raw.readUInt32LE(224) : null,
    uuid: raw.toString('hex', 104, 120),
  };
  const { inodeBytes, descriptorBytes, blocksPerGroup, inodesPerGroup, firstDataBlock } = geometry;
  const fits =
    blockSize <= MAX_BLOCK_BYTES &&
    geometry.blockCount > firstDataBlock &&
    geometry.blockCount * blockSize <= sizeBytes &&
    firstDataBlock <= 1 &&
    isPowerOfTwo(inodeBytes) &&
    inodeBytes >= BASIC_INODE_BYTES &&
    inodeBytes <= blockSize &&
    isPowerOfTwo(descriptorBytes) &&
    descriptorBytes >= (wide ? 64 : 32) &&
    descriptorBytes <= 1024 &&
    blocksPerGroup >= 1 &&
    inodesPerGroup >= 1 &&
    inodesPerGroup <= 8 * blockSize;
  if (!fits) {
    throw new DiskUnreadable(
      'Malformed',
      `an ext4 superblock that cannot be: ${geometry.blockCount} blocks of ${blockSize} bytes on ${sizeBytes} bytes, ` +
        `inodes of ${inodeBytes}, descriptors of ${descriptorBytes}, groups of ${blocksPerGroup} blocks, ` +
        `${inodesPerGroup} inodes`,
    );
  }
  if (geometry.journalInode === 0)
    throw new DiskUnreadable('Unsupported', 'an ext4 with its journal on another device');
  return geometry;
}

class Ext4 implements FileSystem {
  readonly overlay: JournalOverlay;
  readonly #source: BlockSource;
  readonly #geometry: Geometry;
  #journal: JournalBlocks | undefined;
  readonly #cache = new Map<number, Buffer>();
  /** The blocks that the current coherent read depends on; null outside of one. */
  #touched: Set<number> | null = null;
  /** Since it was opened: a coherent read ends with following the journal, which serves the next one's start. */
  #isFollowed = false;
  #visits = 0;

  static async open(source: BlockSource, geometry: Geometry, overlay: JournalOverlay): Promise<Ext4> {
    const fileSystem = new Ext4(source, geometry, overlay);
    if (geometry.journalInode !== null) fileSystem.#journal = await fileSystem.#openJournal(geometry.journalInode);
    return fileSystem;
  }

  private constructor(source: BlockSource, geometry: Geometry, overlay: JournalOverlay) {
    this.#source = source;
    this.#geometry = geometry;
    this.overlay = overlay;
  }

  get uuid(): string {
    return this.#geometry.uuid;
  }

  get age(): FileSystemAge {
    return {
      journalledBlocks: this.overlay.size,
      journalSequence: this.overlay.sequence,
      committedAtUnixMs: this.overlay.committedAtUnixMs,
      hasNewer: this.overlay.hasNewerFastCommits,
    };
  }

  forget(): void {
    this.#cache.clear();
  }

  async coherently<T>(read: () => Promise<T>): Promise<T> {
    let torn: unknown;
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
      try {
        if (!this.#isFollowed) await this.#followJournal();
        this.#touched = new Set();
        this.#visits = 0;
        const outcome = await settle(read);
        const touched = this.#touched;
        this.#touched = null;
        const changed = await this.#followJournal();
        const isTorn = changed === 'everything' || [...changed].some((block) => touched.has(block));
        if (!isTorn) return outcome();
      } catch (error) {
        if (!(error instanceof DiskUnreadable) || error.reason !== 'Torn') throw error;
        torn = error;
      } finally {
        this.#touched = null;
      }
    }
    const message = `the guest changed what was read in each of ${MAX_ATTEMPTS} attempts`;
    throw new DiskUnreadable('Torn', message, { cause: torn });
  }

  async stat(path: string): Promise<FileStatus | null> {
    const inode = await this.#resolve(path);
    return inode && { type: inode.type, sizeBytes: inode.sizeBytes };
  }

  async readFile(path: string, maxBytes: number): Promise<Buffer> {
    const inode = await this.#resolve(path);
    if (!inode) throw new DiskUnreadable('NotFound', `there is no ${path}`);
    if (inode.type !== 'file') throw new DiskUnreadable('Malformed', `${path} is no file but a ${inode.type}`);
    return this.#readContent(inode, maxBytes, path);
  }

  async openFile(path: string, maxBytes: number): Promise<BlockSource> {
    const inode = await this.#resolve(path);
    if (!inode) throw new DiskUnreadable('NotFound', `there is no ${path}`);
    if (inode.type !== 'file') throw new DiskUnreadable('Malformed', `${path} is no file but a ${inode.type}`);
    const { sizeBytes } = inode;
    if (inode.flags & INODE_INLINE_DATA) {
      const content = await this.#readContent(inode, maxBytes, path);
      return slice({ sizeBytes, read: async (at, length) => content.subarray(at, at + length) }, 0, sizeBytes);
    }
    if (sizeBytes > maxBytes) {
      throw new DiskUnreadable('Exhausted', `${path} has ${sizeBytes} bytes; at most ${maxBytes} are read`);
    }
    if (inode.flags & INODE_ENCRYPTED) throw new DiskUnreadable('Unsupported', `${path} is encrypted`);
    const { blockSize } = this.#geometry;
    const runs = await this.#mapBlocks(inode, Math.ceil(sizeBytes / blockSize));
    return fileOf(runs, blockSize, sizeBytes, (physical, blocks) => this.#readData(physical, blocks));
  }

  async readDirectory(path: string): Promise<DirectoryEntry[]> {
    const inode = await this.#resolve(path);
    if (!inode) throw new DiskUnreadable('NotFound', `there is no ${path}`);
    if (inode.type !== 'directory')
      throw new DiskUnreadable('Malformed', `${path} is no directory but a ${inode.type}`);
    const entries = await this.#readEntries(inode);
    return entries.filter(({ name }) => name !== '.' && name !== '..').map(({ name, type }) => ({ name, type }));
  }

  async #followJournal(): Promise<Changed> {
    this.#isFollowed = false;
    // Without a journal nothing tells what changed, and when it cannot be followed neither: nothing may be kept then.
    let changed: Changed = 'everything';
    try {
      if (this.#journal) changed = await this.overlay.follow(this.#journal);
    } finally {
      if (changed === 'everything') this.#cache.clear();
      else for (const block of changed) this.#cache.delete(block);
    }
    this.#isFollowed = true;
    return this.#journal ? changed : new Set();
  }

  /**
   * The journal's inode and its map never change after mkfs, and cannot be looked up in the journal before it is open:
   * they are read from their home.
   */
  async #openJournal(inodeNumber: number): Promise<JournalBlocks> {
    const { blockSize } = this.#geometry;
    const inode = await this.#readInode(inodeNumber);
    const count = Math.min(Math.floor(inode.sizeBytes / blockSize), MAX_JOURNAL_BLOCKS);
    const runs = await this.#mapBlocks(inode, count);
    this.#cache.clear();
    return {
      blockSize,
      count,
      read: async (first, length) => {
        return readRuns(runs, blockSize, first, length, (physical, blocks) =>
          this.#source.read(physical * blockSize, blocks * blockSize),
        );
      },
    };
  }

  #resolve(path: string): Promise<Inode | null> {
    return resolvePath(
      {
        root: () => this.#readInode(ROOT_INODE),
        find: async (directory, name) => {
          const entry = (await this.#readEntries(directory)).find((candidate) => candidate.name === name);
          return entry ? this.#readInode(entry.inode) : null;
        },
        readLink: async (symlink) => (await this.#readContent(symlink, MAX_SYMLINK_BYTES, path)).toString(),
      },
      path,
    );
  }

  async #readInode(number: number): Promise<Inode> {
    const { inodesPerGroup, inodeCount, inodeBytes, blockSize } = this.#geometry;
    if (number < 1 || number > inodeCount) throw new DiskUnreadable('Malformed', `inode ${number} of ${inodeCount}`);
    const group = Math.floor((number - 1) / inodesPerGroup);
    const offset = ((number - 1) % inodesPerGroup) * inodeBytes;
    const table = await this.#readInodeTableBlock(group);
    const block = await this.#readBlock(table + Math.floor(offset / blockSize));
    const raw = block.subarray(offset % blockSize, (offset % blockSize) + inodeBytes);
    const mode = raw.readUInt16LE(0) & 0xf000;
    return {
      number,
      type: mode === 0x8000 ? 'file' : mode === 0x4000 ? 'directory' : mode === 0xa000 ? 'symlink' : 'other',
      flags: raw.readUInt32LE(32),
      sizeBytes: raw.readUInt32LE(4) + raw.readUInt32LE(108) * 2 ** 32,
      raw,
    };
  }

  async #readInodeTableBlock(group: number): Promise<number> {
    const { blockSize, descriptorBytes } = this.#geometry;
    const perBlock = blockSize / descriptorBytes;
    const block = await this.#readBlock(this.#descriptorBlock(Math.floor(group / perBlock), perBlock));
    const at = (group % perBlock) * descriptorBytes;
    const high = descriptorBytes >= 64 ? block.readUInt32LE(at + 0x28) : 0;
    return block.readUInt32LE(at + 8) + high * 2 ** 32;
  }

  /** The descriptors follow the superblock, or, from firstMetaGroup on, lie in the first group they describe. */
  #descriptorBlock(index: number, perBlock: number): number {
    const { blockSize, firstMetaGroup, firstDataBlock, blocksPerGroup, hasSparseSuperblocks } = this.#geometry;
    const superblock = blockSize === 1024 ? 1 : 0;
    if (firstMetaGroup === null || index < firstMetaGroup) return superblock + 1 + index;
    const group = index * perBlock;
    const hasSuperblock = !hasSparseSuperblocks || group <= 1 || [3, 5, 7].some((base) => isPowerOf(base, group));
    return firstDataBlock + group * blocksPerGroup + (hasSuperblock ? 1 : 0);
  }

  async #readContent(inode: Inode, maxBytes: number, what: string): Promise<Buffer> {
    const { sizeBytes } = inode;
    if (sizeBytes > maxBytes) {
      throw new DiskUnreadable('Exhausted', `${what} has ${sizeBytes} bytes; at most ${maxBytes} are read`);
    }
    if (inode.flags & INODE_ENCRYPTED) throw new DiskUnreadable('Unsupported', `${what} is encrypted`);
    if (inode.flags & INODE_INLINE_DATA) return readInlineData(inode, sizeBytes);
    // A short symlink lies where the block map would be; it has no extents flag, and neither has an ext3 file.
    if (inode.type === 'symlink' && sizeBytes < INODE_BLOCK_BYTES && (inode.flags & INODE_EXTENTS) === 0) {
      return inode.raw.subarray(INODE_BLOCK_OFFSET, INODE_BLOCK_OFFSET + sizeBytes);
    }
    const count = Math.ceil(sizeBytes / this.#geometry.blockSize);
    const runs = await this.#mapBlocks(inode, count);
    const content = await readRuns(runs, this.#geometry.blockSize, 0, count, (physical, blocks) =>
      inode.type === 'directory' ? this.#readCached(physical, blocks) : this.#readData(physical, blocks),
    );
    return content.subarray(0, sizeBytes);
  }

  async #readEntries(directory: Inode): Promise<NamedInode[]> {
    const content = await this.#readContent(directory, MAX_DIRECTORY_BYTES, `directory inode ${directory.number}`);
    const { hasFileTypes, blockSize } = this.#geometry;
    if ((directory.flags & INODE_INLINE_DATA) === 0) {
      const entries: NamedInode[] = [];
      for (let at = 0; at < content.length; at += blockSize) {
        parseEntries(content.subarray(at, at + blockSize), hasFileTypes, entries);
      }
      return entries;
    }
    // An inline directory: the parent's inode number, entries to the end of the inode's block map, and more entries.
    const entries: NamedInode[] = [];
    parseEntries(content.subarray(4, INODE_BLOCK_BYTES), hasFileTypes, entries);
    parseEntries(content.subarray(INODE_BLOCK_BYTES), hasFileTypes, entries);
    return entries;
  }

  async #mapBlocks(inode: Inode, count: number): Promise<Run[]> {
    const map = inode.raw.subarray(INODE_BLOCK_OFFSET, INODE_BLOCK_OFFSET + INODE_BLOCK_BYTES);
    const runs: Run[] = [];
    if (inode.flags & INODE_EXTENTS) await this.#mapExtents(map, count, MAX_EXTENT_DEPTH + 1, runs);
    else await this.#mapIndirect(map, count, runs);
    return runs;
  }

  /** Depth must shrink at every level, and logical blocks must grow along the leaves: no tree can go in circles. */
  async #mapExtents(node: Buffer, count: number, depthAbove: number, runs: Run[]): Promise<void> {
    const entries = node.readUInt16LE(2);
    const depth = node.readUInt16LE(6);
    if (node.readUInt16LE(0) !== EXTENT_MAGIC || depth >= depthAbove || 12 + entries * 12 > node.length) {
      throw new DiskUnreadable('Malformed', `an extent node of depth ${depth} with ${entries} entries`);
    }
    for (let at = 12; at < 12 + entries * 12; at += 12) {
      const logical = node.readUInt32LE(at);
      if (logical >= count) return;
      if (depth > 0) {
        const child = node.readUInt32LE(at + 4) + node.readUInt16LE(at + 8) * 2 ** 32;
        await this.#mapExtents(await this.#readBlock(child), count, depth, runs);
        continue;
      }
      const length = node.readUInt16LE(at + 4);
      const physical = node.readUInt16LE(at + 6) * 2 ** 32 + node.readUInt32LE(at + 8);
      // Lengths above 32768 are extents allocated but not written: they read as zeroes.
      if (length <= 32_768) {
        addRun(runs, { logical, physical, count: Math.min(length, count - logical) }, this.#geometry.blockCount);
      }
    }
  }

  async #mapIndirect(map: Buffer, count: number, runs: Run[]): Promise<void> {
    const pointersPerBlock = this.#geometry.blockSize / 4;
    const walk = async (physical: number, logical: number, level: number): Promise<void> => {
      if (physical === 0 || logical >= count) return;
      if (level === 0) return addRun(runs, { logical, physical, count: 1 }, this.#geometry.blockCount);
      const pointers = await this.#readBlock(physical);
      const span = pointersPerBlock ** (level - 1);
      for (let index = 0; index < pointersPerBlock && logical + index * span < count; index++) {
        await walk(pointers.readUInt32LE(index * 4), logical + index * span, level - 1);
      }
    };
    for (let index = 0; index < 12; index++) await walk(map.readUInt32LE(index * 4), index, 0);
    let logical = 12;
    for (let level = 1; level <= 3; level++) {
      await walk(map.readUInt32LE((11 + level) * 4), logical, level);
      logical += pointersPerBlock ** level;
    }
  }

  #readBlock(number: number): Promise<Buffer> {
    return this.#readCached(number, 1);
  }

  async #readCached(physical: number, count: number): Promise<Buffer> {
    const { blockSize } = this.#geometry;
    const cached = Array.from({ length: count }, (_, index) => this.#cache.get(physical + index));
    if (cached.every((block) => block !== undefined)) {
      this.#visit(physical, count);
      return cached.length === 1 && cached[0] ? cached[0] : Buffer.concat(cached);
    }
    const content = await this.#readData(physical, count);
    if ((this.#cache.size + count) * blockSize > MAX_CACHE_BYTES) this.#cache.clear();
    for (let index = 0; index < count; index++) {
      this.#cache.set(physical + index, content.subarray(index * blockSize, (index + 1) * blockSize));
    }
    return content;
  }

  /** Blocks that lie side by side, in one read, with those that have a newer copy in the journal replaced. */
  async #readData(physical: number, count: number): Promise<Buffer> {
    const { blockSize } = this.#geometry;
    this.#visit(physical, count);
    const newer: [number, Buffer][] = [];
    for (let index = 0; index < count; index++) {
      const copy = this.#journal && (await this.overlay.read(this.#journal, physical + index));
      if (copy) newer.push([index, copy]);
    }
    if (newer.length === count) return Buffer.concat(newer.map(([, copy]) => copy));
    const content = await this.#source.read(physical * blockSize, count * blockSize);
    for (const [index, copy] of newer) copy.copy(content, index * blockSize);
    return content;
  }

  #visit(first: number, count: number): void {
    this.#visits += count;
    if (this.#visits > MAX_BLOCK_VISITS) {
      throw new DiskUnreadable('Exhausted', `more than ${MAX_BLOCK_VISITS} blocks looked at for one read`);
    }
    if (first < 0 || first + count > this.#geometry.blockCount) {
      throw new DiskUnreadable('Malformed', `block ${first} + ${count} of ${this.#geometry.blockCount}`);
    }
    for (let block = first; this.#touched && block < first + count; block++) this.#touched.add(block);
  }
}

/** The first 60 bytes lie in the block map, the rest in the attribute `system.data`, behind the inode's own fields. */
function readInlineData(inode: Inode, sizeBytes: number): Buffer {
  const { raw } = inode;
  const start = raw.subarray(INODE_BLOCK_OFFSET, INODE_BLOCK_OFFSET + Math.min(sizeBytes, INODE_BLOCK_BYTES));
  if (sizeBytes <= INODE_BLOCK_BYTES) return start;
  const first = BASIC_INODE_BYTES + (raw.length > BASIC_INODE_BYTES ? raw.readUInt16LE(BASIC_INODE_BYTES) : 0) + 4;
  const missing = () => new DiskUnreadable('Malformed', `inode ${inode.number} lacks a part of its inline data`);
  if (first > raw.length || raw.readUInt32LE(first - 4) !== XATTR_MAGIC) throw missing();
  for (let at = first; at + 16 <= raw.length && raw.readUInt32LE(at) !== 0; ) {
    const nameLength = raw.readUInt8(at);
    const name = raw.toString('latin1', at + 16, at + 16 + nameLength);
    if (raw.readUInt8(at + 1) === XATTR_INDEX_SYSTEM && name === 'data') {
      const value = first + raw.readUInt16LE(at + 2);
      const length = raw.readUInt32LE(at + 8);
      if (value + length > raw.length || INODE_BLOCK_BYTES + length < sizeBytes) throw missing();
      return Buffer.concat([start, raw.subarray(value, value + length)]).subarray(0, sizeBytes);
    }
    at += 16 + Math.ceil(nameLength / 4) * 4;
  }
  throw missing();
}

function parseEntries(block: Buffer, hasFileTypes: boolean, entries: NamedInode[]): void {
  for (let at = 0; at + 8 <= block.length; ) {
    // A block of 64 KiB cannot write its own length in 16 bits.
    const stored = block.readUInt16LE(at + 4);
    const length = stored === 0xffff || (stored === 0 && block.length === MAX_BLOCK_BYTES) ? block.length : stored;
    const inode = block.readUInt32LE(at);
    const nameLength = hasFileTypes ? block.readUInt8(at + 6) : block.readUInt16LE(at + 6);
    if (length < 8 || length % 4 !== 0 || at + length > block.length || 8 + nameLength > length) {
      throw new DiskUnreadable('Malformed', `a directory entry of ${length} bytes with a name of ${nameLength}`);
    }
    if (inode !== 0) {
      if (entries.length >= MAX_DIRECTORY_ENTRIES) {
        throw new DiskUnreadable('Exhausted', `a directory of more than ${MAX_DIRECTORY_ENTRIES} entries`);
      }
      const kind = hasFileTypes ? block.readUInt8(at + 7) : 0;
      entries.push({
        inode,
        name: block.toString('utf8', at + 8, at + 8 + nameLength),
        type: kind === 1 ? 'file' : kind === 2 ? 'directory' : kind === 7 ? 'symlink' : 'other',
      });
    }
    at += length;
  }
}

function isPowerOfTwo(value: number): boolean {
  return value > 0 && (value & (value - 1)) === 0;
}

function isPowerOf(base: number, value: number): boolean {
  let power = base;
  while (power < value) power *= base;
  return power === value;
}

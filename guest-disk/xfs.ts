/**
 * XFS (versions 4 and 5), read only, as the guest's kernel would recover it at this moment: every inode and every block
 * of metadata with what the log holds of newer changes (xfs-log.ts).
 *
 *   path → inode number, by directories: in the inode (short form), in one block, or in many; their hash index lies behind
 *          the data and is not needed to read them from end to end
 *        → inode: the number says group, block and place in it
 *        → runs of blocks: a list in the inode, or a b-tree
 *
 * Blocks and inodes that the log does not touch carry checksums (version 5): what does not match was torn. Coherence is
 * as in ext4.ts: follow the log, read, follow it again, and start anew if something that was read has changed meanwhile.
 *
 * Format: XFS Algorithms & Data Structures (kernel.org); fs/xfs/libxfs/xfs_format.h, xfs_da_format.h
 */
import { crc32c } from './crc32c.ts';
import { type BlockSource, DiskUnreadable } from './disk.ts';
import { addRun, fileOf, type Run, readRuns, resolvePath, settle } from './file-blocks.ts';
import type { DirectoryEntry, FileStatus, FileSystem, FileSystemAge, FileSystemFormat } from './file-system.ts';
import { CHUNK_BYTES, type LoggedInode, LogOverlay, type LogSectors } from './xfs-log.ts';

const SUPERBLOCK_BYTES = 512;
const MAGIC = 0x5846_5342;
const INODE_MAGIC = 0x494e;
const INODE_BYTES_OF_VERSION_3 = 176;
const INODE_BYTES_BEFORE = 100;
const INODE_CRC_AT = 100;

const VERSION_DIRECTORIES_2 = 0x2000;
const FEATURES2_FILE_TYPES = 0x200;
const INCOMPAT_FILE_TYPES = 0x1;
const INCOMPAT_MANY_EXTENTS = 0x20;
/**
 * File types, sparse inodes, a UUID of the metadata's own, large times, needs repair, many extents, exchanged ranges,
 * parent pointers: what changes nothing for a reader, or is handled.
 */
const INCOMPAT_KNOWN = 0xff;
const FLAG_REALTIME = 0x1;

const FORMAT_LOCAL = 1;
const FORMAT_EXTENTS = 2;
const FORMAT_BTREE = 3;
const BTREE_MAGIC = 0x424d_4150;
const BTREE_MAGIC_5 = 0x424d_4133;
const BTREE_HEADER_BYTES = 24;
const BTREE_HEADER_BYTES_5 = 72;
const BTREE_CRC_AT = 64;

const DIRECTORY_BLOCK = 0x5844_3242;
const DIRECTORY_DATA = 0x5844_3244;
const DIRECTORY_BLOCK_5 = 0x5844_4233;
const DIRECTORY_DATA_5 = 0x5844_4433;
const DIRECTORY_CRC_AT = 4;
const FREE_TAG = 0xffff;
/** Behind it in a directory's file lies the hash index. */
const DIRECTORY_DATA_END = 2 ** 35;
const SYMLINK_HEADER_BYTES = 56;

const MAX_BLOCK_BYTES = 64 << 10;
const MAX_BTREE_LEVELS = 9;
const MAX_SYMLINK_BYTES = 1024;
const MAX_DIRECTORY_BYTES = 16 << 20;
const MAX_DIRECTORY_ENTRIES = 65_536;
const MAX_RUNS = 65_536;
const MAX_LOG_BYTES = 2 ** 31;
/** Reads of metadata in one coherent read: ends what goes in circles. */
const MAX_VISITS = 100_000;
const MAX_CACHE_BYTES = 8 << 20;
const MAX_ATTEMPTS = 5;

interface Geometry {
  readonly blockSize: number;
  readonly blockCount: number;
  readonly blocksPerGroup: number;
  readonly groupCount: number;
  readonly groupBlockBits: number;
  readonly inodeBytes: number;
  readonly inodesPerBlockBits: number;
  readonly directoryBlockBytes: number;
  readonly rootInode: number;
  readonly isVersion5: boolean;
  readonly hasFileTypes: boolean;
  readonly hasManyExtents: boolean;
  readonly logStart: number;
  readonly logBytes: number;
  readonly uuid: string;
}

interface Inode {
  readonly number: number;
  readonly type: DirectoryEntry['type'];
  readonly format: number;
  readonly sizeBytes: number;
  readonly flags: number;
  readonly extentCount: number;
  /** As on disk. */
  readonly fork: Buffer;
}

interface NamedInode extends DirectoryEntry {
  readonly inode: number;
}

export const xfs: FileSystemFormat = {
  name: 'xfs',
  async open(source, previous) {
    if (source.sizeBytes < SUPERBLOCK_BYTES) return null;
    const raw = await source.read(0, SUPERBLOCK_BYTES);
    if (raw.readUInt32BE(0) !== MAGIC) return null;
    const geometry = parseSuperblock(raw, source.sizeBytes);
    const isSame = previous instanceof Xfs && previous.uuid === geometry.uuid;
    return new Xfs(source, geometry, isSame ? previous.overlay : new LogOverlay());
  },
};

function parseSuperblock(raw: Buffer, sizeBytes: number): Geometry {
  const version = raw.readUInt16BE(100);
  const isVersion5 = (version & 0xf) === 5;
  const incompatible = isVersion5 ? raw.readUInt32BE(216) : 0;
  const unknown = incompatible & ~INCOMPAT_KNOWN;
  const isKnown = (isVersion5 || (version & 0xf) === 4) && (version & VERSION_DIRECTORIES_2) !== 0 && unknown === 0;
  if (!isKnown) {
    const features = `version 0x${version.toString(16)} with features 0x${incompatible.toString(16)}`;
    throw new DiskUnreadable('Unsupported', `an XFS of ${features}`);
  }
  const blockSize = raw.readUInt32BE(4);
  const blockBits = raw.readUInt8(120);
  const inodeBytes = raw.readUInt16BE(104);
  const inodesPerBlockBits = raw.readUInt8(123);
  const geometry: Geometry = {
    blockSize,
    blockCount: Number(raw.readBigUInt64BE(8)),
    blocksPerGroup: raw.readUInt32BE(84),
    groupCount: raw.readUInt32BE(88),
    groupBlockBits: raw.readUInt8(124),
    inodeBytes,
    inodesPerBlockBits,
    directoryBlockBytes: blockSize * 2 ** Math.min(raw.readUInt8(192), 16),
    rootInode: Number(raw.readBigUInt64BE(56)),
    isVersion5,
    hasFileTypes: isVersion5
      ? (incompatible & INCOMPAT_FILE_TYPES) !== 0
      : (raw.readUInt32BE(200) & FEATURES2_FILE_TYPES) !== 0,
    hasManyExtents: (incompatible & INCOMPAT_MANY_EXTENTS) !== 0,
    logStart: Number(raw.readBigUInt64BE(48)),
    logBytes: raw.readUInt32BE(96) * blockSize,
    uuid: raw.toString('hex', 32, 48),
  };
  const { blocksPerGroup, groupCount, groupBlockBits, directoryBlockBytes, blockCount } = geometry;
  const fits =
    blockSize >= 512 &&
    blockSize <= MAX_BLOCK_BYTES &&
    blockSize === 2 ** blockBits &&
    blockCount > 0 &&
    blockCount * blockSize <= sizeBytes &&
    inodeBytes >= 256 &&
    inodeBytes <= 2048 &&
    inodeBytes * 2 ** inodesPerBlockBits === blockSize &&
    directoryBlockBytes <= MAX_BLOCK_BYTES &&
    blocksPerGroup >= 1 &&
    groupBlockBits <= 31 &&
    blocksPerGroup <= 2 ** groupBlockBits &&
    (groupCount - 1) * blocksPerGroup < blockCount &&
    blockCount <= groupCount * blocksPerGroup;
  if (!fits) {
    throw new DiskUnreadable(
      'Malformed',
      `an XFS superblock that cannot be: ${blockCount} blocks of ${blockSize} bytes on ${sizeBytes} bytes, ` +
        `${groupCount} groups of ${blocksPerGroup}, inodes of ${inodeBytes}, directory blocks of ${directoryBlockBytes}`,
    );
  }
  if (geometry.logStart === 0) throw new DiskUnreadable('Unsupported', 'an XFS with its log on another device');
  if (geometry.logBytes > MAX_LOG_BYTES) {
    throw new DiskUnreadable('Malformed', `an XFS log of ${geometry.logBytes} bytes`);
  }
  return geometry;
}

class Xfs implements FileSystem {
  readonly overlay: LogOverlay;
  readonly #source: BlockSource;
  readonly #geometry: Geometry;
  readonly #log: LogSectors;
  /** What the current coherent read depends on; null outside of one. */
  #touched: { chunks: Set<number>; inodes: Set<number> } | null = null;
  readonly #cache = new Map<number, Buffer>();
  #cachedBytes = 0;
  #isFollowed = false;
  #visits = 0;

  constructor(source: BlockSource, geometry: Geometry, overlay: LogOverlay) {
    this.#source = source;
    this.#geometry = geometry;
    this.overlay = overlay;
    const logOffset = this.#byteOffset(geometry.logStart);
    this.#log = {
      count: geometry.logBytes / 512,
      read: (first, count) => source.read(logOffset + first * 512, count * 512),
    };
  }

  get uuid(): string {
    return this.#geometry.uuid;
  }

  get age(): FileSystemAge {
    return {
      journalledBlocks: this.overlay.size,
      journalSequence: this.overlay.sequence,
      committedAtUnixMs: this.overlay.newestChangeUnixMs,
      hasNewer: false,
    };
  }

  forget(): void {
    this.#cache.clear();
    this.#cachedBytes = 0;
  }

  async coherently<T>(read: () => Promise<T>): Promise<T> {
    let torn: unknown;
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
      try {
        if (!this.#isFollowed) await this.#followLog();
        this.#touched = { chunks: new Set(), inodes: new Set() };
        this.#visits = 0;
        const outcome = await settle(read);
        const touched = this.#touched;
        this.#touched = null;
        const changed = await this.#followLog();
        const isTorn =
          changed === 'everything' ||
          [...changed.inodes].some((inode) => touched.inodes.has(inode)) ||
          [...changed.chunks].some((chunk) => touched.chunks.has(chunk));
        if (!isTorn) return outcome();
      } catch (error) {
        if (!(error instanceof DiskUnreadable) || error.reason !== 'Torn') throw error;
        torn = error;
        this.forget();
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
    const file = await this.openFile(path, maxBytes);
    return file.read(0, file.sizeBytes);
  }

  async openFile(path: string, maxBytes: number): Promise<BlockSource> {
    const inode = await this.#resolve(path);
    if (!inode) throw new DiskUnreadable('NotFound', `there is no ${path}`);
    if (inode.type !== 'file') throw new DiskUnreadable('Malformed', `${path} is no file but a ${inode.type}`);
    const { sizeBytes } = inode;
    if (sizeBytes > maxBytes) {
      throw new DiskUnreadable('Exhausted', `${path} has ${sizeBytes} bytes; at most ${maxBytes} are read`);
    }
    if (inode.flags & FLAG_REALTIME) throw new DiskUnreadable('Unsupported', `${path} lies on a realtime device`);
    const { blockSize } = this.#geometry;
    const runs = await this.#mapBlocks(inode, Math.ceil(sizeBytes / blockSize));
    return fileOf(runs, blockSize, sizeBytes, (physical, count) =>
      this.#source.read(physical * blockSize, count * blockSize),
    );
  }

  async readDirectory(path: string): Promise<DirectoryEntry[]> {
    const inode = await this.#resolve(path);
    if (!inode) throw new DiskUnreadable('NotFound', `there is no ${path}`);
    if (inode.type !== 'directory')
      throw new DiskUnreadable('Malformed', `${path} is no directory but a ${inode.type}`);
    const entries = await this.#readEntries(inode);
    return entries.filter(({ name }) => name !== '.' && name !== '..').map(({ name, type }) => ({ name, type }));
  }

  async #followLog() {
    this.#isFollowed = false;
    try {
      const changed = await this.overlay.follow(this.#log);
      if (changed === 'everything' || changed.chunks.size > 0) this.forget();
      this.#isFollowed = true;
      return changed;
    } catch (error) {
      this.forget();
      throw error;
    }
  }

  #resolve(path: string): Promise<Inode | null> {
    return resolvePath(
      {
        root: () => this.#readInode(this.#geometry.rootInode),
        find: async (directory, name) => {
          const entry = (await this.#readEntries(directory)).find((candidate) => candidate.name === name);
          return entry ? this.#readInode(entry.inode) : null;
        },
        readLink: (symlink) => this.#readLink(symlink),
      },
      path,
    );
  }

  /** A block's number in extents and pointers is a group's, and in it a block's. */
  #diskBlock(block: number): number {
    const { groupBlockBits, blocksPerGroup, groupCount } = this.#geometry;
    const group = Math.floor(block / 2 ** groupBlockBits);
    const inGroup = block % 2 ** groupBlockBits;
    if (group >= groupCount || inGroup >= blocksPerGroup) {
      throw new DiskUnreadable('Malformed', `block ${inGroup} of group ${group}: there are ${groupCount}`);
    }
    return group * blocksPerGroup + inGroup;
  }

  #byteOffset(block: number): number {
    return this.#diskBlock(block) * this.#geometry.blockSize;
  }

  async #readInode(number: number): Promise<Inode> {
    const { inodesPerBlockBits, inodeBytes, isVersion5 } = this.#geometry;
    const block = Math.floor(number / 2 ** inodesPerBlockBits);
    const offset = this.#byteOffset(block) + (number % 2 ** inodesPerBlockBits) * inodeBytes;
    this.#visit();
    this.#touched?.inodes.add(number);
    const logged = this.overlay.inode(number);
    const home = await this.#readCached(offset, inodeBytes);
    if (!logged && isVersion5) checkCrc(home, INODE_CRC_AT, `inode ${number}`);
    return parseInode(number, home, logged, this.#geometry);
  }

  /** Metadata, with what the log has of it; `crcAt` says where it keeps its checksum. */
  async #readMetadata(offset: number, length: number, crcAt: number, what: string): Promise<Buffer> {
    this.#visit();
    for (let at = offset; this.#touched && at < offset + length; at += CHUNK_BYTES) {
      this.#touched.chunks.add(at / CHUNK_BYTES);
    }
    const content = Buffer.from(await this.#readCached(offset, length));
    const isPatched = this.overlay.patch(content, offset);
    if (!isPatched && this.#geometry.isVersion5) checkCrc(content, crcAt, what);
    return content;
  }

  async #readCached(offset: number, length: number): Promise<Buffer> {
    const cached = this.#cache.get(offset);
    if (cached?.length === length) return cached;
    const content = await this.#source.read(offset, length);
    if (this.#cachedBytes + length > MAX_CACHE_BYTES) this.forget();
    this.#cache.set(offset, content);
    this.#cachedBytes += length;
    return content;
  }

  #visit(): void {
    this.#visits += 1;
    if (this.#visits > MAX_VISITS) {
      throw new DiskUnreadable('Exhausted', `more than ${MAX_VISITS} blocks looked at for one read`);
    }
  }

  /** The first `count` blocks of a file, as runs of the disk's blocks. */
  async #mapBlocks(inode: Inode, count: number): Promise<Run[]> {
    const runs: Run[] = [];
    if (inode.format === FORMAT_EXTENTS) {
      if (inode.extentCount * 16 > inode.fork.length) {
        throw new DiskUnreadable('Malformed', `inode ${inode.number} has ${inode.extentCount} extents in itself`);
      }
      this.#addExtents(inode.fork, inode.extentCount, count, runs);
    } else if (inode.format === FORMAT_BTREE) {
      const { fork } = inode;
      const level = fork.readUInt16BE(0);
      const pointersAt = 4 + Math.floor((fork.length - 4) / 16) * 8;
      for (let index = 0; index < fork.readUInt16BE(2); index++) {
        if (Number(fork.readBigUInt64BE(4 + index * 8)) >= count) break;
        await this.#mapNode(Number(fork.readBigUInt64BE(pointersAt + index * 8)), level - 1, count, runs);
      }
    } else throw new DiskUnreadable('Malformed', `inode ${inode.number} has no blocks but format ${inode.format}`);
    return runs;
  }

  async #mapNode(block: number, level: number, count: number, runs: Run[]): Promise<void> {
    const { blockSize, isVersion5 } = this.#geometry;
    const node = await this.#readMetadata(this.#byteOffset(block), blockSize, BTREE_CRC_AT, `b-tree block ${block}`);
    const headerBytes = isVersion5 ? BTREE_HEADER_BYTES_5 : BTREE_HEADER_BYTES;
    const records = node.readUInt16BE(6);
    const isNode =
      node.readUInt32BE(0) === (isVersion5 ? BTREE_MAGIC_5 : BTREE_MAGIC) &&
      node.readUInt16BE(4) === level &&
      level <= MAX_BTREE_LEVELS &&
      headerBytes + records * 16 <= blockSize;
    if (!isNode) throw new DiskUnreadable('Malformed', `block ${block} is no b-tree node of level ${level}`);
    if (level === 0) return this.#addExtents(node.subarray(headerBytes), records, count, runs);
    const pointersAt = headerBytes + Math.floor((blockSize - headerBytes) / 16) * 8;
    for (let index = 0; index < records; index++) {
      if (Number(node.readBigUInt64BE(headerBytes + index * 8)) >= count) break;
      await this.#mapNode(Number(node.readBigUInt64BE(pointersAt + index * 8)), level - 1, count, runs);
    }
  }

  #addExtents(records: Buffer, extents: number, count: number, runs: Run[]): void {
    for (let index = 0; index < extents; index++) {
      // 1 bit: not written yet; 54: where in the file; 52: where on the disk; 21: how many blocks.
      const high = records.readBigUInt64BE(index * 16);
      const low = records.readBigUInt64BE(index * 16 + 8);
      const logical = Number((high >> 9n) & 0x3f_ffff_ffff_ffffn);
      if (logical >= count) return;
      const block = Number(((high & 0x1ffn) << 43n) | (low >> 21n));
      const length = Math.min(Number(low & 0x1f_ffffn), count - logical);
      if (high >> 63n === 1n || length === 0) continue;
      const physical = this.#diskBlock(block);
      addRun(runs, { logical, physical, count: length }, this.#geometry.blockCount);
      if (runs.length > MAX_RUNS) throw new DiskUnreadable('Exhausted', `a file of more than ${MAX_RUNS} extents`);
    }
  }

  async #readLink(symlink: Inode): Promise<string> {
    const { sizeBytes, fork, format } = symlink;
    if (sizeBytes > MAX_SYMLINK_BYTES) throw new DiskUnreadable('Malformed', `a symlink of ${sizeBytes} bytes`);
    if (format === FORMAT_LOCAL) return part(fork, 0, sizeBytes).toString();
    const { blockSize, isVersion5 } = this.#geometry;
    const header = isVersion5 ? SYMLINK_HEADER_BYTES : 0;
    const parts: Buffer[] = [];
    // Blocks of 512 bytes at the least, with a header each: few are enough, and the last is filled up with zeroes.
    for (const { physical, count } of await this.#mapBlocks(
      symlink,
      Math.ceil(MAX_SYMLINK_BYTES / (blockSize - header)),
    )) {
      for (let block = physical; block < physical + count; block++) {
        const content = await this.#readMetadata(block * blockSize, blockSize, 12, `symlink ${symlink.number}`);
        parts.push(content.subarray(header));
      }
    }
    return part(Buffer.concat(parts), 0, sizeBytes).toString();
  }

  async #readEntries(directory: Inode): Promise<NamedInode[]> {
    const { hasFileTypes, directoryBlockBytes, blockSize, isVersion5 } = this.#geometry;
    if (directory.format === FORMAT_LOCAL) return parseShortForm(directory, hasFileTypes);
    const { sizeBytes } = directory;
    if (sizeBytes > MAX_DIRECTORY_BYTES) {
      throw new DiskUnreadable(
        'Exhausted',
        `a directory of ${sizeBytes} bytes; at most ${MAX_DIRECTORY_BYTES} are read`,
      );
    }
    const perDirectoryBlock = directoryBlockBytes / blockSize;
    const count = Math.min(
      Math.ceil(sizeBytes / directoryBlockBytes) * perDirectoryBlock,
      DIRECTORY_DATA_END / blockSize,
    );
    const runs = await this.#mapBlocks(directory, count);
    const entries: NamedInode[] = [];
    const what = `directory ${directory.number}`;
    for (let first = 0; first < count; first += perDirectoryBlock) {
      if (!runs.some((run) => run.logical <= first && first < run.logical + run.count)) continue;
      let isPatched = false;
      const content = await readRuns(runs, blockSize, first, perDirectoryBlock, async (physical, blocks) => {
        const offset = physical * blockSize;
        this.#visit();
        for (let at = offset; this.#touched && at < offset + blocks * blockSize; at += CHUNK_BYTES) {
          this.#touched.chunks.add(at / CHUNK_BYTES);
        }
        const read = Buffer.from(await this.#readCached(offset, blocks * blockSize));
        isPatched = this.overlay.patch(read, offset) || isPatched;
        return read;
      });
      // Of several blocks of the disk, one checksum.
      if (!isPatched && isVersion5) checkCrc(content, DIRECTORY_CRC_AT, what);
      parseDirectoryBlock(content, this.#geometry, what, entries);
    }
    return entries;
  }
}

function typeOf(mode: number): DirectoryEntry['type'] {
  const kind = mode & 0xf000;
  return kind === 0x8000 ? 'file' : kind === 0x4000 ? 'directory' : kind === 0xa000 ? 'symlink' : 'other';
}

/** The home's bytes say what the log does not: a fork that did not change since it went home. */
function parseInode(number: number, home: Buffer, logged: LoggedInode | undefined, geometry: Geometry): Inode {
  const core = logged?.core;
  const length = core?.length ?? 0;
  const bytes = core && length >= INODE_BYTES_BEFORE - 4 ? core : home;
  const isLogged = bytes === core;
  const u16 = (at: number) => (isLogged ? bytes.readUInt16LE(at) : bytes.readUInt16BE(at));
  const u32 = (at: number) => (isLogged ? bytes.readUInt32LE(at) : bytes.readUInt32BE(at));
  const u64 = (at: number) => Number(isLogged ? bytes.readBigUInt64LE(at) : bytes.readBigUInt64BE(at));
  const version = bytes.readUInt8(4);
  if (u16(0) !== INODE_MAGIC || version < 1 || version > 3) {
    throw new DiskUnreadable(
      'Malformed',
      `inode ${number} is none: magic 0x${u16(0).toString(16)}, version ${version}`,
    );
  }
  const start = version === 3 ? INODE_BYTES_OF_VERSION_3 : INODE_BYTES_BEFORE;
  const forkOffset = bytes.readUInt8(82) * 8;
  const end = forkOffset === 0 ? geometry.inodeBytes : start + forkOffset;
  const format = bytes.readUInt8(5);
  const atHome = part(home, start, end - start);
  return {
    number,
    type: typeOf(u16(2)),
    format,
    sizeBytes: u64(56),
    flags: u16(90),
    extentCount: geometry.hasManyExtents ? u64(24) : u32(76),
    fork: logged?.fork ? forkOf(logged.fork, atHome.length, geometry) : atHome,
  };
}

/** A b-tree's root is logged as the kernel holds it in memory: a whole block's header, pointers further apart. */
function forkOf({ kind, content }: NonNullable<LoggedInode['fork']>, forkBytes: number, geometry: Geometry): Buffer {
  if (kind === 'data') return content;
  const headerBytes = geometry.isVersion5 ? BTREE_HEADER_BYTES_5 : BTREE_HEADER_BYTES;
  const records = content.readUInt16BE(6);
  const pointersAt = headerBytes + Math.floor((content.length - headerBytes) / 16) * 8;
  const most = Math.floor((forkBytes - 4) / 16);
  if (records > most) throw new DiskUnreadable('Malformed', `a b-tree root of ${records} records in the log`);
  const fork = Buffer.alloc(forkBytes);
  content.copy(fork, 0, 4, 8);
  part(content, headerBytes, records * 8).copy(fork, 4);
  part(content, pointersAt, records * 8).copy(fork, 4 + most * 8);
  return fork;
}

function checkCrc(content: Buffer, at: number, what: string): void {
  const crc = crc32c(crc32c(crc32c(0xffff_ffff, content.subarray(0, at)), Buffer.alloc(4)), content.subarray(at + 4));
  if ((crc ^ 0xffff_ffff) >>> 0 !== content.readUInt32LE(at)) {
    throw new DiskUnreadable('Torn', `${what} does not match its checksum`);
  }
}

function part(bytes: Buffer, start: number, length: number): Buffer {
  if (length < 0 || start + length > bytes.length) {
    throw new DiskUnreadable('Malformed', `${length} bytes at ${start} of ${bytes.length}`);
  }
  return bytes.subarray(start, start + length);
}

/** By the number that directories keep; 'other' where they keep none. */
function entryType(kind: number): DirectoryEntry['type'] {
  return kind === 1 ? 'file' : kind === 2 ? 'directory' : kind === 7 ? 'symlink' : 'other';
}

function parseShortForm({ fork, number }: Inode, hasFileTypes: boolean): NamedInode[] {
  const count = fork.readUInt8(0);
  const isWide = fork.readUInt8(1) > 0;
  const inodeBytes = isWide ? 8 : 4;
  const entries: NamedInode[] = [];
  let at = 2 + inodeBytes;
  for (let index = 0; index < count; index++) {
    const nameLength = fork.readUInt8(at);
    const name = part(fork, at + 3, nameLength).toString('utf8');
    at += 3 + nameLength;
    const type = entryType(hasFileTypes ? fork.readUInt8(at) : 0);
    if (hasFileTypes) at += 1;
    const inode = isWide ? Number(fork.readBigUInt64BE(at)) : fork.readUInt32BE(at);
    at += inodeBytes;
    if (nameLength === 0) throw new DiskUnreadable('Malformed', `directory ${number} holds an empty name`);
    entries.push({ name, type, inode });
  }
  return entries;
}

function parseDirectoryBlock(block: Buffer, geometry: Geometry, what: string, entries: NamedInode[]): void {
  const { isVersion5, hasFileTypes } = geometry;
  const magic = block.readUInt32BE(0);
  const isOneBlock = magic === (isVersion5 ? DIRECTORY_BLOCK_5 : DIRECTORY_BLOCK);
  if (!isOneBlock && magic !== (isVersion5 ? DIRECTORY_DATA_5 : DIRECTORY_DATA)) {
    throw new DiskUnreadable('Malformed', `${what} holds a block of magic 0x${magic.toString(16)}`);
  }
  // A directory of one block keeps its hash index at the block's end.
  const leaves = isOneBlock ? block.readUInt32BE(block.length - 8) : 0;
  const end = block.length - (isOneBlock ? 8 + leaves * 8 : 0);
  for (let at = isVersion5 ? 64 : 16; at < end; ) {
    if (block.readUInt16BE(at) === FREE_TAG) {
      const length = block.readUInt16BE(at + 2);
      if (length < 8 || length % 8 !== 0) throw new DiskUnreadable('Malformed', `${what} has ${length} free bytes`);
      at += length;
      continue;
    }
    const nameLength = block.readUInt8(at + 8);
    const length = Math.ceil((9 + nameLength + (hasFileTypes ? 1 : 0) + 2) / 8) * 8;
    if (nameLength === 0 || at + length > end) {
      throw new DiskUnreadable('Malformed', `${what} has an entry of ${length} bytes at ${at}`);
    }
    if (entries.length >= MAX_DIRECTORY_ENTRIES) {
      throw new DiskUnreadable('Exhausted', `a directory of more than ${MAX_DIRECTORY_ENTRIES} entries`);
    }
    entries.push({
      inode: Number(block.readBigUInt64BE(at)),
      name: block.toString('utf8', at + 9, at + 9 + nameLength),
      type: entryType(hasFileTypes ? block.readUInt8(at + 9 + nameLength) : 0),
    });
    at += length;
  }
}

/**
 * The log of a live XFS, laid over its disk in memory: what the kernel itself would recover after a crash now.
 *
 * XFS writes every change of metadata to its log, and the inodes and blocks themselves to their homes much later; an
 * fsync waits for the log only. So names are in the log within moments, and at home perhaps in half a minute.
 *
 *   ring of 512-byte sectors, the first four bytes of each replaced by the number of the lap (cycle)
 *     record: header (cycle, length, where it is, where the tail is, the replaced bytes, checksum) │ operations
 *     operation: transaction number, flags, data. A transaction: start, header, items …, commit; it may span records
 *     item:  BUF    a block and which of its 128-byte chunks changed, then the chunks; or: the block was freed (cancel)
 *            INODE  an inode's core in the CPU's byte order, then its data fork if that changed
 *
 * Items of committed transactions are kept by place: chunks of blocks, and per inode its newest core and newest fork. A
 * tail that moves on says what has gone home since, which is then let go. follow() continues behind the last record that
 * it has seen. A record is believed when its sectors bear its cycle and its checksum matches; the log ends at the first
 * that is not, unless a newer lap is found there: then the guest has overtaken us, and we begin at its tail again.
 *
 * Format: XFS Algorithms & Data Structures, chapter "Journaling Log"; fs/xfs/libxfs/xfs_log_format.h
 */
import { crc32c } from './crc32c.ts';
import { DiskUnreadable } from './disk.ts';

/** The log's own sectors of 512 bytes, numbered from 0. */
export interface LogSectors {
  readonly count: number;
  read(first: number, count: number): Promise<Buffer>;
}

export interface LoggedInode {
  /** In the CPU's byte order, as far as the fork. */
  readonly core: Buffer;
  /** As `xfs_inode_log_format.ilf_fields` says: local data, extents, or a root of a b-tree; null when it did not change. */
  readonly fork: { readonly kind: 'data' | 'root'; readonly content: Buffer } | null;
}

export interface ChangedByLog {
  readonly chunks: ReadonlySet<number>;
  readonly inodes: ReadonlySet<number>;
}

const SECTOR_BYTES = 512;
const RECORD_MAGIC = 0xfeed_babe;
const RECORD_HEADER_BYTES = 328;
const CYCLE_DATA_AT = 44;
const CYCLES_PER_HEADER = 64;
const EXTENSION_BYTES = 4 + CYCLES_PER_HEADER * 4;
/** Data that one header's replaced bytes cover. */
const HEADER_COVERS_BYTES = CYCLES_PER_HEADER * SECTOR_BYTES;
const FORMAT_LITTLE_ENDIAN = 1;
const OPERATION_HEADER_BYTES = 12;
const CLIENT_TRANSACTION = 0x69;

const OP_START = 0x01;
const OP_COMMIT = 0x02;
const OP_CONTINUE = 0x04;
const OP_WAS_CONTINUED = 0x08;
const OP_END = 0x10;

const ITEM_INODE = 0x123b;
const ITEM_BUFFER = 0x123c;
const INODE_DATA = 0x2 | 0x4;
const INODE_ROOT = 0x8;
const BUFFER_OF_INODES = 0x1;
const BUFFER_CANCEL = 0x2;

/** Chunks by which buffers are logged: four to a sector. */
export const CHUNK_BYTES = 128;
const CHUNKS_PER_SECTOR = SECTOR_BYTES / CHUNK_BYTES;

const MAX_RECORD_BYTES = 1 << 20;
/** Of the part of a log between tail and head. */
const MAX_FIRST_WALK_BYTES = 256 << 20;
const MAX_READ_AHEAD_BYTES = 256 << 10;
/** Records that the kernel may have under way at once: eight, of up to 256 KiB. */
const MAX_UNDER_WAY_SECTORS = (8 * (256 << 10)) / SECTOR_BYTES;
const MAX_CHUNKS = 200_000;
const MAX_INODES = 50_000;
const MAX_FORK_BYTES = 64 << 10;
const MAX_OPEN_BYTES = 32 << 20;
const MAX_REGIONS = 100_000;
const MAX_FOLLOW_ATTEMPTS = 5;

interface Position {
  readonly cycle: number;
  readonly block: number;
}

interface LogRecord {
  readonly at: Position;
  readonly header: Buffer;
  readonly tail: Position;
  readonly next: Position;
  readonly operations: number;
  readonly data: Buffer;
}

interface OpenTransaction {
  regions: Buffer[];
  bytes: number;
  /** The last region is to be continued. */
  isCut: boolean;
}

export class LogOverlay {
  readonly #chunks = new Map<number, { content: Buffer; at: Position }>();
  readonly #inodes = new Map<number, LoggedInode & { at: Position }>();
  readonly #open = new Map<number, OpenTransaction>();
  #last: { at: Position; header: Buffer } | undefined;
  #next: Position | undefined;
  #tail: Position | undefined;
  #newestChangeUnixMs: number | null = null;
  #openBytes = 0;

  get size(): number {
    return this.#chunks.size + this.#inodes.size;
  }

  /** The last record's place, as one number that grows; null while the log is empty. */
  get sequence(): number | null {
    return this.#last ? this.#last.at.cycle * 2 ** 26 + this.#last.at.block : null;
  }

  /** The newest change of an inode that was seen in the log, by the guest's clock. */
  get newestChangeUnixMs(): number | null {
    return this.#newestChangeUnixMs;
  }

  inode(number: number): LoggedInode | undefined {
    return this.#inodes.get(number);
  }

  /** Whether any chunk is newer than `content`, which is read at a byte offset of the disk; they are put in. */
  patch(content: Buffer, offset: number): boolean {
    let isPatched = false;
    if (this.#chunks.size === 0) return false;
    for (let at = 0; at < content.length; at += CHUNK_BYTES) {
      const chunk = this.#chunks.get((offset + at) / CHUNK_BYTES);
      if (!chunk) continue;
      chunk.content.copy(content, at);
      isPatched = true;
    }
    return isPatched;
  }

  /** Takes in what was committed since the last call. 'everything': what was read before may have changed unseen. */
  async follow(log: LogSectors): Promise<ChangedByLog | 'everything'> {
    const changed = { chunks: new Set<number>(), inodes: new Set<number>() };
    let everything = false;
    for (let attempt = 0; attempt < MAX_FOLLOW_ATTEMPTS; attempt++) {
      if (!(await this.#continues(log))) {
        everything = true;
        this.#forget();
        this.#next = (await findTail(log)) ?? undefined;
        if (!this.#next) return 'everything';
      }
      if (await this.#walk(log, changed)) return everything ? 'everything' : changed;
      this.#forget();
    }
    throw new DiskUnreadable('Torn', `the guest's log overtook us in each of ${MAX_FOLLOW_ATTEMPTS} attempts`);
  }

  #forget(): void {
    this.#chunks.clear();
    this.#inodes.clear();
    this.#open.clear();
    this.#openBytes = 0;
    this.#last = undefined;
    this.#next = undefined;
  }

  /** Whether the last record is still where it was: then nothing behind it has been overwritten unseen. */
  async #continues(log: LogSectors): Promise<boolean> {
    if (!this.#last || !this.#next) return false;
    const header = await log.read(this.#last.at.block, 1);
    return header.subarray(0, RECORD_HEADER_BYTES).equals(this.#last.header);
  }

  /** To the log's end. False: what is there is of a newer lap than what was to come. */
  async #walk(log: LogSectors, changed: { chunks: Set<number>; inodes: Set<number> }): Promise<boolean> {
    const window = new LogWindow(log);
    let walkedBytes = 0;
    while (this.#next) {
      const record = await readRecord(window, this.#next);
      if (record === 'end') return true;
      if (record === 'overtaken') return false;
      walkedBytes += SECTOR_BYTES + record.data.length;
      if (walkedBytes > MAX_FIRST_WALK_BYTES) {
        throw new DiskUnreadable('Exhausted', `more than ${MAX_FIRST_WALK_BYTES} bytes of the log are in use`);
      }
      this.#take(record, changed);
      this.#last = { at: record.at, header: record.header };
      this.#next = record.next;
      this.#drop(record.tail);
    }
    return true;
  }

  #take(record: LogRecord, changed: { chunks: Set<number>; inodes: Set<number> }): void {
    let at = 0;
    for (let count = 0; count < record.operations; count++) {
      if (at + OPERATION_HEADER_BYTES > record.data.length) break;
      const transaction = record.data.readUInt32BE(at);
      const length = record.data.readUInt32BE(at + 4);
      const client = record.data.readUInt8(at + 8);
      const flags = record.data.readUInt8(at + 9);
      at += OPERATION_HEADER_BYTES;
      if (at + length > record.data.length) {
        throw new DiskUnreadable('Malformed', `an operation of ${length} bytes at ${at} of a log record`);
      }
      if (client === CLIENT_TRANSACTION) {
        this.#operate(transaction, flags, record.data.subarray(at, at + length));
        if (flags & OP_COMMIT) this.#commit(transaction, record.at, changed);
      }
      at += length;
    }
  }

  #operate(number: number, flags: number, data: Buffer): void {
    if (flags & OP_START) this.#open.set(number, { regions: [], bytes: 0, isCut: false });
    // One that began before the tail is at home.
    const transaction = this.#open.get(number);
    if (!transaction || data.length === 0 || flags & OP_COMMIT) return;
    transaction.bytes += data.length;
    this.#openBytes += data.length;
    if (this.#openBytes > MAX_OPEN_BYTES || transaction.regions.length > MAX_REGIONS) {
      throw new DiskUnreadable('Exhausted', 'a transaction of the log has no end');
    }
    const last = transaction.regions.at(-1);
    if (flags & OP_WAS_CONTINUED && transaction.isCut && last) {
      transaction.regions[transaction.regions.length - 1] = Buffer.concat([last, data]);
    } else transaction.regions.push(Buffer.from(data));
    transaction.isCut = (flags & OP_CONTINUE) !== 0 && (flags & OP_END) === 0;
  }

  /** Blocks that are freed come last, as in the kernel's recovery: of one transaction, they win. */
  #commit(number: number, at: Position, changed: { chunks: Set<number>; inodes: Set<number> }): void {
    const transaction = this.#open.get(number);
    if (!transaction) return;
    this.#open.delete(number);
    this.#openBytes -= transaction.bytes;
    const freed: { first: number; count: number }[] = [];
    // The first is the transaction's own header.
    const regions = transaction.regions.slice(1);
    for (let index = 0; index < regions.length; ) {
      const format = regions[index] as Buffer;
      if (format.length < 4) throw new DiskUnreadable('Malformed', `an item of ${format.length} bytes in the log`);
      const kind = format.readUInt16LE(0);
      const size = Math.max(1, format.readUInt16LE(2));
      const parts = regions.slice(index + 1, index + size);
      index += size;
      if (kind === ITEM_INODE) this.#takeInode(format, parts, at, changed.inodes);
      if (kind === ITEM_BUFFER) {
        const cancelled = this.#takeBuffer(format, parts, at, changed.chunks);
        if (cancelled) freed.push(cancelled);
      }
    }
    for (const { first, count } of freed) {
      for (let chunk = first; chunk < first + count; chunk++) {
        this.#chunks.delete(chunk);
        changed.chunks.add(chunk);
      }
    }
  }

  #takeInode(format: Buffer, parts: readonly Buffer[], at: Position, changed: Set<number>): void {
    const [core, second] = parts;
    if (!core) return;
    const fields = format.readUInt32LE(4);
    const number = Number(format.readBigUInt64LE(16));
    const before = this.#inodes.get(number);
    let fork = before?.fork ?? null;
    if (second && fields & (INODE_DATA | INODE_ROOT)) {
      if (second.length > MAX_FORK_BYTES) throw new DiskUnreadable('Malformed', `a fork of ${second.length} bytes`);
      fork = { kind: fields & INODE_ROOT ? 'root' : 'data', content: second };
    }
    this.#inodes.set(number, { core, fork, at });
    changed.add(number);
    if (this.#inodes.size > MAX_INODES) throw new DiskUnreadable('Exhausted', `over ${MAX_INODES} inodes in the log`);
    const changedMs = changeTimeMs(core);
    if (changedMs !== null && changedMs > (this.#newestChangeUnixMs ?? 0)) this.#newestChangeUnixMs = changedMs;
  }

  /** @returns the chunks of a block that was freed. */
  #takeBuffer(
    format: Buffer,
    parts: readonly Buffer[],
    at: Position,
    changed: Set<number>,
  ): { first: number; count: number } | null {
    const flags = format.readUInt16LE(4);
    const sectors = format.readUInt16LE(6);
    const first = Number(format.readBigInt64LE(8)) * CHUNKS_PER_SECTOR;
    if (flags & BUFFER_CANCEL) return { first, count: sectors * CHUNKS_PER_SECTOR };
    // Of inodes only links between unlinked ones are logged this way.
    if (flags & BUFFER_OF_INODES) return null;
    const words = Math.min(format.readUInt32LE(16), Math.floor((format.length - 20) / 4));
    const isSet = (chunk: number) => ((format.readUInt32LE(20 + (chunk >>> 5) * 4) >>> (chunk & 31)) & 1) === 1;
    let chunk = 0;
    for (const part of parts) {
      while (chunk < words * 32 && !isSet(chunk)) chunk += 1;
      for (let offset = 0; offset + CHUNK_BYTES <= part.length && chunk < words * 32 && isSet(chunk); chunk++) {
        this.#chunks.set(first + chunk, { content: part.subarray(offset, offset + CHUNK_BYTES), at });
        changed.add(first + chunk);
        offset += CHUNK_BYTES;
      }
    }
    if (this.#chunks.size > MAX_CHUNKS) throw new DiskUnreadable('Exhausted', `over ${MAX_CHUNKS} chunks in the log`);
    return null;
  }

  /** What lies before the tail is at home. */
  #drop(tail: Position): void {
    if (this.#tail && this.#tail.cycle === tail.cycle && this.#tail.block === tail.block) return;
    this.#tail = tail;
    for (const [chunk, { at }] of this.#chunks) if (isBefore(at, tail)) this.#chunks.delete(chunk);
    for (const [number, { at }] of this.#inodes) if (isBefore(at, tail)) this.#inodes.delete(number);
  }
}

/** Sectors of the ring in order, read ahead. */
class LogWindow {
  readonly log: LogSectors;
  #first = 0;
  #ahead = 8;
  #content = Buffer.alloc(0);

  constructor(log: LogSectors) {
    this.log = log;
  }

  async read(first: number, count: number): Promise<Buffer> {
    if (first + count > this.log.count) {
      const before = this.log.count - first;
      return Buffer.concat([await this.read(first, before), await this.read(0, count - before)]);
    }
    const at = (first - this.#first) * SECTOR_BYTES;
    if (at >= 0 && at + count * SECTOR_BYTES <= this.#content.length) {
      return this.#content.subarray(at, at + count * SECTOR_BYTES);
    }
    const wanted = Math.max(count, this.#ahead);
    this.#ahead = Math.min(this.#ahead * 2, MAX_READ_AHEAD_BYTES / SECTOR_BYTES);
    this.#content = Buffer.from(await this.log.read(first, Math.min(wanted, this.log.count - first)));
    this.#first = first;
    return this.#content.subarray(0, count * SECTOR_BYTES);
  }
}

/** 'overtaken': the place belongs to a newer lap already. */
async function readRecord(window: LogWindow, at: Position): Promise<LogRecord | 'end' | 'overtaken'> {
  const first = Buffer.from(await window.read(at.block, 1));
  const cycle = cycleOf(first);
  if (cycle > at.cycle) return 'overtaken';
  if (first.readUInt32BE(0) !== RECORD_MAGIC || cycle !== at.cycle) return 'end';
  const length = first.readUInt32BE(12);
  const position = positionOf(first, 16);
  const iclogBytes = first.readUInt32BE(8) >= 2 ? first.readUInt32BE(320) : HEADER_COVERS_BYTES;
  const headerSectors = Math.max(1, Math.ceil(iclogBytes / HEADER_COVERS_BYTES));
  const isSane =
    length <= MAX_RECORD_BYTES &&
    headerSectors <= MAX_RECORD_BYTES / HEADER_COVERS_BYTES &&
    length <= headerSectors * HEADER_COVERS_BYTES &&
    position.block === at.block &&
    position.cycle === at.cycle;
  if (!isSane) return 'end';
  const dataSectors = Math.ceil(length / SECTOR_BYTES);
  if (headerSectors + dataSectors >= window.log.count) return 'end';
  const whole = Buffer.from(await window.read(at.block, headerSectors + dataSectors));
  const headers = whole.subarray(0, headerSectors * SECTOR_BYTES);
  const data = whole.subarray(headerSectors * SECTOR_BYTES);
  for (let sector = 0; sector < dataSectors; sector++) {
    // Behind the ring's end it is the next lap already.
    const isWrapped = at.block + headerSectors + sector >= window.log.count;
    if (data.readUInt32BE(sector * SECTOR_BYTES) !== at.cycle + (isWrapped ? 1 : 0)) return 'end';
  }
  if (!checksumMatches(headers, headerSectors, data.subarray(0, length))) return 'end';
  if (first.readUInt32BE(300) !== FORMAT_LITTLE_ENDIAN) {
    throw new DiskUnreadable('Unsupported', `a log in format ${first.readUInt32BE(300)}: not of a little-endian Linux`);
  }
  for (let sector = 0; sector < dataSectors; sector++) {
    const header = Math.floor(sector / CYCLES_PER_HEADER);
    const from = header === 0 ? CYCLE_DATA_AT : header * SECTOR_BYTES + 4;
    headers.copy(
      data,
      sector * SECTOR_BYTES,
      from + (sector % CYCLES_PER_HEADER) * 4,
      from + (sector % CYCLES_PER_HEADER) * 4 + 4,
    );
  }
  const next = at.block + headerSectors + dataSectors;
  const wraps = next >= window.log.count;
  return {
    at,
    header: Buffer.from(first.subarray(0, RECORD_HEADER_BYTES)),
    tail: positionOf(first, 24),
    next: { cycle: at.cycle + (wraps ? 1 : 0), block: wraps ? next - window.log.count : next },
    operations: first.readUInt32BE(40),
    data: data.subarray(0, length),
  };
}

function checksumMatches(headers: Buffer, headerSectors: number, data: Buffer): boolean {
  const stored = headers.readUInt32LE(32);
  // Kernels before 3.11 wrote none.
  if (stored === 0) return true;
  let crc = crc32c(0xffff_ffff, headers.subarray(0, 32));
  crc = crc32c(crc, Buffer.alloc(4));
  crc = crc32c(crc, headers.subarray(36, RECORD_HEADER_BYTES));
  for (let header = 1; header < headerSectors; header++) {
    crc = crc32c(crc, headers.subarray(header * SECTOR_BYTES, header * SECTOR_BYTES + EXTENSION_BYTES));
  }
  return (crc32c(crc, data) ^ 0xffff_ffff) >>> 0 === stored;
}

/** Where the part of the log begins that is not at home yet, as the newest record says; null for a log never used. */
async function findTail(log: LogSectors): Promise<Position | null> {
  const first = cycleOf(await log.read(0, 1));
  if (first === 0) return null;
  // All sectors of this lap come first, then those of the one before.
  let low = 1;
  let high = log.count;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (cycleOf(await log.read(middle, 1)) === first) low = middle + 1;
    else high = middle;
  }
  const head = low;
  const window = new LogWindow(log);
  const back = Math.min(MAX_UNDER_WAY_SECTORS + MAX_RECORD_BYTES / SECTOR_BYTES, log.count - 1);
  const before = Buffer.from(await window.read((head - back + log.count) % log.count, back));
  for (let sector = back - 1; sector >= 0; sector--) {
    const header = before.subarray(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES);
    const block = (head - back + sector + log.count) % log.count;
    if (header.readUInt32BE(0) !== RECORD_MAGIC) continue;
    const record = await readRecord(new LogWindow(log), { cycle: header.readUInt32BE(4), block });
    if (typeof record === 'string') continue;
    if (record.tail.block >= log.count) throw new DiskUnreadable('Malformed', 'a log with its tail outside of it');
    return record.tail;
  }
  throw new DiskUnreadable('Torn', 'no whole record before the head of the log');
}

function cycleOf(sector: Buffer): number {
  return sector.readUInt32BE(0) === RECORD_MAGIC ? sector.readUInt32BE(4) : sector.readUInt32BE(0);
}

function positionOf(header: Buffer, at: number): Position {
  return { cycle: header.readUInt32BE(at), block: header.readUInt32BE(at + 4) };
}

function isBefore(a: Position, b: Position): boolean {
  return a.cycle < b.cycle || (a.cycle === b.cycle && a.block < b.block);
}

const INODE_BIGTIME = 0x8n;
const BIGTIME_EPOCH_SECONDS = 2n ** 31n;

/** di_ctime of a logged core: seconds and nanoseconds, or with bigtime nanoseconds since 1901. */
function changeTimeMs(core: Buffer): number | null {
  if (core.length < 64) return null;
  const isBig = core.length >= 128 && (core.readBigUInt64LE(120) & INODE_BIGTIME) !== 0n;
  const ms = isBig
    ? Number(core.readBigUInt64LE(48) / 1_000_000n - BIGTIME_EPOCH_SECONDS * 1000n)
    : core.readInt32LE(48) * 1000 + Math.floor(core.readInt32LE(52) / 1e6);
  return Number.isSafeInteger(ms) && ms > 0 ? ms : null;
}

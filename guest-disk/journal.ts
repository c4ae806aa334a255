/**
 * The journal of a live ext4 (jbd2), laid over its disk in memory.
 *
 * A running kernel writes metadata to the journal first, and to its home block when the journal needs room: tens of
 * seconds later. So the disk as it stands is an old state with new data in it. With the blocks of committed transactions
 * taken from the journal it is the state of the last commit, which is what the kernel itself would recover after a crash.
 *
 *   superblock │ descriptor  block…  block…  commit │ revoke  descriptor  block…  commit │ (an older lap)
 *              │ s_start ─── transaction s_sequence ─┘ ───── transaction s_sequence + 1 ─┘
 *
 * A descriptor lists, by tags, which home blocks the blocks behind it are for; a revoke block lists home blocks whose
 * earlier copies no longer count. The log is a ring; it ends where the next block is not of the expected transaction.
 *
 * Only tags are read and kept (`#copies`: home block → where its newest copy is); a copy is read when somebody asks for
 * that block. follow() continues behind the last commit that it has seen, so that a look-up costs two reads when nothing
 * happened. Three things make that safe against a guest that keeps writing:
 *  1. The kernel moves the tail (s_sequence) on disk before it overwrites what lies before it, and after that was
 *     written home. Copies older than the tail are dropped; a tail that moved past us means starting again.
 *  2. Transactions, tags and copies carry checksums (metadata_csum, the default); what does not match was torn.
 *  3. The last commit block must still be what it was, or this is another journal: a reverted snapshot, a new disk.
 *
 * Fast commits (a feature that has to be switched on) are not read: with them, changes show with the next full commit, at
 * most five seconds later (the commit interval). That there are newer ones is told, by the header of their area: it names
 * the transaction that they are ahead of.
 * Format: https://docs.kernel.org/filesystems/ext4/journal.html
 */
import { crc32c } from './crc32c.ts';
import { DiskUnreadable } from './disk.ts';

/** The journal's own blocks, numbered from 0, in the file system's block size. */
export interface JournalBlocks {
  readonly blockSize: number;
  readonly count: number;
  read(first: number, count: number): Promise<Buffer>;
}

interface Copy {
  readonly journalBlock: number;
  readonly sequence: number;
  readonly flags: number;
  readonly checksum: number;
}

interface Superblock {
  readonly blockCount: number;
  readonly first: number;
  readonly end: number;
  readonly start: number;
  readonly sequence: number;
  readonly incompatible: number;
  readonly uuid: Buffer;
  /** Where fast commits are written; null without that feature. */
  readonly fastCommits: number | null;
}

/** What follow() found to be different from what the caller may have read before. */
export type Changed = ReadonlySet<number> | 'everything';

const MAGIC = 0xc03b_3998;
const BLOCK_DESCRIPTOR = 1;
const BLOCK_COMMIT = 2;
const BLOCK_SUPERBLOCK_V1 = 3;
const BLOCK_SUPERBLOCK_V2 = 4;
const BLOCK_REVOKE = 5;
const FAST_COMMIT_HEAD = 9;
const FAST_COMMIT_HEAD_BYTES = 8;
const HEADER_BYTES = 12;
const SUPERBLOCK_BYTES = 1024;

const INCOMPAT_REVOKE = 0x1;
const INCOMPAT_64BIT = 0x2;
const INCOMPAT_ASYNC_COMMIT = 0x4;
const INCOMPAT_CSUM_V2 = 0x8;
const INCOMPAT_CSUM_V3 = 0x10;
const INCOMPAT_FAST_COMMIT = 0x20;
const INCOMPAT_KNOWN =
  INCOMPAT_REVOKE | INCOMPAT_64BIT | INCOMPAT_ASYNC_COMMIT | INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3 | INCOMPAT_FAST_COMMIT;

const TAG_ESCAPED = 1;
const TAG_SAME_UUID = 2;
const TAG_LAST = 8;

/** 1 GiB of 4 KiB blocks, the largest journal that mke2fs makes by itself. */
export const MAX_JOURNAL_BLOCKS = 262_144;
const MIN_JOURNAL_BLOCKS = 16;
/**
 * The log is read ahead, by two blocks first (the last commit, and whether there is more), then by more and more: small
 * transactions lie side by side. The data of large ones is jumped over.
 */
const MAX_WINDOW_BYTES = 64 << 10;
const MAX_FOLLOW_ATTEMPTS = 5;
/** In one walk over the log. A revoke block of 4 KiB holds up to 1,000. */
const MAX_REVOKES = 500_000;

export class JournalOverlay {
  #copies = new Map<number, Copy>();
  #superblock: Superblock | undefined;
  /** The next transaction: where it will begin, and its number. */
  #next: { block: number; sequence: number } | undefined;
  #lastCommit: { block: number; content: Buffer } | undefined;
  #committedAtUnixMs: number | null = null;
  #hasNewerFastCommits = false;

  /** The newest transaction taken into account; null while the log is empty. */
  get sequence(): number | null {
    return this.#next ? (this.#next.sequence - 1) >>> 0 : null;
  }

  get committedAtUnixMs(): number | null {
    return this.#committedAtUnixMs;
  }

  /** What they hold is not known here before the next full commit. */
  get hasNewerFastCommits(): boolean {
    return this.#hasNewerFastCommits;
  }

  /** How many home blocks have a newer copy in the journal. */
  get size(): number {
    return this.#copies.size;
  }

  has(homeBlock: number): boolean {
    return this.#copies.has(homeBlock);
  }

  /** The newest committed content of a block; null when that is at its home. */
  async read(journal: JournalBlocks, homeBlock: number): Promise<Buffer | null> {
    const copy = this.#copies.get(homeBlock);
    if (!copy || !this.#superblock) return null;
    const block = await journal.read(copy.journalBlock, 1);
    if (!this.#checksumMatches(copy, block)) {
      throw new DiskUnreadable('Torn', `the journal's copy of block ${homeBlock} was overwritten while it was read`);
    }
    if (copy.flags & TAG_ESCAPED) block.writeUInt32BE(MAGIC, 0);
    return block;
  }

  /** Takes in what was committed since the last call, and tells which home blocks that changed. */
  async follow(journal: JournalBlocks): Promise<Changed> {
    const changed = await this.#followFull(journal);
    const { fastCommits = null, sequence = 0 } = this.#superblock ?? {};
    const next = this.#next?.sequence ?? sequence;
    this.#hasNewerFastCommits = fastCommits !== null && (await areFastCommitsOf(next, journal, fastCommits));
    return changed;
  }

  async #followFull(journal: JournalBlocks): Promise<Changed> {
    const changed = new Set<number>();
    let everything = false;
    for (let attempt = 0; attempt < MAX_FOLLOW_ATTEMPTS; attempt++) {
      const superblock = await readSuperblock(journal);
      if (superblock.start === 0) {
        // Empty, perhaps again: then what was committed meanwhile has gone home unseen.
        const isUnchanged = !this.#next && this.#superblock?.sequence === superblock.sequence;
        everything ||= !isUnchanged;
        this.#forget(superblock);
        return everything ? 'everything' : changed;
      }
      const log = new LogWindow(journal, superblock);
      if (!(await this.#continues(log, superblock))) {
        everything = true;
        this.#forget(superblock);
        this.#next = { block: superblock.start, sequence: superblock.sequence };
      }
      this.#superblock = superblock;
      // With nothing new behind an intact last commit, the tail cannot have come this far.
      const isAtEnd = !(await this.#walk(log, superblock, changed));
      if (isAtEnd && !everything) return changed;
      // What a tail that moved meanwhile has passed may have been overwritten under our eyes. Look again from here.
      const after = await readSuperblock(journal);
      if (after.start === superblock.start && after.sequence === superblock.sequence) {
        return everything ? 'everything' : changed;
      }
    }
    throw new DiskUnreadable(
      'Torn',
      `the journal's tail moved in each of ${MAX_FOLLOW_ATTEMPTS} attempts to follow it`,
    );
  }

  #forget(superblock: Superblock): void {
    this.#copies.clear();
    this.#superblock = superblock;
    this.#next = undefined;
    this.#lastCommit = undefined;
  }

  /** Whether this is the journal that was followed before, and its tail has not passed us. Drops what has gone home. */
  async #continues(log: LogWindow, superblock: Superblock): Promise<boolean> {
    const known = this.#superblock;
    const next = this.#next;
    if (!known || !next || !known.uuid.equals(superblock.uuid) || known.incompatible !== superblock.incompatible) {
      return false;
    }
    if (known.first !== superblock.first || known.end !== superblock.end) return false;
    if (isBefore(superblock.sequence, known.sequence) || isBefore(next.sequence, superblock.sequence)) return false;
    if (this.#lastCommit && superblock.sequence !== next.sequence) {
      const content = await log.read(this.#lastCommit.block);
      if (!content.equals(this.#lastCommit.content)) return false;
    }
    if (superblock.sequence !== known.sequence) {
      for (const [homeBlock, copy] of this.#copies) {
        if (isBefore(copy.sequence, superblock.sequence)) this.#copies.delete(homeBlock);
      }
    }
    return true;
  }

  /** To the end of the log; tells whether there was anything new. */
  async #walk(log: LogWindow, superblock: Superblock, changed: Set<number>): Promise<boolean> {
    if (!this.#next) return false;
    let isNew = false;
    const length = superblock.end - superblock.first;
    let { block, sequence } = this.#next;
    let copies: [number, Copy][] = [];
    let revoked: number[] = [];
    let revokes = 0;
    for (let walked = 0; walked < length; walked++) {
      const content = await log.read(block);
      const isExpected = content.readUInt32BE(0) === MAGIC && content.readUInt32BE(8) === sequence;
      if (!isExpected || !checksumOfBlockMatches(superblock, content)) return isNew;
      block = log.after(block, 1);
      switch (content.readUInt32BE(4)) {
        case BLOCK_DESCRIPTOR: {
          for (const tag of readTags(superblock, content)) {
            copies.push([tag.homeBlock, { journalBlock: block, sequence, flags: tag.flags, checksum: tag.checksum }]);
            block = log.after(block, 1);
            walked += 1;
          }
          break;
        }
        case BLOCK_REVOKE:
          for (const homeBlock of readRevoked(superblock, content)) {
            if (++revokes > MAX_REVOKES)
              throw new DiskUnreadable('Exhausted', `over ${MAX_REVOKES} revokes in the journal`);
            revoked.push(homeBlock);
          }
          break;
        case BLOCK_COMMIT: {
          for (const [homeBlock, copy] of copies) {
            this.#copies.set(homeBlock, copy);
            changed.add(homeBlock);
          }
          // A revoke counts for its own transaction too, as in the kernel's recovery.
          for (const homeBlock of revoked) {
            this.#copies.delete(homeBlock);
            changed.add(homeBlock);
          }
          copies = [];
          revoked = [];
          this.#lastCommit = { block: log.before(block), content: Buffer.from(content) };
          this.#committedAtUnixMs = readCommitTime(content);
          sequence = (sequence + 1) >>> 0;
          this.#next = { block, sequence };
          isNew = true;
          break;
        }
        default:
          return isNew;
      }
    }
    return isNew;
  }

  #checksumMatches(copy: Copy, block: Buffer): boolean {
    const superblock = this.#superblock as Superblock;
    if (!hasChecksums(superblock)) return true;
    const sequence = Buffer.alloc(4);
    sequence.writeUInt32BE(copy.sequence);
    const computed = crc32c(crc32c(checksumSeed(superblock), sequence), block);
    return copy.checksum === (superblock.incompatible & INCOMPAT_CSUM_V3 ? computed : computed & 0xffff);
  }
}

/** Blocks of the log in ring order, read ahead. */
class LogWindow {
  readonly #journal: JournalBlocks;
  readonly #superblock: Superblock;
  #ahead = 2;
  #first = 0;
  #content: Buffer = Buffer.alloc(0);

  constructor(journal: JournalBlocks, superblock: Superblock) {
    this.#journal = journal;
    this.#superblock = superblock;
  }

  async read(block: number): Promise<Buffer> {
    const { blockSize } = this.#journal;
    const at = (block - this.#first) * blockSize;
    if (at >= 0 && at < this.#content.length) return this.#content.subarray(at, at + blockSize);
    const count = Math.min(this.#ahead, this.#superblock.end - block);
    this.#ahead = Math.min(this.#ahead * 2, Math.max(2, MAX_WINDOW_BYTES / blockSize));
    this.#content = await this.#journal.read(block, count);
    this.#first = block;
    return this.#content.subarray(0, blockSize);
  }

  after(block: number, count: number): number {
    const { first, end } = this.#superblock;
    return first + ((block - first + count) % (end - first));
  }

  before(block: number): number {
    const { first, end } = this.#superblock;
    return block === first ? end - 1 : block - 1;
  }
}

async function readSuperblock(journal: JournalBlocks): Promise<Superblock> {
  const raw = (await journal.read(0, 1)).subarray(0, SUPERBLOCK_BYTES);
  const version = raw.readUInt32BE(4);
  const isSuperblock = version === BLOCK_SUPERBLOCK_V1 || version === BLOCK_SUPERBLOCK_V2;
  if (raw.readUInt32BE(0) !== MAGIC || !isSuperblock) {
    throw new DiskUnreadable('Malformed', 'the journal does not begin with a superblock');
  }
  const hasFeatures = version === BLOCK_SUPERBLOCK_V2;
  const incompatible = hasFeatures ? raw.readUInt32BE(40) : 0;
  const unknown = incompatible & ~INCOMPAT_KNOWN;
  if (unknown !== 0) throw new DiskUnreadable('Unsupported', `the journal has features 0x${unknown.toString(16)}`);
  const blockCount = raw.readUInt32BE(16);
  const fastCommitBlocks = incompatible & INCOMPAT_FAST_COMMIT ? raw.readUInt32BE(84) || 256 : 0;
  const superblock: Superblock = {
    blockCount,
    first: raw.readUInt32BE(20),
    end: blockCount - fastCommitBlocks,
    sequence: raw.readUInt32BE(24),
    start: raw.readUInt32BE(28),
    incompatible,
    uuid: Buffer.from(raw.subarray(48, 64)),
    // The kernel leaves a block between the log's end and them.
    fastCommits: fastCommitBlocks === 0 ? null : blockCount - fastCommitBlocks + 1,
  };
  if (hasChecksums(superblock) && computeChecksum(0xffff_ffff, raw, 252) !== raw.readUInt32BE(252)) {
    throw new DiskUnreadable('Torn', "the journal's superblock does not match its checksum");
  }
  const { first, end, start } = superblock;
  const fits =
    raw.readUInt32BE(12) === journal.blockSize &&
    blockCount >= MIN_JOURNAL_BLOCKS &&
    blockCount <= Math.min(journal.count, MAX_JOURNAL_BLOCKS) &&
    first >= 1 &&
    first < end &&
    (start === 0 || (start >= first && start < end));
  if (!fits) {
    throw new DiskUnreadable('Malformed', `a journal of ${blockCount} blocks, from ${first} to ${end}, start ${start}`);
  }
  return superblock;
}

/** The area begins with a tag for the whole: kind, length, features, and the transaction that comes next. */
async function areFastCommitsOf(sequence: number, journal: JournalBlocks, block: number): Promise<boolean> {
  const area = await journal.read(block, 1);
  const isHead = area.readUInt16LE(0) === FAST_COMMIT_HEAD && area.readUInt16LE(2) === FAST_COMMIT_HEAD_BYTES;
  return isHead && area.readUInt32LE(8) === sequence;
}

function* readTags(superblock: Superblock, content: Buffer) {
  const v3 = (superblock.incompatible & INCOMPAT_CSUM_V3) !== 0;
  const v2 = (superblock.incompatible & INCOMPAT_CSUM_V2) !== 0;
  const wide = (superblock.incompatible & INCOMPAT_64BIT) !== 0;
  // v3: block, flags, block high, checksum (32 bits each). Otherwise: block (32), checksum (16), flags (16) [, block high
  // (32)]; and a 16-bit hole at the end with v2, which the kernel once added by mistake and has kept since.
  const tagBytes = v3 ? 16 : 8 + (wide ? 4 : 0) + (v2 ? 2 : 0);
  const end = content.length - (hasChecksums(superblock) ? 4 : 0);
  for (let at = HEADER_BYTES; at + tagBytes <= end; ) {
    const flags = v3 ? content.readUInt32BE(at + 4) : content.readUInt16BE(at + 6);
    const high = wide ? content.readUInt32BE(at + 8) : 0;
    const checksum = v3 ? content.readUInt32BE(at + 12) : content.readUInt16BE(at + 4);
    yield { homeBlock: high * 2 ** 32 + content.readUInt32BE(at), flags, checksum };
    if (flags & TAG_LAST) return;
    at += tagBytes + (flags & TAG_SAME_UUID ? 0 : 16);
  }
}

function* readRevoked(superblock: Superblock, content: Buffer) {
  const wide = (superblock.incompatible & INCOMPAT_64BIT) !== 0;
  const entryBytes = wide ? 8 : 4;
  const end = Math.min(content.readUInt32BE(HEADER_BYTES), content.length - (hasChecksums(superblock) ? 4 : 0));
  for (let at = HEADER_BYTES + 4; at + entryBytes <= end; at += entryBytes) {
    yield wide ? content.readUInt32BE(at) * 2 ** 32 + content.readUInt32BE(at + 4) : content.readUInt32BE(at);
  }
}

function readCommitTime(commit: Buffer): number | null {
  const ms = Number(commit.readBigUInt64BE(48)) * 1000 + Math.floor(commit.readUInt32BE(56) / 1e6);
  return Number.isSafeInteger(ms) && ms > 0 ? ms : null;
}

function hasChecksums(superblock: Superblock): boolean {
  return (superblock.incompatible & (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3)) !== 0;
}

function checksumSeed(superblock: Superblock): number {
  return crc32c(0xffff_ffff, superblock.uuid);
}

/** Of a descriptor, revoke or commit block; the first two keep it in their last four bytes. */
function checksumOfBlockMatches(superblock: Superblock, content: Buffer): boolean {
  if (!hasChecksums(superblock)) return true;
  const at = content.readUInt32BE(4) === BLOCK_COMMIT ? 16 : content.length - 4;
  return computeChecksum(checksumSeed(superblock), content, at) === content.readUInt32BE(at);
}

/** The checksum field itself, at `at`, counts as zero. */
function computeChecksum(seed: number, content: Buffer, at: number): number {
  const zero = Buffer.alloc(4);
  return crc32c(crc32c(crc32c(seed, content.subarray(0, at)), zero), content.subarray(at + 4));
}

/** Transaction numbers wrap at 32 bits. */
function isBefore(a: number, b: number): boolean {
  return ((a - b) | 0) < 0;
}

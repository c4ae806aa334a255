/**
 * A journal as the kernel's jbd2 keeps it, in memory: a ring that transactions are committed to, whose tail moves when
 * blocks were written home. It is the other side of guest-disk/journal.ts, for tests of what e2fsprogs cannot stage:
 * wraps, a tail that moves between two reads, a transaction half written, numbers that wrap.
 */
import { crc32c } from '../../guest-disk/crc32c.ts';
import type { JournalBlocks } from '../../guest-disk/journal.ts';

const MAGIC = 0xc03b_3998;

export interface JournalOptions {
  readonly checksums: 'none' | 'v2' | 'v3';
  readonly wide: boolean;
  readonly blocks: number;
  readonly firstSequence: number;
}

export interface Transaction {
  readonly blocks: ReadonlyMap<number, Buffer>;
  readonly revoked: readonly number[];
}

export class JournalWriter implements JournalBlocks {
  /** No two transactions are committed at the same time, of whatever journal. */
  static #clock = 0;
  readonly blockSize = 1024;
  readonly count: number;
  /** The file system's own blocks; what is not there was never written. */
  readonly home = new Map<number, Buffer>();
  readonly #options: JournalOptions;
  readonly #ring: Buffer[];
  readonly #uuid: Buffer;
  #head = 1;
  #sequence: number;
  /** Committed and not yet written home, oldest first. */
  #live: { sequence: number; start: number; length: number; transaction: Transaction }[] = [];
  /** Called before each read, to let the guest write at the worst moment. */
  beforeRead: ((first: number) => void) | undefined;

  constructor(options: JournalOptions, uuidByte = 7) {
    this.#options = options;
    this.count = options.blocks;
    this.#uuid = Buffer.alloc(16, uuidByte);
    this.#sequence = options.firstSequence >>> 0;
    this.#ring = Array.from({ length: options.blocks }, () => Buffer.alloc(this.blockSize));
    this.#writeSuperblock();
  }

  async read(first: number, count: number): Promise<Buffer> {
    this.beforeRead?.(first);
    return Buffer.concat(this.#ring.slice(first, first + count));
  }

  get lastSequence(): number {
    return (this.#sequence - 1) >>> 0;
  }

  /** What the kernel would find in a block after recovering the journal. */
  recovered(block: number): Buffer | undefined {
    let content = this.home.get(block);
    for (const { transaction } of this.#live) {
      content = transaction.blocks.get(block) ?? content;
      if (transaction.revoked.includes(block)) content = this.home.get(block);
    }
    return content;
  }

  /** `cut`: only so many of the transaction's blocks reach the disk, and no commit. */
  commit(transaction: Transaction, cut = Number.POSITIVE_INFINITY): void {
    const blocks = this.#encode(transaction);
    while (this.#used() + blocks.length >= this.count - 2) {
      if (this.#live.length === 0) throw new Error('the transaction is larger than the journal');
      this.checkpoint();
    }
    const start = this.#head;
    const written = blocks.slice(0, cut);
    for (const [index, block] of written.entries()) this.#ring[this.#at(start + index)] = block;
    if (written.length < blocks.length) return;
    this.#head = this.#at(start + blocks.length);
    this.#live.push({ sequence: this.#sequence, start, length: blocks.length, transaction });
    const isFirst = this.#live.length === 1;
    this.#sequence = (this.#sequence + 1) >>> 0;
    if (isFirst) this.#writeSuperblock();
  }

  /** Writes the oldest transaction's blocks home, as far as no later one holds or revokes them, and moves the tail. */
  checkpoint(): void {
    const oldest = this.#live[0];
    if (!oldest) return;
    for (const [block, content] of oldest.transaction.blocks) {
      const isSuperseded = this.#live.some(
        ({ transaction }, index) => transaction.revoked.includes(block) || (index > 0 && transaction.blocks.has(block)),
      );
      if (!isSuperseded) this.home.set(block, content);
    }
    this.#live.shift();
    this.#writeSuperblock();
  }

  /** The block of the ring where the copy of a home block lies, to damage it. */
  corrupt(needle: Buffer): void {
    for (const block of this.#ring) if (block.equals(needle)) block.writeUInt8(block.readUInt8(100) ^ 0xff, 100);
  }

  #used(): number {
    return this.#live.reduce((sum, { length }) => sum + length, 0);
  }

  #at(block: number): number {
    return 1 + ((block - 1) % (this.count - 1));
  }

  get #seed(): number {
    return crc32c(0xffff_ffff, this.#uuid);
  }

  get #hasChecksums(): boolean {
    return this.#options.checksums !== 'none';
  }

  #header(type: number): Buffer {
    const block = Buffer.alloc(this.blockSize);
    block.writeUInt32BE(MAGIC, 0);
    block.writeUInt32BE(type, 4);
    block.writeUInt32BE(this.#sequence, 8);
    return block;
  }

  #seal(block: Buffer, at = this.blockSize - 4): Buffer {
    if (this.#hasChecksums) block.writeUInt32BE(crc32c(this.#seed, block), at);
    return block;
  }

  #encode({ blocks, revoked }: Transaction): Buffer[] {
    const { wide, checksums } = this.#options;
    const encoded: Buffer[] = [];
    if (revoked.length > 0) {
      const block = this.#header(5);
      const bytes = wide ? 8 : 4;
      block.writeUInt32BE(16 + revoked.length * bytes, 12);
      for (const [index, home] of revoked.entries()) block.writeUInt32BE(home, 16 + index * bytes + (wide ? 4 : 0));
      encoded.push(this.#seal(block));
    }
    const tagBytes = checksums === 'v3' ? 16 : 8 + (wide ? 4 : 0) + (checksums === 'v2' ? 2 : 0);
    const pending = [...blocks];
    while (pending.length > 0) {
      // Few tags to a descriptor, so that transactions have several.
      const group = pending.splice(0, 5);
      const descriptor = this.#header(1);
      const copies: Buffer[] = [];
      let at = 12;
      for (const [index, [home, content]] of group.entries()) {
        const copy = Buffer.from(content);
        const isEscaped = copy.readUInt32BE(0) === MAGIC;
        if (isEscaped) copy.writeUInt32BE(0, 0);
        copies.push(copy);
        const flags = (isEscaped ? 1 : 0) | (index > 0 ? 2 : 0) | (index === group.length - 1 ? 8 : 0);
        const sequence = Buffer.alloc(4);
        sequence.writeUInt32BE(this.#sequence);
        const checksum = this.#hasChecksums ? crc32c(crc32c(this.#seed, sequence), copy) : 0;
        descriptor.writeUInt32BE(home, at);
        if (checksums === 'v3') {
          descriptor.writeUInt32BE(flags, at + 4);
          descriptor.writeUInt32BE(checksum, at + 12);
        } else {
          descriptor.writeUInt16BE(checksum & 0xffff, at + 4);
          descriptor.writeUInt16BE(flags, at + 6);
        }
        at += tagBytes + (index > 0 ? 0 : 16);
      }
      encoded.push(this.#seal(descriptor), ...copies);
    }
    const commit = this.#header(2);
    commit.writeBigUInt64BE(1_795_564_597n, 48);
    commit.writeUInt32BE(JournalWriter.#clock++, 56);
    encoded.push(this.#seal(commit, 16));
    return encoded;
  }

  #writeSuperblock(): void {
    const { checksums, wide } = this.#options;
    const block = this.#header(4);
    const oldest = this.#live[0];
    block.writeUInt32BE(this.blockSize, 12);
    block.writeUInt32BE(this.count, 16);
    block.writeUInt32BE(1, 20);
    block.writeUInt32BE(oldest?.sequence ?? this.#sequence, 24);
    block.writeUInt32BE(oldest?.start ?? 0, 28);
    block.writeUInt32BE(1 | (wide ? 2 : 0) | (checksums === 'v2' ? 8 : checksums === 'v3' ? 16 : 0), 40);
    this.#uuid.copy(block, 48);
    if (this.#hasChecksums) block.writeUInt32BE(crc32c(0xffff_ffff, block), 252);
    this.#ring[0] = block;
  }
}

/**
 * Checksums made right again after a mutation: else the first one that a parser looks at would be the end of nearly every
 * input. Places are found once, in the image as it was made; what a mutation turns into a structure of another kind keeps
 * whatever checksum it has.
 */
import { crc32c } from '../../guest-disk/crc32c.ts';

export interface Checksum {
  /** Of what, in bytes of the image. */
  readonly start: number;
  readonly end: number;
  /** Where it is stored, which is to be saved before `repair`. */
  readonly at: number;
  readonly bytes: number;
  repair(): void;
}

const XFS_MAGIC = 0x5846_5342;
const JOURNAL_MAGIC = 0xc03b_3998;
const BOLT_MAGIC = 0xed0c_daed;

/** Those of the structures that begin in `blocks`, which are KiBs. */
export function checksumsOf(content: Buffer, blocks: readonly number[]): Checksum[] {
  return [
    ...blocks.flatMap((block) => [...lvmChecksums(content, block), ...boltChecksum(content, block)]),
    ...xfsChecksums(content, blocks),
    ...journalChecksums(content, blocks),
  ];
}

/** Bytes of a range with the checksum's own as zeroes, as Linux computes them. */
function sumWithout(start: number, bytes: Buffer, at: number): number {
  return crc32c(crc32c(crc32c(start, bytes.subarray(0, at)), Buffer.alloc(4)), bytes.subarray(at + 4));
}

function xfsChecksums(content: Buffer, blocks: readonly number[]): Checksum[] {
  const isVersion5 = content.readUInt32BE(0) === XFS_MAGIC && (content.readUInt16BE(100) & 0xf) === 5;
  if (!isVersion5) return [];
  const blockBytes = content.readUInt32BE(4);
  const inodeBytes = content.readUInt16BE(104);
  const sum = (start: number, length: number, crcAt: number): Checksum => ({
    start,
    end: start + length,
    at: start + crcAt,
    bytes: 4,
    repair: () => {
      const crc = sumWithout(0xffff_ffff, content.subarray(start, start + length), crcAt);
      content.writeUInt32LE((crc ^ 0xffff_ffff) >>> 0, start + crcAt);
    },
  });
  const withoutChecksum = (start: number): Checksum => ({
    start,
    end: start + 512 + content.readUInt32BE(start + 12),
    at: start + 32,
    bytes: 4,
    repair: () => {
      content.writeUInt32LE(0, start + 32);
    },
  });
  const found: Checksum[] = [];
  for (const block of blocks) {
    for (let at = block; at < block + 1024; at += inodeBytes)
      if (content.readUInt16BE(at) === 0x494e && content.readUInt8(at + 4) === 3) found.push(sum(at, inodeBytes, 100));
    // A record of the log that bears none is believed: kernels before 3.11 wrote none.
    for (let at = block; at < block + 1024; at += 512)
      if (content.readUInt32BE(at) === 0xfeed_babe) found.push(withoutChecksum(at));
    const magic = content.toString('latin1', block, block + 4);
    const crcAt = { XDB3: 4, XDD3: 4, BMA3: 64, XSLM: 12 }[magic];
    if (block % blockBytes === 0 && crcAt !== undefined) found.push(sum(block, blockBytes, crcAt));
  }
  return found;
}

/** jbd2's, with checksums of version 2 or 3; the rest of ext4's are not looked at by its reader. */
function journalChecksums(content: Buffer, blocks: readonly number[]): Checksum[] {
  const kindAt = (at: number) => (content.readUInt32BE(at) === JOURNAL_MAGIC ? content.readUInt32BE(at + 4) : 0);
  const superblock = blocks.find((at) => kindAt(at) === 4);
  if (superblock === undefined || (content.readUInt32BE(superblock + 40) & 0x18) === 0) return [];
  const blockBytes = content.readUInt32BE(superblock + 12);
  const uuid = Buffer.from(content.subarray(superblock + 48, superblock + 64));
  const seed = crc32c(0xffff_ffff, uuid);
  const sum = (start: number, length: number, at: number, from: number): Checksum => ({
    start,
    end: start + length,
    at: start + at,
    bytes: 4,
    repair: () => {
      content.writeUInt32BE(sumWithout(from, content.subarray(start, start + length), at), start + at);
    },
  });
  return blocks.flatMap((at) => {
    const kind = kindAt(at);
    if (kind === 4) return [sum(at, 1024, 252, 0xffff_ffff)];
    if (kind === 2) return [sum(at, blockBytes, 16, seed)];
    if (kind === 5) return [sum(at, blockBytes, blockBytes - 4, seed)];
    return kind === 1 ? [...copies(content, at, blockBytes, seed), sum(at, blockBytes, blockBytes - 4, seed)] : [];
  });
}

/** Of the blocks that a descriptor lists, which follow it: version 3, tags of 16 bytes, the first with a UUID behind it. */
function copies(content: Buffer, descriptor: number, blockBytes: number, seed: number): Checksum[] {
  const found: Checksum[] = [];
  const sequence = Buffer.from(content.subarray(descriptor + 8, descriptor + 12));
  for (let tag = descriptor + 12, block = descriptor + blockBytes; tag + 16 < descriptor + blockBytes; ) {
    const flags = content.readUInt32BE(tag + 4);
    const [at, start] = [tag + 12, block];
    found.push({
      start,
      end: start + blockBytes,
      at,
      bytes: 4,
      repair: () => {
        const crc = crc32c(crc32c(seed, sequence), content.subarray(start, start + blockBytes));
        content.writeUInt32BE(crc, at);
      },
    });
    if (flags & 8) break;
    tag += 16 + (flags & 2 ? 0 : 16);
    block += blockBytes;
  }
  return found;
}

function lvmChecksums(content: Buffer, block: number): Checksum[] {
  const found: Checksum[] = [];
  const sum = (start: number, end: number, at: number): Checksum => ({
    start,
    end,
    at,
    bytes: 4,
    repair: () => {
      content.writeUInt32LE(lvmCrc(content.subarray(start, end)), at);
    },
  });
  for (let at = block; at < block + 1024; at += 512) {
    if (content.toString('latin1', at, at + 8) === 'LABELONE') found.push(sum(at + 20, at + 512, at + 16));
    if (content.toString('latin1', at + 4, at + 20) !== ' LVM2 x[5A%r0N*>') continue;
    const text = at + Number(content.readBigUInt64LE(at + 40));
    // The header's checksum covers the text's.
    found.push(sum(text, text + Number(content.readBigUInt64LE(at + 48)), at + 56), sum(at + 4, at + 512, at));
  }
  return found;
}

/** LVM's CRC-32, a bit at a time. */
function lvmCrc(bytes: Uint8Array): number {
  let value = 0xf597_a6cf;
  for (const byte of bytes) {
    value ^= byte;
    for (let bit = 0; bit < 8; bit++) value = (value >>> 1) ^ (value & 1 ? 0xedb8_8320 : 0);
  }
  return value >>> 0;
}

/** FNV-1a of a meta page. */
function boltChecksum(content: Buffer, block: number): Checksum[] {
  const start = block + 16;
  if (content.readUInt32LE(start) !== BOLT_MAGIC) return [];
  const at = start + 56;
  const repair = () => {
    let hash = 0xcbf2_9ce4_8422_2325n;
    for (const byte of content.subarray(start, at))
      hash = ((hash ^ BigInt(byte)) * 0x100_0000_01b3n) & 0xffff_ffff_ffff_ffffn;
    content.writeBigUInt64LE(hash, at);
  };
  return [{ start, end: at, at, bytes: 8, repair }];
}

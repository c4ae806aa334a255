/**
 * Structure-aware damage to what a guest writes on its disk: images changed where a look-up reads them, JSON changed where
 * its values are. Everything is drawn from a seed. For hostile.test.ts and the fuzzer (test/fuzz/disk.test.ts).
 */
import { type BlockSource, DiskUnreadable } from '../../guest-disk/disk.ts';
import { lookUpContainers } from '../../guest-disk/look-up.ts';
import type { FoundFileSystem } from '../../guest-disk/partitions.ts';
import { type Checksum, checksumsOf } from './checksums.ts';
import { bufferSource } from './images.ts';

/** A small generator with a seed (mulberry32), since Math.random has none. */
export function random(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

/** The blocks that a look-up reads and that hold anything: a mutation elsewhere would test nothing. */
export async function blocksRead(content: Buffer): Promise<number[]> {
  const offsets: number[] = [];
  const disk = bufferSource(content);
  await lookUpContainers(
    {
      sizeBytes: disk.sizeBytes,
      read: (offset, length) => {
        for (let at = offset; at < offset + length; at += 1024) offsets.push(at - (at % 1024));
        return disk.read(offset, length);
      },
    },
    { fileSystems: [] },
  );
  return blocksInUse(content, [...new Set(offsets)]);
}

export function blocksInUse(content: Buffer, blocks: readonly number[]): number[] {
  const nothing = Buffer.alloc(1024);
  return blocks.filter((at) => content.compare(nothing, 0, 1024, at, at + 1024) !== 0);
}

/** What is mutated, and what has to be known of it; made once an image. */
export class Mutable {
  readonly content: Buffer;
  readonly #blocks: readonly number[];
  readonly #checksums: readonly Checksum[];

  /** @param blocks offsets of the KiBs that are changed */
  constructor(content: Buffer, blocks: readonly number[]) {
    this.content = content;
    this.#blocks = blocks;
    this.#checksums = checksumsOf(content, blocks);
  }

  /**
   * Changes some words, bytes, bits or whole blocks of `content` itself (images are too large to be copied for each
   * mutation), and makes checksums right again, as a guest would that wants more than the first of them to be read.
   * @returns puts back what was changed
   */
  mutate(below: (below: number) => number): () => void {
    const { content } = this;
    const saved: { at: number; bytes: Buffer }[] = [];
    const save = (at: number, length: number) =>
      saved.push({ at, bytes: Buffer.from(content.subarray(at, at + length)) });
    const block = () => this.#blocks[below(this.#blocks.length)] as number;
    const isChanged = ({ start, end }: Checksum) =>
      saved.some(({ at, bytes }) => at < end && at + bytes.length > start);
    for (let changes = 1 + below(4); changes > 0; changes--) {
      const start = block();
      const kind = below(10);
      if (kind === 0) {
        save(start, 1024);
        const from = block();
        content.copy(content, start, from, from + 1024);
        continue;
      }
      const at = this.#placeOfSomething(start, below);
      save(at, 8);
      changeWord(content, at, kind, block() + below(128) * 8, below);
    }
    if (below(8) > 0) {
      // In this order: a header's checksum may be over a text's.
      for (const checksum of this.#checksums.filter(isChanged)) {
        save(checksum.at, checksum.bytes);
        checksum.repair();
      }
    }
    return () => {
      for (const { at, bytes } of saved.reverse()) bytes.copy(content, at);
    };
  }

  /** Most words of a block are zeroes that nobody looks at. */
  #placeOfSomething(block: number, below: (below: number) => number): number {
    let at = block;
    for (let attempt = 0; attempt < 8; attempt++) {
      at = block + below(127) * 8 + below(2) * 4;
      if (this.content.readUInt32LE(at) !== 0) break;
    }
    return at;
  }
}

/** Numbers as either kind of machine writes them, in 16, 32 and 64 bits; bits; text. */
function changeWord(content: Buffer, at: number, kind: number, another: number, below: (below: number) => number) {
  const value = VALUES[below(VALUES.length)] as number;
  switch (kind) {
    case 1:
      return content.writeUInt32LE(value, at);
    case 2:
      return content.writeUInt32BE(value, at);
    case 3:
      return content.writeUInt16BE(value & 0xffff, at + below(4) * 2);
    case 4:
      return content.writeUInt16LE(value & 0xffff, at + below(4) * 2);
    case 5:
      return content.writeUInt8(below(256), at + below(8));
    case 6:
      return content.copy(content, at, another, another + 4 + below(2) * 4);
    case 7: {
      const near = content.readUInt32LE(at) + below(9) - 4;
      return content.writeUInt32LE(near >>> 0, at);
    }
    case 8: {
      const byte = at + below(8);
      const isText = content.readUInt8(byte) >= 0x20 && content.readUInt8(byte) < 0x7f;
      return content.writeUInt8(isText ? TEXT.charCodeAt(below(TEXT.length)) : value & 0xff, byte);
    }
    default:
      return content.writeUInt32LE((content.readUInt32LE(at) ^ (1 << below(32))) >>> 0, at);
  }
}

const VALUES = [0, 1, 2, 3, 8, 0x7f, 0x80, 0xff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];
const TEXT = '0192[]{}="#,./-: az\0\n\u001b';

/** Whatever is on the disk: a listing, or a refusal that says why. Anything else is a mistake of the parsers. */
export async function lookUp(
  disk: BlockSource,
  what: string,
  known: { fileSystems: FoundFileSystem[] } = { fileSystems: [] },
) {
  return lookUpContainers(disk, known).catch((error: unknown) => {
    if (error instanceof DiskUnreadable || error instanceof RangeError) return null;
    throw new Error(what, { cause: error });
  });
}

const JUNK: readonly unknown[] = [
  null,
  true,
  '',
  0,
  -1,
  1e308,
  2 ** 53,
  -(2 ** 63),
  0.5,
  [],
  {},
  [[[[[[[[]]]]]]]],
  '\u0000',
  '\u001b[2J\u009b',
  '\ud800',
  '../../../etc/passwd',
  "'; DROP TABLE replicas; --",
  '\u202e\u2066',
  'a'.repeat(100_000),
  '{"a":'.repeat(2_000),
];
const KEYS = ['__proto__', 'constructor', 'toString', '', '\u0000', 'a'.repeat(10_000), '\u202e'];

/** A value somewhere in it becomes junk, another of its values, goes away, or gets company. */
export function mutateJson(value: unknown, below: (below: number) => number): unknown {
  const copy = structuredClone(value);
  const places: { holder: Record<string, unknown>; key: string }[] = [];
  const visit = (holder: unknown): void => {
    if (typeof holder !== 'object' || holder === null) return;
    for (const key of Object.keys(holder)) {
      places.push({ holder: holder as Record<string, unknown>, key });
      visit((holder as Record<string, unknown>)[key]);
    }
  };
  visit(copy);
  const pick = <T>(from: readonly T[]): T => from[below(from.length)] as T;
  for (let changes = 1 + below(3); changes > 0 && places.length > 0; changes--) {
    const { holder, key } = pick(places);
    const kind = below(5);
    if (kind === 0) delete holder[key];
    else if (kind === 1) holder[key] = structuredClone(pick(places).holder);
    else if (kind === 2)
      Object.defineProperty(holder, pick(KEYS), { value: pick(JUNK), enumerable: true, configurable: true });
    else holder[key] = pick(JUNK);
  }
  return copy;
}

/** The text of it, with some bytes changed now and then: broken UTF-8, half a file, a number of a thousand digits. */
export function mutateText(text: Buffer, below: (below: number) => number): Buffer {
  if (below(2) === 0 || text.length === 0) return text;
  const changed = Buffer.from(text);
  for (let changes = 1 + below(4); changes > 0; changes--) changed[below(changed.length)] = below(256);
  if (below(8) === 0) return changed.subarray(0, below(changed.length));
  if (below(8) === 0) return Buffer.concat([changed, Buffer.from('9'.repeat(1 + below(5_000)))]);
  return changed;
}

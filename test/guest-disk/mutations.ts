/**
 * Structure-aware damage to what a guest writes on its disk: images changed where a look-up reads them, JSON changed where
 * its values are. Everything is drawn from a seed. For hostile.test.ts and the fuzzer (test/fuzz/disk.test.ts).
 */
import { type BlockSource, DiskUnreadable } from '../../guest-disk/disk.ts';
import { lookUpContainers } from '../../guest-disk/look-up.ts';
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

/** The blocks that a look-up reads: a mutation elsewhere would test nothing. */
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
  return [...new Set(offsets)];
}

const VALUES = [0, 1, 2, 0x7f, 0xff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

export interface MutatedDisk {
  readonly disk: BlockSource;
  /** Puts back what was changed: images are too large to be copied for each mutation. */
  undo(): void;
}

/** Changes some words, bytes, bits or whole blocks of `content` itself. */
export function mutateDisk(content: Buffer, blocks: readonly number[], seed: number): MutatedDisk {
  const below = random(seed);
  const saved: { at: number; bytes: Buffer }[] = [];
  const block = () => blocks[below(blocks.length)] as number;
  const save = (at: number, length: number) =>
    saved.push({ at, bytes: Buffer.from(content.subarray(at, at + length)) });
  for (let changes = 1 + below(4); changes > 0; changes--) {
    const start = block();
    const at = start + below(255) * 4;
    const kind = below(4);
    if (kind === 2) {
      save(start, 1024);
      const from = block();
      content.copy(content, start, from, from + 1024);
      continue;
    }
    save(at, 4);
    if (kind === 0) content.writeUInt32LE(VALUES[below(VALUES.length)] as number, at);
    else if (kind === 1) content.writeUInt8(below(256), at);
    else content.writeUInt32LE((content.readUInt32LE(at) ^ (1 << below(32))) >>> 0, at);
  }
  return {
    disk: bufferSource(content),
    undo: () => {
      for (const { at, bytes } of saved.reverse()) bytes.copy(content, at);
    },
  };
}

/** Whatever is on the disk: a listing, or a refusal that says why. Anything else is a mistake of the parsers. */
export async function lookUp(disk: BlockSource, what: string) {
  return lookUpContainers(disk, { fileSystems: [] }).catch((error: unknown) => {
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

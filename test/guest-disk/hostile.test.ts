/**
 * A guest may put anything on its disk. Whatever it does, a look-up ends soon, with containers or with a reason; no other
 * error escapes, and the work is bounded. Mutations are drawn from a seed; on failure the message names it.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { type BlockSource, DiskUnreadable } from '../../guest-disk/disk.ts';
import { lookUpContainers } from '../../guest-disk/look-up.ts';
import {
  bufferSource,
  CONTAINER_ID,
  debugfs,
  dockerFiles,
  makeImage,
  temporaryDirectory,
  writeTree,
} from './images.ts';

const MUTATIONS_PER_IMAGE = 100;
const MOST_MS = 2_000;
const directory = await temporaryDirectory();

/** A small generator with a seed (mulberry32), since Math.random has none. */
function random(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

/** The blocks that a look-up reads: a mutation elsewhere would test nothing. */
async function blocksRead(content: Buffer): Promise<number[]> {
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

function mutate(original: Buffer, blocks: readonly number[], seed: number): Buffer {
  const below = random(seed);
  const content = Buffer.from(original);
  for (let changes = 1 + below(4); changes > 0; changes--) {
    const block = blocks[below(blocks.length)] as number;
    const at = block + below(255) * 4;
    const kind = below(4);
    if (kind === 0) content.writeUInt32LE(VALUES[below(VALUES.length)] as number, at);
    else if (kind === 1) content.writeUInt8(below(256), at);
    else if (kind === 2) content.copy(content, block, blocks[below(blocks.length)] as number, block + 1024);
    else content.writeUInt32LE((content.readUInt32LE(at) ^ (1 << below(32))) >>> 0, at);
  }
  return content;
}

async function expectToEnd(disk: BlockSource, what: string): Promise<'read' | 'refused'> {
  const from = performance.now();
  const outcome = await lookUpContainers(disk, { fileSystems: [] }).then(
    () => 'read' as const,
    (error: unknown) => {
      if (!(error instanceof DiskUnreadable) && !(error instanceof RangeError)) throw new Error(what, { cause: error });
      return 'refused' as const;
    },
  );
  expect(performance.now() - from, what).toBeLessThan(MOST_MS);
  return outcome;
}

describe('a look-up at a mutated disk ends', () => {
  const cases: [name: string, args: string[], journal: string[]][] = [
    ['ext4 with a journal in use', ['-O', 'extent,64bit,^metadata_csum,has_journal'], ['jo', 'JOURNALLED', 'jc']],
    ['ext4 with data in inodes', ['-I', '256', '-O', 'extent,inline_data,has_journal'], []],
    ['ext3', ['-b', '1024', '-O', '^extent,has_journal'], []],
  ];
  const images = new Map<string, { content: Buffer; blocks: number[] }>();

  beforeAll(async () => {
    const many = Object.fromEntries(Array.from({ length: 60 }, (_, n) => [`var/lib/docker/containers/${n}`, '']));
    writeTree(join(directory, 'tree'), { ...dockerFiles(CONTAINER_ID, 'shop'), ...many });
    for (const [name, args, journal] of cases) {
      const path = join(directory, `${images.size}.img`);
      await makeImage(path, join(directory, 'tree'), 8, args);
      if (journal.length > 0) {
        // The blocks of /var's inode table and the first directories, through the journal as they are.
        const content = readFileSync(path);
        const numbers = (await blocksRead(content))
          .map((offset) => offset / 1024)
          .filter((n) => n > 1)
          .slice(0, 40);
        writeTree(directory, { blocks: Buffer.concat(numbers.map((n) => content.subarray(n * 1024, (n + 1) * 1024))) });
        const write = `jw -b ${numbers.join(',')} ${join(directory, 'blocks')}`;
        await debugfs(path, ...journal.map((line) => (line === 'JOURNALLED' ? write : line)));
      }
      const content = readFileSync(path);
      images.set(name, { content, blocks: await blocksRead(content) });
    }
  });

  it.each(cases)('%s', async (name) => {
    const { content, blocks } = images.get(name) as { content: Buffer; blocks: number[] };
    const outcomes = { read: 0, refused: 0 };
    for (let seed = 1; seed <= MUTATIONS_PER_IMAGE; seed++) {
      outcomes[await expectToEnd(bufferSource(mutate(content, blocks, seed)), `${name}, seed ${seed}`)] += 1;
    }
    // Both happen: otherwise the mutations hit nothing, or everything at once.
    expect(outcomes.read).toBeGreaterThan(5);
    expect(outcomes.refused).toBeGreaterThan(5);
  });
});

describe('what a guest may build on purpose', () => {
  let plain: Buffer;
  beforeAll(async () => {
    const path = join(directory, 'plain.img');
    await makeImage(path, join(directory, 'tree'), 8, ['-b', '1024', '-O', 'extent,^64bit,^metadata_csum,has_journal']);
    plain = readFileSync(path);
  });

  /** Where the inode of a path lies, as debugfs sees it. */
  async function inodeOffset(path: string): Promise<number> {
    const output = await debugfs(join(directory, 'plain.img'), `imap ${path}`);
    const [, block, offset] = /located at block (\d+), offset (0x[0-9a-f]+)/.exec(output) ?? [];
    return Number(block) * 1024 + Number(offset);
  }

  it('an extent tree that points to itself', async () => {
    const content = Buffer.from(plain);
    const inode = await inodeOffset('/var/lib/docker/containers');
    // A node in block 3000 of depth 4, every entry of it leading to block 3000.
    const node = 3000 * 1024;
    for (const [at, size] of [
      [inode + 40, 4],
      [node, 84],
    ] as const) {
      content.writeUInt16LE(0xf30a, at);
      content.writeUInt16LE(size, at + 2);
      content.writeUInt16LE(size, at + 4);
      content.writeUInt16LE(5, at + 6);
      for (let index = 0; index < size; index++) {
        content.writeUInt32LE(0, at + 12 + index * 12);
        content.writeUInt32LE(3000, at + 16 + index * 12);
      }
    }
    expect(await expectToEnd(bufferSource(content), 'circle')).toBe('refused');
  });

  it('a directory of 2^40 bytes', async () => {
    const content = Buffer.from(plain);
    content.writeUInt32LE(256, (await inodeOffset('/var/lib/docker/containers')) + 108);
    expect(await expectToEnd(bufferSource(content), 'directory')).toBe('refused');
  });

  it('a journal of 2^32 blocks', async () => {
    const content = Buffer.from(plain);
    const inode = await inodeOffset('<8>');
    const journal = content.readUInt32LE(inode + 40 + 12 + 8) * 1024;
    expect(content.readUInt32BE(journal)).toBe(0xc03b3998);
    content.writeUInt32BE(0xffff_ffff, journal + 16);
    content.writeUInt32LE(256, inode + 108);
    expect(await expectToEnd(bufferSource(content), 'journal')).toBe('refused');
  });

  it('a disk of exabytes whose every block is the same directory', async () => {
    const block = Buffer.alloc(1 << 20);
    plain.copy(block, 0, 0, 1 << 20);
    const endless: BlockSource = {
      sizeBytes: Number.MAX_SAFE_INTEGER,
      read: async (offset, length) => Buffer.from(block.subarray(offset % 1024, (offset % 1024) + length)),
    };
    await expectToEnd(endless, 'endless');
  });
});

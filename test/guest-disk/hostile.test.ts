/**
 * A guest may put anything on its disk. Whatever it does, a look-up ends soon, with containers or with a reason; no other
 * error escapes, and the work is bounded. Here is what is built on purpose; mutations are ../fuzz/disk.test.ts's.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { BlockSource } from '../../guest-disk/disk.ts';
import {
  bufferSource,
  CONTAINER_ID,
  debugfs,
  dockerFiles,
  makeImage,
  temporaryDirectory,
  writeTree,
} from './images.ts';
import { lookUp } from './mutations.ts';

/** Of a look-up that takes milliseconds: what does not end takes for ever, whatever else the machine does. */
const MOST_MS = 20_000;
const directory = await temporaryDirectory();

async function expectToEnd(disk: BlockSource, what: string): Promise<'read' | 'refused'> {
  const from = performance.now();
  const found = await lookUp(disk, what);
  expect(performance.now() - from, what).toBeLessThan(MOST_MS);
  return found === null ? 'refused' : 'read';
}

describe('what a guest may build on purpose', () => {
  let plain: Buffer;
  beforeAll(async () => {
    const many = Object.fromEntries(Array.from({ length: 60 }, (_, n) => [`var/lib/docker/containers/${n}`, '']));
    writeTree(join(directory, 'tree'), { ...dockerFiles(CONTAINER_ID, 'shop'), ...many });
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

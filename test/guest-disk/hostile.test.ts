/**
 * A guest may put anything on its disk. Whatever it does, a look-up ends soon, with containers or with a reason; no other
 * error escapes, and the work is bounded. Mutations are drawn from a seed; on failure the message names it.
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
  inflated,
  makeImage,
  makeXfs,
  stateOf,
  temporaryDirectory,
  writeTree,
} from './images.ts';
import { blocksRead, lookUp, mutateDisk } from './mutations.ts';

const MUTATIONS_PER_IMAGE = 100;
const MUTATIONS_PER_KIND = 25;
/** Of a look-up that takes milliseconds: what does not end takes for ever, whatever else the machine does. */
const MOST_MS = 20_000;
const directory = await temporaryDirectory();

/** @returns null: refused. */
async function lookUpUntilEnd(disk: BlockSource, what: string): Promise<Awaited<ReturnType<typeof lookUp>>> {
  const from = performance.now();
  const found = await lookUp(disk, what);
  expect(performance.now() - from, what).toBeLessThan(MOST_MS);
  return found;
}

async function expectToEnd(disk: BlockSource, what: string): Promise<'read' | 'refused'> {
  return (await lookUpUntilEnd(disk, what)) === null ? 'refused' : 'read';
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
      const mutated = mutateDisk(content, blocks, seed);
      outcomes[await expectToEnd(mutated.disk, `${name}, seed ${seed}`)] += 1;
      mutated.undo();
    }
    // Both happen: otherwise the mutations hit nothing, or everything at once.
    expect(outcomes.read).toBeGreaterThan(5);
    expect(outcomes.refused).toBeGreaterThan(5);
  });
});

describe('a look-up at a mutated disk of another kind ends', () => {
  /** Checksums would refuse most mutations at once; without them the parsers behind are met. */
  const withoutChecksums = ['-m', 'crc=0'];
  const STATE: Readonly<Record<string, Buffer>> = {
    'var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db': inflated('kubernetes.db'),
    'var/lib/containers/storage/db.sql': inflated('podman-5.sql'),
    'home/ada/.local/share/containers/storage/libpod/bolt_state.db': inflated('podman-4.db'),
    'var/lib/lxc/web/config': stateOf('lxc-web.config'),
    'var/lib/lxd/storage-pools/default/x': Buffer.alloc(0),
    'var/lib/lxd/containers/first/backup.yaml': stateOf('lxd-first.yaml'),
  };
  /** The second volume begins 16 extents of 4 MiB behind the first MiB. */
  const LVM_VOLUME_AT = (1 + 16 * 4) << 20;
  const kinds: [name: string, make: (path: string, tree: string) => Promise<Buffer>][] = [
    [
      'ext4 with the state of four runtimes',
      async (path, tree) => {
        await makeImage(path, tree, 8, ['-b', '1024', '-O', 'extent,^metadata_csum,has_journal']);
        return readFileSync(path);
      },
    ],
    [
      'XFS with the state of four runtimes',
      async (path, tree) => {
        await makeXfs(path, tree, 64, withoutChecksums);
        return readFileSync(path);
      },
    ],
    ['XFS with its log in use', async () => inflated('xfs-log-in-use.img')],
    [
      'LVM',
      async (path, tree) => {
        await makeImage(path, tree, 8, []);
        const disk = Buffer.alloc(LVM_VOLUME_AT + (8 << 20));
        inflated('lvm-2-volumes').copy(disk);
        readFileSync(path).copy(disk, LVM_VOLUME_AT);
        return disk;
      },
    ],
  ];

  it.each(kinds)('%s', async (name, make) => {
    const place = join(directory, `kind-${kinds.findIndex(([kind]) => kind === name)}`);
    writeTree(`${place}.tree`, STATE);
    const content = await make(`${place}.img`, `${place}.tree`);
    const blocks = await blocksRead(content);
    const whole = await lookUp(bufferSource(content), name);
    const outcomes = { whole: 0, less: 0 };
    for (let seed = 1; seed <= MUTATIONS_PER_KIND; seed++) {
      const mutated = mutateDisk(content, blocks, seed);
      const found = await lookUpUntilEnd(mutated.disk, `${name}, seed ${seed}`);
      outcomes[found?.containers.length === whole?.containers.length ? 'whole' : 'less'] += 1;
      mutated.undo();
    }
    // Both happen: otherwise the mutations hit nothing, or everything at once. Checksums let few through.
    expect(outcomes.whole).toBeGreaterThan(1);
    if (name !== 'XFS with its log in use') expect(outcomes.less).toBeGreaterThan(1);
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

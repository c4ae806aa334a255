import { readdirSync, readFileSync, readlinkSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { DiskUnreadable } from '../../guest-disk/disk.ts';
import type { FileSystem } from '../../guest-disk/file-system.ts';
import { bufferSource, debugfs, makeImage, openExt4, run, temporaryDirectory, writeTree } from './images.ts';

const directory = await temporaryDirectory();
const tree = join(directory, 'tree');

/** Distinct content at every place, so that a wrong block shows. */
function pattern(bytes: number, seed: number): Buffer {
  const content = Buffer.alloc(bytes);
  for (let at = 0; at + 4 <= bytes; at += 4) content.writeUInt32LE((at * 2_654_435_761 + seed) >>> 0, at);
  return content;
}

beforeAll(() => {
  const many = Object.fromEntries(Array.from({ length: 200 }, (_, n) => [`many/file-with-a-longer-name-${n}`, `${n}`]));
  writeTree(tree, {
    ...many,
    empty: '',
    short: 'fits into an inode',
    medium: 'x'.repeat(100),
    'one-block': pattern(4096, 1),
    large: pattern(900_001, 2),
    'a/b/c/d/e/deep': 'deep',
    'unicode/ünï-☁': 'cloud',
  });
  const sparse = Buffer.alloc(600_000);
  sparse.write('start', 0);
  sparse.write('end', 599_990);
  writeFileSync(join(tree, 'sparse'), sparse);
  symlinkSync('a/b', join(tree, 'relative'));
  symlinkSync('/a/b/c', join(tree, 'absolute'));
  symlinkSync(`./${'a/../'.repeat(30)}short`, join(tree, 'long'));
  symlinkSync('circle', join(tree, 'circle'));
  symlinkSync('../../../../short', join(tree, 'a/outside'));
});

/** Files and directories; symlinks have tests of their own. */
function listTree(path: string): string[] {
  return readdirSync(join(tree, path), { withFileTypes: true }).flatMap((entry) => {
    const child = join(path, entry.name);
    if (entry.isDirectory()) return [child, ...listTree(child)];
    return entry.isFile() ? [child] : [];
  });
}

async function expectSameTree(fileSystem: FileSystem): Promise<void> {
  await fileSystem.coherently(async () => {
    for (const path of ['/', ...listTree('/')]) {
      const status = statSync(join(tree, path));
      if (status.isDirectory()) {
        const names = (await fileSystem.readDirectory(path)).map((entry) => entry.name);
        expect(names.filter((name) => name !== 'lost+found').sort(), path).toEqual(
          readdirSync(join(tree, path)).sort(),
        );
      } else {
        expect(await fileSystem.stat(path), path).toEqual({ type: 'file', sizeBytes: status.size });
        const content = await fileSystem.readFile(path, 1 << 20);
        expect(content.equals(readFileSync(join(tree, path))), path).toBe(true);
      }
    }
  });
}

describe('reads the same tree as was put into', () => {
  const cases: [name: string, sizeMegabytes: number, args: string[]][] = [
    [
      'ext4 as Debian makes it',
      64,
      ['-b', '4096', '-O', 'has_journal,metadata_csum,64bit,extent,flex_bg,huge_file,dir_nlink'],
    ],
    ['ext4 of 32 bits without checksums', 32, ['-b', '4096', '-O', 'extent,^64bit,^metadata_csum,has_journal']],
    ['ext4 with blocks of 1 KiB', 32, ['-b', '1024', '-O', 'extent,64bit,metadata_csum,has_journal']],
    ['ext4 with blocks of 64 KiB', 128, ['-b', '65536', '-O', 'extent,64bit,has_journal']],
    [
      'ext4 with meta block groups',
      64,
      ['-b', '1024', '-O', 'extent,meta_bg,^resize_inode,64bit,has_journal,sparse_super'],
    ],
    ['ext4 with data in inodes', 32, ['-b', '4096', '-I', '256', '-O', 'extent,inline_data,has_journal,metadata_csum']],
    ['ext4 with clusters', 32, ['-b', '4096', '-O', 'extent,bigalloc,has_journal']],
    ['ext3', 32, ['-b', '4096', '-O', '^extent,has_journal,filetype', '-I', '128']],
    ['ext3 with blocks of 1 KiB (double indirect)', 32, ['-b', '1024', '-O', '^extent,has_journal', '-I', '128']],
    ['ext2 without file types', 32, ['-b', '4096', '-O', '^extent,^has_journal,^filetype', '-I', '128']],
  ];
  it.each(cases)('%s', async (name, sizeMegabytes, args) => {
    const image = join(directory, `${name.replaceAll(/\W/g, '-')}.img`);
    await makeImage(image, tree, sizeMegabytes, args);
    await expectSameTree(await openExt4(image));
  });

  it('an ext4 whose directories are hash trees', async () => {
    const image = join(directory, 'htree.img');
    await makeImage(image, tree, 32, ['-b', '1024', '-O', 'extent,has_journal,dir_index,metadata_csum']);
    await run('e2fsck', ['-f', '-y', '-D', image], { reject: false });
    expect(await debugfs(image, 'htree_dump /many')).toContain('Root node dump');
    await expectSameTree(await openExt4(image));
  });
});

describe('in one image', () => {
  const image = join(directory, 'one.img');
  let fileSystem: FileSystem;
  beforeAll(async () => {
    await makeImage(image, tree, 32, ['-b', '1024', '-O', 'extent,64bit,metadata_csum,has_journal']);
    fileSystem = await openExt4(image);
  });
  const within = <T>(read: () => Promise<T>) => fileSystem.coherently(read);
  const read = (path: string, maxBytes = 1 << 20) => within(() => fileSystem.readFile(path, maxBytes));

  it('symlinks are followed, and do not lead out of it', async () => {
    expect(String(await read('/relative/c/d/e/deep'))).toBe('deep');
    expect(String(await read('/absolute/d/e/deep'))).toBe('deep');
    expect(readlinkSync(join(tree, 'long')).length).toBeGreaterThan(60);
    expect(String(await read('/long'))).toBe('fits into an inode');
    expect(String(await read('/a/outside'))).toBe('fits into an inode');
    expect(String(await read('/../../short'))).toBe('fits into an inode');
  });

  it('a circle of symlinks ends', async () => {
    await expect(read('/circle')).rejects.toMatchObject({
      reason: 'Malformed',
      message: expect.stringMatching(/circle/),
    });
  });

  it('what is not there, or is of another kind, is told', async () => {
    await expect(read('/nothing')).rejects.toMatchObject({ reason: 'NotFound' });
    await expect(read('/short/below-a-file')).rejects.toMatchObject({ reason: 'NotFound' });
    await expect(read('/a')).rejects.toMatchObject({ reason: 'Malformed' });
    expect(await within(() => fileSystem.stat('/nothing'))).toBeNull();
    await expect(within(() => fileSystem.readDirectory('/short'))).rejects.toBeInstanceOf(DiskUnreadable);
  });

  it('a file larger than the caller wants is not read', async () => {
    await expect(read('/large', 900_000)).rejects.toMatchObject({ reason: 'Exhausted' });
  });

  it('extents that are allocated but not written read as zeroes', async () => {
    const copy = join(directory, 'unwritten.img');
    await run('cp', ['--sparse=always', image, copy]);
    await debugfs(copy, 'write /dev/null unwritten', 'fallocate unwritten 0 9', 'set_inode_field unwritten size 5000');
    const block = Number(
      await debugfs(copy, 'bmap unwritten 0').then((output) => /^(\d+) \(uninit\)$/m.exec(output)?.[1]),
    );
    const content = readFileSync(copy);
    content.fill('what was there before', block * 1024, (block + 5) * 1024);
    const other = await openExt4(bufferSource(content));
    expect(await other.coherently(() => other.readFile('/unwritten', 1 << 20))).toEqual(Buffer.alloc(5000));
  });
});

describe('refuses', () => {
  it('a disk that ends before the file system does', async () => {
    const content = readFileSync(join(directory, 'one.img'));
    await expect(openExt4(bufferSource(content.subarray(0, 16 << 20)))).rejects.toMatchObject({ reason: 'Malformed' });
  });

  it('a feature that it does not know, by its number', async () => {
    const content = readFileSync(join(directory, 'one.img'));
    content.writeUInt32LE(content.readUInt32LE(1024 + 96) | 0x4000_0000, 1024 + 96);
    await expect(openExt4(bufferSource(content))).rejects.toMatchObject({
      reason: 'Unsupported',
      message: expect.stringContaining('0x40000000'),
    });
  });
});

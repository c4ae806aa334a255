import { mkdirSync, readdirSync, readFileSync, statSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { BlockSource } from '../../guest-disk/disk.ts';
import type { FileSystem } from '../../guest-disk/file-system.ts';
import { xfs } from '../../guest-disk/xfs.ts';
import { bufferSource, inflated, makeXfs, temporaryDirectory, writeTree } from './images.ts';

const directory = await temporaryDirectory();
const tree = join(directory, 'tree');

async function imageOf(name: string, args: readonly string[]): Promise<Buffer> {
  await makeXfs(join(directory, `${name}.img`), tree, 64, args);
  return readFileSync(join(directory, `${name}.img`));
}

async function openXfs(source: BlockSource, previous?: FileSystem): Promise<FileSystem> {
  const fileSystem = await xfs.open(source, previous);
  if (!fileSystem) throw new Error('no XFS in the image');
  return fileSystem;
}

beforeAll(() => {
  const content = Buffer.alloc(700_001);
  for (let at = 0; at + 4 < content.length; at += 4) content.writeUInt32LE(at, at);
  const many = Object.fromEntries(Array.from({ length: 900 }, (_, n) => [`many/file-with-a-longer-name-${n}`, `${n}`]));
  const some = Object.fromEntries(Array.from({ length: 30 }, (_, n) => [`some/file-${n}`, `${n}`]));
  writeTree(tree, { ...many, ...some, empty: '', 'a/b/deep': 'deep', 'unicode/ünï': 'cloud', large: content });
  mkdirSync(join(tree, 'nothing'));
  symlinkSync('a/b/deep', join(tree, 'link'));
});

describe('reads the same tree as was put into', () => {
  // Directories of one entry lie in their inode, of thirty in a block, of nine hundred in many.
  const cases: [name: string, args: string[]][] = [
    ['version 5', []],
    ['version 5 with small blocks and large directory blocks', ['-b', 'size=1024', '-n', 'size=8192']],
    ['version 5 with large extent counts', ['-i', 'nrext64=1']],
    ['version 4', ['-m', 'crc=0']],
    ['version 4 without file types in directories', ['-m', 'crc=0', '-n', 'ftype=0']],
  ];
  it.each(cases)('%s', async (name, args) => {
    const fileSystem = await openXfs(bufferSource(await imageOf(name.replaceAll(' ', '-'), args)));
    await fileSystem.coherently(async () => {
      for (const path of readdirSync(tree, { recursive: true, encoding: 'utf8' })) {
        const status = statSync(join(tree, path));
        if (status.isDirectory()) {
          const names = (await fileSystem.readDirectory(`/${path}`)).map((entry) => entry.name);
          expect(names.sort(), path).toEqual(readdirSync(join(tree, path)).sort());
        } else if (!path.startsWith('many/') || path.endsWith('0')) {
          const content = await fileSystem.readFile(`/${path}`, 1 << 20);
          expect(content.equals(readFileSync(join(tree, path))), path).toBe(true);
        }
      }
    });
  });
});

describe('a disk whose newest changes are in the log', () => {
  const image = inflated('xfs-log-in-use.img');
  const removed = Array.from({ length: 17 }, (_, n) => 3 + 7 * n);

  async function expectNewest(fileSystem: FileSystem): Promise<void> {
    await fileSystem.coherently(async () => {
      const names = (await fileSystem.readDirectory('/many')).map(({ name }) => name).sort();
      const kept = Array.from({ length: 120 }, (_, n) => n + 1).filter((n) => !removed.includes(n));
      const renamed = [1, 2, 3, 4, 5].map((n) => `renamed-${n}`);
      expect(names).toEqual([...kept.map((n) => `file-with-a-longer-name-${n}`), ...renamed].sort());
      expect(String(await fileSystem.readFile('/link', 100))).toBe('late 1\n');
      const config = await fileSystem.readFile('/var/lib/docker/containers/new/config.v2.json', 100);
      expect(JSON.parse(String(config))).toEqual({ new: true });
      expect(await fileSystem.stat('/gone')).toBeNull();
      const pieces = await fileSystem.readFile('/pieces', 1 << 20);
      for (let n = 0; n < 30; n++)
        expect(pieces.toString('latin1', n * 8192, n * 8192 + 7)).toBe(`piece ${n}`.slice(0, 7));
    });
  }

  it('is read as it would be after recovery', async () => {
    const fileSystem = await openXfs(bufferSource(image));
    await expectNewest(fileSystem);
    expect(fileSystem.age.journalledBlocks).toBeGreaterThan(20);
    expect(new Date(fileSystem.age.committedAtUnixMs ?? 0).getUTCFullYear()).toBe(2026);
  });

  /** Places of records of the log that is in use, oldest first. */
  function recordsOf(content: Buffer): number[] {
    const places: number[] = [];
    for (let at = 0; at < content.length; at += 512) {
      if (content.readUInt32BE(at) === 0xfeedbabe && content.readUInt32BE(at + 40) > 1) places.push(at);
    }
    return places.sort((a, b) => content.readUInt32BE(a + 20) - content.readUInt32BE(b + 20));
  }

  /** As the disk was before the record at `at` was written: the lap before left another stamp there. */
  function without(content: Buffer, at: number): Buffer {
    const before = Buffer.from(content);
    const sectors = 1 + Math.ceil(content.readUInt32BE(at + 12) / 512);
    for (let sector = 0; sector < sectors; sector++) before.writeUInt32BE(0, at + sector * 512);
    return before;
  }

  it('is followed from one look to the next', async () => {
    const last = recordsOf(image).at(-1) as number;
    let content = without(image, last);
    const source: BlockSource = {
      sizeBytes: image.length,
      read: (offset, length) => bufferSource(content).read(offset, length),
    };
    const first = await openXfs(source);
    await first.coherently(() => first.readDirectory('/many'));
    const before = first.age.journalSequence;
    content = image;
    let reads = 0;
    const second = await openXfs(
      {
        sizeBytes: image.length,
        read: (offset, length) => {
          reads += 1;
          return source.read(offset, length);
        },
      },
      first,
    );
    await second.coherently(async () => undefined);
    expect(reads).toBeLessThan(8);
    expect(second.age.journalSequence).toBeGreaterThan(before as number);
    await expectNewest(second);
  });

  it('is not believed where the log is torn: what was committed before counts', async () => {
    const last = recordsOf(image).at(-1) as number;
    const torn = Buffer.from(image);
    torn.writeUInt8(torn.readUInt8(last + 600) ^ 0xff, last + 600);
    const whole = await openXfs(bufferSource(image));
    const cut = await openXfs(bufferSource(torn));
    await whole.coherently(async () => undefined);
    await cut.coherently(async () => undefined);
    expect(cut.age.journalSequence).toBeLessThan(whole.age.journalSequence as number);
  });

  it('is told when it changes under the eyes of a reader', async () => {
    const last = recordsOf(image).at(-1) as number;
    let content = without(image, last);
    const fileSystem = await openXfs({
      sizeBytes: image.length,
      read: (offset, length) => bufferSource(content).read(offset, length),
    });
    let attempts = 0;
    await fileSystem.coherently(async () => {
      attempts += 1;
      for (const path of ['/', '/many', '/var/lib/docker/containers']) await fileSystem.readDirectory(path);
      await fileSystem.stat('/pieces');
      content = image;
    });
    expect(attempts).toBe(2);
    await expectNewest(fileSystem);
  });

  it('says that an inode at home is torn', async () => {
    const fileSystem = await openXfs(bufferSource(await imageOf('torn', [])));
    const broken = readFileSync(join(directory, 'torn.img'));
    const rootInode = Number(broken.readBigUInt64BE(56));
    const at = (rootInode >> 3) * 4096 + (rootInode & 7) * 512;
    expect(broken.readUInt16BE(at)).toBe(0x494e);
    broken.writeUInt8(broken.readUInt8(at + 60) ^ 1, at + 60);
    await fileSystem.coherently(() => fileSystem.stat('/a'));
    const other = await openXfs(bufferSource(broken));
    await expect(other.coherently(() => other.stat('/a'))).rejects.toMatchObject({ reason: 'Torn' });
  });
});

describe('refuses', () => {
  it('features that it does not know', async () => {
    const content = Buffer.from(inflated('xfs-log-in-use.img'));
    content.writeUInt32BE(content.readUInt32BE(216) | 0x4000, 216);
    await expect(openXfs(bufferSource(content))).rejects.toMatchObject({ reason: 'Unsupported' });
  });

  it('a disk that ends before the file system does', async () => {
    const content = inflated('xfs-log-in-use.img').subarray(0, 8 << 20);
    await expect(openXfs(bufferSource(content))).rejects.toMatchObject({ reason: 'Malformed' });
  });
});

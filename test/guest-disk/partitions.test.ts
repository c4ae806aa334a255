import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { openFileSystems } from '../../guest-disk/partitions.ts';
import { bufferSource, makeImage, run, temporaryDirectory, writeTree } from './images.ts';

const directory = await temporaryDirectory();
const MEBIBYTE = 1 << 20;
let fileSystem: Buffer;

beforeAll(async () => {
  writeTree(join(directory, 'tree'), { 'etc/hostname': 'guest' });
  await makeImage(join(directory, 'fs.img'), join(directory, 'tree'), 16, []);
  fileSystem = readFileSync(join(directory, 'fs.img'));
});

async function partitioned(table: string): Promise<Buffer> {
  const path = join(directory, 'disk.img');
  writeFileSync(path, '');
  truncateSync(path, 64 * MEBIBYTE);
  await run('sfdisk', ['-q', path], { input: table });
  return readFileSync(path);
}

describe('file systems are found', () => {
  it('on a whole disk', async () => {
    const found = await openFileSystems(bufferSource(fileSystem), []);
    expect(found).toMatchObject([{ format: 'ext4', place: 'disk' }]);
  });

  it.each(['dos', 'gpt'])('in the partitions of a %s table', async (label) => {
    const disk = await partitioned(`label: ${label}\nsize=16MiB\nsize=24MiB\n`);
    // Nothing in the first partition; the second begins behind it, both aligned to 1 MiB.
    fileSystem.copy(disk, 17 * MEBIBYTE);
    const found = await openFileSystems(bufferSource(disk), []);
    expect(found).toMatchObject([{ format: 'ext4', place: 'partition 2' }]);
    const opened = found[0]?.fileSystem;
    expect(String(await opened?.coherently(() => opened.readFile('/etc/hostname', 100)))).toBe('guest');
  });

  it('although another partition holds a broken one', async () => {
    const disk = await partitioned('label: gpt\nsize=16MiB\nsize=24MiB\n');
    fileSystem.copy(disk, MEBIBYTE);
    disk.writeUInt32LE(0xffff_ffff, MEBIBYTE + 1024 + 4);
    fileSystem.copy(disk, 17 * MEBIBYTE);
    expect(await openFileSystems(bufferSource(disk), [])).toMatchObject([{ place: 'partition 2' }]);
  });
});

describe('a disk without any says so', () => {
  it.each([
    ['empty', () => Buffer.alloc(MEBIBYTE)],
    ['tiny', () => Buffer.alloc(100)],
    ['random', () => Buffer.alloc(MEBIBYTE, 'not a disk')],
  ])('%s', async (_name, disk) => {
    await expect(openFileSystems(bufferSource(disk()), [])).rejects.toMatchObject({ reason: 'NoFileSystem' });
  });

  it('and which bytes it was to have, when partitions reach beyond it', async () => {
    const disk = await partitioned('label: dos\nsize=16MiB\n');
    disk.writeUInt32LE(0xffff_ff00, 446 + 8);
    disk.writeUInt32LE(0xffff_ffff, 446 + 12);
    await expect(openFileSystems(bufferSource(disk), [])).rejects.toMatchObject({ reason: 'Malformed' });
  });
});

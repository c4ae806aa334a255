import { execFileSync } from 'node:child_process';
import { mkdtemp, open, readdir, readFile, rm, stat, truncate, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type CloneRequest, cloneDisk, removeDisk } from '../../activities/clone.ts';

const GIBIBYTE = 2 ** 30;
let directory: string;
let source: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'ciel-clone-'));
  source = join(directory, 'template.img');
  // 5 GiB with two islands of data.
  const file = await open(source, 'w');
  await file.truncate(5 * GIBIBYTE);
  await file.write(Buffer.alloc(1 << 20, 'a'), 0, 1 << 20, 0);
  await file.write(Buffer.alloc(1 << 20, 'z'), 0, 1 << 20, 3 * GIBIBYTE);
  await file.close();
});
afterEach(() => rm(directory, { recursive: true, force: true }));

function request(change: Partial<CloneRequest> = {}): CloneRequest {
  return {
    source,
    format: 'raw',
    target: join(directory, 'clone.img'),
    beforePublishing: async () => {},
    progress: () => {},
    signal: new AbortController().signal,
    ...change,
  };
}
const files = async () => (await readdir(directory)).sort();

describe('cloneDisk', () => {
  it('copies data and leaves holes', async () => {
    const weight = await cloneDisk(request());
    expect(weight.virtualBytes).toBe(5 * GIBIBYTE);
    expect(weight.allocatedBytes).toBeLessThan(8 << 20);
    execFileSync('cmp', ['-n', String(4 << 20), source, join(directory, 'clone.img')]);
    execFileSync('cmp', ['-i', String(3 * GIBIBYTE), '-n', String(4 << 20), source, join(directory, 'clone.img')]);
    expect(await files()).toEqual(['clone.img', 'template.img']);
  });

  it('refuses a disk that was cut off, before it copies anything', async () => {
    execFileSync('mkfs.ext4', ['-q', '-F', source]);
    await cloneDisk(request());
    await removeDisk(join(directory, 'clone.img'));
    for (const [bytes, found] of [
      [GIBIBYTE, /1073741824 bytes\): an ext4 superblock that cannot be.* cut off/],
      [0, /it is empty/],
    ] as const) {
      await truncate(source, bytes);
      await expect(cloneDisk(request())).rejects.toThrow(found);
      await expect(cloneDisk(request())).rejects.toMatchObject({ failure: 'TemplateBroken' });
      expect(await files()).toEqual(['template.img']);
    }
  });

  it('has nothing to remove where the storage is missing, which the clone names', async () => {
    const target = join(directory, 'nowhere', 'clone.img');
    await expect(cloneDisk(request({ target }))).rejects.toThrow(/storage .*nowhere.*Create the directory/);
    await removeDisk(target);
  });

  it('finds the clone of an earlier attempt and leaves it as it is', async () => {
    await cloneDisk(request());
    await writeFile(join(directory, 'clone.img'), 'the VM wrote this', { flag: 'r+' });
    const { ino } = await stat(join(directory, 'clone.img'));
    await cloneDisk(request({ source: '/gone' }));
    expect((await stat(join(directory, 'clone.img'))).ino).toBe(ino);
  });

  it('removes what killed attempts left, and nothing else', async () => {
    for (const name of ['clone.img.1.part', 'clone.img.2.part', 'other.img.1.part', 'clone.img2']) {
      await writeFile(join(directory, name), '');
    }
    await cloneDisk(request());
    expect(await files()).toEqual(['clone.img', 'clone.img2', 'other.img.1.part', 'template.img']);
    await removeDisk(join(directory, 'clone.img'));
    await removeDisk(join(directory, 'clone.img'));
    expect(await files()).toEqual(['clone.img2', 'other.img.1.part', 'template.img']);
  });

  it('a late attempt does not replace the disk that another finished meanwhile', async () => {
    await cloneDisk(request({ beforePublishing: () => writeFile(join(directory, 'clone.img'), 'first') }));
    expect(await readFile(join(directory, 'clone.img'), 'utf8')).toBe('first');
    expect(await files()).toEqual(['clone.img', 'template.img']);
  });

  it('publishes nothing when its operation is closed', async () => {
    const closed = request({ beforePublishing: () => Promise.reject(new Error('closed')) });
    await expect(cloneDisk(closed)).rejects.toThrow('closed');
    expect(await files()).toEqual(['template.img']);
  });

  it('leaves nothing when it is cancelled', async () => {
    const abort = new AbortController();
    abort.abort();
    await expect(cloneDisk(request({ signal: abort.signal }))).rejects.toThrow(/abort/i);
    expect(await files()).toEqual(['template.img']);
  });

  it('notices that the template was written to', async () => {
    const touch = () => utimes(source, new Date(), new Date(Date.now() + 5_000));
    const busy = cloneDisk(request({ beforePublishing: touch }));
    await expect(busy).rejects.toMatchObject({
      failure: 'TemplateBroken',
      message: expect.stringContaining('changed'),
    });
    expect(await files()).toEqual(['template.img']);
  });

  it.each([
    ['a template disk that is missing', { source: '/nowhere/disk.img' }, 'TemplateMissing', '/nowhere/disk.img'],
    ['a template disk that is a directory', { source: tmpdir() }, 'TemplateBroken', 'no regular file'],
    ['a storage that is missing', { target: '/nowhere/clone.img' }, 'InvalidSpec', '/nowhere'],
  ])('%s: says so', async (_what, change, failure, text) => {
    await expect(cloneDisk(request(change))).rejects.toMatchObject({
      failure,
      message: expect.stringContaining(text),
    });
  });

  it('a qcow2 disk weighs what its header says', async () => {
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', join(directory, 'q.img'), '7G']);
    const weight = await cloneDisk(request({ source: join(directory, 'q.img'), format: 'qcow2' }));
    expect(weight.virtualBytes).toBe(7 * GIBIBYTE);
    await expect(cloneDisk(request({ target: join(directory, 'w.img'), format: 'qcow2' }))).rejects.toMatchObject({
      failure: 'TemplateBroken',
    });
  });
});

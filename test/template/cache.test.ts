import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { buildOnce, contentHash } from '../../template/cache.ts';

const root = await mkdtemp(join(tmpdir(), 'ciel-cache-'));
afterAll(() => rm(root, { recursive: true }));

describe('the hash of what something is made from', () => {
  it('does not depend on the order of keys', () => {
    expect(contentHash({ a: 1, b: [{ c: 2, d: 3 }] })).toBe(contentHash({ b: [{ d: 3, c: 2 }], a: 1 }));
  });

  it('depends on values, on the order of lists and on nesting', () => {
    const hashes = [{ a: 1 }, { a: '1' }, { a: [1, 2] }, { a: [2, 1] }, { a: [[1], 2] }, { a: null }, {}].map(
      contentHash,
    );
    expect(new Set(hashes).size).toBe(hashes.length);
  });
});

describe('building once', () => {
  it('builds, and finds it afterwards', async () => {
    const directory = join(root, 'once');
    let builds = 0;
    const build = async (work: string) => {
      builds += 1;
      await writeFile(join(work, 'result'), 'made');
    };
    await buildOnce({ name: 'x', hash: 'h', directory }, build);
    await buildOnce({ name: 'x', hash: 'h', directory }, build);
    expect(builds).toBe(1);
    expect(await readFile(join(directory, 'result'), 'utf8')).toBe('made');
  });

  it('makes concurrent builders wait for one', async () => {
    const directory = join(root, 'concurrent');
    let builds = 0;
    const build = async (work: string) => {
      builds += 1;
      await new Promise((resolve) => setTimeout(resolve, 50));
      await writeFile(join(work, 'result'), 'made');
    };
    await Promise.all(Array.from({ length: 5 }, () => buildOnce({ name: 'x', hash: 'h', directory }, build)));
    expect(builds).toBe(1);
  });

  it('leaves nothing of a build that failed, and lets the next one try', async () => {
    const directory = join(root, 'failing');
    const failing = buildOnce({ name: 'x', hash: 'h', directory }, async (work) => {
      await writeFile(join(work, 'half'), '');
      throw new Error('no space left');
    });
    await expect(failing).rejects.toThrow('no space left');
    expect((await readdir(root)).filter((entry) => entry.startsWith('failing'))).toEqual(['failing.lock']);
    await buildOnce({ name: 'x', hash: 'h', directory }, async (work) => writeFile(join(work, 'whole'), ''));
    expect(await readdir(directory)).toEqual(['whole']);
  });

  it('removes what a killed builder left', async () => {
    const directory = join(root, 'killed');
    await mkdir(`${directory}.building-1`);
    await buildOnce({ name: 'x', hash: 'h', directory }, async (work) => writeFile(join(work, 'whole'), ''));
    expect((await readdir(root)).filter((entry) => entry.startsWith('killed'))).toEqual(['killed', 'killed.lock']);
  });

  it('waits for another process, and goes on when that is killed', async () => {
    const directory = join(root, 'other');
    const other = spawn('flock', [`${directory}.lock`, 'sleep', '60'], { stdio: 'ignore', detached: true });
    await new Promise((resolve) => setTimeout(resolve, 300));
    const building = buildOnce({ name: 'x', hash: 'h', directory }, async (work) =>
      writeFile(join(work, 'result'), ''),
    );
    const early = await Promise.race([building, new Promise((resolve) => setTimeout(() => resolve('waiting'), 300))]);
    process.kill(-(other.pid as number), 'SIGKILL');
    expect(early).toBe('waiting');
    await building;
    expect(await readdir(directory)).toEqual(['result']);
  });

  it('replaces a chosen directory that was built from something else', async () => {
    const directory = join(root, 'chosen');
    for (const content of ['old', 'new'])
      await buildOnce(
        {
          name: 'x',
          hash: content,
          directory,
          isCurrent: async (found) => (await readFile(join(found, 'content'), 'utf8')) === content,
        },
        async (work) => writeFile(join(work, 'content'), content),
      );
    expect(await readFile(join(directory, 'content'), 'utf8')).toBe('new');
  });
});

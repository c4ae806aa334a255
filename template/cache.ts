/**
 * What is slow to build is cached by content in the user's cache directory, so that a fresh clone finds it.
 *
 * A result is a directory whose name ends in a hash of everything it was made from. It is built under a temporary name,
 * synchronized and renamed: a directory of the final name is always complete. Builders of the same thing wait for each
 * other at a lock that the kernel gives back when its holder dies, so what is found under a temporary name while
 * holding it was left by a crash.
 */
import { createHash } from 'node:crypto';
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { execa } from 'execa';

/** Told of each step of a build: its name, and what it does or that it is current. */
export type Progress = (step: string, detail: string) => void;

/** The inputs' order of keys does not matter; undefined counts as absent. */
export type HashInput = string | number | boolean | null | readonly HashInput[] | { readonly [key: string]: HashInput };

export function cacheDirectory(): string {
  const base = process.env.XDG_CACHE_HOME;
  return join(base !== undefined && base !== '' ? base : join(homedir(), '.cache'), 'ciel');
}

export function contentHash(inputs: HashInput): string {
  return createHash('sha256').update(canonical(inputs)).digest('hex');
}

function canonical(value: HashInput): string {
  if (value === null || typeof value !== 'object') return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${entries.map(([key, item]) => `${JSON.stringify(key)}:${canonical(item)}`).join(',')}}`;
}

export interface CachedBuild {
  /** For people: the first part of the directory's name, and of the progress. */
  readonly name: string;
  readonly hash: string;
  /** Where to; by default the cache. Then the directory's name says nothing, and `isCurrent` decides. */
  readonly directory?: string;
  readonly isCurrent?: (directory: string) => Promise<boolean>;
}

/**
 * @param build fills the directory it is given; `final` is where that will be in the end.
 * @returns the directory, built now or before.
 */
export async function buildOnce(
  { name, hash, directory = join(cacheDirectory(), name, hash.slice(0, 16)), isCurrent = exists }: CachedBuild,
  build: (work: string, final: string) => Promise<void>,
): Promise<string> {
  if ((await exists(directory)) && (await isCurrent(directory))) return directory;
  await mkdir(dirname(directory), { recursive: true });
  const release = await lock(`${directory}.lock`);
  try {
    if ((await exists(directory)) && (await isCurrent(directory))) return directory;
    await removeLeftovers(directory);
    const work = `${directory}${BUILDING}${process.pid}`;
    await mkdir(work);
    await build(work, directory);
    await execa('sync', ['--file-system', work]);
    // A directory cannot replace one that is not empty: move the outdated one aside first.
    if (await exists(directory)) await rename(directory, `${directory}${BUILDING}outdated`);
    await rename(work, directory);
    await execa('sync', [dirname(directory)]);
  } finally {
    await removeLeftovers(directory);
    release();
  }
  return directory;
}

const BUILDING = '.building-';

async function removeLeftovers(directory: string): Promise<void> {
  const parent = dirname(directory);
  for (const entry of await readdir(parent))
    if (entry.startsWith(`${basename(directory)}${BUILDING}`))
      await rm(join(parent, entry), { recursive: true, force: true });
}

/** flock(2) by a child that ends with us: also after SIGKILL, its input closes and the lock is free. */
async function lock(path: string): Promise<() => void> {
  const holder = execa('flock', [path, 'cat'], { reject: false, buffer: false });
  const granted = new Promise<void>((resolve, reject) => {
    holder.stdout.once('data', () => resolve());
    holder.once('error', reject);
    holder.once('exit', (code) => reject(new Error(`locking ${path} failed: flock ended with ${code}`)));
  });
  holder.stdin.write('granted\n');
  await granted;
  return () => holder.stdin.end();
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

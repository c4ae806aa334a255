/** What file systems share: names to inodes, and a file's runs of blocks to its content. */
import { asDiskUnreadable, type BlockSource, DiskUnreadable, MAX_READ_BYTES, slice } from './disk.ts';
import type { DirectoryEntry } from './file-system.ts';

const MAX_SYMLINKS = 16;
const MAX_PATH_COMPONENTS = 256;

export interface Tree<Inode extends { readonly type: DirectoryEntry['type'] }> {
  root(): Promise<Inode>;
  /** null: no such name. */
  find(directory: Inode, name: string): Promise<Inode | null>;
  readLink(symlink: Inode): Promise<string>;
}

/** Follows a path from the root, symlinks too, and never out of it; null when there is nothing of that name. */
export async function resolvePath<Inode extends { readonly type: DirectoryEntry['type'] }>(
  tree: Tree<Inode>,
  path: string,
): Promise<Inode | null> {
  const pending = path.split('/').reverse();
  const parents: Inode[] = [];
  const root = await tree.root();
  let current = root;
  let symlinks = 0;
  for (let components = 0; pending.length > 0; components++) {
    if (components > MAX_PATH_COMPONENTS) throw new DiskUnreadable('Malformed', `${path} has too many components`);
    const name = pending.pop();
    if (name === '' || name === '.' || name === undefined) continue;
    if (name === '..') {
      current = parents.pop() ?? root;
      continue;
    }
    if (current.type !== 'directory') return null;
    const next = await tree.find(current, name);
    if (!next) return null;
    if (next.type !== 'symlink') {
      parents.push(current);
      current = next;
      continue;
    }
    if (++symlinks > MAX_SYMLINKS) throw new DiskUnreadable('Malformed', `${path} leads through a circle of symlinks`);
    const target = await tree.readLink(next);
    if (target.startsWith('/')) {
      current = root;
      parents.length = 0;
    }
    pending.push(...target.split('/').reverse());
  }
  return current;
}

/** `count` blocks of a file from `logical` on, found at `physical`. What no run covers reads as zeroes. */
export interface Run {
  readonly logical: number;
  readonly physical: number;
  readonly count: number;
}

/** Runs must come in order, so that no map can go in circles. Neighbours become one. */
export function addRun(runs: Run[], run: Run, blockCount: number): void {
  const last = runs.at(-1);
  const isInOrder = !last || run.logical >= last.logical + last.count;
  if (!isInOrder || run.physical + run.count > blockCount) {
    throw new DiskUnreadable('Malformed', `blocks ${run.physical} + ${run.count} mapped at ${run.logical} of a file`);
  }
  const continues = last && run.logical === last.logical + last.count && run.physical === last.physical + last.count;
  if (continues) runs[runs.length - 1] = { ...last, count: last.count + run.count };
  else runs.push(run);
}

export type ReadBlocks = (physical: number, count: number) => Promise<Buffer>;

/** `count` blocks of a file from `first` on. */
export async function readRuns(
  runs: readonly Run[],
  blockSize: number,
  first: number,
  count: number,
  read: ReadBlocks,
): Promise<Buffer> {
  const content = Buffer.alloc(count * blockSize);
  const most = MAX_READ_BYTES / blockSize;
  for (const run of runs) {
    const end = Math.min(run.logical + run.count, first + count);
    for (let logical = Math.max(run.logical, first); logical < end; logical += most) {
      const blocks = await read(run.physical + logical - run.logical, Math.min(most, end - logical));
      blocks.copy(content, (logical - first) * blockSize);
    }
  }
  return content;
}

/** A file's content as a source of its own. */
export function fileOf(
  runs: readonly Run[],
  blockSize: number,
  sizeBytes: number,
  readBlocks: ReadBlocks,
): BlockSource {
  const read = async (offset: number, length: number) => {
    const first = Math.floor(offset / blockSize);
    const count = Math.ceil((offset + length) / blockSize) - first;
    const start = offset - first * blockSize;
    return (await readRuns(runs, blockSize, first, count, readBlocks)).subarray(start, start + length);
  };
  return slice({ sizeBytes, read }, 0, sizeBytes);
}

/** Runs `read` to its end either way, so that what it found can be judged before it is believed. */
export async function settle<T>(read: () => Promise<T>): Promise<() => T> {
  try {
    const value = await read();
    return () => value;
  } catch (error) {
    const failure = asDiskUnreadable(error);
    return () => {
      throw failure;
    };
  }
}

/**
 * A sparse copy of a template's disk. By sharing extents where the file system can (FICLONE: nothing is copied), else by
 * `cp --sparse=always`, which copies data and leaves holes: 50 GB virtual with 650 MB of data take half a second. Node's
 * own copyFile would fill the holes.
 *
 * A clone is written under a name of its attempt, synced, and linked to its final name, which fails when that exists: a
 * late attempt can neither overwrite a finished disk nor rename a half one into place. What killed attempts left is
 * removed by the next.
 */
import { randomUUID } from 'node:crypto';
import { constants, type Stats } from 'node:fs';
import { access, copyFile, link, open, readdir, rm, stat, statfs } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { execa } from 'execa';
import { asDiskUnreadable } from '../guest-disk/disk.ts';
import { openFileSystems } from '../guest-disk/partitions.ts';
import { openRawFile } from '../guest-disk/raw-file.ts';
import type { DiskWeight } from '../model/activities.ts';
import { CielFailure } from '../model/failures.ts';

/** stat's unit of allocation, whatever the file system's block size. */
const STAT_BLOCK_BYTES = 512;
/** Left free on the storage, for what running VMs write. */
const SPARE_BYTES = 512 * 2 ** 20;
const PROGRESS_INTERVAL_MS = 1_000;

export interface CloneProgress {
  readonly copiedBytes: number;
  readonly ofBytes: number;
}
export interface CloneRequest {
  readonly source: string;
  readonly format: string;
  readonly target: string;
  /** Called right before the disk gets its final name; throws when it shall not. */
  readonly beforePublishing: () => Promise<void>;
  readonly progress: (progress: CloneProgress) => void;
  readonly signal: AbortSignal;
}

/** Makes the clone, or finds it made. Final: TemplateMissing, TemplateBroken, StorageFull. */
export async function cloneDisk(request: CloneRequest): Promise<DiskWeight> {
  const { source, target } = request;
  const existing = await statOrNull(target);
  if (existing !== null) return weigh(target, request.format, existing);
  const before = await templateStat(source);
  if (request.format === 'raw') await requireWhole(source, before.size);
  await removeLeftovers(target);
  const attempt = `${target}.${randomUUID()}.part`;
  try {
    await copy(request, attempt, before);
    await sync(attempt);
    await request.beforePublishing();
    const after = await templateStat(source);
    const copied = await stat(attempt);
    if (after.mtimeMs !== before.mtimeMs || after.size !== before.size || copied.size !== before.size) {
      throw new CielFailure(
        'TemplateBroken',
        `cloned ${source} (${before.size} bytes) to ${attempt} (${copied.size} bytes), but the template changed meanwhile. ` +
          'A template must not be written to: shut off what runs from it.',
      );
    }
    await link(attempt, target).catch((error: NodeJS.ErrnoException) => {
      // Another attempt of the same operation was first.
      if (error.code !== 'EEXIST') throw error;
    });
    await sync(dirname(target));
  } finally {
    await rm(attempt, { force: true });
  }
  return weigh(target, request.format, await stat(target));
}

/** Removes the disk and what attempts left of it. No error when there is none. */
export async function removeDisk(target: string): Promise<void> {
  // Where the storage itself is missing, the undo of what failed for that has nothing to remove.
  if ((await statOrNull(dirname(target))) === null) return;
  await removeLeftovers(target);
  await rm(target, { force: true });
}

async function copy(request: CloneRequest, attempt: string, template: Stats): Promise<void> {
  const { source, signal } = request;
  const shared = await copyFile(source, attempt, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE_FORCE).then(
    () => true,
    () => false,
  );
  if (shared) return;
  await rm(attempt, { force: true });
  const needed = template.blocks * STAT_BLOCK_BYTES;
  await requireSpace(dirname(attempt), needed, source);
  const report = () =>
    statOrNull(attempt).then(
      (part) => part !== null && request.progress({ copiedBytes: part.blocks * STAT_BLOCK_BYTES, ofBytes: needed }),
      () => {}, // the copy itself reports what is wrong with the file
    );
  const timer = setInterval(report, PROGRESS_INTERVAL_MS);
  const copied = await execa('cp', ['--sparse=always', '--reflink=auto', '--', source, attempt], {
    cancelSignal: signal,
    env: { LC_ALL: 'C' },
    reject: false,
  });
  clearInterval(timer);
  signal.throwIfAborted();
  if (!copied.failed) return;
  if (/No space left|quota exceeded/i.test(copied.stderr)) {
    throw storageFull(dirname(attempt), needed, source, copied.stderr.trim());
  }
  throw new CielFailure(
    'HostBusy',
    `cp of ${source} to ${attempt} failed: ${copied.stderr.trim() || copied.shortMessage}.`,
  );
}

async function requireSpace(directory: string, needed: number, source: string): Promise<void> {
  const { bavail, bsize } = await statfs(directory);
  const free = bavail * bsize;
  if (free < needed + SPARE_BYTES) throw storageFull(directory, needed, source, `${mebibytes(free)} are free`);
}

function storageFull(directory: string, needed: number, source: string, found: string): CielFailure {
  return new CielFailure(
    'StorageFull',
    `wanted to clone ${source} (${mebibytes(needed)} of data) into ${directory}, keeping ${mebibytes(SPARE_BYTES)} spare: ` +
      `${found}. Free space there, or give the host another storage.`,
  );
}

function mebibytes(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 20)} MiB`;
}

async function templateStat(source: string): Promise<Stats> {
  try {
    await access(source, constants.R_OK);
    const found = await stat(source);
    if (found.isFile()) return found;
    throw new CielFailure('TemplateBroken', `the template's disk ${source} is no regular file. Templates are files.`);
  } catch (error) {
    if (error instanceof CielFailure) throw error;
    throw new CielFailure(
      'TemplateMissing',
      `looked for the template's disk ${source}: ${(error as Error).message}. Build the template on this host, or correct ` +
        "the disk's path in its domain.xml.",
      { cause: error },
    );
  }
}

/**
 * An image that was cut off boots into a panic, minutes later; its file system says at once that it should be larger. One
 * that cannot be read here (another file system, none in plain sight) is the guest's to judge.
 */
async function requireWhole(source: string, sizeBytes: number): Promise<void> {
  const broken = (found: string) =>
    new CielFailure(
      'TemplateBroken',
      `looked at the template's disk ${source} (${sizeBytes} bytes): ${found}. It was cut off or damaged: restore it, or ` +
        'build the template again by `ciel template build`.',
    );
  if (sizeBytes === 0) throw broken('it is empty');
  const disk = await openRawFile(source);
  try {
    await openFileSystems(disk, []);
  } catch (error) {
    const unreadable = asDiskUnreadable(error);
    if (unreadable.reason === 'Malformed' || unreadable.reason === 'Torn') throw broken(unreadable.message);
  } finally {
    await disk.close();
  }
}

async function removeLeftovers(target: string): Promise<void> {
  const directory = dirname(target);
  const prefix = `${basename(target)}.`;
  let names: string[];
  try {
    names = await readdir(directory);
  } catch (error) {
    throw new CielFailure(
      'InvalidSpec',
      `looked into the host's storage ${directory}: ${(error as Error).message}. Create the directory, or correct ` +
        '"storage" of the host in ciel.yaml.',
      { cause: error },
    );
  }
  for (const name of names) {
    if (name.startsWith(prefix) && name.endsWith('.part')) await rm(join(directory, name), { force: true });
  }
}

async function sync(path: string): Promise<void> {
  const file = await open(path, 'r');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

async function statOrNull(path: string): Promise<Stats | null> {
  return stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null;
    throw error;
  });
}

async function weigh(path: string, format: string, found: Stats): Promise<DiskWeight> {
  return {
    virtualBytes: format === 'qcow2' ? await qcow2VirtualBytes(path) : found.size,
    allocatedBytes: found.blocks * STAT_BLOCK_BYTES,
  };
}

const QCOW2_MAGIC = 0x514649fb;
/** The qcow2 header is big-endian: magic at 0, virtual size at 24. */
async function qcow2VirtualBytes(path: string): Promise<number> {
  const file = await open(path, 'r');
  try {
    const header = Buffer.alloc(32);
    const { bytesRead } = await file.read(header, 0, header.length, 0);
    if (bytesRead < header.length || header.readUInt32BE(0) !== QCOW2_MAGIC) {
      throw new CielFailure('TemplateBroken', `${path} has no qcow2 header, though its domain.xml says qcow2.`);
    }
    return Number(header.readBigUInt64BE(24));
  } finally {
    await file.close();
  }
}

/** Disk images for tests, made by e2fsprogs: what its tools write and recover is the truth that our reader is held to. */
import { mkdirSync, readdirSync, readFileSync, readlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { execa, type Options } from 'execa';
import { afterAll } from 'vitest';
import type { BlockSource } from '../../guest-disk/disk.ts';
import { ext4 } from '../../guest-disk/ext4.ts';
import type { FileSystem } from '../../guest-disk/file-system.ts';

/** e2fsprogs and sfdisk live in sbin, which is not on everybody's path. */
const ENVIRONMENT = { PATH: `${process.env.PATH}:/usr/sbin:/sbin`, MKE2FS_CONFIG: '/dev/null' };

export async function temporaryDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'ciel-disk-'));
  // A disk that others keep busy may take its time.
  afterAll(() => rm(directory, { recursive: true, force: true }), 120_000);
  return directory;
}

export async function run(command: string, args: readonly string[], options: Options = {}): Promise<string> {
  const result = await execa(command, args, { ...options, env: ENVIRONMENT, encoding: 'utf8' });
  return String(result.stdout);
}

export async function debugfs(image: string, ...commands: string[]): Promise<string> {
  return run('debugfs', ['-w', image], { input: `${commands.join('\n')}\n` });
}

/** Recovers the journal into the image, as the kernel would after a crash. */
export async function recoverJournal(image: string): Promise<void> {
  await run('e2fsck', ['-f', '-y', '-E', 'journal_only', image], { reject: false });
}

export function writeTree(directory: string, files: Readonly<Record<string, string | Buffer>>): void {
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(directory, path)), { recursive: true });
    writeFileSync(join(directory, path), content);
  }
}

/** An image at `path` that holds the tree at `tree`. `args` are mke2fs's own. */
export async function makeImage(
  path: string,
  tree: string,
  sizeMegabytes: number,
  args: readonly string[],
): Promise<void> {
  await run('mke2fs', ['-q', '-F', '-E', 'root_owner=0:0', '-d', tree, ...args, path, `${sizeMegabytes}M`]);
}

/** An XFS at `path` that holds the tree at `tree`. `args` are mkfs.xfs's own. */
export async function makeXfs(
  path: string,
  tree: string,
  sizeMegabytes: number,
  args: readonly string[],
): Promise<void> {
  writeFileSync(`${path}.prototype`, `/\n0 0\nd--755 0 0\n${prototypeOf(tree)}$\n`);
  writeFileSync(path, '');
  truncateSync(path, sizeMegabytes << 20);
  await run('mkfs.xfs', ['-q', '--unsupported', '-d', 'agcount=2', '-p', `${path}.prototype`, ...args, path]);
}

/** What `mkfs.xfs -p` is to put in. */
function prototypeOf(directory: string): string {
  return readdirSync(directory, { withFileTypes: true })
    .map((entry) => {
      const child = join(directory, entry.name);
      if (entry.isDirectory()) return `${entry.name} d--755 0 0\n${prototypeOf(child)}$\n`;
      return entry.isFile()
        ? `${entry.name} ---644 0 0 ${child}\n`
        : `${entry.name} l--777 0 0 ${readlinkSync(child)}\n`;
    })
    .join('');
}

/** A file of state/, where a README says how each was made. */
export function stateOf(name: string): Buffer {
  return readFileSync(join(import.meta.dirname, 'state', name));
}

export function inflated(name: string): Buffer {
  return gunzipSync(stateOf(`${name}.gz`));
}

export function bufferSource(content: Buffer): BlockSource {
  return {
    sizeBytes: content.length,
    read: async (offset, length) => {
      if (offset < 0 || offset + length > content.length)
        throw new Error(`the test's disk ends before ${offset + length}`);
      return Buffer.from(content.subarray(offset, offset + length));
    },
  };
}

export async function openExt4(image: string | BlockSource): Promise<FileSystem> {
  const fileSystem = await ext4.open(typeof image === 'string' ? bufferSource(readFileSync(image)) : image, undefined);
  if (!fileSystem) throw new Error('no ext4 in the image');
  return fileSystem;
}

export const CONTAINER_ID = '852859d1943c38199c77bb0924b57302f0bcad3833a8e99a502cbad2feaeb6b3';

/** As dockerd 20.10 writes them; the fields that matter, and some that do not. */
export function dockerFiles(id: string, name: string, root = 'var/lib/docker'): Record<string, string> {
  const directory = `${root}/containers/${id}`;
  return {
    [`${directory}/config.v2.json`]: JSON.stringify({
      StreamConfig: {},
      State: {
        Running: true,
        Paused: false,
        Restarting: false,
        Dead: false,
        Pid: 210,
        StartedAt: '2026-11-24T23:56:19.077852376Z',
        Health: null,
      },
      ID: id,
      Path: 'sleep',
      Config: { Hostname: id.slice(0, 12), Image: `registry.test/${name}:1`, Labels: { 'ciel.test': name } },
      Image: 'sha256:c01941f8687bc6fcaab5e91dcf6c8eb48e0da6a42637a1fa58a2136fe310cbb9',
      NetworkSettings: {
        Bridge: '',
        Networks: { lan: { IPAMConfig: null, IPAddress: '10.77.0.21', IPPrefixLen: 24, GlobalIPv6Address: '' } },
      },
      Name: `/${name}`,
      RestartCount: 0,
    }),
    [`${directory}/hostconfig.json`]: JSON.stringify({
      NetworkMode: 'lan',
      RestartPolicy: { Name: 'unless-stopped', MaximumRetryCount: 0 },
      Memory: 67108864,
      NanoCpus: 1500000000,
      CpuPeriod: 0,
      CpuQuota: 0,
      CgroupParent: '',
    }),
  };
}

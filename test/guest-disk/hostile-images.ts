/** Images of every kind of disk, to be mutated: for hostile.test.ts and the fuzzer. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { CONTAINER_ID, debugfs, dockerFiles, inflated, makeImage, makeXfs, run, stateOf, writeTree } from './images.ts';
import { blocksRead } from './mutations.ts';

/** What runtimes other than Docker keep, as real ones wrote it. Databases are mutated by themselves (state.test.ts). */
const STATE: Readonly<Record<string, Buffer>> = {
  'home/ada/.local/share/containers/storage/libpod/bolt_state.db': inflated('podman-4.db'),
  'var/lib/lxc/web/config': stateOf('lxc-web.config'),
  'var/lib/lxd/storage-pools/default/x': Buffer.alloc(0),
  'var/lib/lxd/containers/first/backup.yaml': stateOf('lxd-first.yaml'),
};
/** The second volume begins 16 extents of 4 MiB behind the first MiB. */
const LVM_VOLUME_AT = (1 + 16 * 4) << 20;
const DOCKER = { ...dockerFiles(CONTAINER_ID, 'shop'), ...dockerFiles('ab'.repeat(32), 'other') };

/** Makes it below `directory`, of which each call needs one of its own. */
export type MakeDisk = (directory: string) => Promise<Buffer>;

const ext4Of =
  (files: Readonly<Record<string, string | Buffer>>, args: readonly string[]): MakeDisk =>
  async (directory) => {
    writeTree(join(directory, 'tree'), files);
    const path = join(directory, 'disk');
    await makeImage(path, join(directory, 'tree'), 8, args);
    return readFileSync(path);
  };

/** The blocks of /var's inode table and the first directories, through the journal as they are. */
const journalled =
  (checksums: string): MakeDisk =>
  async (directory) => {
    const content = await ext4Of(DOCKER, ['-O', `extent,64bit,${checksums},has_journal`])(directory);
    const numbers = (await blocksRead(content))
      .map((offset) => offset / 1024)
      .filter((n) => n > 1)
      .slice(0, 40);
    writeTree(directory, { blocks: Buffer.concat(numbers.map((n) => content.subarray(n * 1024, (n + 1) * 1024))) });
    const path = join(directory, 'disk');
    const open = checksums === 'metadata_csum' ? 'jo -c' : 'jo';
    await debugfs(path, open, `jw -b ${numbers.join(',')} ${join(directory, 'blocks')}`, 'jc');
    return readFileSync(path);
  };

/** An ext2 of 8 MiB behind the first MiB, and as much room as the table has partitions for. */
const partitioned =
  (table: string, megabytes: number): MakeDisk =>
  async (directory) => {
    const content = await ext4Of(DOCKER, ['-b', '1024', '-O', '^extent,^has_journal'])(directory);
    const disk = Buffer.alloc(megabytes << 20);
    content.copy(disk, 1 << 20);
    writeTree(directory, { table: disk });
    await run('sfdisk', ['-q', join(directory, 'table')], { input: table });
    return readFileSync(join(directory, 'table'));
  };
const GPT = 'label: gpt\nstart=2048, size=16384\n';
/** Three logical partitions, each with a table of its own before it. */
const MBR = `label: dos\nstart=2048, size=16384\nstart=18432, size=10240, type=5\n${'size=2048, type=83\n'.repeat(3)}`;

const xfsOf =
  (args: readonly string[]): MakeDisk =>
  async (directory) => {
    writeTree(join(directory, 'tree'), STATE);
    const path = join(directory, 'disk');
    await makeXfs(path, join(directory, 'tree'), 64, args);
    return readFileSync(path);
  };

const lvm: MakeDisk = async (directory) => {
  const volume = await ext4Of(DOCKER, [])(directory);
  const disk = Buffer.alloc(LVM_VOLUME_AT + volume.length);
  inflated('lvm-2-volumes').copy(disk);
  volume.copy(disk, LVM_VOLUME_AT);
  return disk;
};

/** By the fuzzer's target. */
export const HOSTILE_DISKS = {
  disk: [
    ['ext4 with checksums', ext4Of(DOCKER, ['-O', 'extent,64bit,metadata_csum,has_journal'])],
    ['ext4 with data in inodes', ext4Of(DOCKER, ['-I', '256', '-O', 'extent,inline_data,has_journal'])],
    ['ext4 with the state of three runtimes', ext4Of(STATE, ['-b', '1024', '-O', 'extent,^metadata_csum,has_journal'])],
    ['ext3', ext4Of(DOCKER, ['-b', '1024', '-O', '^extent,has_journal'])],
  ],
  partitions: [
    ['a GPT', partitioned(GPT, 10)],
    ['an MBR with logical partitions', partitioned(MBR, 16)],
  ],
  journal: [
    ['ext4 with a journal in use', journalled('^metadata_csum')],
    ['the same with checksums', journalled('metadata_csum')],
  ],
  xfs: [
    ['XFS of version 4', xfsOf(['-m', 'crc=0'])],
    ['XFS of version 5', xfsOf([])],
    ['XFS with its log in use', async () => inflated('xfs-log-in-use.img')],
  ],
  lvm: [['LVM', lvm]],
} as const satisfies Readonly<Record<string, readonly (readonly [name: string, make: MakeDisk])[]>>;

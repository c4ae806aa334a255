/** Images of every kind of disk, to be mutated: for hostile.test.ts and the fuzzer. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { CONTAINER_ID, debugfs, dockerFiles, inflated, makeImage, makeXfs, run, stateOf, writeTree } from './images.ts';
import { blocksRead } from './mutations.ts';

/** What runtimes other than Docker keep, as real ones wrote it. */
export const STATE: Readonly<Record<string, Buffer>> = {
  'var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db': inflated('cri-1.7.db'),
  'var/lib/containers/storage/db.sql': inflated('podman-5.sql'),
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
const journalled: MakeDisk = async (directory) => {
  const content = await ext4Of(DOCKER, ['-O', 'extent,64bit,^metadata_csum,has_journal'])(directory);
  const numbers = (await blocksRead(content))
    .map((offset) => offset / 1024)
    .filter((n) => n > 1)
    .slice(0, 40);
  writeTree(directory, { blocks: Buffer.concat(numbers.map((n) => content.subarray(n * 1024, (n + 1) * 1024))) });
  const path = join(directory, 'disk');
  await debugfs(path, 'jo', `jw -b ${numbers.join(',')} ${join(directory, 'blocks')}`, 'jc');
  return readFileSync(path);
};

const partitioned: MakeDisk = async (directory) => {
  const content = await ext4Of(DOCKER, ['-b', '1024', '-O', '^extent,^has_journal'])(directory);
  const table = Buffer.alloc(1 << 20);
  writeTree(directory, { table: Buffer.concat([table, content, table]) });
  await run('sfdisk', ['-q', join(directory, 'table')], { input: 'label: gpt\nstart=2048, size=16384\n' });
  return readFileSync(join(directory, 'table'));
};

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

/** By the fuzzer's target. Checksums would refuse most mutations at once; without them the parsers behind are met. */
export const HOSTILE_DISKS = {
  disk: [
    ['ext4 with checksums', ext4Of(DOCKER, ['-O', 'extent,64bit,metadata_csum,has_journal'])],
    ['ext4 with data in inodes', ext4Of(DOCKER, ['-I', '256', '-O', 'extent,inline_data,has_journal'])],
    ['ext4 with the state of four runtimes', ext4Of(STATE, ['-b', '1024', '-O', 'extent,^metadata_csum,has_journal'])],
    ['ext3', ext4Of(DOCKER, ['-b', '1024', '-O', '^extent,has_journal'])],
    ['ext2 in a partition', partitioned],
  ],
  journal: [['ext4 with a journal in use', journalled]],
  xfs: [
    ['XFS with the state of four runtimes', xfsOf(['-m', 'crc=0'])],
    ['XFS with its log in use', async () => inflated('xfs-log-in-use.img')],
  ],
  lvm: [['LVM', lvm]],
} as const satisfies Readonly<Record<string, readonly (readonly [name: string, make: MakeDisk])[]>>;

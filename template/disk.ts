/**
 * System disks: a sparse raw file that is an ext4 file system from end to end, filled by mke2fs from a directory, so that
 * neither a mount nor a loop device is needed. Without a partition table the guest needs no probing and the host can read
 * the disk as it is.
 */
import { stat, truncate, writeFile } from 'node:fs/promises';
import { execa } from 'execa';

export interface DiskWeight {
  readonly virtualBytes: number;
  readonly allocatedBytes: number;
}

export async function makeDisk(disk: string, tree: string, virtualBytes: number): Promise<DiskWeight> {
  await writeFile(disk, '');
  await truncate(disk, virtualBytes);
  const options = [
    // The file is all holes, which read as zeros: nothing has to be zeroed, neither now nor by the guest in the background.
    'assume_storage_prezeroed=1',
    'nodiscard',
    'root_owner=0:0',
  ];
  // A host's disk of containers wants many inodes; 64 MiB of journal are what a small guest fills between two commits.
  const format = ['-t', 'ext4', '-q', '-F', '-m', '0', '-i', '32768', '-J', 'size=64', '-E', options.join(',')];
  await execa('mke2fs', [...format, '-d', tree, disk]);
  return diskWeight(disk);
}

export async function diskWeight(disk: string): Promise<DiskWeight> {
  const { size, blocks } = await stat(disk);
  return { virtualBytes: size, allocatedBytes: blocks * 512 };
}

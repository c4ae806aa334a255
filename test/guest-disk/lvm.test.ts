import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { BlockSource } from '../../guest-disk/disk.ts';
import { openVolumeGroup } from '../../guest-disk/lvm.ts';
import { openFileSystems } from '../../guest-disk/partitions.ts';
import { inflated, makeImage, temporaryDirectory, writeTree } from './images.ts';

const directory = await temporaryDirectory();
const MEBIBYTE = 1 << 20;
/** The first MiB of a volume of 2 GiB, as LVM wrote it; extents of 4 MiB begin behind it. */
const head = inflated('lvm-2-volumes');
const EXTENT = 4 * MEBIBYTE;

/** The disk with other content laid over it; the rest are zeroes. */
function disk(start: Buffer, ...parts: [offset: number, content: Buffer][]): BlockSource {
  return {
    sizeBytes: 2048 * MEBIBYTE,
    read: async (offset, length) => {
      const read = Buffer.alloc(length);
      for (const [at, content] of [[0, start] as [number, Buffer], ...parts]) {
        const from = Math.max(offset, at);
        const to = Math.min(offset + length, at + content.length);
        if (from < to) content.copy(read, from - offset, from - at, to - at);
      }
      return read;
    },
  };
}

describe('the volumes of LVM', () => {
  let fileSystem: Buffer;
  beforeAll(async () => {
    writeTree(join(directory, 'tree'), { 'etc/hostname': 'guest' });
    await makeImage(join(directory, 'fs.img'), join(directory, 'tree'), 16, []);
    fileSystem = readFileSync(join(directory, 'fs.img'));
  });

  it('are mapped, each of several segments', async () => {
    const marks: [number, Buffer][] = [
      [MEBIBYTE, Buffer.from('swapish 0')],
      [MEBIBYTE + 272 * EXTENT, Buffer.from('swapish 64 MiB')],
      [MEBIBYTE + 16 * EXTENT, Buffer.from('containerd 0')],
      [MEBIBYTE + 336 * EXTENT, Buffer.from('containerd 1 GiB')],
    ];
    const group = await openVolumeGroup(disk(head, ...marks));
    expect(group?.others).toEqual([]);
    expect(group?.volumes.map(({ name, source }) => [name, source.sizeBytes / MEBIBYTE])).toEqual([
      ['data/swapish', 320],
      ['data/containerd', 1152],
    ]);
    const [swapish, containerd] = group?.volumes.map(({ source }) => source) ?? [];
    expect(String(await swapish?.read(0, 9))).toBe('swapish 0');
    expect(String(await swapish?.read(64 * MEBIBYTE - 1, 15))).toBe('\0swapish 64 MiB');
    expect(String(await containerd?.read(0, 12))).toBe('containerd 0');
    expect(String(await containerd?.read(1024 * MEBIBYTE - 2, 18))).toBe('\0\0containerd 1 GiB');
    await expect(containerd?.read(1152 * MEBIBYTE - 1, 2)).rejects.toMatchObject({ reason: 'Malformed' });
  });

  it('are searched for file systems, and named', async () => {
    const found = await openFileSystems(disk(head, [MEBIBYTE + 16 * EXTENT, fileSystem]), []);
    expect(found).toMatchObject([{ format: 'ext4', place: 'data/containerd' }]);
    const opened = found[0]?.fileSystem;
    expect(String(await opened?.coherently(() => opened.readFile('/etc/hostname', 100)))).toBe('guest');
  });

  it('of which none can be read are named with the reason', async () => {
    // The same metadata, with a type that is not linear, and a checksum that says so.
    const text = head.lastIndexOf('data {');
    const other = Buffer.from(head);
    for (let at = other.indexOf('"striped"', text); at >= 0; at = other.indexOf('"striped"', at + 1)) {
      other.write('"striqed"', at);
    }
    other.writeUInt32LE(textCrc(other), 4096 + 56);
    other.writeUInt32LE(crc(other.subarray(4096 + 4, 4096 + 512)), 4096);
    await expect(openFileSystems(disk(other), [])).rejects.toMatchObject({
      reason: 'NoFileSystem',
      message: expect.stringContaining('"data/swapish", "data/containerd" are not linear volumes'),
    });
  });

  it('are Torn while the text does not match its checksum', async () => {
    const torn = Buffer.from(head);
    torn.write('X', torn.lastIndexOf('data {') + 20);
    await expect(openVolumeGroup(disk(torn))).rejects.toMatchObject({ reason: 'Torn' });
  });

  it('are none on a disk without a label', async () => {
    expect(await openVolumeGroup(disk(Buffer.alloc(MEBIBYTE)))).toBeNull();
  });
});

/** LVM's CRC, computed a bit at a time. */
function crc(bytes: Uint8Array): number {
  let value = 0xf597_a6cf;
  for (const byte of bytes) {
    value ^= byte;
    for (let bit = 0; bit < 8; bit++) value = (value >>> 1) ^ (value & 1 ? 0xedb8_8320 : 0);
  }
  return value >>> 0;
}

/** Of the text that the area at 4096 points to. */
function textCrc(content: Buffer): number {
  const at = 4096 + Number(content.readBigUInt64LE(4096 + 40));
  return crc(content.subarray(at, at + Number(content.readBigUInt64LE(4096 + 48))));
}

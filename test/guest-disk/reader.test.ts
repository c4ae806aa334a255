import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { DiskSource } from '../../guest-disk/disk.ts';
import { GuestDiskReader, type GuestDiskReaderOptions } from '../../guest-disk/reader.ts';
import { CONTAINER_ID, debugfs, dockerFiles, makeImage, temporaryDirectory, writeTree } from './images.ts';

const directory = await temporaryDirectory();
const image: DiskSource = { kind: 'raw', path: join(directory, 'disk.img') };
const silent: DiskSource = { kind: 'nbd', socketPath: join(directory, 'silent.sock'), exportName: 'ciel-1' };
/** Accepts connections and never says anything. */
const silentServer = createServer(() => undefined);

beforeAll(async () => {
  writeTree(join(directory, 'tree'), dockerFiles(CONTAINER_ID, 'shop'));
  await makeImage(image.path, join(directory, 'tree'), 32, ['-O', 'extent,64bit,metadata_csum,has_journal']);
  await new Promise<void>((resolve) => silentServer.listen(join(directory, 'silent.sock'), resolve));
});
afterAll(() => silentServer.close());

async function withReader<T>(
  options: GuestDiskReaderOptions,
  use: (reader: GuestDiskReader) => Promise<T>,
): Promise<T> {
  const reader = new GuestDiskReader(options);
  try {
    return await use(reader);
  } finally {
    await reader.close();
  }
}

describe('the reader', () => {
  it('lists the containers of a disk, says how old that is, and follows what changes', async () => {
    await withReader({}, async (reader) => {
      const before = Date.now();
      const reading = await reader.listContainers(image);
      expect(reading).toMatchObject({
        available: true,
        value: {
          containers: [{ id: CONTAINER_ID, name: 'shop' }],
          unreadable: [],
          fileSystems: [{ format: 'ext4', place: 'disk', journalledBlocks: 0 }],
        },
      });
      expect(reading.available && reading.value.asOfUnixMs).toBeGreaterThanOrEqual(before);

      const renamed = join(directory, 'renamed');
      const path = `var/lib/docker/containers/${CONTAINER_ID}/config.v2.json`;
      writeTree(directory, { renamed: dockerFiles(CONTAINER_ID, 'renamed')[path] ?? '' });
      await debugfs(image.path, `rm ${path}`, `write ${renamed} ${path}`);
      const again = await reader.listContainers(image);
      expect(again).toMatchObject({ value: { containers: [{ name: 'renamed' }] } });
    });
  });

  it('gives the reason when there is nothing to read', async () => {
    await withReader({}, async (reader) => {
      const missing = await reader.listContainers({ kind: 'raw', path: join(directory, 'missing.img') });
      expect(missing).toMatchObject({ available: false, reason: 'NotFound' });
      const folder = await reader.listContainers({ kind: 'raw', path: directory });
      expect(folder).toMatchObject({ available: false, reason: 'Unsupported' });
    });
  });

  it('ends a look-up at its deadline, leaves the disk alone after the second time, and reads others meanwhile', async () => {
    await withReader({ quarantineMs: 60_000 }, async (reader) => {
      const look = { diskId: 'vm-1', deadlineMs: 300 };
      expect(await reader.listContainers(silent, look)).toMatchObject({ available: false, reason: 'Exhausted' });
      expect(await reader.listContainers(image)).toMatchObject({ available: true });
      expect(await reader.listContainers(silent, look)).toMatchObject({ reason: 'Exhausted' });
      const from = performance.now();
      expect(await reader.listContainers(silent, look)).toMatchObject({ reason: 'Quarantined' });
      expect(performance.now() - from).toBeLessThan(500);
      expect(await reader.listContainers(image)).toMatchObject({ available: true });
    });
  });

  it('survives a thread that outgrows its heap', async () => {
    await withReader({ heapMegabytes: 4 }, async (reader) => {
      expect(await reader.listContainers(image)).toMatchObject({ available: false, reason: 'Exhausted' });
    });
  });

  it('ends a look-up at a disk whose megabyte of JSON takes many times that, says so, and reads others', async () => {
    const path = `var/lib/docker/containers/${CONTAINER_ID}/config.v2.json`;
    const files = dockerFiles(CONTAINER_ID, 'shop');
    const grows = (files[path] ?? '').replace(/}$/, `,"Junk":[${'{},'.repeat(340_000)}[]]}`);
    expect(grows.length).toBeLessThan(1 << 20);
    writeTree(join(directory, 'growing'), { ...files, [path]: grows });
    const growing: DiskSource = { kind: 'raw', path: join(directory, 'growing.img') };
    await makeImage(growing.path, join(directory, 'growing'), 32, []);
    await withReader({ heapMegabytes: 20 }, async (reader) => {
      expect(await reader.listContainers(growing, { deadlineMs: 30_000 })).toMatchObject({
        available: false,
        reason: 'Exhausted',
        message: expect.stringContaining('20 MB'),
      });
      expect(await reader.listContainers(image, { deadlineMs: 30_000 })).toMatchObject({ available: true });
    });
  });

  it('says that it is closed, instead of waiting', async () => {
    const reader = new GuestDiskReader();
    await reader.close();
    expect(await reader.listContainers(image)).toMatchObject({ available: false, reason: 'ReaderDown' });
  });
});

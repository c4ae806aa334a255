/** Against a real QEMU whose guest never starts: its block layer, NBD server and monitor are all there. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { execa, type ResultPromise } from 'execa';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { lookUpContainers, openDisk } from '../../guest-disk/look-up.ts';
import { listDiskNodes, type Monitor, removeLeftoverExport, withQemuExport } from '../../guest-disk/qemu-export.ts';
import { GuestDiskReader } from '../../guest-disk/reader.ts';
import { listContainersOfVm } from '../../guest-disk/vm-containers.ts';
import { available } from '../../model/reading.ts';
import { CONTAINER_ID, dockerFiles, makeImage, run, temporaryDirectory, writeTree } from './images.ts';
import { connectQmp, type QmpConnection } from './qemu.ts';

const directory = await temporaryDirectory();
const socketPath = join(directory, 'ciel-nbd.sock');
let process: ResultPromise;
let connection: QmpConnection;
let monitor: Monitor;

beforeAll(async () => {
  writeTree(join(directory, 'tree'), dockerFiles(CONTAINER_ID, 'shop'));
  await makeImage(join(directory, 'disk.raw'), join(directory, 'tree'), 32, []);
  await run('truncate', ['-s', '1M', join(directory, 'data.raw')]);
  await run('qemu-img', ['convert', '-O', 'qcow2', join(directory, 'disk.raw'), join(directory, 'disk.qcow2')]);
  const qmp = join(directory, 'qmp.sock');
  const node = (name: string, format: string, file: string) => [
    ...['-blockdev', `driver=file,filename=${join(directory, file)},node-name=${name}-file,read-only=${name === 'cd'}`],
    ...['-blockdev', `driver=${format},file=${name}-file,node-name=${name},read-only=${name === 'cd'}`],
  ];
  process = execa('qemu-system-x86_64', [
    ...['-machine', 'q35,accel=tcg', '-m', '64', '-S', '-nodefaults', '-display', 'none'],
    ...['-qmp', `unix:${qmp},server=on,wait=off`],
    ...[...node('cd', 'raw', 'disk.raw'), '-device', 'ide-cd,drive=cd'],
    ...[...node('data', 'raw', 'data.raw'), '-device', 'virtio-blk-pci,drive=data'],
    ...[...node('system', 'qcow2', 'disk.qcow2'), '-device', 'virtio-blk-pci,drive=system'],
  ]);
  process.catch(() => undefined);
  connection = await connectQmp(qmp);
  monitor = connection.monitor;
});
afterAll(async () => {
  connection?.close();
  process?.kill();
  await process?.catch(() => undefined);
});

const listNames = () =>
  withQemuExport(monitor, { directory, nodeName: 'system' }, async ({ source }) => {
    const disk = await openDisk(source);
    try {
      const { containers } = await lookUpContainers(disk, { fileSystems: [] });
      return available(containers.map(({ name }) => name));
    } finally {
      await disk.close();
    }
  });
const startServer = (path: string) =>
  monitor({ execute: 'nbd-server-start', arguments: { addr: { type: 'unix', data: { path } } } });
const addExport = (id: string) =>
  monitor({
    execute: 'block-export-add',
    arguments: { type: 'nbd', id, name: id, 'node-name': 'system', writable: false },
  });
const listExports = async () => {
  const answer = (await monitor({ execute: 'query-block-exports' })) as { return: { id: string }[] };
  return answer.return.map(({ id }) => id);
};

describe('an export of a running QEMU', () => {
  it('is there while it is used, and nothing is left after', async () => {
    expect(await listNames()).toEqual({ available: true, value: ['shop'] });
    expect(await listExports()).toEqual([]);
    expect(existsSync(socketPath)).toBe(false);
  });

  it('is taken back when its user fails', async () => {
    const use = () =>
      withQemuExport(monitor, { directory, nodeName: 'system' }, () => Promise.reject(new Error('mine')));
    await expect(use()).rejects.toThrow('mine');
    expect(await listExports()).toEqual([]);
    expect(existsSync(socketPath)).toBe(false);
  });

  it('is of the first fixed disk, unless another is named', async () => {
    expect(await listDiskNodes(monitor)).toEqual(['data', 'system']);
    const reading = await withQemuExport(monitor, { directory }, async ({ nodeName }) => available(nodeName));
    expect(reading).toEqual({ available: true, value: 'data' });
    const unknown = await withQemuExport(monitor, { directory, nodeName: 'nothing' }, async () => available(1));
    expect(unknown).toMatchObject({
      available: false,
      reason: 'Unreachable',
      message: expect.stringContaining('nothing'),
    });
    expect(existsSync(socketPath)).toBe(false);
  });
});

describe('the containers of a VM', () => {
  it('are found on the disk that has them', async () => {
    const reader = new GuestDiskReader();
    try {
      const reading = await listContainersOfVm(reader, monitor, { uuid: 'vm-1', directory });
      expect(reading).toMatchObject({ available: true, value: { containers: [{ name: 'shop' }] } });
      const nothing = await listContainersOfVm(reader, async () => ({ return: [] }), { uuid: 'vm-2', directory });
      expect(nothing).toMatchObject({ available: false, reason: 'NotFound' });
    } finally {
      await reader.close();
    }
  });
});

describe('what a crash left of ours', () => {
  it('an export and the server: the next look-up clears it away', async () => {
    await startServer(socketPath);
    await addExport('ciel-left');
    expect(await listNames()).toEqual({ available: true, value: ['shop'] });
    expect(await listExports()).toEqual([]);
  });

  it('the server alone: it is taken over, and stopped', async () => {
    await startServer(socketPath);
    expect(await listNames()).toEqual({ available: true, value: ['shop'] });
    expect(existsSync(socketPath)).toBe(false);
    expect(await startServer(socketPath)).toHaveProperty('return');
    await monitor({ execute: 'nbd-server-stop' });
  });

  it('is removed without a look-up too', async () => {
    await startServer(socketPath);
    await addExport('ciel-left');
    expect(await removeLeftoverExport(monitor, directory)).toEqual({ available: true, value: true });
    expect(await listExports()).toEqual([]);
    expect(existsSync(socketPath)).toBe(false);
    expect(await removeLeftoverExport(monitor, directory)).toEqual({ available: true, value: false });
  });
});

describe('an NBD server of somebody else', () => {
  const theirs = join(directory, 'backup.sock');

  it.each([
    ['with an export', ['backup']],
    ['without one yet', []],
  ])('%s is not used, and not touched', async (_name, exports) => {
    await startServer(theirs);
    for (const id of exports) await addExport(id);
    expect(await listNames()).toMatchObject({ available: false, reason: 'NbdBusy' });
    expect(await removeLeftoverExport(monitor, directory)).toEqual({ available: true, value: false });
    expect(await listExports()).toEqual(exports);
    expect(existsSync(theirs)).toBe(true);
    await monitor({ execute: 'nbd-server-stop' });
  });
});

describe('a monitor that does not answer as expected gives a reason', () => {
  const cases: [name: string, answer: () => Promise<unknown>, reason: string][] = [
    ['a failing one', () => Promise.reject(new Error('libvirt: domain is not running')), 'Unreachable'],
    ['an error', async () => ({ error: { class: 'GenericError', desc: 'no' } }), 'Unreachable'],
    ['something else', async () => 'ok', 'Malformed'],
    ['a wrong shape', async () => ({ return: [{ device: 1 }] }), 'Malformed'],
    ['no disk', async () => ({ return: [] }), 'NotFound'],
  ];
  it.each(cases)('%s', async (_name, answer, reason) => {
    const reading = await withQemuExport(answer, { directory }, async () => available(1));
    expect(reading).toMatchObject({ available: false, reason });
  });

  it('and a directory that is too long for a socket does, too', async () => {
    const reading = await withQemuExport(monitor, { directory: `/${'x'.repeat(100)}` }, async () => available(1));
    expect(reading).toMatchObject({ available: false, reason: 'Unsupported' });
  });
});

/**
 * Guests whose RAM is not simply there: given back through a balloon, and mostly never touched. Reading either must not
 * bring any of it into being; the guest stands still meanwhile, so whatever grows has been grown by the reader.
 */
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, expect, it } from 'vitest';
import { requestOf } from '../../lab/attach-request.ts';
import { CONTAINERS, cgroupFile, startContainers } from '../../lab/kernels/containers.ts';
import { bootKernelGuest, type KernelGuest } from '../../lab/kernels/guest.ts';
import { attach, MapperError, type SourceChoice } from '../../native/mapper.ts';
import { temporaryDirectory } from '../guest-disk/images.ts';
import { connectQmp, type QmpConnection } from '../guest-disk/qemu.ts';
import { allocatedBytes, ramFile } from './live-guest.ts';

const MiB = 2 ** 20;
const NOISE_MIB = 512;
const SAMPLES = 100;
const BALLOON_MS = 30_000;
const PLUG_MS = 30_000;
const IDLE = CONTAINERS.find(({ load }) => load === 'idle');

let guest: KernelGuest | null = null;
let qmp: QmpConnection | null = null;
afterEach(async () => {
  qmp?.close();
  await guest?.stop();
  guest = qmp = null;
});

/** Looks for the kernel and samples it, while the guest stands still. @returns how many bytes its RAM has grown by */
async function growthByReading(of: KernelGuest, { monitor }: QmpConnection, source: SourceChoice): Promise<number> {
  const file = await ramFile(of.pid);
  const request = await requestOf(of.pid, { source });
  await monitor({ execute: 'stop' });
  try {
    const before = await allocatedBytes(file);
    const attached = attach(request);
    try {
      for (let i = 0; i < SAMPLES; i++) attached.sample();
    } finally {
      attached.detach();
    }
    return (await allocatedBytes(file)) - before;
  } finally {
    await monitor({ execute: 'cont' });
  }
}

async function expectIdleAsItSays(of: KernelGuest): Promise<void> {
  const attached = attach(await requestOf(of.pid));
  try {
    const found = attached.sample().containers.find(({ id }) => id === IDLE?.id);
    const own = await of.file(cgroupFile(of, 'memory', IDLE?.cgroupPath ?? '', 'memory.current'));
    expect(found?.memoryBytes).toEqual({ available: true, value: Number(own) });
  } finally {
    attached.detach();
  }
}

async function balloon({ monitor }: QmpConnection, bytes: number): Promise<void> {
  expect(await monitor({ execute: 'balloon', arguments: { value: bytes } })).toMatchObject({ return: {} });
  await expect
    .poll(() => monitor({ execute: 'query-balloon' }), { timeout: BALLOON_MS })
    .toMatchObject({ return: { actual: bytes } });
}

it('reads a guest that has given memory back, and takes none of it', async () => {
  guest = await bootKernelGuest({ kernel: '6.1', qemu: ['-device', 'virtio-balloon-pci'] });
  qmp = await connectQmp(guest.monitor);
  await startContainers(guest);
  await guest.run('dd if=/dev/zero of=/tmp/fill bs=1M count=200 2>/dev/null; rm /tmp/fill');
  const file = await ramFile(guest.pid);
  const filled = await allocatedBytes(file);
  await balloon(qmp, 256 * MiB);
  expect(filled - (await allocatedBytes(file))).toBeGreaterThan(100 * MiB);
  for (const source of ['mapped', 'process'] as const) expect(await growthByReading(guest, qmp, source)).toBe(0);
  await expectIdleAsItSays(guest);
  await balloon(qmp, 512 * MiB);
  await expectIdleAsItSays(guest);
});

it('reads a guest of 64 GiB that has touched little of it', async () => {
  guest = await bootKernelGuest({ kernel: '6.12', memoryMiB: 65_536 });
  qmp = await connectQmp(guest.monitor);
  await startContainers(guest);
  expect(await allocatedBytes(await ramFile(guest.pid))).toBeLessThan(4096 * MiB);
  for (const source of ['mapped', 'process'] as const) expect(await growthByReading(guest, qmp, source)).toBe(0);
  await expectIdleAsItSays(guest);
});

/** The kernel takes what it needs from the highest zone: in a guest without RAM above 4 GiB, from what is plugged in there. */
it.each(['mapped', 'process'] as const)('follows RAM that is plugged in while it looks (%s)', async (source) => {
  guest = await bootKernelGuest({
    kernel: '6.1',
    memoryOptions: 'slots=4,maxmem=4G',
    append: 'memhp_default_state=online',
  });
  qmp = await connectQmp(guest.monitor);
  const attached = attach(await requestOf(guest.pid, { source }));
  try {
    expect(attached.sample().containers).toEqual([]);
    await plug(guest, qmp, 'one', 256);
    await startContainers(guest);
    await expectAllRead(attached);
    // At an attach it is found at once.
    await expectIdleAsItSays(guest);
    await plug(guest, qmp, 'two', 384);
    await guest.run('for i in $(seq 500); do mkdir /sys/fs/cgroup/later$i; done');
    await expectAllRead(attached);
    await expectIdleAsItSays(guest);
  } finally {
    attached.detach();
  }
});

async function plug(into: KernelGuest, { monitor }: QmpConnection, name: string, sizeMiB: number): Promise<void> {
  const totalKiB = async () => Number(/MemTotal: +(\d+)/.exec(await into.file('/proc/meminfo'))?.[1]);
  const before = await totalKiB();
  const backend = { 'qom-type': 'memory-backend-memfd', id: name, size: sizeMiB * MiB, share: true };
  expect(await monitor({ execute: 'object-add', arguments: backend })).toMatchObject({ return: {} });
  const device = { driver: 'pc-dimm', id: `dimm-${name}`, memdev: name };
  expect(await monitor({ execute: 'device_add', arguments: device })).toMatchObject({ return: {} });
  await expect.poll(totalKiB, { timeout: PLUG_MS }).toBeGreaterThan(before + sizeMiB * 512);
}

/** The first samples after it may say that something is in no RAM. */
async function expectAllRead(attached: ReturnType<typeof attach>): Promise<void> {
  const unread = () => {
    const { containers } = attached.sample();
    const faults = containers.filter(
      ({ cpuNanoseconds, memoryBytes }) => !cpuNanoseconds.available || !memoryBytes.available,
    );
    return `${containers.length} containers, ${faults.length} unread`;
  };
  await expect
    .poll(
      () => {
        try {
          return unread();
        } catch (error) {
          return error instanceof MapperError ? error.reason : Promise.reject(error);
        }
      },
      { timeout: PLUG_MS },
    )
    .toBe(`${CONTAINERS.length} containers, 0 unread`);
}

it.each(['auto', 'process'] as const)(
  'finds no kernel in RAM that is noise (%s), as an encrypted guest shows it, and ends',
  async (source) => {
    const directory = await temporaryDirectory();
    const ram = join(directory, 'ram');
    await execa('dd', ['if=/dev/urandom', `of=${ram}`, 'bs=1M', `count=${NOISE_MIB}`]);
    // Preallocated: what QEMU has not touched is not looked at.
    const memory = `memory-backend-file,id=ram,mem-path=${ram},size=${NOISE_MIB}M,share=on,prealloc=on`;
    const machine = ['-machine', 'q35,accel=tcg,memory-backend=ram', '-m', `${NOISE_MIB}M`, '-object', memory];
    const monitor = join(directory, 'qmp.sock');
    const quiet = ['-S', '-nodefaults', '-display', 'none', '-qmp', `unix:${monitor},server=on,wait=off`];
    const qemu = execa('qemu-system-x86_64', [...machine, ...quiet], { reject: false });
    try {
      qmp = await connectQmp(monitor);
      const request = await requestOf(qemu.pid as number, { source });
      const from = performance.now();
      expect(() => attach(request)).toThrow(expect.objectContaining({ reason: 'NoVmcoreinfo' }));
      console.log(`${NOISE_MIB} MiB of noise, ${source}: ${Math.round(performance.now() - from)} ms`);
    } finally {
      qemu.kill();
      await qemu;
    }
  },
);

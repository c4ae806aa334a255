/** CPUs that come and go under a running watch: what a guest may have is read from the beginning, and what one did stays. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { requestOf } from '../../lab/attach-request.ts';
import { CONTAINERS, cgroupFile, startContainers } from '../../lab/kernels/containers.ts';
import { bootKernelGuest, type KernelGuest } from '../../lab/kernels/guest.ts';
import { attach, type Guest } from '../../native/mapper.ts';
import { connectQmp, type QmpConnection } from '../guest-disk/qemu.ts';

const busy = CONTAINERS.find(({ name }) => name === 'busy');
const MICROSECOND = 1000n;

interface HotpluggableCpu {
  readonly type: string;
  readonly props: Readonly<Record<string, number>>;
  readonly 'qom-path'?: string;
}

let guest: KernelGuest;
let qmp: QmpConnection;
let reader: Guest;
beforeAll(async () => {
  guest = await bootKernelGuest({ kernel: '6.1', qemu: ['-smp', '1,maxcpus=3'] });
  qmp = await connectQmp(guest.monitor);
  await startContainers(guest);
  reader = attach(await requestOf(guest.pid));
});
afterAll(async () => {
  reader?.detach();
  qmp?.close();
  await guest?.stop();
});

async function usageInGuest(): Promise<bigint> {
  const text = await guest.file(cgroupFile(guest, 'cpu', busy?.cgroupPath ?? '', 'cpu.stat'));
  return BigInt(/usage_usec (\d+)/.exec(text ?? '')?.[1] ?? -1) * MICROSECOND;
}

/** What each CPU has done for the container, after the sum was found to be what the guest says. */
async function usageByCpu(): Promise<readonly (bigint | null)[]> {
  const before = await usageInGuest();
  const seen = reader.sample().containers.find(({ cgroupPath }) => cgroupPath === busy?.cgroupPath);
  const after = await usageInGuest();
  if (!seen?.cpuNanoseconds.available || !seen.perCpuNanoseconds.available) throw new Error('no CPU time is read');
  expect(seen.cpuNanoseconds.value).toBeGreaterThanOrEqual(before);
  expect(seen.cpuNanoseconds.value).toBeLessThan(after + MICROSECOND);
  return seen.perCpuNanoseconds.value;
}

it('counts CPUs that are plugged in, and keeps what one did that goes offline', async () => {
  const [, ...missing] = await usageByCpu();
  expect(missing).toEqual([0n, 0n]);
  const { return: slots } = (await qmp.monitor({ execute: 'query-hotpluggable-cpus' })) as {
    return: HotpluggableCpu[];
  };
  for (const { type, props } of slots.filter((slot) => slot['qom-path'] === undefined)) {
    const id = `cpu-${Object.values(props).join('-')}`;
    const plugged = await qmp.monitor({ execute: 'device_add', arguments: { driver: type, id, ...props } });
    expect(plugged).toEqual({ return: {} });
  }
  await guest.run(`
    for cpu in 1 2; do
      until [ -e /sys/devices/system/cpu/cpu$cpu/online ]; do sleep 0.1; done
      echo 1 > /sys/devices/system/cpu/cpu$cpu/online
    done
    echo 0 > /sys/devices/system/cpu/cpu2/online
    echo 1 > /sys/devices/system/cpu/cpu2/online`);
  // Whoever wakes may stay where it was: all of the load moves when its CPU is taken away and the first is kept busy.
  await guest.run('(while :; do :; done) > /dev/null 2>&1 < /dev/null & sleep 3');
  const [, second = null, third = null] = await usageByCpu();
  expect((second ?? 0n) + (third ?? 0n)).toBeGreaterThan(0n);
  await guest.run('echo 0 > /sys/devices/system/cpu/cpu1/online');
  const [, kept] = await usageByCpu();
  expect(kept).toBeGreaterThanOrEqual(second ?? 0n);
  expect((await usageByCpu())[1]).toBe(kept);
});

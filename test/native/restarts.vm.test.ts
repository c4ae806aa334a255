/**
 * What may happen to a guest under a running monitor: it reboots, starts another kernel in the same RAM (kexec), is restored
 * to an earlier state in the same QEMU (loadvm), or goes on in another QEMU (migration to a file and back). Each time the
 * kernel that runs is found without anybody's help, and within what is called one boot, and one
 * run of a container, no counter ever goes back.
 */
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { CONTAINERS, cgroupFile, startContainers } from '../../lab/kernels/containers.ts';
import { bootKernelGuest, type KernelGuest, type KernelGuestOptions } from '../../lab/kernels/guest.ts';
import { type KernelName, kernelImage } from '../../lab/kernels/kernels.ts';
import type { VmIntrospection } from '../../model/usage.ts';
import { Introspection } from '../../native/introspection.ts';
import { temporaryDirectory } from '../guest-disk/images.ts';
import { connectQmp, type QmpConnection } from '../guest-disk/qemu.ts';

const UUID = 'd2c7a0de-7d0b-4d2f-9f52-3a5f3c1f6f10';
const KERNEL = '6.1';
const OTHER_KERNEL = '6.12';
const BETWEEN_MS = 300;
const LOOK_MS = 30_000;
const ADOPTED_MS = 120_000;
const JOB_MS = 60_000;
const LATER_MS = 2_000;
/** Busy: what it used is lost when the guest is restored. */
const BUSY = CONTAINERS.find(({ load }) => load === 'half');
const IDLE = CONTAINERS.find(({ load }) => load === 'idle');
/** What may be said while a kernel goes and the next one comes. */
const BETWEEN_KERNELS = [
  ...['Stale', 'Attaching', 'GuestBooting', 'NoVmcoreinfo', 'NoSymbols', 'NoTypes'],
  // Of a walk through what was a kernel's memory.
  ...['Faulted', 'Torn', 'Malformed', 'Exhausted'],
];
const WITHOUT_QEMU = ['ProcessGone', 'GuestOff'];

const directory = await temporaryDirectory();
const snapshots = join(directory, 'snapshots.qcow2');
let guest: KernelGuest;
let qmp: QmpConnection;
let introspection: Introspection;
let options: KernelGuestOptions;

/** Every sample that was seen, and what was said instead. */
const seen: VmIntrospection[] = [];

beforeAll(async () => {
  await execa('qemu-img', ['create', '-q', '-f', 'qcow2', snapshots, '1G']);
  const drive = (file: string, id: string): string[] => [
    '-drive',
    `file=${file},format=raw,if=none,readonly=on,id=${id}`,
    ...['-device', `virtio-blk-pci,drive=${id}`],
  ];
  const images = await Promise.all([KERNEL, OTHER_KERNEL].map((name) => kernelImage(name as KernelName, 'cloud')));
  options = {
    kernel: KERNEL,
    qemu: [
      ...['-uuid', UUID],
      ...['-blockdev', `node-name=snapshots,driver=qcow2,file.driver=file,file.filename=${snapshots}`],
      ...['-device', 'virtio-blk-pci,drive=snapshots'],
      ...images.flatMap(({ kernel, initramfs }, i) => [
        ...drive(kernel, `kernel${i}`),
        ...drive(initramfs, `init${i}`),
      ]),
    ],
  };
  guest = await bootKernelGuest(options);
  qmp = await connectQmp(guest.monitor);
  await startContainers(guest);
  introspection = new Introspection({ cacheDirectory: join(directory, 'attaches') });
  introspection.watch({ uuid: UUID });
});
afterAll(async () => {
  await introspection?.close();
  qmp?.close();
  await guest?.stop();
});

async function look(): Promise<VmIntrospection | string> {
  const reading = (await introspection.sample([UUID], LOOK_MS)).get(UUID);
  if (!reading) throw new Error('no answer');
  if (reading.available) seen.push(reading.value);
  return reading.available ? reading.value : reading.reason;
}

async function readable(): Promise<VmIntrospection> {
  const found = await look();
  if (typeof found === 'string') throw new Error(found);
  return found;
}

/** Looks on and on, until another boot than this one is seen. @returns its first sample, and all that was said meanwhile */
async function adopted(after: VmIntrospection): Promise<{ first: VmIntrospection; said: string[] }> {
  const said = new Set<string>();
  for (const deadline = performance.now() + ADOPTED_MS; performance.now() < deadline; ) {
    const found = await look();
    if (typeof found !== 'string' && found.guestBoot !== after.guestBoot) return { first: found, said: [...said] };
    if (typeof found === 'string') said.add(found);
    await new Promise((resolve) => setTimeout(resolve, BETWEEN_MS));
  }
  throw new Error(`no other boot was seen within ${ADOPTED_MS} ms, but: ${[...said].join(', ')}`);
}

function busyNanoseconds(sample: VmIntrospection): bigint {
  const found = sample.containers.find(({ id }) => id === BUSY?.id);
  if (!found?.cpuNanoseconds.available) throw new Error('the busy container was not seen');
  return found.cpuNanoseconds.value;
}

async function job(command: string, parameters: Record<string, unknown>): Promise<void> {
  const id = `${command}-${performance.now()}`;
  const { monitor } = qmp;
  expect(await monitor({ execute: command, arguments: { 'job-id': id, ...parameters } })).toMatchObject({ return: {} });
  for (const deadline = performance.now() + JOB_MS; performance.now() < deadline; ) {
    const { return: jobs } = (await monitor({ execute: 'query-jobs' })) as {
      return: { id: string; status: string; error?: string }[];
    };
    const found = jobs.find((one) => one.id === id);
    if (found?.status === 'concluded') {
      expect(found.error).toBeUndefined();
      await monitor({ execute: 'job-dismiss', arguments: { id } });
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`${command} was not done within ${JOB_MS} ms`);
}

/** Starts the n-th kernel on the guest's disks. */
async function kexec(number: number): Promise<void> {
  const disks = ['vdc', 'vdd', 'vde', 'vdf'].slice(number * 2, number * 2 + 2);
  const copies = disks.map((disk) => `cat /dev/${disk} > /tmp/${disk}`).join(' && ');
  const command = 'console=ttyS0 quiet mitigations=off tsc=reliable panic=-1 ciel.cgroups=v2';
  await guest.run(
    `${copies} && (sleep 0.2; /kexec ${disks.map((disk) => `/tmp/${disk}`).join(' ')} '${command}') >/dev/ttyS0 2>&1 </dev/null &`,
  );
}

it('goes back with a guest that is restored to an earlier state, and says that it is another boot', async () => {
  const state = { tag: 'earlier', vmstate: 'snapshots', devices: ['snapshots'] };
  const before = await readable();
  await job('snapshot-save', state);
  await new Promise((resolve) => setTimeout(resolve, LATER_MS));
  const later = await readable();
  expect(later.guestBoot).toBe(before.guestBoot);
  expect(busyNanoseconds(later)).toBeGreaterThan(busyNanoseconds(before));
  // Standing still, so that its clock is behind for sure, however long that takes.
  await qmp.monitor({ execute: 'stop' });
  await job('snapshot-load', state);
  const { first } = await adopted(later);
  expect(first.jiffies).toBeLessThan(later.jiffies);
  expect(busyNanoseconds(first)).toBeLessThan(busyNanoseconds(later));
  expect(first.containers.map(({ id }) => id)).toEqual(before.containers.map(({ id }) => id));
  // It goes on from there, and remains the same boot.
  await qmp.monitor({ execute: 'cont' });
  await new Promise((resolve) => setTimeout(resolve, LATER_MS));
  const next = await readable();
  expect(next.guestBoot).toBe(first.guestBoot);
  expect(busyNanoseconds(next)).toBeGreaterThan(busyNanoseconds(first));
});

/** How much CPU time the idle container has used, and in which run. */
function idle({ containers }: VmIntrospection): { run: string; nanoseconds: bigint } {
  const found = containers.find(({ id }) => id === IDLE?.id);
  if (!found?.cpuNanoseconds.available) throw new Error('the idle container was not seen');
  return { run: found.run, nanoseconds: found.cpuNanoseconds.value };
}

it('names another run where a guest was restored and is seen again only when its clock is further than before', async () => {
  const state = { tag: 'unseen', vmstate: 'snapshots', devices: ['snapshots'] };
  const before = await readable();
  await job('snapshot-save', state);
  const startedAt = performance.now();
  // What the restored guest has never used.
  const procs = cgroupFile(guest, 'cpu', IDLE?.cgroupPath ?? '', 'cgroup.procs');
  await guest.run(`sh -c 'echo $$ > ${procs}; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done'`);
  const later = await readable();
  expect(idle(later).nanoseconds).toBeGreaterThan(idle(before).nanoseconds + 100_000_000n);
  const lostMs = performance.now() - startedAt;
  await job('snapshot-load', state);
  await new Promise((resolve) => setTimeout(resolve, 2 * lostMs + LATER_MS));

  const unseen = await readable();
  expect(unseen.jiffies).toBeGreaterThan(later.jiffies);
  expect(unseen.guestBoot).toBe(later.guestBoot);
  expect(idle(unseen)).toEqual(idle(later));
  await expect.poll(async () => idle(await readable()).run, { timeout: LOOK_MS }).not.toBe(idle(later).run);
  const told = idle(await readable());
  expect(told.nanoseconds).toBeLessThan(idle(later).nanoseconds);
  expect(told.nanoseconds).toBeGreaterThanOrEqual(idle(before).nanoseconds);
});

it('follows a guest into another QEMU, as it was and as it had been', async () => {
  const file = join(directory, 'state');
  const before = await readable();
  expect(await qmp.monitor({ execute: 'migrate', arguments: { uri: `exec:cat > ${file}` } })).toMatchObject({
    return: {},
  });
  await expect
    .poll(async () => ((await qmp.monitor({ execute: 'query-migrate' })) as { return: unknown }).return, {
      timeout: JOB_MS,
    })
    .toMatchObject({ status: 'completed' });
  qmp.close();
  await guest.stop();
  expect(WITHOUT_QEMU).toContain(await look());

  const restore = async (): Promise<VmIntrospection> => {
    guest = await bootKernelGuest({ ...options, qemu: [...(options.qemu ?? []), '-incoming', `exec:cat ${file}`] });
    qmp = await connectQmp(guest.monitor);
    for (const deadline = performance.now() + ADOPTED_MS; ; ) {
      const found = await look();
      if (typeof found !== 'string') return found;
      expect([...WITHOUT_QEMU, ...BETWEEN_KERNELS]).toContain(found);
      if (performance.now() > deadline) throw new Error(found);
    }
  };
  const startedAt = performance.now();
  const first = await restore();
  const restoreMs = performance.now() - startedAt;
  expect(first.guestBoot).toBe(before.guestBoot);
  expect(busyNanoseconds(first)).toBeGreaterThanOrEqual(busyNanoseconds(before));
  // Further than it will have run again when it is seen next, on a busy machine too.
  await new Promise((resolve) => setTimeout(resolve, LATER_MS + 2 * restoreMs));
  const later = await readable();

  // The same file once more: now it is an older state.
  qmp.close();
  await guest.stop();
  expect(WITHOUT_QEMU).toContain(await look());
  const again = await restore();
  expect(again.jiffies).toBeLessThan(later.jiffies);
  expect(again.guestBoot).not.toBe(later.guestBoot);
});

it.each([
  ['the same kernel', 0, KERNEL],
  ['another kernel', 1, OTHER_KERNEL],
] as const)('finds %s that was started in the same RAM', async (_, number, name) => {
  const before = await readable();
  await kexec(number);
  const { first, said } = await adopted(before);
  expect(said.filter((reason) => !BETWEEN_KERNELS.includes(reason))).toEqual([]);
  expect(first.kernelRelease).toBe((await kernelImage(name, 'cloud')).release);
  await guest.answersAgain();
  await startContainers(guest);
  const { containers } = await readable();
  expect(containers.map(({ id }) => id).sort()).toEqual(CONTAINERS.map(({ id }) => id).sort());
  for (const { memoryAnonBytes } of containers) expect(memoryAnonBytes).toMatchObject({ available: true });
});

it('finds the kernel of a guest that was reset', async () => {
  const before = await readable();
  await qmp.monitor({ execute: 'system_reset' });
  const { first, said } = await adopted(before);
  expect(said.filter((reason) => !BETWEEN_KERNELS.includes(reason))).toEqual([]);
  expect(first.kernelRelease).toBe(guest.image.release);
  expect(first.containers).toEqual([]);
});

it('has never shown a counter that went back within a boot and a run', () => {
  const highest = new Map<string, bigint>();
  for (const { guestBoot, containers } of seen) {
    for (const { id, run, cpuNanoseconds, ioReadBytes, ioWriteBytes } of containers) {
      for (const [name, reading] of Object.entries({ cpuNanoseconds, ioReadBytes, ioWriteBytes })) {
        if (!reading.available) continue;
        const key = `${guestBoot} ${id} ${run} ${name}`;
        expect(reading.value, key).toBeGreaterThanOrEqual(highest.get(key) ?? 0n);
        highest.set(key, reading.value);
      }
    }
  }
  expect(highest.size).toBeGreaterThan(CONTAINERS.length * 3);
});

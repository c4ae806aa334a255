/**
 * Introspection of a real guest. Truth is what the guest's own cgroup files say, read inside it.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Reading } from '../../model/reading.ts';
import type { ContainerCounters, VmIntrospection } from '../../model/usage.ts';
import { readDump } from '../../native/dump.ts';
import { Introspection } from '../../native/introspection.ts';
import type { SourceChoice } from '../../native/mapper.ts';
import { FUZZ_PROGRAMS } from '../fuzz/places.ts';
import { temporaryDirectory } from '../guest-disk/images.ts';
import { connectQmp, type QmpConnection } from '../guest-disk/qemu.ts';
import {
  allocatedBytes,
  bootGuest,
  CONTAINER_NAMES,
  type ContainerName,
  type LiveGuest,
  ownFigures,
  ramFile,
  startContainers,
} from './live-guest.ts';

const UUID = '5d3f3a52-94c4-4a34-9b25-6a4e8f5f0c11';
const DEADLINE_MS = 30_000;
const REBOOT_LIMIT_MS = 240_000;
const MUTATION_ROUNDS = 50;
const directory = await temporaryDirectory();
const troubles: string[] = [];
let guest: LiveGuest;
let qmp: QmpConnection;
let introspection: Introspection;

beforeAll(async () => {
  const monitor = join(directory, 'qmp.sock');
  const trial = await bootGuest(monitor);
  qmp = await connectQmp(monitor);
  guest = await startContainers(trial);
  introspection = new Introspection({
    cacheDirectory: join(directory, 'attaches'),
    onTrouble: (message) => troubles.push(message),
  });
  await introspection.start();
});
afterAll(async () => {
  await introspection?.close();
  qmp?.close();
  await guest?.trial.stop();
});

function watch(source: SourceChoice): void {
  introspection.watch({ uuid: UUID, pid: guest.trial.pid, source });
}

async function sample(): Promise<Reading<VmIntrospection>> {
  const reading = (await introspection.sample([UUID], DEADLINE_MS)).get(UUID);
  if (!reading) throw new Error('no answer');
  return reading;
}

async function look(): Promise<VmIntrospection> {
  return figureOf(await sample());
}

function figureOf<T>(reading: Reading<T>): T {
  if (!reading.available) throw new Error(`${reading.reason}: ${reading.message}`);
  return reading.value;
}

function containerOf(introspected: VmIntrospection, name: ContainerName): ContainerCounters {
  const found = introspected.containers.find(({ id }) => id === guest.ids[name]);
  if (!found) throw new Error(`${name} is not among ${introspected.containers.map(({ id }) => id).join(', ')}`);
  return found;
}

describe.each(['mapped', 'process'] as const)('a guest read by %s', (source) => {
  it('shows its containers, and what is idle exactly', async () => {
    watch(source);
    const seen = await look();
    expect(seen.kernelRelease).toBe((await guest.trial.succeed(['uname', '-r'])).trim());
    expect(seen.possibleCpus).toBe(1);
    expect(seen.containers.map(({ id }) => id).sort()).toEqual(CONTAINER_NAMES.map((name) => guest.ids[name]).sort());

    const idle = containerOf(seen, 'idle');
    const own = await ownFigures(guest.trial, guest.ids.idle);
    expect(idle).toMatchObject({ runtime: 'docker', cgroupPath: `/docker/${guest.ids.idle}` });
    expect(figureOf(idle.cpuNanoseconds) / 1000n).toBe(own.cpuMicroseconds);
    expect(figureOf(idle.memoryBytes)).toBe(own.memoryBytes);
    expect(figureOf(idle.memoryAnonBytes)).toBe(own.anonBytes);
    expect(figureOf(idle.memoryFileBytes)).toBe(own.fileBytes);
    expect(figureOf(idle.ioReadBytes)).toBe(own.readBytes);
    expect(figureOf(idle.memoryLimitBytes)).toBeNull();
    expect(figureOf(containerOf(seen, 'writer').memoryLimitBytes)).toBe(64 * 2 ** 20);
    expect(figureOf(idle.perCpuNanoseconds)).toEqual([figureOf(idle.cpuNanoseconds)]);
  });

  it.each(['busy', 'writer'] as const)('shows %s between what it says before and after', async (name) => {
    for (let i = 0; i < 3; i++) {
      const before = await ownFigures(guest.trial, guest.ids[name]);
      const seen = containerOf(await look(), name);
      const after = await ownFigures(guest.trial, guest.ids[name]);
      const microseconds = figureOf(seen.cpuNanoseconds) / 1000n;
      expect(microseconds).toBeGreaterThanOrEqual(before.cpuMicroseconds);
      expect(microseconds).toBeLessThanOrEqual(after.cpuMicroseconds);
      expect(figureOf(seen.ioWriteBytes)).toBeGreaterThanOrEqual(before.writeBytes);
      expect(figureOf(seen.ioWriteBytes)).toBeLessThanOrEqual(after.writeBytes);
    }
  });

  it('never grows the guest by being read, and tells a paused guest from a dead one', async () => {
    const file = await ramFile(guest.trial.pid);
    await rm(join(directory, 'attaches'), { recursive: true, force: true });
    await qmp.monitor({ execute: 'stop' });
    try {
      introspection.forget(UUID);
      watch(source);
      const before = await allocatedBytes(file);
      const first = await look();
      for (let i = 0; i < 200; i++) expect((await look()).jiffies).toBe(first.jiffies);
      await new Promise((resolve) => setTimeout(resolve, 2000));
      expect((await look()).guestBoot).toBe(first.guestBoot);
      expect(await allocatedBytes(file)).toBe(before);
    } finally {
      await qmp.monitor({ execute: 'cont' });
    }
  });
});

it('goes on within seconds when the sampler is killed', async () => {
  watch('auto');
  const { guestBoot } = await look();
  process.kill(introspection.pid as number, 'SIGKILL');
  await new Promise((resolve) => setTimeout(resolve, 100));
  const from = performance.now();
  expect((await look()).guestBoot).toBe(guestBoot);
  expect(performance.now() - from).toBeLessThan(10_000);
  expect(troubles.at(-1)).toMatch(/killed/);
});

it('finds a container that was removed gone, and a new one there', async () => {
  await guest.trial.succeed(['docker', 'rm', '-f', 'writer']);
  expect((await look()).containers.map(({ id }) => id)).not.toContain(guest.ids.writer);
  const command = [
    'docker',
    'run',
    '-d',
    '--name',
    'late',
    '--network',
    'none',
    'registry.test/box:1',
    'sleep',
    '9999',
  ];
  const id = (await guest.trial.succeed(command)).trim();
  expect((await look()).containers.map((container) => container.id)).toContain(id);
});

/** The guest stands still while QEMU writes it. */
async function writeDump(format: 'elf' | 'kdump-zlib'): Promise<string> {
  const path = join(directory, `${format}.dump`);
  await rm(path, { force: true });
  const answer = await qmp.monitor({
    execute: 'dump-guest-memory',
    arguments: { paging: false, protocol: `file:${path}`, ...(format === 'elf' ? {} : { format }) },
  });
  expect(answer).toMatchObject({ return: {} });
  return path;
}

it('reads the same out of a dump, whatever its format', async () => {
  const before = await look();
  const readings = [];
  for (const format of ['elf', 'kdump-zlib'] as const) {
    const path = await writeDump(format);
    const reading = await readDump(path);
    await rm(path);
    if (!reading.available) throw new Error(reading.message);
    readings.push(reading.value);
  }
  const after = await look();
  expect(readings.map(({ format }) => format)).toEqual(['ELF core', 'kdump']);
  for (const { introspection } of readings) {
    expect(introspection.guestBoot).toBe(before.guestBoot);
    expect(introspection.containers.map(({ id }) => id)).toEqual(before.containers.map(({ id }) => id));
    introspection.containers.forEach((container, index) => {
      const [low, found, high] = [before.containers[index], container, after.containers[index]].map((of) => {
        if (of?.cpuNanoseconds.available !== true) throw new Error(`no CPU time of ${container.id}`);
        return of.cpuNanoseconds.value;
      }) as [bigint, bigint, bigint];
      expect(found >= low && found <= high, `${low} <= ${found} <= ${high}`).toBe(true);
    });
  }
});

it('stands a copy of the RAM that is torn apart', async () => {
  const dump = await writeDump('kdump-zlib');
  await execa('make', ['-s', '-C', join(import.meta.dirname, '../../native'), 'fuzz-programs']);
  const { stdout } = await execa(join(FUZZ_PROGRAMS, 'memory'), [dump, String(MUTATION_ROUNDS), '1']);
  await rm(dump);
  expect(stdout).toMatch(new RegExp(`^${MUTATION_ROUNDS} rounds`));
});

it('tells a rebooted guest from the one before, and adopts it', async () => {
  const { guestBoot, jiffies } = await look();
  const seen = new Set<string>();
  // QEMU was started so that a reboot ends it; this one is to come back in the same RAM.
  await qmp.monitor({ execute: 'set-action', arguments: { reboot: 'reset' } });
  await qmp.monitor({ execute: 'system_reset' });
  const deadline = performance.now() + REBOOT_LIMIT_MS;
  for (;;) {
    const reading = await sample();
    if (reading.available && reading.value.guestBoot !== guestBoot) {
      expect(reading.value.jiffies).toBeLessThan(jiffies);
      expect(reading.value.containers.map(({ id }) => id)).not.toContain(guest.ids.idle);
      break;
    }
    seen.add(reading.available ? 'old' : reading.reason);
    if (performance.now() > deadline) throw new Error(`no new boot was seen, but: ${[...seen].join(', ')}`);
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  expect(
    [...seen].filter((state) => !['old', 'Stale', 'GuestBooting', 'NoVmcoreinfo', 'Faulted'].includes(state)),
  ).toEqual([]);
});

it('says that a VM is gone when its QEMU has ended', async () => {
  await guest.trial.stop();
  const reading = await sample();
  expect(reading).toMatchObject({ available: false });
  expect(['ProcessGone', 'GuestOff']).toContain(reading.available ? '' : reading.reason);
});

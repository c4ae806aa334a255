/**
 * Limits, pressure, tasks, devices and interfaces of containers on each kernel of the matrix. Truth is what the guest's own
 * files say: what stands still is equal to it, what moves lies between what they said before and after.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { requestOf } from '../../lab/attach-request.ts';
import { CONTAINERS, cgroupFile } from '../../lab/kernels/containers.ts';
import { bootKernelGuest, type KernelGuest } from '../../lab/kernels/guest.ts';
import { KERNEL_NAMES } from '../../lab/kernels/kernels.ts';
import type { Reading } from '../../model/reading.ts';
import type { ContainerDetails, InterfaceCounts } from '../../model/usage.ts';
import { attach, type Guest } from '../../native/mapper.ts';
import { EXTRA, startDetailed } from './detailed-containers.ts';

const ATTEMPTS = 20;
/** Debian's kernels tick 250 times a second. */
const TICK_MICROSECONDS = 4_000n;
const idle = CONTAINERS.find(({ name }) => name === 'idle')?.id ?? '';
const writer = CONTAINERS.find(({ name }) => name === 'writer');

describe.each(KERNEL_NAMES)('Linux %s', (kernel) => {
  let guest: KernelGuest;
  let memory: Guest;
  let networkedPid = '';
  beforeAll(async () => {
    guest = await bootKernelGuest({ kernel, append: 'psi=1', memoryMiB: 512 });
    networkedPid = await startDetailed(guest);
    memory = attach(await requestOf(guest.pid, { withDetails: true }));
  });
  afterAll(async () => {
    memory?.detach();
    await guest?.stop();
  });

  function look(container: string): ContainerDetails {
    const found = memory.sample().containers.find((one) => one.id === container);
    if (!found?.details) throw new Error(`container ${container} is not there, or has no details`);
    return found.details;
  }
  /** The container's own files; null where this kernel has none. */
  async function files(path: string, names: readonly string[]): Promise<Map<string, string | null>> {
    const paths = names.map((name) => cgroupFile(guest, 'cpu', path, name));
    const read = await guest.files(paths);
    return new Map(names.map((name, index) => [name, read.get(paths[index] ?? '') ?? null]));
  }
  const directory = (container: string): string => `/docker/${container}`;

  it('limits, weight and throttling', async () => {
    const throttled = async () => {
      const text = (await files(directory(EXTRA.limited), ['cpu.stat'])).get('cpu.stat');
      return ['nr_periods', 'nr_throttled', 'throttled_usec'].map((name) => BigInt(numberIn(text, name) ?? -1n));
    };
    const before = await throttled();
    const seen = look(EXTRA.limited);
    const after = await throttled();
    expect(figureOf(seen.cpuQuotaNanoseconds)).toBe(20_000_000n);
    expect(figureOf(seen.cpuPeriodNanoseconds)).toBe(100_000_000n);
    expect(figureOf(seen.cpuShares)).toBe(512);
    expect(figureOf(seen.pidsLimit)).toBe(20);
    const counters = [seen.cpuPeriods, seen.cpuThrottledPeriods, seen.cpuThrottledNanoseconds].map(figureOf);
    counters[2] = (counters[2] ?? 0n) / 1000n;
    counters.forEach((value, index) => {
      expect(value).toBeGreaterThanOrEqual(before[index] ?? 0n);
      expect(value).toBeLessThanOrEqual(after[index] ?? 0n);
    });
    expect(before[1]).toBeGreaterThan(0n);
  });

  it('an idle container’s memory and tasks, exactly', async () => {
    const names = ['memory.stat', 'memory.peak', 'memory.swap.current', 'memory.events', 'pids.current', 'cpu.max'];
    // memory.stat lags by up to two seconds.
    await new Promise((resolve) => setTimeout(resolve, 3000));
    const own = await files(directory(idle), names);
    const seen = look(idle);
    const stat = own.get('memory.stat');
    expect(figureOf(seen.memoryInactiveFileBytes)).toBe(Number(numberIn(stat, 'inactive_file')));
    expect(figureOf(seen.memoryMappedBytes)).toBe(Number(numberIn(stat, 'file_mapped')));
    const kernelMemory = numberIn(stat, 'kernel');
    if (kernelMemory === null) expect(seen.memoryKernelBytes).toMatchObject({ available: false, reason: 'NoField' });
    else expect(figureOf(seen.memoryKernelBytes)).toBe(Number(kernelMemory));
    const peak = own.get('memory.peak');
    if (peak !== null) expect(figureOf(seen.memoryPeakBytes)).toBe(Number(peak));
    const swap = own.get('memory.swap.current');
    if (swap !== null) expect(figureOf(seen.memorySwapBytes)).toBe(Number(swap));
    expect(figureOf(seen.oomKills)).toBe(numberIn(own.get('memory.events'), 'oom_kill'));
    expect(figureOf(seen.pids)).toBe(Number(own.get('pids.current')));
    expect(figureOf(seen.pidsLimit)).toBeNull();
    expect(figureOf(seen.cpuQuotaNanoseconds)).toBeNull();
  });

  it('processes killed for want of memory', async () => {
    const own = await files(directory(EXTRA.killed), ['memory.events']);
    const kills = numberIn(own.get('memory.events'), 'oom_kill');
    expect(kills).toBeGreaterThan(0n);
    expect(figureOf(look(EXTRA.killed).oomKills)).toBe(kills);
  });

  it('I/O of a device between what it says before and after', async () => {
    const path = writer?.cgroupPath ?? '';
    const before = deviceIn((await files(path, ['io.stat'])).get('io.stat'));
    const devices = figureOf(look(writer?.id ?? '').ioDevices);
    const after = deviceIn((await files(path, ['io.stat'])).get('io.stat'));
    const seen = devices.find(({ major, minor }) => `${major}:${minor}` === before?.number);
    for (const name of ['readBytes', 'writeBytes', 'reads', 'writes'] as const) {
      expect(seen?.[name]).toBeGreaterThanOrEqual(before?.[name] ?? -1n);
      expect(seen?.[name]).toBeLessThanOrEqual(after?.[name] ?? -1n);
    }
    expect(seen?.writeBytes).toBeGreaterThan(0n);
    expect([null, 'vda']).toContain(seen?.name);
  });

  it('pressure: an idle container’s exactly, a waiting one’s between before and after, to a tick', async () => {
    const names = ['cpu.pressure', 'memory.pressure', 'io.pressure'];
    const totals = async (path: string) =>
      [...(await files(path, names)).values()].flatMap((text) =>
        ['some', 'full'].map((kind) => {
          const found = new RegExp(`^${kind} .*total=(\\d+)$`, 'm').exec(text ?? '')?.[1];
          return found === undefined ? null : BigInt(found);
        }),
      );
    const seenOf = (container: string) => {
      const { cpu, memory: ofMemory, io } = look(container).pressure;
      return [cpu, ofMemory, io].flatMap((one) => [one.someNanoseconds, one.fullNanoseconds]);
    };
    const still = await totals(directory(idle));
    const idleOnes = seenOf(idle);
    still.forEach((own, index) => {
      const seen = idleOnes[index] as Reading<bigint>;
      if (own !== null) expect(figureOf(seen) / 1000n).toBe(own);
    });
    for (const [container, path] of [
      [EXTRA.limited, directory(EXTRA.limited)],
      [writer?.id ?? '', writer?.cgroupPath ?? ''],
    ] as const) {
      const before = await totals(path);
      const seen = seenOf(container);
      const after = await totals(path);
      before.forEach((own, index) => {
        const reading = seen[index] as Reading<bigint>;
        // Linux up to 5.12 keeps no "full" for the CPU.
        if (own === null) return;
        // A wait that is still open counts up to the run queue's clock, which is up to a tick from the one of the file.
        expect(figureOf(reading) / 1000n).toBeGreaterThanOrEqual(own - TICK_MICROSECONDS);
        expect(figureOf(reading) / 1000n).toBeLessThanOrEqual((after[index] ?? 0n) + TICK_MICROSECONDS);
      });
      expect(before[0]).toBeGreaterThan(0n);
    }
  });

  it('each interface of its network, exactly', async () => {
    for (let attempt = 1; ; attempt++) {
      const path = `/proc/${networkedPid}/net/dev`;
      const before = await guest.file(path);
      const seen = figureOf(look(EXTRA.networked).network);
      // Neighbours and routers are looked for now and then.
      if ((await guest.file(path)) !== before && attempt < ATTEMPTS) continue;
      const own = interfacesIn(before);
      expect([...own.keys()].sort()).toEqual(['dum0', 'ipv0', 'lo', 'mac0', 'pair0']);
      expect(seen.interfaces.map(({ name }) => name).sort()).toEqual([...own.keys()].sort());
      for (const { name, counts } of seen.interfaces)
        expect({ name, ...figureOf(counts) }).toEqual({ name, ...own.get(name) });
      expect(own.get('pair0')?.receivedBytes).toBeGreaterThan(2700n);
      expect(own.get('mac0')?.receivedBytes).toBeGreaterThan(2700n);
      expect(own.get('mac0')?.sentPackets).toBeGreaterThan(2n);
      return;
    }
  });

  it('which network it is, and whose', async () => {
    const inode = /\[(\d+)\]/.exec(await guest.run(`readlink /proc/${networkedPid}/ns/net`))?.[1];
    expect(figureOf(look(EXTRA.networked).network)).toMatchObject({ namespace: Number(inode), isHost: false });
    expect(figureOf(look(EXTRA.beside).network)).toMatchObject({ namespace: Number(inode), isHost: false });
    expect(figureOf(look(EXTRA.asHost).network)).toMatchObject({ isHost: true, interfaces: [] });
  });
});

function figureOf<T>(reading: Reading<T> | undefined): T {
  if (!reading?.available) throw new Error(reading ? `${reading.reason}: ${reading.message}` : 'no answer');
  return reading.value;
}

function numberIn(text: string | null | undefined, name: string): bigint | null {
  const found = new RegExp(`^${name} (\\d+)$`, 'm').exec(text ?? '')?.[1];
  return found === undefined ? null : BigInt(found);
}

function deviceIn(text: string | null | undefined) {
  const found = /^(\d+:\d+) rbytes=(\d+) wbytes=(\d+) rios=(\d+) wios=(\d+) /m.exec(text ?? '');
  if (!found) return null;
  const [readBytes, writeBytes, reads, writes] = found.slice(2).map(BigInt);
  return { number: found[1], readBytes, writeBytes, reads, writes };
}

/** /proc/PID/net/dev */
function interfacesIn(text: string): Map<string, InterfaceCounts> {
  return new Map(
    [...text.matchAll(/^ *([^:\s]+): *(\d[\d ]*)$/gm)].map(([, name = '', columns = '']) => {
      const numbers = columns.trim().split(/ +/).map(BigInt);
      const at = (index: number): bigint => numbers[index] ?? -1n;
      return [
        name,
        {
          receivedBytes: at(0),
          receivedPackets: at(1),
          receiveErrors: at(2),
          receiveDropped: at(3),
          sentBytes: at(8),
          sentPackets: at(9),
          sendErrors: at(10),
          sendDropped: at(11),
        },
      ];
    }),
  );
}

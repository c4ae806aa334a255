/**
 * Repeats against walks, on a real guest that is busy: what is recorded must say what a walk says, and what the guest's own
 * files say; what comes and goes must be seen by the next sample.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { requestOf } from '../../lab/attach-request.ts';
import { CONTAINERS, cgroupFile, removeContainer, startContainers } from '../../lab/kernels/containers.ts';
import { bootKernelGuest, type KernelGuest } from '../../lab/kernels/guest.ts';
import type { Reading } from '../../model/reading.ts';
import type { ContainerCounters, VmIntrospection } from '../../model/usage.ts';
import { type AttachRequest, attach, type Guest, type SourceChoice } from '../../native/mapper.ts';

const ROUNDS = 40;
const BETWEEN_MS = 150;
const COUNTERS = ['cpuNanoseconds', 'ioReadBytes', 'ioWriteBytes'] as const;

let guest: KernelGuest;
let request: AttachRequest;

beforeAll(async () => {
  guest = await bootKernelGuest({ kernel: '6.1', vcpus: 2 });
  await startContainers(guest);
  request = await requestOf(guest.pid);
});
afterAll(async () => {
  await guest?.stop();
});

function figureOf<T>(reading: Reading<T>): T {
  if (!reading.available) throw new Error(`${reading.reason}: ${reading.message}`);
  return reading.value;
}

function containerIn(sample: VmIntrospection, id: string): ContainerCounters {
  const found = sample.containers.find((container) => container.id === id);
  if (!found) throw new Error(`${id} was not seen`);
  return found;
}

/** A reader that has forgotten everything, for one sample. */
function walk(walker: AttachRequest): VmIntrospection {
  const fresh = attach(walker);
  try {
    const seen = fresh.sample();
    expect(fresh.lastWork.viewsRepeated).toBe(0);
    return seen;
  } finally {
    fresh.detach();
  }
}

async function usageMicroseconds(cgroupPath: string): Promise<bigint> {
  const text = await guest.file(cgroupFile(guest, 'cpu', cgroupPath, 'cpu.stat'));
  return BigInt(/^usage_usec (\d+)$/m.exec(text)?.[1] ?? -1);
}

describe.each(['mapped', 'process'] as const satisfies SourceChoice[])('by %s, a repeat', (source) => {
  let reader: Guest;
  beforeAll(() => {
    reader = attach({ ...request, source });
    for (let i = 0; i < 3; i++) reader.sample();
  });
  afterAll(() => {
    reader?.detach();
  });

  it('says what a walk says before and after it, and what the guest itself says', async () => {
    let wholeRepeats = 0;
    for (let i = 0; i < ROUNDS; i++) {
      const own = await Promise.all(CONTAINERS.map(({ cgroupPath }) => usageMicroseconds(cgroupPath)));
      const before = walk({ ...request, source });
      const seen = reader.sample();
      const after = walk({ ...request, source });
      const ownAfter = await Promise.all(CONTAINERS.map(({ cgroupPath }) => usageMicroseconds(cgroupPath)));
      if (reader.lastWork.viewsRun === 0) wholeRepeats++;
      for (const [index, { id, load }] of CONTAINERS.entries()) {
        const [first, repeated, last] = [before, seen, after].map((sample) => containerIn(sample, id)) as [
          ContainerCounters,
          ContainerCounters,
          ContainerCounters,
        ];
        for (const name of COUNTERS) {
          expect(figureOf(repeated[name])).toBeGreaterThanOrEqual(figureOf(first[name]));
          expect(figureOf(repeated[name])).toBeLessThanOrEqual(figureOf(last[name]));
        }
        const microseconds = figureOf(repeated.cpuNanoseconds) / 1000n;
        expect(microseconds).toBeGreaterThanOrEqual(own[index] as bigint);
        expect(microseconds).toBeLessThanOrEqual(ownAfter[index] as bigint);
        // What does nothing is the same in every figure.
        if (load === 'idle' && figureOf(first.cpuNanoseconds) === figureOf(last.cpuNanoseconds))
          expect(repeated).toEqual(first);
      }
      await new Promise((resolve) => setTimeout(resolve, BETWEEN_MS));
    }
    expect(wholeRepeats).toBeGreaterThan(ROUNDS / 2);
    expect(reader.lastWork.corrections).toBe(0);
  });

  it('sees what was removed gone, and what is new there, at once', async () => {
    const [, busy] = CONTAINERS;
    if (!busy) throw new Error('no container to remove');
    expect(reader.sample().containers.map(({ id }) => id)).toContain(busy.id);
    await removeContainer(guest, busy);
    const without = reader.sample();
    expect(without.containers.map(({ id }) => id)).not.toContain(busy.id);
    await startContainers(guest, [busy]);
    const again = reader.sample();
    expect(again.containers.map(({ id }) => id).sort()).toEqual(CONTAINERS.map(({ id }) => id).sort());
    // Only what is new has walked: the others are repeated.
    expect(reader.lastWork.viewsRun).toBeLessThan(again.containers.length * 3);
    expect(figureOf(containerIn(again, busy.id).cpuNanoseconds)).toBeLessThan(2_000_000_000n);
  });
});

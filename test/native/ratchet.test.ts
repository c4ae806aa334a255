import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ContainerCounters } from '../../model/usage.ts';
import { Ratchet } from '../../native/ratchet.ts';
import { decodeSample } from '../../native/sample-decoding.ts';
import { type Container, encodeSample, FIGURES } from './encoded-sample.ts';

const SECOND = 1_000_000_000n;
const CLOCK = 4_295_000_000n;

interface Raw {
  /** Since the last one. */
  readonly afterMs: number;
  readonly boot: number;
  readonly ticks: number;
  readonly containers: readonly {
    readonly path: string;
    readonly serial: number;
    readonly counts: readonly number[];
  }[];
}

/** Each kind of counter has a count of its own: figures, CPU 0, a device, an interface. */
function container({ path, serial, counts }: Raw['containers'][number]): Container {
  const [figure = 0, cpu = 0, device = 0, network = 0] = counts.map((count) => BigInt(count));
  const devices = [{ counts: Array(4).fill(device) as bigint[], name: 'vda' }];
  const interfaces = [{ counts: Array(8).fill(network) as bigint[], status: 0, flags: 0, name: 'eth0', kind: 'veth' }];
  const figures = Array.from({ length: FIGURES }, () => [BigInt(figure), 0, 0] as const);
  const all = { figures, perCpu: [BigInt(cpu), 2n ** 64n - 1n], devices, interfaces };
  return { path, id: [0, path.length], runtime: 1, serial: BigInt(serial), ...all };
}

/** What a user sees of a sequence of samples. */
function* shown(samples: readonly Raw[]) {
  const ratchet = new Ratchet();
  let at = 0n;
  for (const { afterMs, boot, ticks, containers } of samples) {
    at += BigInt(afterMs) * 1_000_000n;
    const sample = encodeSample(containers.map(container), { at, boot, jiffies: CLOCK + BigInt(ticks) });
    yield decodeSample(sample, () => '', ratchet).introspection;
  }
}

/** Everything of a container that only grows, by name. */
function countersOf({ details, ...container }: ContainerCounters): [string, bigint][] {
  const { cpuNanoseconds, cpuUserNanoseconds, cpuSystemNanoseconds, ioReadBytes, ioWriteBytes } = container;
  const { cpuPeriods, cpuThrottledPeriods, cpuThrottledNanoseconds, oomKills, ioReads, ioWrites } = details ?? {};
  const of = (counts: object) => Object.entries(counts).filter(([, value]) => typeof value === 'bigint');
  const read = Object.entries({
    ...{ cpuNanoseconds, cpuUserNanoseconds, cpuSystemNanoseconds, ioReadBytes, ioWriteBytes },
    ...{ cpuPeriods, cpuThrottledPeriods, cpuThrottledNanoseconds, oomKills, ioReads, ioWrites },
    ...Object.fromEntries(
      Object.entries(details?.pressure ?? {}).flatMap(([name, { someNanoseconds, fullNanoseconds }]) => [
        [`${name} some`, someNanoseconds],
        [`${name} full`, fullNanoseconds],
      ]),
    ),
  }).map(([name, reading]) => [name, reading?.available === true ? reading.value : -1n] as [string, bigint]);
  const cpus = container.perCpuNanoseconds.available ? container.perCpuNanoseconds.value : [];
  const devices = details?.ioDevices.available === true ? details.ioDevices.value : [];
  const network = details?.network.available === true ? details.network.value.interfaces : [];
  return [
    ...read,
    ...of(cpus).map(([cpu, value]) => [`CPU ${cpu}`, value] as [string, bigint]),
    ...devices.flatMap(({ major, minor, ...counts }) =>
      of(counts).map(([name, value]) => [`${major}:${minor} ${name}`, value] as [string, bigint]),
    ),
    ...network.flatMap(({ index, counts }) =>
      of(counts.available ? counts.value : {}).map(([name, value]) => [`${index} ${name}`, value] as [string, bigint]),
    ),
  ];
}

const anyCounts = fc.array(fc.nat({ max: 5 }), { minLength: 4, maxLength: 4 });
/** A guest that does whatever it likes: it reboots, is restored, makes and removes containers, and counts to and fro. */
const anySample: fc.Arbitrary<Raw> = fc.record({
  afterMs: fc.integer({ min: 1, max: 4_000 }),
  boot: fc.nat({ max: 2 }),
  ticks: fc.nat({ max: 6 }),
  containers: fc.uniqueArray(
    fc.record({ path: fc.constantFrom('/docker/a', '/docker/b'), serial: fc.nat({ max: 2 }), counts: anyCounts }),
    { selector: ({ path }) => path },
  ),
});

describe('what users see', () => {
  it('never goes back within one boot and one run', () => {
    fc.assert(
      fc.property(fc.array(anySample, { maxLength: 40 }), (samples) => {
        const highest = new Map<string, bigint>();
        for (const { guestBoot, containers } of shown(samples)) {
          for (const one of containers) {
            const counters = countersOf(one);
            expect(counters.length).toBe(17 + 1 + 4 + 8);
            for (const [name, value] of counters) {
              const key = `${guestBoot} ${one.cgroupPath} ${one.run} ${name}`;
              expect(value, key).toBeGreaterThanOrEqual(highest.get(key) ?? 0n);
              highest.set(key, value);
            }
          }
        }
      }),
      { numRuns: 300 },
    );
  });

  it('is what is read, of a guest whose counters only grow', () => {
    const steps = fc.array(fc.record({ afterMs: fc.integer({ min: 1, max: 6_000 }), counts: anyCounts }));
    fc.assert(
      fc.property(steps, (grown) => {
        const sums = [0, 0, 0, 0];
        const samples = grown.map(({ afterMs, counts }, index): Raw => {
          counts.forEach((count, i) => {
            sums[i] = (sums[i] ?? 0) + count * 2 ** 31;
          });
          const containers = [{ path: '/docker/a', serial: 7, counts: [...sums] }];
          return { afterMs, boot: 1, ticks: index, containers };
        });
        const seen = [...shown(samples)];
        expect(new Set(seen.map(({ guestBoot }) => guestBoot)).size).toBeLessThanOrEqual(1);
        for (const [index, { containers }] of seen.entries()) {
          expect(containers[0]?.run).toBe('7');
          expect(containers[0]?.cpuNanoseconds).toMatchObject({
            value: BigInt(samples[index]?.containers[0]?.counts[0] ?? -1),
          });
        }
      }),
      { numRuns: 100 },
    );
  });

  it('is what is read, a moment after a counter has gone back for good, and then bears another name', () => {
    fc.assert(
      fc.property(anyCounts, anyCounts, (before, after) => {
        const of = (afterMs: number, ticks: number, counts: readonly number[]): Raw => ({
          ...{ afterMs, ticks, boot: 1 },
          containers: [{ path: '/docker/a', serial: 7, counts }],
        });
        // Restored, and seen again only when its clock was further than it had been.
        const seen = [...shown([of(1, 1, before), of(1_000, 2, after), of(3_000, 3, after), of(1_000, 4, after)])];
        const runs = seen.map(({ containers }) => containers[0]?.run);
        const hasGoneBack = after.some((count, i) => count < (before[i] ?? 0));
        expect(runs).toEqual(hasGoneBack ? ['7', '7', `7+${4n * SECOND + 1_000_000n}`, runs[2]] : ['7', '7', '7', '7']);
        const last = seen[3]?.containers[0];
        expect(last?.cpuNanoseconds).toMatchObject({ value: BigInt(after[0] ?? -1) });
        expect(last?.perCpuNanoseconds).toMatchObject({ value: [BigInt(after[1] ?? -1), null] });
      }),
    );
  });

  it('is another boot when the clock goes back, and when a boot returns that was over', () => {
    const of = (boot: number, ticks: number): Raw => ({ afterMs: 1_000, boot, ticks, containers: [] });
    const boots = [...shown([of(1, 5), of(1, 4), of(2, 1), of(1, 9), of(1, 10)])].map(({ guestBoot }) => guestBoot);
    expect(new Set(boots).size).toBe(4);
    expect(boots[4]).toBe(boots[3]);
  });

  it('is another run when a container is started anew, or was away and is there again', () => {
    const of = (...serials: number[]): Raw => ({
      ...{ afterMs: 1_000, boot: 1, ticks: 1 },
      containers: serials.map((serial) => ({ path: '/docker/a', serial, counts: [serial, 0, 0, 0] })),
    });
    const runs = [...shown([of(7), of(8), of(), of(8), of(8)])].map(({ containers }) => containers[0]?.run);
    expect(runs).toEqual(['7', '8', undefined, `8+${4n * SECOND}`, `8+${4n * SECOND}`]);
  });

  it('lifts what is lower for a moment, and only that', () => {
    const of = (afterMs: number, counts: readonly number[]): Raw => ({
      ...{ afterMs, boot: 1, ticks: 1 },
      containers: [{ path: '/docker/a', serial: 7, counts }],
    });
    const seen = [
      ...shown([of(1, [9, 9, 0, 0]), of(10, [8, 10, 0, 0]), of(2_900, [9, 11, 0, 0]), of(9_000, [8, 11, 0, 0])]),
    ];
    const figures = seen.map(({ containers }) => containers[0]);
    expect(figures.map((one) => one?.cpuNanoseconds)).toMatchObject([
      { value: 9n },
      { value: 9n },
      { value: 9n },
      { value: 9n },
    ]);
    expect(figures.map((one) => one?.perCpuNanoseconds)).toMatchObject(
      [9n, 10n, 11n, 11n].map((cpu) => ({ value: [cpu, null] })),
    );
    expect(figures.map((one) => one?.run)).toEqual(['7', '7', '7', '7']);
  });
});

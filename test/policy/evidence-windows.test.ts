/** From samples to the two windows of an evidence. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MAX_EVIDENCE_CONTAINERS } from '../../model/evidence.ts';
import { type Sample, vmEvidence, windowStatistics, windows } from '../../policy/evidence-windows.ts';

const samples = (values: readonly (number | null)[]): Sample[] =>
  values.map((value, index) => ({ atMs: index * 1_000, value }));

describe('windows', () => {
  it('are the minute before the rise, and everything since', () => {
    const { before, since } = windows(samples([...Array(90).fill(0.2), ...Array(10).fill(0.9)]), {
      onsetMs: 90_000,
      nowMs: 99_000,
    });
    expect([before?.samples, before?.mean.toFixed(2), since?.samples, since?.max]).toEqual([60, '0.20', 10, 0.9]);
  });
  it('are the last ten seconds and the minute before them when there was no step', () => {
    const { before, since } = windows(samples(Array(100).fill(0.5)), { onsetMs: null, nowMs: 99_000 });
    expect([before?.samples, since?.samples]).toEqual([60, 11]);
  });
  it('say why they are empty: missing is not zero (invariant 5)', () => {
    const empty = windows(samples([null, null]), { onsetMs: 1_000, nowMs: 2_000 }, 'GuestPaused');
    expect(empty).toEqual({ before: null, since: null, unavailable: 'GuestPaused' });
  });
  it('leave out what is no figure', () => {
    expect(windowStatistics([Number.NaN, 1, null, Number.POSITIVE_INFINITY, -1, 3])).toMatchObject({
      samples: 2,
      mean: 2,
    });
  });
  it('have mean and P90 between the smallest and the largest, to six digits', () => {
    fc.assert(
      fc.property(fc.array(fc.double({ min: 0, max: 1e12, noNaN: true }), { minLength: 1 }), (values) => {
        const window = windowStatistics(values);
        const least = Math.min(...values);
        for (const figure of [window?.mean ?? -1, window?.p90 ?? -1]) {
          expect(figure).toBeGreaterThanOrEqual(least * (1 - 1e-5));
          expect(figure).toBeLessThanOrEqual(window?.max ?? -1);
        }
      }),
    );
  });
});

describe('evidence', () => {
  const evidenceOf = (count: number) =>
    vmEvidence({
      vmUuid: 'u',
      vmName: 'shop-1',
      host: 'h1',
      vcpus: 1,
      memoryBytes: 2 ** 30,
      target: { cpu: 0.8, memory: 0.9 },
      cause: 'vmCpu',
      unreadable: null,
      onset: '2026-01-01T00:00:00.000Z',
      split: { onsetMs: 60_000, nowMs: 70_000 },
      cpuCores: samples(Array(71).fill(0.9)),
      containers: Array.from({ length: count }, (_, index) => ({
        containerId: String(index).padStart(64, 'f'),
        runtime: 'docker' as const,
        name: 'n'.repeat(500),
        service: null,
        cpuCores: samples(Array(71).fill(1 / 3 / (index + 1))),
        memoryBytes: samples(Array(71).fill(123_456_789)),
        ioBytesPerSecond: samples(Array(71).fill(1 / 7)),
        cpuLimitCores: null,
        memoryLimitBytes: null,
        unavailable: null,
      })),
    });

  it('keeps the containers that matter most, and the rest as one', () => {
    const { containers, others } = evidenceOf(30);
    expect(containers.length).toBeGreaterThanOrEqual(10);
    expect(containers.length).toBeLessThanOrEqual(MAX_EVIDENCE_CONTAINERS);
    expect(containers[0]?.cpuCores.since?.mean).toBeCloseTo(1 / 3);
    expect(others.count).toBe(30 - containers.length);
    const rest = Array.from({ length: others.count }, (_, index) => 1 / 3 / (index + containers.length + 1)).reduce(
      (a, b) => a + b,
    );
    expect(others.cpuCores.since?.mean).toBeCloseTo(rest);
  });
  it('is at most 16 KiB, whatever a guest calls its containers', () => {
    expect(JSON.stringify(evidenceOf(100)).length).toBeLessThanOrEqual(16 * 1024);
  });
});

/**
 * What no policy may be led astray by: NaN, infinities, zero capacity, clocks that run backwards, empty lists, a single
 * sample. Nothing throws, nothing acts on it. Ordinary behaviour is in the other files.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { VmEvidence, Windows } from '../../model/evidence.ts';
import { cooldownEnd } from '../../policy/cooldown.ts';
import { attribute } from '../../policy/culprit.ts';
import { vmEvidence as fromSamples, windows } from '../../policy/evidence-windows.ts';
import { instant, isoInstant, quoted } from '../../policy/figures.ts';
import { initialHotState, observeHot } from '../../policy/hot.ts';
import { placeVm } from '../../policy/placement.ts';
import { sizeFor } from '../../policy/size.ts';
import { container, pressureOn, vmEvidence } from '../workflows/evidence.ts';
import { MIB, serviceSpec } from '../workflows/world.ts';

const NOW = '2026-01-01T00:00:00.000Z';
const broken = fc.constantFrom(Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, -1, 0, 1e308);

function windowsOf(figure: number): Windows {
  const window = { samples: figure, mean: figure, deviation: figure, p90: figure, max: figure };
  return { before: window, since: window, unavailable: null };
}

describe('hot', () => {
  it.each([
    ['zero capacity', { atMs: 0, use: 1, capacity: 0 }],
    ['capacity NaN', { atMs: 0, use: 1, capacity: Number.NaN }],
    ['use NaN', { atMs: 0, use: Number.NaN, capacity: 1 }],
    ['negative use', { atMs: 0, use: -1, capacity: 1 }],
    ['time NaN', { atMs: Number.NaN, use: 1, capacity: 1 }],
  ])('is never true for %s', (_, sample) => {
    let state = initialHotState();
    for (let index = 0; index < 10; index += 1) {
      const verdict = observeHot(state, { ...sample, atMs: sample.atMs + index * 1_000 }, 0.8);
      expect([verdict.hot, verdict.ratio]).toEqual([false, null]);
      state = verdict.state;
    }
  });
  it('is not true after one sample, and begins anew when the clock runs backwards', () => {
    let state = initialHotState();
    for (const atMs of [100_000, 101_000]) state = observeHot(state, { atMs, use: 1, capacity: 1 }, 0.8).state;
    const back = observeHot(state, { atMs: 5_000, use: 1, capacity: 1 }, 0.8);
    expect(back.hot).toBe(false);
    expect(back.state.votes).toHaveLength(1);
  });
  it('never throws, and keeps a state that is JSON', () => {
    const samples = fc.array(fc.record({ atMs: fc.double(), use: fc.option(fc.double()), capacity: fc.double() }));
    fc.assert(
      fc.property(samples, fc.double(), (list, target) => {
        let state = initialHotState();
        for (const sample of list) state = observeHot(state, sample, target).state;
        // JSON has null for NaN and infinities; only two fields may be null.
        expect(JSON.stringify(state)).not.toMatch(/"(samples|mean|variance|cusum)":null|[[,]null/);
      }),
    );
  });
});

describe('the culprit', () => {
  it('is nobody when there is nothing to go by', () => {
    const none = { before: null, since: null, unavailable: 'GuestPaused' };
    const unread = { ...container('a', 'a', 1, 1), cpuCores: none };
    expect(attribute(vmEvidence([unread]), NOW)).toMatchObject({ act: false, reason: 'NoEvidence' });
    expect(attribute(vmEvidence([container('a', 'a', 0, 0)], { vcpus: 0 }), NOW)).toMatchObject({ act: false });
  });
  it('is not blamed by a minute that was not read: one window alone is no change', () => {
    const young = {
      ...container('a', 'a', 0, 0.3),
      cpuCores: { ...container('a', 'a', 0, 0.3).cpuCores, before: null },
    };
    const rest = [container('b', 'b', 0.3, 0.3), container('c', 'c', 0.3, 0.3)];
    expect(attribute(vmEvidence([young, ...rest], { onset: null }), NOW)).toMatchObject({ act: false });
  });
  it('never comes of broken figures, and nothing throws', () => {
    const containers = fc.array(fc.tuple(broken, broken), { maxLength: 5 });
    fc.assert(
      fc.property(containers, broken, fc.constantFrom(NOW, 'no instant', ''), (list, vm, now) => {
        const evidence: VmEvidence = vmEvidence(
          list.map(([level, limit], index) => ({
            ...container(`c${index}`, 's', 0, 0),
            cpuCores: windowsOf(level),
            cpuLimitCores: limit,
          })),
          { cpuCores: windowsOf(vm), vcpus: vm },
        );
        for (const cause of ['vmCpu', 'vmMemory', 'replicaCpuLimit', null] as const) {
          const outcome = attribute({ ...evidence, cause }, now);
          if (outcome.act) {
            for (const { share } of outcome.candidates)
              expect(share).toSatisfy((value: number) => value > 0 && value <= 1);
          }
        }
      }),
    );
  });
});

describe('size, placement and cooldown', () => {
  const spec = serviceSpec('mosaic');
  it('a VM of unknown base is not made', () => {
    for (const templateBaseMemoryBytes of [Number.NaN, -1, Number.POSITIVE_INFINITY]) {
      const result = sizeFor({ spec, pressure: null, servingReplicas: 0, templateBaseMemoryBytes });
      expect(result.fits).toBe(false);
    }
  });
  it('broken measurements leave the smallest VM that is allowed', () => {
    const pressure = pressureOn('mosaic', 'd');
    const bad = { ...pressure, evidence: { ...pressure.evidence, containers: [] } };
    const result = sizeFor({ spec, pressure: bad, servingReplicas: Number.NaN, templateBaseMemoryBytes: 128 * MIB });
    expect(result).toMatchObject({ fits: true, size: { vcpus: 1, memoryBytes: 256 * MIB } });
  });
  it('no host is chosen from none, nor one whose figures are broken', () => {
    const size = { vcpus: 1, memoryBytes: MIB };
    expect(placeVm([], size, [])).toMatchObject({ act: false });
    const host = { host: 'h', vcpus: Number.NaN, memoryBytes: MIB, reservedVcpus: 0, reservedMemoryBytes: 0 };
    expect(
      placeVm([host, { ...host, vcpus: 0 }, { ...host, vcpus: 4, reservedVcpus: Number.NaN }], size, []),
    ).toMatchObject({ act: false });
  });
  it('a clock that was set back holds a cooldown up by one cooldown at most', () => {
    const state = { lastScaleOutAt: '2030-01-01T00:00:00.000Z', lastScaleInAt: null };
    expect(cooldownEnd('out', spec, state, NOW)).toBe('2026-01-01T00:00:30.000Z');
    expect(cooldownEnd('out', spec, state, 'no instant')).toBe(null);
    expect(cooldownEnd('in', spec, { lastScaleOutAt: 'garbage', lastScaleInAt: null }, NOW)).toBe(null);
  });
});

describe('evidence', () => {
  it('of no sample, one sample, and no containers is made without a figure being invented', () => {
    expect(windows([], { onsetMs: null, nowMs: Number.NaN })).toMatchObject({ before: null, since: null });
    expect(windows([{ atMs: 5, value: 1 }], { onsetMs: 5, nowMs: 5 })).toMatchObject({
      before: null,
      since: { samples: 1, mean: 1, deviation: 0 },
    });
    const nothing = fromSamples({
      ...vmEvidence([]),
      split: { onsetMs: null, nowMs: 0 },
      cpuCores: [],
      containers: [],
    });
    expect(nothing.others).toEqual({
      count: 0,
      cpuCores: { before: null, since: null, unavailable: 'no sample in this window' },
    });
  });
});

describe('figures', () => {
  it('instants and names of any kind never throw', () => {
    fc.assert(
      fc.property(fc.string(), fc.double({ noNaN: true }), (text, ms) => {
        expect(quoted(text)).toMatch(/^"[\x20-\x7e]{0,67}"$/);
        instant(text);
        expect(isoInstant(ms)).toMatch(/Z$/);
      }),
    );
  });
});

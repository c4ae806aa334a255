/** When something is hot, and since when. Broken input is in adversarial.test.ts. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type HotState, type HotVerdict, initialHotState, observeHot } from '../../policy/hot.ts';

function observe(uses: readonly (number | null)[], { capacity = 1, target = 0.8, startMs = 0 } = {}): HotVerdict[] {
  let state: HotState = initialHotState();
  return uses.map((use, index) => {
    const verdict = observeHot(state, { atMs: startMs + index * 1_000, use, capacity }, target);
    // Plain JSON: it may be kept anywhere.
    state = JSON.parse(JSON.stringify(verdict.state));
    return verdict;
  });
}
const firstHot = (uses: readonly (number | null)[]) => observe(uses).findIndex(({ hot }) => hot);
const quiet = (seconds: number, use = 0.2) => Array.from({ length: seconds }, (_, i) => use + 0.01 * Math.sin(i));
const busy = (seconds: number, use = 0.95) => Array.from({ length: seconds }, () => use);

describe('hot', () => {
  it('needs three of the last four samples: three seconds after the rise', () => {
    expect(firstHot([...quiet(30), ...busy(5)])).toBe(32);
    expect(firstHot([...quiet(30), 0.95, 0.2, 0.95, 0.95])).toBe(33);
  });
  it('is not a burst of two seconds, nor every second sample', () => {
    expect(firstHot([...quiet(30), 0.95, 0.95, ...quiet(10)])).toBe(-1);
    expect(firstHot(Array.from({ length: 40 }, (_, i) => (i % 2 === 0 ? 0.95 : 0.2)))).toBe(-1);
  });
  it('goes when the load goes', () => {
    const verdicts = observe([...quiet(10), ...busy(10), ...quiet(4)]);
    expect(verdicts.at(-1)?.hot).toBe(false);
  });
  it('counts a missing sample for neither side, and forgets after a gap', () => {
    expect(firstHot([...quiet(10), 0.95, null, 0.95, 0.95])).toBe(13);
    expect(firstHot([...quiet(10), 0.95, 0.95, null, null, null, null, null, null, 0.95])).toBe(-1);
  });
  it('is relative to capacity and target', () => {
    expect(observe(busy(4, 1.7), { capacity: 2 }).at(-1)?.hot).toBe(true);
    expect(observe(busy(4, 1.5), { capacity: 2 }).at(-1)?.hot).toBe(false);
  });
  it('low is far below the target for as long as it remembers', () => {
    expect(observe(quiet(4)).at(-1)?.low).toBe(true);
    expect(observe([...busy(1), ...quiet(3)]).at(-1)?.low).toBe(false);
  });
});

describe('the onset', () => {
  it('is the second of the step, on a quiet and on a noisy baseline', () => {
    expect(observe([...quiet(60), ...busy(5)]).at(-1)?.onsetMs).toBe(60_000);
    const noisy = Array.from({ length: 60 }, (_, i) => 0.3 + 0.1 * Math.sin(i * 1.7));
    const onset = observe([...noisy, ...busy(5)]).at(-1)?.onsetMs ?? 0;
    expect(Math.abs(onset - 60_000)).toBeLessThanOrEqual(3_000);
  });
  it('is unknown when the load was there from the start', () => {
    const last = observe(busy(30)).at(-1);
    expect([last?.hot, last?.onsetMs]).toEqual([true, null]);
  });
  it('is forgotten once the load has gone, and found again at the next rise', () => {
    const verdicts = observe([...quiet(60), ...busy(20), ...quiet(60), ...busy(5)]);
    expect(verdicts[139]?.onsetMs).toBe(null);
    expect(verdicts.at(-1)?.onsetMs).toBe(140_000);
  });
});

describe('properties', () => {
  const series = fc.array(fc.option(fc.double({ min: 0, max: 4, noNaN: true }), { nil: null }), { maxLength: 200 });

  it('never hot when no sample is over the target; hot whenever the last four all are', () => {
    fc.assert(
      fc.property(series, (uses) => {
        const last = observe(uses).at(-1);
        if (uses.every((use) => use === null || use < 0.8)) expect(last?.hot ?? false).toBe(false);
        const four = uses.slice(-4);
        if (four.length === 4 && four.every((use) => use !== null && use >= 0.8)) expect(last?.hot).toBe(true);
      }),
    );
  });
  it('an onset lies within what was observed, and the state stays small', () => {
    fc.assert(
      fc.property(series, (uses) => {
        for (const { onsetMs, state } of observe(uses, { startMs: 5_000 })) {
          if (onsetMs !== null) expect(onsetMs).toBeGreaterThanOrEqual(5_000);
          expect(JSON.stringify(state).length).toBeLessThan(400);
        }
      }),
    );
  });
});

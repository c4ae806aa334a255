/**
 * Whether something is hot, from one usage sample at a time: a VM against its capacity, or a replica against its own
 * limit. The state is plain JSON and small, so that a host can keep one for each of a thousand VMs.
 *
 * Hot: at or over the target in 3 of the last 4 samples. One burst of a second is none; three seconds are enough.
 *
 * Onset, the start of the rise, by one-sided CUSUM over z, the distance from a slow baseline in its deviations:
 *   S = max(0, S + z - 1/2), alarm at S > 5
 * The onset is where S last left zero before the alarm. The baseline hardly learns while S is above zero, so that the
 * rise does not soon become its own normal. Without an alarm the load came in no step, and the onset is null.
 */
import { figure } from './figures.ts';

const VOTES = 4;
const VOTES_HOT = 3;
/** A longer gap says nothing about what was between: the votes start anew. */
const MAX_GAP_MS = 5_000;
/** Below this share of the target something is low, not merely not hot. */
const LOW_SHARE = 0.5;

const CUSUM_SLACK = 0.5;
const CUSUM_ALARM = 5;
/** One sample cannot raise the alarm alone; and after the load has gone, S is back at zero within seconds. */
const CUSUM_MAX_STEP = 4;
const CUSUM_CEILING = 8;
/** Share of the capacity: steadier loads than this are taken for as noisy as this. */
const MIN_DEVIATION = 0.02;
/** Weight of a sample in the baseline: about half a minute at one sample a second. */
const BASELINE_WEIGHT = 1 / 30;
/** While S is above zero: ten minutes, after which a lasting rise is the new normal. */
const RISEN_WEIGHT = 1 / 600;
const BASELINE_MIN_SAMPLES = 15;
/** More says nothing more; and what follows from it stays a number in JSON. */
const MAX_SHARE = 1e6;

export interface HotSample {
  /** Of the host's CLOCK_BOOTTIME, in milliseconds. */
  readonly atMs: number;
  /** In any unit, the same as `capacity`; null: could not be read. */
  readonly use: number | null;
  readonly capacity: number;
}

export interface HotState {
  readonly lastAtMs: number | null;
  /** Newest last, as shares of the target. */
  readonly votes: readonly number[];
  readonly baseline: { readonly samples: number; readonly mean: number; readonly variance: number };
  readonly cusum: number;
  /** Where S last left zero; null while it is zero. */
  readonly leftZeroAtMs: number | null;
  readonly alarmed: boolean;
}

export interface HotVerdict {
  readonly state: HotState;
  readonly hot: boolean;
  /** All of the last samples are far below the target. */
  readonly low: boolean;
  /** Use as a share of (capacity x target); null when this sample says nothing. */
  readonly ratio: number | null;
  readonly onsetMs: number | null;
}

export function initialHotState(): HotState {
  return {
    lastAtMs: null,
    votes: [],
    baseline: { samples: 0, mean: 0, variance: 0 },
    cusum: 0,
    leftZeroAtMs: null,
    alarmed: false,
  };
}

/** @param target share of the capacity above which it is hot, e.g. 0.8 */
export function observeHot(before: HotState, sample: HotSample, target: number): HotVerdict {
  if (!Number.isFinite(sample.atMs)) return verdict(before, null);
  const elapsed = before.lastAtMs === null ? 0 : sample.atMs - before.lastAtMs;
  // A clock that runs backwards is another boot of the host or a mixed-up caller: what was learnt no longer fits.
  let state = elapsed < 0 ? initialHotState() : before;
  if (elapsed > MAX_GAP_MS) state = { ...state, votes: [] };

  const use = figure(sample.use);
  const capacity = figure(sample.capacity);
  if (use === null || capacity === null || capacity === 0 || !(target > 0)) {
    // A missing sample is no vote, neither way; the gap above forgets the votes when too many are missing.
    return verdict(state, null);
  }
  const share = Math.min(MAX_SHARE, use / capacity);
  const ratio = Math.min(MAX_SHARE, share / target);
  return verdict(
    {
      ...observeRise(state, sample.atMs, share),
      lastAtMs: sample.atMs,
      votes: [...state.votes, ratio].slice(-VOTES),
    },
    ratio,
  );
}

function observeRise(state: HotState, atMs: number, share: number): HotState {
  const { baseline } = state;
  if (baseline.samples < BASELINE_MIN_SAMPLES) return { ...state, baseline: learn(baseline, share, BASELINE_WEIGHT) };
  const deviation = Math.max(MIN_DEVIATION, Math.sqrt(baseline.variance));
  const z = Math.min(CUSUM_MAX_STEP, (share - baseline.mean) / deviation);
  const cusum = Math.min(CUSUM_CEILING, Math.max(0, state.cusum + z - CUSUM_SLACK));
  if (cusum === 0) {
    return { ...state, cusum, leftZeroAtMs: null, alarmed: false, baseline: learn(baseline, share, BASELINE_WEIGHT) };
  }
  return {
    ...state,
    cusum,
    baseline: learn(baseline, share, RISEN_WEIGHT),
    leftZeroAtMs: state.leftZeroAtMs ?? atMs,
    alarmed: state.alarmed || cusum > CUSUM_ALARM,
  };
}

function learn(baseline: HotState['baseline'], share: number, settled: number): HotState['baseline'] {
  const samples = baseline.samples + 1;
  const weight = baseline.samples < BASELINE_MIN_SAMPLES ? 1 / samples : settled;
  const distance = share - baseline.mean;
  return {
    // Counted only until it is warm, so that the state stays small and the weight settles.
    samples: Math.min(samples, BASELINE_MIN_SAMPLES),
    mean: baseline.mean + weight * distance,
    variance: (1 - weight) * (baseline.variance + weight * distance * distance),
  };
}

function verdict(state: HotState, ratio: number | null): HotVerdict {
  return {
    state,
    ratio,
    hot: state.votes.filter((vote) => vote >= 1).length >= VOTES_HOT,
    low: state.votes.length === VOTES && state.votes.every((vote) => vote < LOW_SHARE),
    onsetMs: state.alarmed ? state.leftZeroAtMs : null,
  };
}

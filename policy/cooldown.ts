/**
 * How long after an operation the next one in a direction has to wait: a direction each, because taking a replica away
 * too early costs requests and adding one too late does too. After scale-outs that failed, the wait doubles with each: what
 * failed for a reason that lasts (an image that does not exist, a check that never passes) would else cost a VM made and
 * removed every minute for as long as the load stays. An operator's own request waits for none of them.
 */
import type { FailedScaleOuts, ServiceState } from '../model/decision.ts';
import type { ServiceSpec } from '../model/spec.ts';
import { instant, isoInstant } from './figures.ts';

/** @returns the end of the cooldown, ISO 8601, or null when none is running. */
export function cooldownEnd(
  direction: 'out' | 'in',
  spec: ServiceSpec,
  state: Pick<ServiceState, 'lastScaleOutAt' | 'lastScaleInAt'>,
  now: string,
): string | null {
  const at = instant(now);
  if (at === null) return null;
  const [last, lengthMs] =
    direction === 'out'
      ? [instant(state.lastScaleOutAt), spec.cooldown.outMs]
      : [latest(instant(state.lastScaleOutAt), instant(state.lastScaleInAt)), spec.cooldown.inMs];
  if (last === null) return null;
  // A last time in the future means that the wall clock was set back: wait one cooldown from now, never for years.
  const end = Math.min(last, at) + lengthMs;
  return end > at ? isoInstant(end) : null;
}

const FIRST_BACKOFF_MS = 60_000;
const LONGEST_BACKOFF_MS = 3_600_000;

/** @returns when a service whose last scale-outs failed may be scaled out by pressure again, or null: now. */
export function backoffEnd(failed: FailedScaleOuts, now: string): string | null {
  const at = instant(now);
  const last = instant(failed.at);
  if (at === null || last === null) return null;
  const end = Math.min(last, at) + Math.min(LONGEST_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** Math.max(0, failed.count - 1));
  return end > at ? isoInstant(end) : null;
}

function latest(a: number | null, b: number | null): number | null {
  return a === null || b === null ? (a ?? b) : Math.max(a, b);
}

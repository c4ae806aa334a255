/** Counters of two looks, made into rates. A figure that is missing in either has no rate, and says why. */
import { available, mapReading, type Reading, unavailable } from '../model/reading.ts';

const NANOSECONDS = 1e9;

/** Began between the two looks. */
export const NO_RATE_YET = unavailable('NotFound', 'it began between the two looks: no rate yet');

/** Nanoseconds of one clock by those of another: cores of CPU time, or a share of the time. */
export function timeRate(before: Reading<bigint>, after: Reading<bigint>, elapsed: bigint): Reading<number> {
  if (!before.available) return before;
  return mapReading(after, (value) => Number(value - before.value) / Number(elapsed));
}

/** Of bytes, packets, operations. */
export function perSecond(before: Reading<bigint>, after: Reading<bigint>, elapsed: bigint): Reading<number> {
  return mapReading(timeRate(before, after, elapsed), (rate) => rate * NANOSECONDS);
}

/** Two rates together; missing when either is. */
export function sum(...readings: readonly Reading<number>[]): Reading<number> {
  return readings.reduce(
    (total, next) => (total.available ? mapReading(next, (value) => total.value + value) : total),
    available(0),
  );
}

/** How the fuzzers in JavaScript run: a fixed number of seeds among the fast tests, or minutes of them by `npm run fuzz`. */
import { expect } from 'vitest';

const MINUTES = Number(process.env.CIEL_FUZZ_MINUTES ?? 0);
const FIRST_SEED = Number(process.env.CIEL_FUZZ_SEED ?? 1_000_000);
export const IS_LONG = MINUTES > 0;
export const TEST_LIMIT_MS = MINUTES * 60_000 + 60_000;
/** Of CPU time, which other work on the machine does not change; a look-up has five seconds before its thread is ended. */
const MOST_CPU_MS = 5_000;

/** In a long run only the target that it names runs. */
export const isWanted = (target: string): boolean => !IS_LONG || process.env.CIEL_FUZZ_TARGET === target;

/**
 * Calls `one` for one seed after the other: so often in the short run, until the time is over in a long one.
 * @returns how often each outcome was.
 */
export async function forSeeds(
  target: string,
  short: number,
  one: (seed: number) => Promise<string> | string,
): Promise<Readonly<Record<string, number>>> {
  const end = performance.now() + MINUTES * 60_000;
  const outcomes: Record<string, number> = {};
  let count = 0;
  while (IS_LONG ? performance.now() < end : count < short) {
    const seed = FIRST_SEED + count;
    const from = process.cpuUsage();
    const outcome = await one(seed);
    const { user, system } = process.cpuUsage(from);
    expect((user + system) / 1_000, `${target}, seed ${seed}`).toBeLessThan(MOST_CPU_MS);
    outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
    count++;
  }
  if (IS_LONG) console.log(`${target}: ${count} inputs, ${JSON.stringify(outcomes)}`);
  return outcomes;
}

/** Text that leaves the parsers is whole Unicode. */
export function checkText(value: unknown, what: string): void {
  if (typeof value === 'string') expect(/\p{Surrogate}/u.test(value), what).toBe(false);
  else if (typeof value === 'object' && value !== null)
    for (const [key, inner] of Object.entries(value)) {
      checkText(key, what);
      checkText(inner, what);
    }
}

/** How the fuzzers in JavaScript run: a fixed number of seeds among the fast tests, or minutes of them by `npm run fuzz`. */
import { createRequire, syncBuiltinESMExports } from 'node:module';

/** The module itself, of which an import is a view. */
const timers = createRequire(import.meta.url)('node:timers/promises') as typeof import('node:timers/promises');
const MINUTES = Number(process.env.CIEL_FUZZ_MINUTES ?? 0);
const FIRST_SEED = Number(process.env.CIEL_FUZZ_SEED ?? 1_000_000);
export const IS_LONG = MINUTES > 0;
export const TEST_LIMIT_MS = MINUTES * 60_000 + 60_000;
/** Of CPU time, which other work on the machine does not change; a look-up has five seconds before its thread is ended. */
const MOST_CPU_MS = 5_000;
/** What look-up.ts allows one. */
const MOST_READS = 200_000;

/** In a long run only the target that it names runs. */
export const isWanted = (target: string): boolean => !IS_LONG || process.env.CIEL_FUZZ_TARGET === target;

/** What one input cost, beside its time. */
export interface Outcome {
  readonly outcome: string;
  readonly reads?: number;
}

/**
 * Calls `one` for one seed after the other: so often in the short run, until the time is over in a long one.
 * @returns how often each outcome was.
 */
export async function forSeeds(
  target: string,
  short: number,
  one: (seed: number) => Promise<Outcome> | Outcome,
): Promise<Readonly<Record<string, number>>> {
  return withoutWaiting(() => run(target, short, one));
}

async function run(
  target: string,
  short: number,
  one: (seed: number) => Promise<Outcome> | Outcome,
): Promise<Readonly<Record<string, number>>> {
  const start = performance.now();
  const end = start + MINUTES * 60_000;
  const outcomes: Record<string, number> = {};
  const slowest = { ms: 0, seed: 0 };
  const longest = { reads: 0, seed: 0 };
  let count = 0;
  while (IS_LONG ? performance.now() < end : count < short) {
    const seed = FIRST_SEED + count;
    const from = process.cpuUsage();
    const { outcome, reads = 0 } = await one(seed);
    const { user, system } = process.cpuUsage(from);
    const ms = (user + system) / 1_000;
    if (ms > slowest.ms) Object.assign(slowest, { ms, seed });
    if (reads > longest.reads) Object.assign(longest, { reads, seed });
    if (ms > MOST_CPU_MS || reads > MOST_READS)
      throw new Error(`${target}, seed ${seed}: ${ms} ms of CPU time, ${reads} reads`);
    outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
    count++;
  }
  const seconds = Math.round((performance.now() - start) / 1_000);
  const most = `slowest ${slowest.ms} ms (seed ${slowest.seed}), most reads ${longest.reads} (seed ${longest.seed})`;
  if (IS_LONG) console.log(`${target}: ${count} inputs in ${seconds} s, ${JSON.stringify(outcomes)}; ${most}`);
  return outcomes;
}

/** A description that is half written is read again a moment later: here it stays as it is, so there is nothing to wait for. */
async function withoutWaiting<T>(run: () => Promise<T>): Promise<T> {
  const { setTimeout } = timers;
  timers.setTimeout = (async () => undefined) as unknown as typeof setTimeout;
  syncBuiltinESMExports();
  try {
    return await run();
  } finally {
    timers.setTimeout = setTimeout;
    syncBuiltinESMExports();
  }
}

/** Text that leaves the parsers is whole Unicode. */
export function checkText(value: unknown, what: string): void {
  if (typeof value === 'string') {
    if (/\p{Surrogate}/u.test(value)) throw new Error(`${what}: half a surrogate pair in ${JSON.stringify(value)}`);
  } else if (typeof value === 'object' && value !== null)
    for (const [key, inner] of Object.entries(value)) {
      checkText(key, what);
      checkText(inner, what);
    }
}

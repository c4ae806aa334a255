/**
 * What the guest itself says of a container, by figure: which of its cgroup's files, and what in it. Read before and after
 * a look from outside, it says whether what was seen is right: a counter lies between the two, a gauge that stood still is
 * the same.
 */
import type { Reading } from '../../model/reading.ts';
import type { ContainerCounters, ContainerDetails } from '../../model/usage.ts';
import { type Controller, cgroupFile, type MatrixContainer } from './containers.ts';
import type { KernelGuest } from './guest.ts';

type Value = bigint | number | null;

export interface Saying {
  readonly controller: Controller;
  readonly file: string;
  /** In the figure's unit; null: no limit. undefined: the kernel does not say. */
  readonly parse: (text: string) => bigint | null | undefined;
  /** How exactly the file says it. */
  readonly step?: bigint;
}

export interface Figure {
  readonly name: string;
  readonly seen: (container: ContainerCounters) => Reading<Value> | undefined;
  readonly kind: 'counter' | 'gauge';
  /** memory.stat is up to two seconds old: good for what does not change. */
  readonly isLate?: boolean;
  /** Nanoseconds by which the kernel may say something else, and a tenth: it estimates, or seldom looks. */
  readonly slack?: bigint;
  readonly v2: Saying | null;
  readonly v1: Saying | null;
}

/** "key 12": by key, times a factor. */
export const field =
  (key: string, factor = 1n) =>
  (text: string): bigint | undefined => {
    const found = new RegExp(`^${key} (\\d+)$`, 'm').exec(text)?.[1];
    return found === undefined ? undefined : BigInt(found) * factor;
  };
export const whole = (text: string): bigint | null => (text.trim() === 'max' ? null : BigInt(text.trim()));
/** Version 1's "no limit" is the largest number of pages. */
const limit = (text: string): bigint | null => (BigInt(text.trim()) >= 1n << 62n ? null : BigInt(text.trim()));
/** "254:0 rbytes=1 wbytes=2 …": summed over devices. */
const ioStat =
  (key: string) =>
  (text: string): bigint =>
    [...text.matchAll(new RegExp(` ${key}=(\\d+)`, 'g'))].reduce(
      (sum, [, number]) => sum + BigInt(number as string),
      0n,
    );
/** "254:0 Read 1". Kernels that count only under a limit say 0 whatever was transferred. */
const throttle =
  (direction: string) =>
  (text: string): bigint | undefined => {
    const lines = [...text.matchAll(new RegExp(`^\\d+:\\d+ ${direction} (\\d+)$`, 'gm'))];
    const total = /^Total (\d+)$/m.exec(text)?.[1];
    if (lines.length > 0 && total === '0') return undefined;
    return lines.reduce((sum, [, number]) => sum + BigInt(number as string), 0n);
  };
/** "some avg10=0.00 … total=12": microseconds. */
const pressureTotal =
  (kind: string) =>
  (text: string): bigint | undefined => {
    const found = new RegExp(`^${kind} .*total=(\\d+)`, 'm').exec(text)?.[1];
    return found === undefined ? undefined : BigInt(found) * 1000n;
  };

export const MICROSECOND = 1000n;
const TICK = 10_000_000n;
/** How time splits is estimated from ticks, anew each time. */
const SPLIT_SLACK = 5n * TICK;
/** Pressure totals are brought up to date when they are asked for, but at most every two seconds. */
const PRESSURE_SLACK = 2_000_000_000n;
export const say = (controller: Controller, file: string, parse: Saying['parse'], step = 1n): Saying => ({
  controller,
  file,
  parse,
  step,
});
export const detail =
  (read: (details: ContainerDetails) => Reading<Value>) =>
  (container: ContainerCounters): Reading<Value> | undefined =>
    container.details === null ? undefined : read(container.details);

/** In the order in which the support table lists them. */
export const FIGURES: readonly Figure[] = [
  {
    name: 'CPU time',
    seen: (container) => container.cpuNanoseconds,
    kind: 'counter',
    v2: say('cpu', 'cpu.stat', field('usage_usec', 1000n), MICROSECOND),
    v1: say('cpu', 'cpuacct.usage', whole),
  },
  {
    name: 'CPU time, user',
    seen: (container) => container.cpuUserNanoseconds,
    kind: 'counter',
    slack: SPLIT_SLACK,
    v2: say('cpu', 'cpu.stat', field('user_usec', 1000n), TICK),
    v1: say('cpu', 'cpuacct.stat', field('user', TICK), TICK),
  },
  {
    name: 'CPU time, system',
    seen: (container) => container.cpuSystemNanoseconds,
    kind: 'counter',
    slack: SPLIT_SLACK,
    v2: say('cpu', 'cpu.stat', field('system_usec', 1000n), TICK),
    v1: say('cpu', 'cpuacct.stat', field('system', TICK), TICK),
  },
  {
    name: 'memory',
    seen: (container) => container.memoryBytes,
    kind: 'gauge',
    v2: say('memory', 'memory.current', whole),
    v1: say('memory', 'memory.usage_in_bytes', whole),
  },
  {
    name: 'memory limit',
    seen: (container) => container.memoryLimitBytes,
    kind: 'gauge',
    v2: say('memory', 'memory.max', whole),
    v1: say('memory', 'memory.limit_in_bytes', limit),
  },
  {
    name: 'memory, anonymous',
    seen: (container) => container.memoryAnonBytes,
    kind: 'gauge',
    isLate: true,
    v2: say('memory', 'memory.stat', field('anon')),
    v1: say('memory', 'memory.stat', field('total_rss')),
  },
  {
    name: 'memory, file',
    seen: (container) => container.memoryFileBytes,
    kind: 'gauge',
    isLate: true,
    v2: say('memory', 'memory.stat', field('file')),
    v1: say('memory', 'memory.stat', field('total_cache')),
  },
  {
    name: 'memory, inactive file',
    seen: detail((details) => details.memoryInactiveFileBytes),
    kind: 'gauge',
    isLate: true,
    v2: say('memory', 'memory.stat', field('inactive_file')),
    v1: say('memory', 'memory.stat', field('total_inactive_file')),
  },
  {
    name: 'memory, mapped',
    seen: detail((details) => details.memoryMappedBytes),
    kind: 'gauge',
    isLate: true,
    v2: say('memory', 'memory.stat', field('file_mapped')),
    v1: say('memory', 'memory.stat', field('total_mapped_file')),
  },
  {
    name: 'memory, kernel',
    seen: detail((details) => details.memoryKernelBytes),
    kind: 'gauge',
    isLate: true,
    v2: say('memory', 'memory.stat', field('kernel')),
    v1: say('memory', 'memory.kmem.usage_in_bytes', whole),
  },
  {
    name: 'memory, peak',
    seen: detail((details) => details.memoryPeakBytes),
    kind: 'gauge',
    v2: say('memory', 'memory.peak', whole),
    v1: say('memory', 'memory.max_usage_in_bytes', whole),
  },
  {
    name: 'swap',
    seen: detail((details) => details.memorySwapBytes),
    kind: 'gauge',
    v2: say('memory', 'memory.swap.current', whole),
    v1: say('memory', 'memory.stat', field('total_swap')),
  },
  {
    name: 'OOM kills',
    seen: detail((details) => details.oomKills),
    kind: 'counter',
    v2: say('memory', 'memory.events', field('oom_kill')),
    v1: say('memory', 'memory.oom_control', field('oom_kill')),
  },
  {
    name: 'bytes read',
    seen: (container) => container.ioReadBytes,
    kind: 'counter',
    v2: say('blkio', 'io.stat', ioStat('rbytes')),
    v1: say('blkio', 'blkio.throttle.io_service_bytes', throttle('Read')),
  },
  {
    name: 'bytes written',
    seen: (container) => container.ioWriteBytes,
    kind: 'counter',
    v2: say('blkio', 'io.stat', ioStat('wbytes')),
    v1: say('blkio', 'blkio.throttle.io_service_bytes', throttle('Write')),
  },
  {
    name: 'reads',
    seen: detail((details) => details.ioReads),
    kind: 'counter',
    v2: say('blkio', 'io.stat', ioStat('rios')),
    v1: say('blkio', 'blkio.throttle.io_serviced', throttle('Read')),
  },
  {
    name: 'writes',
    seen: detail((details) => details.ioWrites),
    kind: 'counter',
    v2: say('blkio', 'io.stat', ioStat('wios')),
    v1: say('blkio', 'blkio.throttle.io_serviced', throttle('Write')),
  },
  {
    name: 'tasks',
    seen: detail((details) => details.pids),
    kind: 'gauge',
    v2: say('pids', 'pids.current', whole),
    v1: say('pids', 'pids.current', whole),
  },
  {
    name: 'CPU shares',
    seen: detail((details) => details.cpuShares),
    kind: 'gauge',
    v2: null,
    v1: say('cpu', 'cpu.shares', whole),
  },
  {
    name: 'throttled periods',
    seen: detail((details) => details.cpuThrottledPeriods),
    kind: 'counter',
    v2: say('cpu', 'cpu.stat', field('nr_throttled')),
    v1: say('cpu', 'cpu.stat', field('nr_throttled')),
  },
  {
    name: 'throttled time',
    seen: detail((details) => details.cpuThrottledNanoseconds),
    kind: 'counter',
    v2: say('cpu', 'cpu.stat', field('throttled_usec', 1000n), MICROSECOND),
    v1: say('cpu', 'cpu.stat', field('throttled_time')),
  },
  ...(['cpu', 'memory', 'io'] as const).map(
    (resource): Figure => ({
      name: `pressure, ${resource}`,
      seen: detail((details) => details.pressure[resource].someNanoseconds),
      kind: 'counter',
      slack: PRESSURE_SLACK,
      v2: say(resource === 'io' ? 'blkio' : resource, `${resource}.pressure`, pressureTotal('some'), MICROSECOND),
      v1: null,
    }),
  ),
];

export const sayingOf = (guest: KernelGuest, figure: Figure): Saying | null =>
  guest.cgroups === 'v2' ? figure.v2 : figure.v1;

export type Truth = Map<string, string | null>;

/** The files that figures are in, of some containers, read in one go. */
export function readTruth(
  guest: KernelGuest,
  containers: readonly MatrixContainer[],
  figures: readonly Figure[] = FIGURES,
): Promise<Truth> {
  const paths = new Set<string>();
  for (const { cgroupPath } of containers)
    for (const figure of figures) {
      const saying = sayingOf(guest, figure);
      if (saying) paths.add(cgroupFile(guest, saying.controller, cgroupPath, saying.file));
    }
  return guest.files([...paths]);
}

/** What the guest says; undefined: nothing. */
export function saidOf(
  guest: KernelGuest,
  truth: Truth,
  container: MatrixContainer,
  figure: Figure,
): bigint | null | undefined {
  const saying = sayingOf(guest, figure);
  if (!saying) return undefined;
  const text = truth.get(cgroupFile(guest, saying.controller, container.cgroupPath, saying.file));
  return text === null || text === undefined ? undefined : saying.parse(text);
}

export type Verdict = 'right' | 'wrong' | 'not comparable';

/** Compares what was seen with what the guest said before and after. */
export function judge(
  guest: KernelGuest,
  figure: Figure,
  seen: Value,
  before: bigint | null | undefined,
  after: bigint | null | undefined,
): Verdict {
  if (before === undefined || after === undefined) return 'not comparable';
  if (seen === null || before === null || after === null)
    return seen === before && before === after ? 'right' : 'wrong';
  const value = BigInt(seen);
  if (figure.kind === 'gauge') {
    if (before !== after) return 'not comparable';
    return value === before ? 'right' : 'wrong';
  }
  const step = sayingOf(guest, figure)?.step ?? 1n;
  const slack = figure.slack === undefined ? 0n : figure.slack + after / 10n;
  return value >= before - slack && value < after + step + slack ? 'right' : 'wrong';
}

/**
 * `introspect drag [--blocks N]`: how much a guest is slowed down by being sampled. A loop in it does the same work again
 * and again, in slices: alone, sampled, sampled, alone (ABBA, so that a drift cancels out).
 *
 * What is measured is the CPU time that the thread of its vCPU needs for a slice: it does not count the waiting for a core,
 * which on a shared machine is more than all else. The reader runs in its own process; it can cost the guest what its loads
 * take from caches and buses, and the locks that process_vm_readv takes in QEMU. At ten samples a second that is far below what
 * differs from slice to slice, so there are two hundred, and the cost of one is scaled. Not more: between two samples the
 * guest's timer has ticked, and what they read has been written to again.
 *
 * Medians of blocks, as other work on the machine makes outliers; their intervals from order statistics, of no distribution.
 */
import { readFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { requestOf } from '../../lab/attach-request.ts';
import { CONTAINERS, startContainers } from '../../lab/kernels/containers.ts';
import { bootKernelGuest, type KernelGuest } from '../../lab/kernels/guest.ts';
import { attach, type Guest, type SourceChoice } from '../../native/mapper.ts';
import { connectQmp } from '../../test/guest-disk/qemu.ts';
import { spread } from '../measure.ts';

const DEFAULT_BLOCKS = 150;
const SLICE_MS = 200;
const BETWEEN_SAMPLES_MS = 5;
const FIRST_ROUNDS = 20_000;
const SAMPLES_A_SECOND = 10;
const SOURCES = ['mapped', 'process'] as const satisfies SourceChoice[];

interface Slice {
  readonly cpuNanoseconds: number;
  readonly wallMs: number;
  readonly samples: number;
  readonly readerNanoseconds: number;
}

export async function drag(args: readonly string[]): Promise<Record<string, unknown>> {
  const { values } = parseArgs({ args: [...args], options: { blocks: { type: 'string' } } });
  const blocks = Number(values.blocks ?? DEFAULT_BLOCKS);
  const guest = await bootKernelGuest({ kernel: '6.1' });
  const idle = CONTAINERS.filter(({ load }) => load === 'idle');
  try {
    await startContainers(guest, idle);
    const thread = await vcpuThread(guest);
    const rounds = await calibrate(guest, thread);
    const results: Record<string, unknown> = {};
    for (const source of SOURCES) {
      const reader = attach(await requestOf(guest.pid, { withDetails: true, source }));
      const slice = (isSampled: boolean) => work(guest, thread, rounds, isSampled ? reader : null);
      const result = await measure(blocks, slice);
      results[source] = result;
      const { slowdownAtTenASecond, perSampleNanoseconds } = result;
      console.log(
        `${source}: a sample costs the guest ${shown(perSampleNanoseconds, 1e-3, 'µs', 1)}; ten a second ${shown(slowdownAtTenASecond, 100, '%', 4)} (${blocks} blocks)`,
      );
      reader.detach();
    }
    return results;
  } finally {
    await guest.stop();
  }
}

async function measure(blocks: number, slice: (isSampled: boolean) => Promise<Slice>) {
  const perSample: number[] = [];
  const slowdowns: number[] = [];
  const alone: number[] = [];
  const rates: number[] = [];
  const readers: number[] = [];
  await slice(false);
  await slice(true);
  for (let i = 0; i < blocks; i++) {
    const first = await slice(false);
    const sampled = [await slice(true), await slice(true)] as const;
    const last = await slice(false);
    const without = first.cpuNanoseconds + last.cpuNanoseconds;
    const more = sampled[0].cpuNanoseconds + sampled[1].cpuNanoseconds - without;
    const samples = sampled[0].samples + sampled[1].samples;
    alone.push(without / 2e6);
    slowdowns.push(more / without);
    // Not by time: a guest that waits for a core is sampled more often while it does the same.
    perSample.push(more / samples);
    rates.push(samples / ((sampled[0].wallMs + sampled[1].wallMs) / 1000));
    readers.push((sampled[0].readerNanoseconds + sampled[1].readerNanoseconds) / samples);
  }
  const perSampleNanoseconds = medianWithInterval(perSample);
  const scale = SAMPLES_A_SECOND / 1e9;
  return {
    blocks,
    sliceCpuMs: spread(alone),
    samplesASecond: spread(rates),
    readerMicrosecondsASample: spread(readers.map((nanoseconds) => nanoseconds / 1000)),
    perSampleNanoseconds,
    slowdownAtTenASecond: {
      median: perSampleNanoseconds.median * scale,
      interval: perSampleNanoseconds.interval.map((end) => end * scale),
    },
    slowdownAsSampled: medianWithInterval(slowdowns),
  };
}

/** 95 %: the order statistics between which the median lies, whatever the distribution. */
function medianWithInterval(values: readonly number[]): { median: number; interval: number[] } {
  const sorted = [...values].sort((a, b) => a - b);
  const half = 0.98 * Math.sqrt(sorted.length);
  const at = (place: number) => sorted[Math.max(0, Math.min(sorted.length - 1, Math.round(place)))] as number;
  const middle = (sorted.length - 1) / 2;
  const median = (at(Math.floor(middle)) + at(Math.ceil(middle))) / 2;
  return { median, interval: [at(Math.floor(middle - half)), at(Math.ceil(middle + half))] };
}

async function work(guest: KernelGuest, thread: string, rounds: number, reader: Guest | null): Promise<Slice> {
  let samples = 0;
  let readerNanoseconds = 0;
  const timer =
    reader &&
    setInterval(() => {
      const start = process.hrtime.bigint();
      reader.sampleRaw();
      readerNanoseconds += Number(process.hrtime.bigint() - start);
      samples++;
    }, BETWEEN_SAMPLES_MS);
  const start = performance.now();
  const before = await cpuNanoseconds(thread);
  await guest.run(`i=0; while [ $i -lt ${rounds} ]; do i=$((i+1)); done`);
  const after = await cpuNanoseconds(thread);
  if (timer) clearInterval(timer);
  return { cpuNanoseconds: after - before, wallMs: performance.now() - start, samples, readerNanoseconds };
}

async function calibrate(guest: KernelGuest, thread: string): Promise<number> {
  await work(guest, thread, FIRST_ROUNDS, null);
  const { cpuNanoseconds: took } = await work(guest, thread, FIRST_ROUNDS, null);
  return Math.round((FIRST_ROUNDS * SLICE_MS * 1e6) / took);
}

async function vcpuThread(guest: KernelGuest): Promise<string> {
  const qmp = await connectQmp(guest.monitor);
  try {
    const { return: cpus } = (await qmp.monitor({ execute: 'query-cpus-fast' })) as {
      return: { 'thread-id': number }[];
    };
    return `/proc/${guest.pid}/task/${cpus[0]?.['thread-id']}/schedstat`;
  } finally {
    qmp.close();
  }
}

/** Of a thread: the first number of its schedstat. */
async function cpuNanoseconds(schedstat: string): Promise<number> {
  return Number((await readFile(schedstat, 'utf8')).split(' ')[0]);
}

const shown = (
  { median, interval }: { readonly median: number; readonly interval: readonly number[] },
  factor: number,
  unit: string,
  digits = 0,
): string => {
  const [low, high] = interval.map((end) => (end * factor).toFixed(digits));
  return `${(median * factor).toFixed(digits)} ${unit} (95 %: ${low} to ${high})`;
};

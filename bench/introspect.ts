/**
 * `npm run bench -- introspect [PART …]`: what a look into guests costs, and whether it is right.
 *
 *   live     a real guest with three containers, by mapping its RAM and by process_vm_readv: attaches, samples, how far
 *            they are from the guest's own cgroup files, what reading does to the guest's memory
 *   hundred  100 containers with 2 and with 8 CPUs, both ways: first walk, repeats
 *   host     1,000 VMs with 20 containers each, once a second: CPU and memory of the sampler and of its parent
 *   agreement  ten minutes of random churn in each kernel of the matrix, figure by figure against the guest's own files
 *   memory     what an attach and an hour of samples do to the guest's memory, by each way of reading
 *   drag     how much a busy loop in a guest is slowed down by 10 samples a second
 *
 * Times are the mapper's own, taken inside the call; `withDecodingMicroseconds` adds what TypeScript needs to decode it.
 */
import { copyFile, mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Reading } from '../model/reading.ts';
import { Introspection } from '../native/introspection.ts';
import { type AttachReport, type AttachRequest, attach, type Guest, type SourceChoice } from '../native/mapper.ts';
import { processCpuNanoseconds, type QemuProcess, readQemu } from '../native/qemu-process.ts';
import type { Trial } from '../template/trial.ts';
import {
  allocatedBytes,
  bootGuest,
  CONTAINER_NAMES,
  type LiveGuest,
  ownFigures,
  ramFile,
  startContainers,
} from '../test/native/live-guest.ts';
import { imageOfGuest, startCrowd } from './crowd.ts';
import { agreement as agreementUnderChurn } from './introspect/agreement.ts';
import { memoryGrowth } from './introspect/memory.ts';
import { requestOf } from './introspect/request.ts';
import { type Spread, spread, writeResults } from './measure.ts';

const DEFAULT_SAMPLES = 500;
const WARM_UP_SAMPLES = 20;
const ATTACHES = 5;
const BETWEEN_SAMPLES_MS = 5;
const AGREEMENT_ROUNDS = 10;

const PARTS = ['live', 'hundred', 'host', 'agreement', 'memory', 'drag'] as const;

export default async function introspect(args: readonly string[]): Promise<void> {
  const first = args.findIndex((arg) => arg.startsWith('--'));
  const named = first < 0 ? args : args.slice(0, first);
  const options = first < 0 ? [] : args.slice(first);
  for (const part of named.length > 0 ? named : PARTS) {
    if (part === 'live') await record(part, await live());
    else if (part === 'hundred') await record(part, await hundred());
    else if (part === 'host') await record(part, await wholeHost());
    else if (part === 'agreement') await record(part, await agreementUnderChurn(options));
    else if (part === 'memory') await record(part, await memoryGrowth());
    else if (part === 'drag') await record(part, await drag());
    else throw new Error(`there is no part "${part}": ${PARTS.join(', ')}`);
  }
}

/** Beside what other parts, and other guests of this part, have measured: runs of an hour go on meanwhile. */
async function record(part: string, result: Readonly<Record<string, unknown>>): Promise<void> {
  const text = await readFile(join(import.meta.dirname, 'results/introspect.json'), 'utf8').catch(() => '{}');
  const known = Object.entries(JSON.parse(text) as Record<string, unknown>);
  const results = Object.fromEntries(known.filter(([name]) => PARTS.some((one) => one === name)));
  const before = part === 'agreement' ? (results[part] as object | undefined) : undefined;
  results[part] = { ...before, ...result };
  console.log(`written to ${await writeResults('introspect', results)}`);
}

async function live() {
  const samples = DEFAULT_SAMPLES;
  const directory = await mkdtemp(join(tmpdir(), 'ciel-bench-'));
  console.log('booting a guest, and three containers in it');
  const trial = await bootGuest(join(directory, 'qmp.sock'));
  try {
    const guest = await startContainers(trial);
    const qemu = await readQemu(trial.pid);
    if (!qemu) throw new Error(`process ${trial.pid} is no QEMU`);
    const sources: Record<string, unknown> = {};
    for (const source of ['mapped', 'process'] as const)
      sources[source] = await measureSource(source, guest, qemu, samples, join(directory, `${source}.attach`));
    return { guest: describe(qemu), sources };
  } finally {
    await trial.stop();
    await rm(directory, { recursive: true, force: true });
  }
}

const describe = ({ ramBytes, machine }: QemuProcess) => ({ ramBytes, machine, containers: CONTAINER_NAMES.length });

async function measureSource(
  source: SourceChoice,
  guest: LiveGuest,
  qemu: QemuProcess,
  samples: number,
  cache: string,
) {
  if (qemu.machine === null || qemu.ramBytes === null) throw new Error('the machine type is not known');
  const request: AttachRequest = {
    pid: qemu.pid,
    startTime: qemu.startTime,
    machine: qemu.machine,
    ramBytes: qemu.ramBytes,
    maxRamBelow4gBytes: qemu.maxRamBelow4gBytes,
    source,
    withServices: false,
    withDetails: false,
    cachePath: null,
  };
  const ram = await ramFile(qemu.pid);
  const first = attachRepeatedly(request);
  attach({ ...request, cachePath: cache }).detach();
  const cached = attachRepeatedly({ ...request, cachePath: cache });

  const reader = attach(request);
  try {
    const before = await allocatedBytes(ram);
    const inside: number[] = [];
    const withDecoding: number[] = [];
    for (let i = 0; i < samples + WARM_UP_SAMPLES; i++) {
      const start = process.hrtime.bigint();
      reader.sample();
      const took = Number(process.hrtime.bigint() - start) / 1000;
      if (i >= WARM_UP_SAMPLES) {
        inside.push(Number(reader.lastElapsedNanoseconds) / 1000);
        withDecoding.push(took);
      }
      await sleep(BETWEEN_SAMPLES_MS);
    }
    const result = {
      attachFirstMs: spread(first.map(({ totalMs }) => totalMs)),
      attachFirstByStepMs: byStep(first),
      attachFromCacheMs: spread(cached.map(({ totalMs }) => totalMs)),
      sampleMicroseconds: spread(inside),
      withDecodingMicroseconds: spread(withDecoding),
      // The guest itself runs meanwhile, and its containers may take memory: an upper bound of what reading took.
      ramGrowthBytes: (await allocatedBytes(ram)) - before,
      agreement: await agreement(reader, guest),
    };
    print(source, result);
    return result;
  } finally {
    reader.detach();
  }
}

function attachRepeatedly(request: AttachRequest): AttachReport[] {
  return Array.from({ length: ATTACHES }, () => {
    const guest = attach(request);
    guest.detach();
    return guest.report;
  });
}

function byStep(reports: readonly AttachReport[]) {
  return {
    scan: spread(reports.map(({ scanMs }) => scanMs)),
    symbols: spread(reports.map(({ symbolsMs }) => symbolsMs)),
    types: spread(reports.map(({ typesMs }) => typesMs)),
  };
}

/**
 * Each container, read outside between two readings inside. Idle: how far apart the figures are (0: exact). Busy: how many
 * rounds lay between what the guest said before and after.
 */
async function agreement(reader: Guest, guest: LiveGuest) {
  const result: Record<
    string,
    { between: number; rounds: number; cpuOffMicroseconds: number; memoryOffBytes: number }
  > = {};
  for (const name of CONTAINER_NAMES) {
    const id = guest.ids[name];
    let between = 0;
    let cpuOff = 0;
    let memoryOff = 0;
    for (let i = 0; i < AGREEMENT_ROUNDS; i++) {
      const before = await ownFigures(guest.trial, id);
      const seen = reader.sample().containers.find((container) => container.id === id);
      const after = await ownFigures(guest.trial, id);
      if (!seen) throw new Error(`${name} was not seen`);
      const cpu = valueIn(seen.cpuNanoseconds) / 1000n;
      if (cpu >= before.cpuMicroseconds && cpu <= after.cpuMicroseconds) between++;
      cpuOff = Math.max(cpuOff, outside(Number(cpu), Number(before.cpuMicroseconds), Number(after.cpuMicroseconds)));
      const bounds = [before.memoryBytes, after.memoryBytes] as const;
      memoryOff = Math.max(memoryOff, outside(valueIn(seen.memoryBytes), Math.min(...bounds), Math.max(...bounds)));
    }
    result[name] = { between, rounds: AGREEMENT_ROUNDS, cpuOffMicroseconds: cpuOff, memoryOffBytes: memoryOff };
  }
  return result;
}

/** How far a value lies outside of an interval. */
function outside(value: number, low: number, high: number): number {
  return Math.max(0, low - value, value - high);
}

function valueIn<T>(reading: Reading<T>): T {
  if (!reading.available) throw new Error(`${reading.reason}: ${reading.message}`);
  return reading.value;
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function print(source: string, result: Awaited<ReturnType<typeof measureSource>>): void {
  const line = (what: string, { median, min, p95, max }: Spread, unit: string) =>
    console.log(
      `${source.padEnd(8)} ${what.padEnd(26)} median ${median.toFixed(1)} ${unit} (${min.toFixed(1)} … p95 ${p95.toFixed(1)} … ${max.toFixed(1)})`,
    );
  line('attach, first', result.attachFirstMs, 'ms');
  line('attach, from cache', result.attachFromCacheMs, 'ms');
  line('sample of 3 containers', result.sampleMicroseconds, 'µs');
  line('  with decoding', result.withDecodingMicroseconds, 'µs');
  console.log(`${source.padEnd(8)} RAM grew by ${result.ramGrowthBytes} bytes meanwhile`);
  for (const [name, { between, rounds, cpuOffMicroseconds, memoryOffBytes }] of Object.entries(result.agreement))
    console.log(
      `${source.padEnd(8)} ${name.padEnd(8)} CPU between before and after in ${between} of ${rounds}, off by ${cpuOffMicroseconds} µs and ${memoryOffBytes} bytes at most`,
    );
}

// --- a hundred containers ----------------------------------------------------------------------------------------------

const WALKS = 15;
const HUNDRED_SAMPLES = 1000;

/** The stand-in of a guest is read: the RAM is a real guest's, at a moment at which it stands still. */
async function hundred() {
  const results: Record<string, unknown> = {};
  for (const cpus of [2, 8]) {
    await inDirectory(async (directory) => {
      const image = join(directory, 'ram');
      console.log(`making a guest with 100 containers and ${cpus} CPUs`);
      await imageOfGuest(image, cpus, 100);
      for (const [source, memory] of [
        ['mapped', 'shared'],
        ['process', 'private'],
      ] as const) {
        const cache = join(directory, `${memory}.attach`);
        const crowd = await startCrowd(image, 1, memory, cache);
        try {
          const result = await measureHundred(crowd.vms[0]?.pid as number, source, cache);
          results[`${cpus} CPUs, ${source}`] = result;
          console.log(
            `${cpus} CPUs, ${source}: ${result.containers} containers; repeat ${shown(result.repeatMicroseconds)} µs, first walk ${shown(result.firstWalkMicroseconds)} µs, second ${shown(result.secondWalkMicroseconds)} µs`,
          );
        } finally {
          await crowd.end();
        }
      }
    });
  }
  return results;
}

async function measureHundred(pid: number, source: SourceChoice, cachePath: string) {
  const request = { ...(await requestOf(pid)), source, cachePath };
  const walks: number[][] = [];
  for (let i = 0; i < WALKS; i++) {
    const reader = attach(request);
    walks.push([1, 2].map(() => timed(reader)));
    if (reader.lastWork.viewsRepeated > 0) throw new Error('the second sample was no walk');
    reader.detach();
  }
  const reader = attach(request);
  const repeats: number[] = [];
  let repeated = 0;
  let run = 0;
  let containers = 0;
  for (let i = 0; i < HUNDRED_SAMPLES + WARM_UP_SAMPLES; i++) {
    containers = reader.sample().containers.length;
    if (i < WARM_UP_SAMPLES) continue;
    repeats.push(Number(reader.lastElapsedNanoseconds) / 1000);
    repeated += reader.lastWork.viewsRepeated;
    run += reader.lastWork.viewsRun;
    await sleep(1);
  }
  reader.detach();
  return {
    containers,
    firstWalkMicroseconds: spread(walks.map(([first]) => first as number)),
    secondWalkMicroseconds: spread(walks.map(([, second]) => second as number)),
    repeatMicroseconds: spread(repeats),
    viewsRunOfAll: run / (run + repeated),
  };
}

function timed(reader: Guest): number {
  reader.sample();
  return Number(reader.lastElapsedNanoseconds) / 1000;
}

// --- a host ------------------------------------------------------------------------------------------------------------

const VMS = 1000;
const CONTAINERS_A_VM = 20;
const TICKS = 60;
const FIRST_TICKS = 5;
const TICK_MS = 1000;
const TICK_DEADLINE_MS = 10_000;
/** The first tick attaches to all of them, from caches. */
const ATTACHES_DEADLINE_MS = 90_000;

async function wholeHost() {
  return inDirectory(async (directory) => {
    const image = join(directory, 'ram');
    console.log(`making a guest with ${CONTAINERS_A_VM} containers, and ${VMS} stand-ins`);
    await imageOfGuest(image, 2, CONTAINERS_A_VM);
    const attaches = join(directory, 'attaches');
    await mkdir(attaches, { mode: 0o700 });
    const crowd = await startCrowd(image, VMS, 'shared', join(directory, 'attach'));
    const introspection = new Introspection({ cacheDirectory: attaches, onTrouble: (message) => console.log(message) });
    try {
      for (const { uuid, pid } of crowd.vms) {
        await copyFile(join(directory, 'attach'), join(attaches, `${uuid}.attach`));
        introspection.watch({ uuid, pid });
      }
      await introspection.start();
      return await measureHost(
        introspection,
        crowd.vms.map(({ uuid }) => uuid),
      );
    } finally {
      await introspection.close();
      await crowd.end();
    }
  });
}

async function measureHost(introspection: Introspection, uuids: readonly string[]) {
  const empty = await memoryOf(introspection.pid as number);
  let late = 0;
  const tick = async (deadlineMs: number): Promise<number> => {
    const start = performance.now();
    const readings = await introspection.sample(uuids, deadlineMs);
    for (const reading of readings.values()) {
      // On a machine that is busy with other things a tick may get nothing done for longer than its budget.
      if (!reading.available && reading.reason === 'Exhausted') late++;
      else if (valueIn(reading).containers.length !== CONTAINERS_A_VM) throw new Error('a container is missing');
    }
    return performance.now() - start;
  };
  for (let i = 0; i < FIRST_TICKS; i++) await tick(ATTACHES_DEADLINE_MS);
  late = 0;
  const child = introspection.pid as number;
  const took: number[] = [];
  const before = { sampler: await processCpuNanoseconds(child), parent: process.cpuUsage(), at: performance.now() };
  for (let i = 0; i < TICKS; i++) {
    const due = before.at + (i + 1) * TICK_MS;
    took.push(await tick(TICK_DEADLINE_MS));
    await sleep(Math.max(0, due - performance.now()));
  }
  const seconds = (performance.now() - before.at) / 1000;
  const parent = process.cpuUsage(before.parent);
  const sampler = Number(((await processCpuNanoseconds(child)) ?? 0n) - (before.sampler ?? 0n)) / 1e9;
  const full = await memoryOf(child);
  const result = {
    vms: uuids.length,
    containersAVm: CONTAINERS_A_VM,
    seconds,
    samplerOfACore: sampler / seconds,
    parentOfACore: (parent.user + parent.system) / 1e6 / seconds,
    tickMs: spread(took),
    readings: uuids.length * TICKS,
    readingsTooLate: late,
    bytesAVm: {
      private: (full.private - empty.private) / uuids.length,
      pageTables: (full.pageTables - empty.pageTables) / uuids.length,
    },
  };
  console.log(
    `${VMS} VMs × ${CONTAINERS_A_VM}: sampler ${percent(result.samplerOfACore)}, parent ${percent(result.parentOfACore)} of a core; a tick ${shown(result.tickMs)} ms; ${Math.round(result.bytesAVm.private / 1024)} + ${Math.round(result.bytesAVm.pageTables / 1024)} KiB a VM`,
  );
  return result;
}

async function memoryOf(pid: number): Promise<{ private: number; pageTables: number }> {
  const text = await readFile(`/proc/${pid}/status`, 'utf8');
  const bytes = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(text)?.[1] ?? 0) * 1024;
  return { private: bytes('RssAnon'), pageTables: bytes('VmPTE') };
}

// --- drag --------------------------------------------------------------------------------------------------------------

const ROUNDS = 30;
const ROUND_MS = 2000;
const SAMPLES_A_SECOND = 10;

/**
 * A loop in the guest counts how often it goes round in two seconds, while the guest is sampled and while it is not, in
 * turn. Its clock is the guest's.
 */
async function drag() {
  return inDirectory(async (directory) => {
    const trial = await bootGuest(join(directory, 'qmp.sock'));
    try {
      const reader = attach(await requestOf(trial.pid));
      const loop = `end=$(($(date +%s%N) / 1000000 + ${ROUND_MS})); n=0; while [ $(($(cut -d. -f1 /proc/uptime))) -ge 0 ]; do i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; n=$((n+1)); [ $(($(date +%s%N) / 1000000)) -ge $end ] && break; done; echo $n`;
      const ratios: number[] = [];
      for (let i = 0; i < ROUNDS; i++) {
        const alone = await rounds(trial, loop, null);
        const sampled = await rounds(trial, loop, reader);
        ratios.push(1 - sampled / alone);
      }
      reader.detach();
      const mean = ratios.reduce((sum, ratio) => sum + ratio, 0) / ratios.length;
      const deviation = Math.sqrt(ratios.reduce((sum, ratio) => sum + (ratio - mean) ** 2, 0) / (ratios.length - 1));
      const half = (2.045 * deviation) / Math.sqrt(ratios.length); // Student's t, 29 degrees of freedom, 95 %
      const result = {
        rounds: ROUNDS,
        samplesASecond: SAMPLES_A_SECOND,
        slowdown: mean,
        interval: [mean - half, mean + half],
      };
      console.log(
        `sampled ${SAMPLES_A_SECOND} times a second, a loop is slower by ${percent(mean)} (95 %: ${percent(mean - half)} to ${percent(mean + half)})`,
      );
      return result;
    } finally {
      await trial.stop();
    }
  });
}

async function rounds(trial: Trial, loop: string, reader: Guest | null): Promise<number> {
  const timer = reader && setInterval(() => reader.sample(), 1000 / SAMPLES_A_SECOND);
  try {
    return Number(await trial.succeed(['sh', '-c', loop]));
  } finally {
    if (timer) clearInterval(timer);
  }
}

// ---

async function inDirectory<T>(work: (directory: string) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), 'ciel-bench-'));
  try {
    return await work(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

const shown = ({ median, p95 }: Spread): string => `${median.toFixed(1)} (p95 ${p95.toFixed(1)})`;
const percent = (ratio: number): string => `${(ratio * 100).toFixed(2)} %`;

/**
 * `introspect live`: a real guest with three containers, by mapping its RAM and by process_vm_readv: attaches, samples, how
 * far they are from the guest's own cgroup files, what reading does to the guest's memory.
 *
 * Times are the mapper's own, taken inside the call; `withDecodingMicroseconds` adds what TypeScript needs to decode it.
 */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { requestOf } from '../../lab/attach-request.ts';
import { type AttachReport, type AttachRequest, attach, type Guest, type SourceChoice } from '../../native/mapper.ts';
import { type QemuProcess, readQemu } from '../../native/qemu-process.ts';
import {
  allocatedBytes,
  bootGuest,
  CONTAINER_NAMES,
  type LiveGuest,
  ownFigures,
  ramFile,
  startContainers,
} from '../../test/native/live-guest.ts';
import { type Spread, spread } from '../measure.ts';
import { sleep, valueIn, WARM_UP_SAMPLES } from './part.ts';

const SAMPLES = 500;
const ATTACHES = 5;
const BETWEEN_SAMPLES_MS = 5;
const AGREEMENT_ROUNDS = 10;

export async function live() {
  const directory = await mkdtemp(join(tmpdir(), 'ciel-bench-'));
  console.log('booting a guest, and three containers in it');
  const trial = await bootGuest(join(directory, 'qmp.sock'));
  try {
    const guest = await startContainers(trial);
    const qemu = await readQemu(trial.pid);
    if (!qemu) throw new Error(`process ${trial.pid} is no QEMU`);
    const sources: Record<string, unknown> = {};
    for (const source of ['mapped', 'process'] as const)
      sources[source] = await measureSource(source, guest, qemu, join(directory, `${source}.attach`));
    return { guest: describe(qemu), sources };
  } finally {
    await trial.stop();
    await rm(directory, { recursive: true, force: true });
  }
}

const describe = ({ ramBytes, machine }: QemuProcess) => ({ ramBytes, machine, containers: CONTAINER_NAMES.length });

async function measureSource(source: SourceChoice, guest: LiveGuest, qemu: QemuProcess, cache: string) {
  const request = await requestOf(qemu.pid, { source });
  const ram = await ramFile(qemu.pid);
  const first = attachRepeatedly(request);
  attach({ ...request, cachePath: cache }).detach();
  const cached = attachRepeatedly({ ...request, cachePath: cache });

  const reader = attach(request);
  try {
    const before = await allocatedBytes(ram);
    const inside: number[] = [];
    const withDecoding: number[] = [];
    for (let i = 0; i < SAMPLES + WARM_UP_SAMPLES; i++) {
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

/** `introspect host`: 1,000 VMs with 20 containers each, once a second: CPU and memory of the sampler and of its parent. */
import { copyFile, mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Introspection } from '../../native/introspection.ts';
import { processCpuNanoseconds } from '../../native/qemu-process.ts';
import { imageOfGuest, startCrowd } from '../crowd.ts';
import { spread } from '../measure.ts';
import { inDirectory, percent, shown, sleep, valueIn } from './part.ts';

const VMS = 1000;
const CONTAINERS_A_VM = 20;
const TICKS = 60;
const FIRST_TICKS = 5;
const TICK_MS = 1000;
const TICK_DEADLINE_MS = 10_000;
/** The first tick attaches to all of them, from caches. */
const ATTACHES_DEADLINE_MS = 90_000;

export async function wholeHost() {
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
  for (let i = 0; i < FIRST_TICKS; i++) await tick(introspection, uuids, ATTACHES_DEADLINE_MS, true);
  // What the parent does is in two parts: taking samples, and decoding those that somebody looks at.
  const all = await measureTicks(introspection, uuids, true);
  const none = await measureTicks(introspection, uuids, false);
  const full = await memoryOf(introspection.pid as number);
  const result = {
    vms: uuids.length,
    containersAVm: CONTAINERS_A_VM,
    seconds: all.seconds,
    samplerOfACore: all.samplerOfACore,
    parentOfACore: all.parentOfACore,
    parentOfACoreUnread: none.parentOfACore,
    tickMs: all.tickMs,
    readings: uuids.length * TICKS,
    readingsTooLate: all.late,
    bytesAVm: {
      private: (full.private - empty.private) / uuids.length,
      pageTables: (full.pageTables - empty.pageTables) / uuids.length,
    },
  };
  console.log(
    `${VMS} VMs × ${CONTAINERS_A_VM}: sampler ${percent(result.samplerOfACore)} of a core, parent ${percent(result.parentOfACore)}, ${percent(result.parentOfACoreUnread)} when nobody looks; a tick ${shown(result.tickMs)} ms; ${Math.round(result.bytesAVm.private / 1024)} + ${Math.round(result.bytesAVm.pageTables / 1024)} KiB a VM`,
  );
  return result;
}

async function measureTicks(introspection: Introspection, uuids: readonly string[], isLookedAt: boolean) {
  const child = introspection.pid as number;
  const took: number[] = [];
  let late = 0;
  const before = { sampler: await processCpuNanoseconds(child), parent: process.cpuUsage(), at: performance.now() };
  for (let i = 0; i < TICKS; i++) {
    const due = before.at + (i + 1) * TICK_MS;
    const start = performance.now();
    late += await tick(introspection, uuids, TICK_DEADLINE_MS, isLookedAt);
    took.push(performance.now() - start);
    await sleep(Math.max(0, due - performance.now()));
  }
  const seconds = (performance.now() - before.at) / 1000;
  const parent = process.cpuUsage(before.parent);
  const sampler = Number(((await processCpuNanoseconds(child)) ?? 0n) - (before.sampler ?? 0n)) / 1e9;
  return {
    seconds,
    late,
    tickMs: spread(took),
    samplerOfACore: sampler / seconds,
    parentOfACore: (parent.user + parent.system) / 1e6 / seconds,
  };
}

/** @returns how many readings came too late: on a busy machine a tick may get nothing done for longer than its budget. */
async function tick(introspection: Introspection, uuids: readonly string[], deadlineMs: number, isLookedAt: boolean) {
  let late = 0;
  for (const reading of (await introspection.sample(uuids, deadlineMs)).values()) {
    if (!reading.available && reading.reason === 'Exhausted') late++;
    else if (isLookedAt && valueIn(reading).containers.length !== CONTAINERS_A_VM)
      throw new Error('a container is missing');
    else valueIn(reading);
  }
  return late;
}

async function memoryOf(pid: number): Promise<{ private: number; pageTables: number }> {
  const text = await readFile(`/proc/${pid}/status`, 'utf8');
  const bytes = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(text)?.[1] ?? 0) * 1024;
  return { private: bytes('RssAnon'), pageTables: bytes('VmPTE') };
}

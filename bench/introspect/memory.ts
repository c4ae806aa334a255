/**
 * `introspect memory`: what attaching and an hour's worth of samples do to the guest's memory, as the host counts it, by
 * each way of reading. The guest has a balloon that has taken a part of its memory, and reports free pages to the host.
 *
 *   stopped   the vCPU stands still, so whatever grows was grown by the reader
 *   freed     with recordings of many containers: most of them are removed and the balloon takes more, before the next
 *             sample is taken; then again stopped, and samples
 *   running   the guest goes on, with samples and without, in turn: what it grows by itself is in both
 */
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { requestOf } from '../../lab/attach-request.ts';
import { idOf, type MatrixContainer, removeContainer, startContainers } from '../../lab/kernels/containers.ts';
import { bootKernelGuest, type GuestMemory, type KernelGuest } from '../../lab/kernels/guest.ts';
import { attach, type Guest } from '../../native/mapper.ts';
import { connectQmp, type QmpConnection } from '../../test/guest-disk/qemu.ts';
import { spread } from '../measure.ts';
import { sleep } from './part.ts';

const MEMORY_MIB = 512;
const BALLOON_MIB = 320;
const TIGHTER_BALLOON_MIB = 224;
const CONTAINERS = 20;
const KEPT = 4;
/** One a second for an hour. */
const SAMPLES = 3600;
const TURNS = 4;
const BREATH_EVERY = 50;
/** Free pages are reported two seconds after they were freed. */
const SETTLING_MS = 6000;
const BALLOON_LIMIT_MS = 120_000;
const HUGE_PAGE_BYTES = 2 ** 21;

/** By the way in which Ciel reads it. */
const BACKINGS: Readonly<Record<string, GuestMemory>> = {
  mapped: 'shared',
  'process, private file': 'private',
  'process, anonymous': 'anonymous',
  'file of huge pages': 'huge',
};

export async function memoryGrowth(): Promise<Record<string, unknown>> {
  const results: Record<string, unknown> = {};
  for (const [name, memory] of Object.entries(BACKINGS)) {
    const measure = () => oneGuest(name, memory);
    results[name] = await (memory === 'huge' ? withHugePages(measure) : measure());
  }
  return results;
}

async function oneGuest(name: string, memory: GuestMemory) {
  const balloon = ['-device', 'virtio-balloon-pci,free-page-reporting=on'];
  const guest = await bootKernelGuest({ kernel: '6.1', memory, memoryMiB: MEMORY_MIB, qemu: balloon });
  const qmp = await connectQmp(guest.monitor);
  const containers = Array.from({ length: CONTAINERS }, (_, index) => idleContainer(`idle-${index}`));
  let reader: Guest | null = null;
  try {
    await startContainers(guest, containers);
    await inflate(qmp, BALLOON_MIB);

    await qmp.monitor({ execute: 'stop' });
    const beforeAttach = await allocated(guest.pid);
    reader = attach(await requestOf(guest.pid, { withDetails: true }));
    const afterAttach = await allocated(guest.pid);
    await sample(reader, SAMPLES);
    const stopped = { attach: afterAttach - beforeAttach, samples: (await allocated(guest.pid)) - afterAttach };
    await qmp.monitor({ execute: 'cont' });

    const freed = await readFreed(guest, qmp, reader, containers.slice(KEPT));
    const running = await readRunning(guest, reader);
    const { source } = reader.report;
    const result = {
      source,
      ramBytes: MEMORY_MIB * 2 ** 20,
      allocatedBytes: beforeAttach,
      samples: SAMPLES,
      stopped,
      freed,
      running,
    };
    console.log(
      `${name} (${source}): stopped, an attach grows ${(beforeAttach / 2 ** 20).toFixed(0)} MiB by ${stopped.attach} bytes and ${SAMPLES} samples by ${stopped.samples}; after ${CONTAINERS - KEPT} containers were removed and the balloon took more, ${freed.samples}; running, ${running.sampledBytes.median} with samples and ${running.aloneBytes.median} without (medians of ${TURNS})`,
    );
    return result;
  } finally {
    reader?.detach();
    qmp.close();
    await guest.stop();
  }
}

/** Recordings of what is no longer there lead to pages that the guest has given back: no sample is taken meanwhile. */
async function readFreed(guest: KernelGuest, qmp: QmpConnection, reader: Guest, removed: readonly MatrixContainer[]) {
  for (const container of removed) await removeContainer(guest, container);
  await inflate(qmp, TIGHTER_BALLOON_MIB);
  await qmp.monitor({ execute: 'stop' });
  const before = await allocated(guest.pid);
  await sample(reader, SAMPLES);
  const samples = (await allocated(guest.pid)) - before;
  await qmp.monitor({ execute: 'cont' });
  return { allocatedBytes: before, samples };
}

async function readRunning(guest: KernelGuest, reader: Guest) {
  const sampled: number[] = [];
  const alone: number[] = [];
  for (let i = 0; i < TURNS; i++) {
    const start = performance.now();
    let before = await allocated(guest.pid);
    await sample(reader, SAMPLES / TURNS);
    const took = performance.now() - start;
    sampled.push((await allocated(guest.pid)) - before);
    before = await allocated(guest.pid);
    await sleep(took);
    alone.push((await allocated(guest.pid)) - before);
  }
  return { sampledBytes: spread(sampled), aloneBytes: spread(alone) };
}

async function sample(reader: Guest, count: number): Promise<void> {
  for (let i = 1; i <= count; i++) {
    reader.sampleRaw();
    if (i % BREATH_EVERY === 0) await sleep(1);
  }
}

function idleContainer(name: string): MatrixContainer {
  return { name, runtime: 'docker', id: idOf(name), cgroupPath: `/docker/${idOf(name)}`, load: 'idle' };
}

/** `mebibytes` are left to the guest. */
async function inflate(qmp: QmpConnection, mebibytes: number): Promise<void> {
  const wanted = mebibytes * 2 ** 20;
  await qmp.monitor({ execute: 'balloon', arguments: { value: wanted } });
  const deadline = performance.now() + BALLOON_LIMIT_MS;
  for (;;) {
    const { return: found } = (await qmp.monitor({ execute: 'query-balloon' })) as { return?: { actual: number } };
    if (found?.actual === wanted) break;
    if (performance.now() > deadline) throw new Error(`the balloon left ${found?.actual} bytes, not ${wanted}`);
    await sleep(200);
  }
  await sleep(SETTLING_MS);
}

/**
 * What the RAM costs the host: the pages that its mapping in QEMU holds or has swapped out, or the blocks of the file
 * behind it, whichever is more: a reader's own mapping of the file takes pages that QEMU's has not.
 */
async function allocated(pid: number): Promise<number> {
  let ofMapping = 0;
  for (const mapping of (await readFile(`/proc/${pid}/smaps`, 'utf8')).split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)) {
    const bytes = (name: string) => 1024 * Number(new RegExp(`^${name}: +(\\d+) kB$`, 'm').exec(mapping)?.[1] ?? 0);
    if (bytes('Size') !== MEMORY_MIB * 2 ** 20) continue;
    ofMapping += bytes('Rss') + bytes('Swap') + bytes('Shared_Hugetlb') + bytes('Private_Hugetlb');
  }
  if (ofMapping === 0) throw new Error(`process ${pid} has no mapping of ${MEMORY_MIB} MiB`);
  let ofFiles = 0;
  for (const entry of await readdir(`/proc/${pid}/fd`)) {
    const { size, blocks } = await stat(`/proc/${pid}/fd/${entry}`).catch(() => ({ size: 0, blocks: 0 }));
    if (size === MEMORY_MIB * 2 ** 20) ofFiles += blocks * 512;
  }
  return Math.max(ofMapping, ofFiles);
}

const POOL = '/proc/sys/vm/nr_hugepages';

/** The machine's pool is enlarged for as long as that. */
async function withHugePages<T>(work: () => Promise<T>): Promise<T> {
  const had = Number(await readFile(POOL, 'utf8'));
  await writeFile(POOL, String(had + (MEMORY_MIB * 2 ** 20) / HUGE_PAGE_BYTES));
  try {
    return await work();
  } finally {
    await writeFile(POOL, String(had));
  }
}

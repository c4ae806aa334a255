/**
 * The child process that introspects. It holds the attaches and makes the blocking native calls, so that a guest that
 * crashes or hangs the mapper takes down nothing but this: the parent (introspection.ts) kills and restarts it, and it
 * attaches again from its cache files.
 *
 *   request ─▶ all VMs that are attached to: one native call, into a half of the board ─▶ samples
 *          └─▶ each of the others by itself: attach, then the same call for it alone, while requests go on
 *
 * On the board stands which rows are being read, so the parent knows who it was when this process ends.
 */
import { type Reading, unavailable } from '../model/reading.ts';
import { AttachPool } from './attach-pool.ts';
import { GuestWatch, type WatchedVm } from './guest-watch.ts';
import { type Guest, Host, mapBoard } from './mapper.ts';
import { readBoardRow, readClock } from './sample-decoding.ts';
import { BOARD, type SamplerReply, type SamplerRequest } from './sampler-protocol.ts';

type SampleRequest = Extract<SamplerRequest, { kind: 'sample' }>;

const cacheDirectory = process.argv[2] as string;
const btfDirectory = process.argv[3] || null;
const board = mapBoard(BOARD.file, BOARD.halves * BOARD.halfBytes, 'write');
const host = new Host();
const pool = new AttachPool();
const watches = new Map<string, GuestWatch>();

function send(reply: SamplerReply): void {
  process.send?.(reply);
}

function watchOf(vm: WatchedVm): GuestWatch {
  const known = watches.get(vm.uuid);
  if (known?.isFor(vm)) return known;
  known?.close();
  const watch = new GuestWatch(vm, cacheDirectory, btfDirectory, pool, host);
  watches.set(vm.uuid, watch);
  return watch;
}

// --- halves of the board: written here, read by the parent, free again ------------------------------------------------------

const free = Array.from({ length: BOARD.halves }, (_, half) => half);
const waiting: ((half: number) => void)[] = [];

async function takeHalf(): Promise<number> {
  return free.pop() ?? new Promise((resolve) => waiting.push(resolve));
}

function giveBack(half: number): void {
  const next = waiting.shift();
  if (next) next(half);
  else free.push(half);
}

// --- sampling -------------------------------------------------------------------------------------------------------------

type Settle = () => Promise<Reading<never> | null>;

/** Samples these rows of a request in one call, and sends what is good. Returns what must be settled first, by row. */
async function sampleRows(request: SampleRequest, rows: readonly number[], half: number): Promise<Map<number, Settle>> {
  const suspects = new Map<number, Settle>();
  const buffer = board.subarray(half * BOARD.halfBytes, (half + 1) * BOARD.halfBytes);
  const guests: (Guest | null)[] = Array(request.vms.length).fill(null);
  // Who was given up meanwhile is a row without anything.
  for (const row of rows) guests[row] = watches.get((request.vms[row] as WatchedVm).uuid)?.guest ?? null;
  host.sample(guests, request.id, buffer, request.limitMs);

  const good: number[] = [];
  const judge = async (row: number): Promise<void> => {
    const { uuid } = request.vms[row] as WatchedVm;
    const found = readBoardRow(buffer, row);
    const watch = watches.get(uuid);
    if (watch === undefined || found.kind === 'nothing') {
      send({ kind: 'unread', id: request.id, uuid, reading: unavailable('Torn', 'it was detached from meanwhile') });
      return;
    }
    const verdict = found.kind === 'sample' ? await watch.judge(readClock(found.sample)) : watch.judgeFailure(found);
    if (verdict.kind === 'good') good.push(row);
    else if (verdict.kind === 'unread') send({ kind: 'unread', id: request.id, uuid, reading: verdict.reading });
    else suspects.set(row, verdict.settle);
  };
  await Promise.all(rows.map(judge));
  if (good.length > 0) send({ kind: 'samples', id: request.id, half, rows: good });
  else giveBack(half);
  return suspects;
}

const gathering = new Map<
  SampleRequest,
  { readonly rows: number[]; readonly suspects: Promise<Map<number, Settle>> }
>();

/** One row, with all others of the request that wait for a half of the board at the same time. */
async function sampleWithOthers(request: SampleRequest, row: number): Promise<Settle | null> {
  let together = gathering.get(request);
  if (!together) {
    const rows: number[] = [];
    const suspects = takeHalf().then((half) => {
      gathering.delete(request);
      return sampleRows(request, rows, half);
    });
    together = { rows, suspects };
    gathering.set(request, together);
  }
  together.rows.push(row);
  return (await together.suspects).get(row) ?? null;
}

/** By what a cache file says, which may be a dead kernel; then by what was found in the RAM itself. */
const SAMPLES_APART = 2;

/** One VM by itself, which is not attached to, or must be looked at anew. */
async function sampleApart(request: SampleRequest, row: number, settle: Settle): Promise<void> {
  const { uuid } = request.vms[row] as WatchedVm;
  let next = settle;
  for (let samples = 0; ; samples++) {
    const failure = await next();
    if (failure) {
      send({ kind: 'unread', id: request.id, uuid, reading: failure });
      return;
    }
    if (samples === SAMPLES_APART) break;
    const again = await sampleWithOthers(request, row);
    if (!again) return;
    next = again;
  }
  // Attached to a moment ago, and suspect again: whatever that is, it is not going to be figures.
  const reading = unavailable('Stale', 'its kernel changes again and again');
  send({ kind: 'unread', id: request.id, uuid, reading });
}

/** VMs that are being sampled apart, and when that is over. */
const apart = new Map<string, Promise<void>>();

function goOnApart(request: SampleRequest, row: number, settle: Settle): void {
  const { uuid } = request.vms[row] as WatchedVm;
  const sayAttaching = (): void => {
    const reading = unavailable('Attaching', 'its kernel is being looked for');
    send({ kind: 'unread', id: request.id, uuid, reading });
  };
  const before = apart.get(uuid);
  if (before && request.attachPatienceMs < request.limitMs) {
    sayAttaching();
    return;
  }
  const late = setTimeout(sayAttaching, request.attachPatienceMs);
  const overAt = performance.now() + request.limitMs;
  const done = (before ?? Promise.resolve())
    // Behind others that took so long that nobody waits for this one, it would only keep the next ones waiting.
    .then(() => (performance.now() < overAt ? sampleApart(request, row, settle) : sayAttaching()))
    .catch((error: unknown) => send({ kind: 'failed', id: request.id, uuid, message: String(error) }))
    .finally(() => {
      clearTimeout(late);
      if (apart.get(uuid) === done) apart.delete(uuid);
    });
  apart.set(uuid, done);
}

async function sample(request: SampleRequest): Promise<void> {
  const attached: number[] = [];
  for (const [row, vm] of request.vms.entries()) {
    const watch = watchOf(vm);
    if (watch.guest) attached.push(row);
    else goOnApart(request, row, () => watch.ready());
  }
  if (attached.length === 0) return;
  for (const [row, settle] of await sampleRows(request, attached, await takeHalf())) goOnApart(request, row, settle);
}

process.on('message', (request: SamplerRequest) => {
  switch (request.kind) {
    case 'sample':
      void sample(request).catch((error: unknown) => {
        for (const { uuid } of request.vms) send({ kind: 'failed', id: request.id, uuid, message: String(error) });
      });
      return;
    case 'taken':
      giveBack(request.half);
      return;
    case 'forget':
      watches.get(request.uuid)?.close();
      watches.delete(request.uuid);
  }
});
process.on('disconnect', () => process.exit(0));
// Ctrl-C reaches the whole process group; the parent decides when this process ends.
process.on('SIGINT', () => {});
send({ kind: 'ready' });

/**
 * Looking into VMs from the host process: the parent's side of the sampler, a child process that may be killed by a guest
 * at any moment.
 *
 * Samples come through memory that both have mapped, the board; it also says which VMs were being read when the child
 * crashed (SIGSEGV, SIGBUS, …) or stopped answering. When it names none, it was the first VM without an answer.
 *
 * Blame. A VM that was being read gets a strike and from then on is read last and by itself; with STRIKES of them it is
 * quarantined: unavailable, with that reason, and no longer read. The others go on with the next child. A child that
 * somebody killed (SIGKILL, SIGTERM) is nobody's strike.
 *
 *   start ─▶ spawning ─ready─▶ up ──exit, or silent for HANG_MS (killed)──▶ spawning …        close ─▶ down
 */
import { type ChildProcess, fork } from 'node:child_process';
import { closeSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isDeepStrictEqual } from 'node:util';
import { available, type Reading, unavailable } from '../model/reading.ts';
import type { VmIntrospection } from '../model/usage.ts';
import type { WatchedVm } from './guest-watch.ts';
import { createBoard, mapBoard, type SourceChoice, slotName } from './mapper.ts';
import { Ratchet } from './ratchet.ts';
import { decodeSample, readBoardRow, readPostMortem } from './sample-decoding.ts';
import { BOARD, type SamplerReply, type SamplerRequest } from './sampler-protocol.ts';

const STRIKES = 2;
/** Readings in a row after which a strike is forgotten. */
const FORGIVEN_AFTER = 60;
/** Without an answer for this long the child hangs: the longest honest step is an attach to a large guest. */
const HANG_MS = 20_000;
const SPAWN_MS = 15_000;
const REMEMBERED_BATCHES = 64;
const CRASH_SIGNALS: ReadonlySet<string> = new Set(['SIGSEGV', 'SIGBUS', 'SIGABRT', 'SIGILL', 'SIGFPE', 'SIGSYS']);

export interface IntrospectionOptions {
  /** Where attaches are kept for the next child; null: in a temporary directory. Private to the host role. */
  readonly cacheDirectory: string | null;
  /** Of detached BTF files (BTFHub's layout), for kernels that carry no types; default: none. */
  readonly btfDirectory?: string | null;
  readonly hangMs?: number;
  /** Told when a child ended that should not have, and when a VM is quarantined. */
  readonly onTrouble?: (message: string) => void;
}

interface Watched {
  readonly vm: WatchedVm;
  strikes: number;
  goodInARow: number;
  readonly ratchet: Ratchet;
}

type Readings = Map<string, Reading<VmIntrospection>>;

/** How one request to the child ended. */
type Ending = 'answered' | 'deadline' | 'crashed' | 'hung' | 'killed';

/** A child and what it owes: the VMs that were asked for and not answered, by UUID, first asked first. */
interface Sampler {
  readonly process: ChildProcess;
  readonly board: Buffer;
  readonly owed: Map<string, Watched>;
  /** What was asked lately, by request: a board's rows are indexes in it. */
  readonly batches: Map<number, readonly Watched[]>;
  /** Fires when the child owes an answer and is silent for too long. */
  hang: NodeJS.Timeout | null;
  isHung: boolean;
}

/** The request whose answers somebody waits for. */
interface Request {
  readonly id: number;
  readonly missing: Set<string>;
  readonly readings: Readings;
  readonly finish: (ending: Ending) => void;
}

export class Introspection {
  readonly #options: IntrospectionOptions;
  readonly #watched = new Map<string, Watched>();
  #sampler: Sampler | null = null;
  #spawning: Promise<Sampler> | null = null;
  #request: Request | null = null;
  #nextId = 1;
  #queue: Promise<unknown> = Promise.resolve();
  #closed = false;
  #board: Board | null = null;
  #temporary: string | null = null;

  constructor(options: IntrospectionOptions) {
    this.#options = options;
  }

  /** Starts the child. sample() would do it, too; this tells early when it cannot start. */
  async start(): Promise<void> {
    await this.#up();
  }

  /** The child's process id while it runs. */
  get pid(): number | null {
    return this.#sampler?.process.pid ?? null;
  }

  /** Registers a VM, or changes how it is read: with another pid it is another process, and its strikes are forgotten. */
  watch(vm: {
    readonly uuid: string;
    readonly pid?: number | null;
    readonly source?: SourceChoice;
    readonly withServices?: boolean;
    readonly withDetails?: boolean;
  }): void {
    const { uuid, pid = null, source = 'auto', withServices = false, withDetails = false } = vm;
    const wanted: WatchedVm = { uuid, pid, source, withServices, withDetails };
    const known = this.#watched.get(uuid);
    if (known && isDeepStrictEqual(known.vm, wanted)) return;
    const ratchet = known?.ratchet ?? new Ratchet();
    this.#watched.set(uuid, { vm: wanted, strikes: 0, goodInARow: 0, ratchet });
  }

  /** Ends the watching of a VM and gives its RAM back: a mapping keeps a dead VM's RAM alive. */
  forget(uuid: string): void {
    if (this.#watched.delete(uuid))
      this.#sampler?.process.send({ kind: 'forget', uuid } satisfies SamplerRequest, () => {});
  }

  /**
   * One look into each of these VMs. Answers for all of them, by the deadline (or a little later). Never rejects for a VM.
   * @param attachPatienceMs how long VMs are waited for whose kernel must be looked for first; then they are Attaching
   */
  sample(uuids: readonly string[], deadlineMs: number, attachPatienceMs = deadlineMs): Promise<Readings> {
    const sampled = this.#queue.then(() =>
      this.#sampleNow(uuids, performance.now() + deadlineMs, Math.min(attachPatienceMs, deadlineMs)),
    );
    this.#queue = sampled.catch(() => {});
    return sampled;
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#spawning?.catch(() => {});
    const child = this.#sampler?.process;
    if (child) {
      const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
      child.kill('SIGKILL');
      await ended;
    }
    if (this.#board) closeSync(this.#board.file);
    if (this.#temporary) await rm(this.#temporary, { recursive: true, force: true });
    this.#board = this.#temporary = null;
  }

  /** An attach comes as a file, so there is always a directory for it. */
  async #cacheDirectory(): Promise<string> {
    const { cacheDirectory } = this.#options;
    if (cacheDirectory === null) {
      this.#temporary ??= await mkdtemp(join(tmpdir(), 'ciel-attaches-'));
      return this.#temporary;
    }
    await mkdir(cacheDirectory, { recursive: true, mode: 0o700 });
    return cacheDirectory;
  }

  async #sampleNow(uuids: readonly string[], deadline: number, attachPatienceMs: number): Promise<Readings> {
    const readings: Readings = new Map();
    const trusted: Watched[] = [];
    const suspects: Watched[] = [];
    for (const uuid of new Set(uuids)) {
      const watched = this.#watched.get(uuid);
      if (!watched) readings.set(uuid, unavailable('NotFound', `VM ${uuid} is not being watched`));
      else if (watched.strikes >= STRIKES) readings.set(uuid, quarantined(watched));
      else (watched.strikes === 0 ? trusted : suspects).push(watched);
    }
    // Suspects are read one at a time and last: whatever happens then is theirs.
    let batches = [trusted, ...suspects.map((suspect) => [suspect])].filter((batch) => batch.length > 0);
    while (batches.length > 0) {
      const [batch = [], ...later] = batches;
      const ending = await this.#ask(batch, deadline, attachPatienceMs, readings);
      const unread = batch.filter(({ vm }) => !readings.has(vm.uuid));
      if (ending === 'deadline' || this.#closed) {
        for (const { vm } of [...unread, ...later.flat()])
          readings.set(vm.uuid, unavailable('Exhausted', 'the deadline passed before this VM was read'));
        break;
      }
      // After a crash only the culprit has its answer by now: the others are read by the next child.
      batches = [unread, ...later].filter((rest) => rest.length > 0);
    }
    return readings;
  }

  /** Sends one request and collects the answers until all are there, the deadline passes, or the child ends. */
  async #ask(
    batch: readonly Watched[],
    deadline: number,
    attachPatienceMs: number,
    readings: Readings,
  ): Promise<Ending> {
    let sampler: Sampler;
    try {
      sampler = await this.#up();
    } catch (error) {
      for (const { vm } of batch)
        readings.set(vm.uuid, unavailable('ReaderDown', `the sampler does not start: ${error}`));
      return 'answered';
    }
    const id = this.#nextId++;
    return new Promise<Ending>((resolve) => {
      const late = setTimeout(() => finish('deadline'), Math.max(0, deadline - performance.now()));
      const finish = (ending: Ending): void => {
        clearTimeout(late);
        this.#request = null;
        resolve(ending);
      };
      this.#request = { id, missing: new Set(batch.map(({ vm }) => vm.uuid)), readings, finish };
      for (const watched of batch) sampler.owed.set(watched.vm.uuid, watched);
      sampler.batches.set(id, batch);
      sampler.batches.delete(id - REMEMBERED_BATCHES);
      this.#watchForHang(sampler);
      const limitMs = Math.max(0, deadline - performance.now());
      const vms = batch.map(({ vm }) => vm);
      const request: SamplerRequest = { kind: 'sample', id, vms, attachPatienceMs, limitMs };
      // An error of send() means that the child is gone: its exit event says so.
      sampler.process.send(request, () => {});
    });
  }

  #onReply(sampler: Sampler, reply: SamplerReply): void {
    switch (reply.kind) {
      case 'ready':
        return;
      case 'samples':
        this.#onSamples(sampler, reply);
        return;
      case 'unread':
        this.#answer(sampler, reply.id, reply.uuid, reply.reading);
        break;
      case 'failed':
        this.#answer(sampler, reply.id, reply.uuid, unavailable('Malformed', `the sampler failed: ${reply.message}`));
    }
    this.#watchForHang(sampler);
  }

  #onSamples(sampler: Sampler, { id, half, rows }: Extract<SamplerReply, { kind: 'samples' }>): void {
    const board = halfOf(sampler.board, half);
    const batch = sampler.batches.get(id) ?? [];
    for (const row of rows) {
      const watched = batch[row];
      if (watched === undefined) continue;
      const reading = this.#request?.id === id ? readingOf(board, row, watched.ratchet) : null;
      this.#answer(sampler, id, watched.vm.uuid, reading);
    }
    sampler.process.send({ kind: 'taken', half } satisfies SamplerRequest, () => {});
    this.#watchForHang(sampler);
  }

  /** null: nobody waits for it any more. */
  #answer(sampler: Sampler, id: number, uuid: string, reading: Reading<VmIntrospection> | null): void {
    const watched = sampler.owed.get(uuid);
    sampler.owed.delete(uuid);
    if (watched && watched.strikes > 0 && ++watched.goodInARow >= FORGIVEN_AFTER) watched.strikes = 0;
    const request = this.#request;
    if (reading === null || request?.id !== id || !request.missing.delete(uuid)) return;
    request.readings.set(uuid, reading);
    if (request.missing.size === 0) request.finish('answered');
  }

  #onExit(sampler: Sampler, code: number | null, signal: NodeJS.Signals | null): void {
    if (sampler.hang) clearTimeout(sampler.hang);
    this.#sampler = null;
    if (this.#closed) {
      this.#request?.finish('killed');
      return;
    }
    const ending = sampler.isHung ? 'hung' : signal !== null && CRASH_SIGNALS.has(signal) ? 'crashed' : 'killed';
    const culprits = culpritsOf(sampler);
    const names = culprits.map(({ vm }) => vm.uuid).join(', ');
    this.#options.onTrouble?.(
      `the sampler ended (${ending}, ${signal ?? `exit ${code}`})${names ? ` while reading VM ${names}` : ''}`,
    );
    for (const culprit of culprits) {
      const reading = this.#blame(culprit, ending);
      if (this.#request?.missing.has(culprit.vm.uuid)) this.#request.readings.set(culprit.vm.uuid, reading);
    }
    this.#request?.finish(ending);
  }

  /** What is said of the VM that was being read when the child ended. */
  #blame(watched: Watched, ending: Ending): Reading<never> {
    if (ending !== 'killed') watched.strikes++;
    watched.goodInARow = 0;
    if (watched.strikes >= STRIKES) return quarantined(watched);
    return unavailable('ReaderDown', `the sampler ended (${ending}) while it read this VM; it is started again`);
  }

  #watchForHang(sampler: Sampler): void {
    if (sampler.hang) clearTimeout(sampler.hang);
    sampler.hang = null;
    if (sampler.owed.size === 0) return;
    sampler.hang = setTimeout(() => {
      sampler.isHung = true;
      sampler.process.kill('SIGKILL');
    }, this.#options.hangMs ?? HANG_MS);
  }

  async #up(): Promise<Sampler> {
    if (this.#closed) throw new Error('introspection is closed');
    if (this.#sampler) return this.#sampler;
    this.#spawning ??= this.#spawn().finally(() => {
      this.#spawning = null;
    });
    return this.#spawning;
  }

  async #spawn(): Promise<Sampler> {
    const cacheDirectory = await this.#cacheDirectory();
    this.#board ??= openBoard();
    const compiled = import.meta.url.endsWith('.js');
    const file = fileURLToPath(new URL(`./sampler.${compiled ? 'js' : 'ts'}`, import.meta.url));
    const child = fork(file, [cacheDirectory, this.#options.btfDirectory ?? ''], {
      serialization: 'advanced',
      stdio: ['ignore', 'inherit', 'inherit', 'ipc', this.#board.file], // BOARD.file
      execArgv: compiled ? ['--enable-source-maps'] : ['--import', 'tsx'],
    });
    await new Promise<void>((resolve, reject) => {
      const slow = setTimeout(() => {
        child.kill('SIGKILL');
        reject(new Error(`the sampler was not ready within ${SPAWN_MS} ms`));
      }, SPAWN_MS);
      const onExit = (code: number | null, signal: string | null): void => {
        clearTimeout(slow);
        reject(new Error(`the sampler ended while starting (${signal ?? `exit ${code}`})`));
      };
      child.once('exit', onExit);
      child.once('error', reject);
      child.once('message', () => {
        clearTimeout(slow);
        child.off('exit', onExit);
        resolve();
      });
    });
    const { memory } = this.#board;
    const sampler: Sampler = {
      process: child,
      board: memory,
      owed: new Map(),
      batches: new Map(),
      hang: null,
      isHung: false,
    };
    child.on('error', () => {});
    child.on('message', (reply: SamplerReply) => this.#onReply(sampler, reply));
    child.once('exit', (code, signal) => this.#onExit(sampler, code, signal));
    this.#sampler = sampler;
    return sampler;
  }
}

interface Board {
  readonly file: number;
  readonly memory: Buffer;
}

function openBoard(): Board {
  const bytes = BOARD.halves * BOARD.halfBytes;
  const file = createBoard(bytes);
  return { file, memory: mapBoard(file, bytes, 'read') };
}

function halfOf(board: Buffer, half: number): Buffer {
  return board.subarray(half * BOARD.halfBytes, (half + 1) * BOARD.halfBytes);
}

/** What the child wrote is believed no more than a guest. */
function readingOf(board: Buffer, row: number, ratchet: Ratchet): Reading<VmIntrospection> {
  try {
    const found = readBoardRow(board, row);
    if (found.kind === 'sample') return available(decodeSample(found.sample, slotName, ratchet).introspection);
    return unavailable('Malformed', 'the sampler announced a sample that is none');
  } catch (error) {
    return unavailable('Malformed', `the sampler left a sample that makes no sense: ${error}`);
  }
}

/** Who was being read; without a trace of it on the board, the first VM without an answer. */
function culpritsOf({ board, batches, owed }: Sampler): readonly Watched[] {
  const traced = Array.from({ length: BOARD.halves }, (_, half) => readPostMortem(halfOf(board, half))).flatMap(
    ({ tag, rows }) => rows.map((row) => batches.get(tag)?.[row]),
  );
  const found = traced.filter((watched): watched is Watched => watched !== undefined);
  return found.length > 0 ? [...new Set(found)] : [...owed.values()].slice(0, 1);
}

function quarantined(watched: Watched): Reading<never> {
  return unavailable(
    'Quarantined',
    `reading VM ${watched.vm.uuid} ended the sampler ${STRIKES} times; stop and start its monitoring to try again`,
  );
}

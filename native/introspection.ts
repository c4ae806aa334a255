/**
 * Looking into VMs from the host process: the parent's side of the sampler, a child process that may be killed by a guest
 * at any moment.
 *
 * Blame. The child answers VM by VM, in order, so the first VM without an answer is the one that was being read when the
 * child crashed (SIGSEGV, SIGBUS, …) or stopped answering. That VM gets a strike and from then on is read last; with
 * STRIKES of them it is quarantined: unavailable, with that reason, and no longer read. The others go on with the next
 * child. A child that somebody killed (SIGKILL, SIGTERM) is nobody's strike.
 *
 *   start ─▶ spawning ─ready─▶ up ──exit, or silent for HANG_MS (killed)──▶ spawning …        close ─▶ down
 */
import { type ChildProcess, fork } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { isDeepStrictEqual } from 'node:util';
import { type Reading, unavailable } from '../model/reading.ts';
import type { VmIntrospection } from '../model/usage.ts';
import type { WatchedVm } from './guest-watch.ts';
import type { SourceChoice } from './mapper.ts';
import type { SamplerReply, SamplerRequest } from './sampler-protocol.ts';

const STRIKES = 2;
/** Readings in a row after which a strike is forgotten. */
const FORGIVEN_AFTER = 60;
/** Without an answer for this long the child hangs: the longest honest step is an attach to a large guest. */
const HANG_MS = 20_000;
const SPAWN_MS = 15_000;
const CRASH_SIGNALS: ReadonlySet<string> = new Set(['SIGSEGV', 'SIGBUS', 'SIGABRT', 'SIGILL', 'SIGFPE', 'SIGSYS']);

export interface IntrospectionOptions {
  /** Where attaches are kept for the next child; null: nowhere. Private to the host role. */
  readonly cacheDirectory: string | null;
  readonly hangMs?: number;
  /** Told when a child ended that should not have, and when a VM is quarantined. */
  readonly onTrouble?: (message: string) => void;
}

interface Watched {
  readonly vm: WatchedVm;
  strikes: number;
  goodInARow: number;
}

type Readings = Map<string, Reading<VmIntrospection>>;

/** How one request to the child ended. */
type Ending = 'answered' | 'deadline' | 'crashed' | 'hung' | 'killed';

/** A child and what it owes: the VMs that were asked for and not answered, in the order in which it reads them. */
interface Sampler {
  readonly process: ChildProcess;
  owed: { readonly id: number; readonly watched: Watched }[];
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
    const known = this.#watched.get(uuid)?.vm;
    if (known && isDeepStrictEqual(known, wanted)) return;
    this.#watched.set(uuid, { vm: wanted, strikes: 0, goodInARow: 0 });
  }

  /** Ends the watching of a VM and gives its RAM back: a mapping keeps a dead VM's RAM alive. */
  forget(uuid: string): void {
    if (this.#watched.delete(uuid))
      this.#sampler?.process.send({ kind: 'forget', uuid } satisfies SamplerRequest, () => {});
  }

  /** One look into each of these VMs. Answers for all of them, by the deadline (or a little later). Never rejects for a VM. */
  sample(uuids: readonly string[], deadlineMs: number): Promise<Readings> {
    const sampled = this.#queue.then(() => this.#sampleNow(uuids, performance.now() + deadlineMs));
    this.#queue = sampled.catch(() => {});
    return sampled;
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#spawning?.catch(() => {});
    const child = this.#sampler?.process;
    if (!child) return;
    const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
    child.kill('SIGKILL');
    await ended;
  }

  async #sampleNow(uuids: readonly string[], deadline: number): Promise<Readings> {
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
      const ending = await this.#ask(batch, deadline, readings);
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
  async #ask(batch: readonly Watched[], deadline: number, readings: Readings): Promise<Ending> {
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
      sampler.owed.push(...batch.map((watched) => ({ id, watched })));
      this.#watchForHang(sampler);
      // An error of send() means that the child is gone: its exit event says so.
      sampler.process.send({ kind: 'sample', id, vms: batch.map(({ vm }) => vm) } satisfies SamplerRequest, () => {});
    });
  }

  #onReply(sampler: Sampler, reply: SamplerReply): void {
    if (reply.kind === 'ready') return;
    const answered = sampler.owed.find(({ id, watched }) => id === reply.id && watched.vm.uuid === reply.uuid);
    // What an older request still lists was skipped when this one came.
    sampler.owed = sampler.owed.filter((owed) => owed !== answered && owed.id >= reply.id);
    this.#watchForHang(sampler);
    if (answered && answered.watched.strikes > 0 && ++answered.watched.goodInARow >= FORGIVEN_AFTER)
      answered.watched.strikes = 0;

    const request = this.#request;
    if (request?.id !== reply.id || !request.missing.delete(reply.uuid)) return;
    const reading =
      reply.kind === 'reading' ? reply.reading : unavailable('Malformed', `the sampler failed: ${reply.message}`);
    request.readings.set(reply.uuid, reading);
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
    const culprit = sampler.owed[0]?.watched;
    this.#options.onTrouble?.(
      `the sampler ended (${ending}, ${signal ?? `exit ${code}`})${culprit ? ` while reading VM ${culprit.vm.uuid}` : ''}`,
    );
    if (culprit) {
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
    if (sampler.owed.length === 0) return;
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
    const { cacheDirectory } = this.#options;
    if (cacheDirectory) await mkdir(cacheDirectory, { recursive: true, mode: 0o700 });
    const compiled = import.meta.url.endsWith('.js');
    const file = fileURLToPath(new URL(`./sampler.${compiled ? 'js' : 'ts'}`, import.meta.url));
    const child = fork(file, [cacheDirectory ?? ''], {
      serialization: 'advanced',
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
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
    const sampler: Sampler = { process: child, owed: [], hang: null, isHung: false };
    child.on('error', () => {});
    child.on('message', (reply: SamplerReply) => this.#onReply(sampler, reply));
    child.once('exit', (code, signal) => this.#onExit(sampler, code, signal));
    this.#sampler = sampler;
    return sampler;
  }
}

function quarantined(watched: Watched): Reading<never> {
  return unavailable(
    'Quarantined',
    `reading VM ${watched.vm.uuid} ended the sampler ${STRIKES} times; stop and start its monitoring to try again`,
  );
}

/**
 * libvirt for the rest of Ciel: typed calls that never block the main thread.
 *
 * libvirt's C functions are synchronous and keep their last error per thread, so they run in worker threads, each with a
 * connection of its own: one for quick look-ups (nothing slow ever stands before a tick's bulk call), a few for what waits
 * (agent, create, destroy), and one in the whole process for libvirt's event loop. A hop to a thread and back costs
 * 0.05 ms.
 *
 *     Libvirt ── fast lane  ── 1 × libvirt-worker.ts ── libvirt-calls.ts ── libvirt-ffi.ts (koffi) ── libvirt.so
 *             ── slow lane  ── n × libvirt-worker.ts
 *             ── EventLoop  ── 1 × libvirt-events.ts (shared by all Libvirts of the process)
 *
 * When libvirtd goes away, calls fail with `connectionLost` and later ones connect anew; keepalives end calls within 20 s
 * when it hangs. A call that passes its deadline all the same is given up, and its thread is replaced.
 *
 * A thread inside a C call cannot be ended from outside, and Node waits for every thread at exit, `process.exit()` too.
 * When `stuckThreads` is not 0 after `close()`, only SIGKILL ends the process at once.
 */
import { Worker } from 'node:worker_threads';
import type { VmCounters } from '../model/usage.ts';
import { LibvirtError, LibvirtStuck } from './libvirt-errors.ts';
import type {
  CallAnswer,
  CallArguments,
  CallName,
  CallRequest,
  CallResult,
  DomainEvent,
  EventReport,
  EventRequest,
  WorkerStart,
} from './libvirt-protocol.ts';

export type { DomainDescription } from './libvirt-calls.ts';
export { LIBVIRT_ERRORS, LibvirtError, LibvirtStuck } from './libvirt-errors.ts';
export type { DomainEvent } from './libvirt-protocol.ts';

/** Above libvirt's own keepalive limit (20 s), so that its clearer error comes first. */
const FAST_DEADLINE_MS = 25_000;
/** QEMU's start and end under software emulation on a busy machine. */
const SLOW_DEADLINE_MS = 90_000;
/** What agentCommand grants beyond the agent's own timeout. */
const AGENT_MARGIN_MS = 10_000;
const SLOW_THREADS = 4;
/** Threads given up at one time, before further calls are refused: each holds memory and a connection. */
const MOST_STUCK_THREADS = 8;
const REWATCH_PAUSE_MS = 500;

/** What listeners of `events` hear. After `connected`, list again: what happened meanwhile was not reported. */
export type HypervisorEvent =
  | ({ readonly kind: 'domain' } & DomainEvent)
  | { readonly kind: 'connected' }
  | { readonly kind: 'disconnected'; readonly message: string };

export interface LibvirtOptions {
  /** When a call that waits for QEMU (all but agent commands) is given up. */
  readonly slowDeadlineMs?: number;
}

export class Libvirt {
  readonly uri: string;
  readonly #slowDeadlineMs: number;
  readonly #fast: Lane;
  readonly #slow: Lane;
  readonly #listeners = new Set<(event: HypervisorEvent) => void>();
  #stopWatching: () => void = () => {};
  #closed = false;

  private constructor(uri: string, { slowDeadlineMs = SLOW_DEADLINE_MS }: LibvirtOptions) {
    this.uri = uri;
    this.#slowDeadlineMs = slowDeadlineMs;
    this.#fast = new Lane('fast', uri, 1);
    this.#slow = new Lane('slow', uri, SLOW_THREADS);
  }

  /** Fails with a LibvirtError when libvirtd does not answer now; later outages are survived. */
  static async connect(uri: string, options: LibvirtOptions = {}): Promise<Libvirt> {
    const libvirt = new Libvirt(uri, options);
    EventLoop.acquire();
    try {
      await libvirt.#watch();
    } catch (error) {
      await libvirt.close();
      throw error;
    }
    return libvirt;
  }

  /** Ends its threads. Calls in flight fail. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#stopWatching();
    await Promise.all([this.#fast.close(), this.#slow.close()]);
    await EventLoop.release();
  }

  get stuckThreads(): number {
    return this.#fast.stuck + this.#slow.stuck;
  }

  /** Hears what happens to domains, until the returned function is called. */
  events(listener: (event: HypervisorEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** State and CPU of all domains, running or not. Waits for no QEMU. */
  allStats(): Promise<VmCounters[]> {
    return this.#fast.call('allStats', [], FAST_DEADLINE_MS);
  }
  lookup(uuidOrName: string) {
    return this.#fast.call('lookup', [uuidOrName], FAST_DEADLINE_MS);
  }
  xml(uuid: string, options: { readonly inactive?: boolean } = {}): Promise<string> {
    return this.#fast.call('xml', [uuid, options], FAST_DEADLINE_MS);
  }
  metadata(uuid: string, namespace: string): Promise<string | null> {
    return this.#fast.call('metadata', [uuid, namespace], FAST_DEADLINE_MS);
  }
  setMetadata(uuid: string, namespace: string, element: { prefix: string; xml: string } | null): Promise<void> {
    return this.#slow.call('setMetadata', [uuid, namespace, element], this.#slowDeadlineMs);
  }
  defineXml(xml: string) {
    return this.#slow.call('defineXml', [xml], this.#slowDeadlineMs);
  }
  create(uuid: string): Promise<void> {
    return this.#slow.call('create', [uuid], this.#slowDeadlineMs);
  }
  destroy(uuid: string): Promise<void> {
    return this.#slow.call('destroy', [uuid], this.#slowDeadlineMs);
  }
  /** Asks the guest to end; returns at once. */
  shutdown(uuid: string): Promise<void> {
    return this.#slow.call('shutdown', [uuid], this.#slowDeadlineMs);
  }
  undefine(uuid: string): Promise<void> {
    return this.#slow.call('undefine', [uuid], this.#slowDeadlineMs);
  }
  /** The guest agent's answer, {return: …}, unchecked. libvirt runs one at a time for each domain. */
  agentCommand(uuid: string, command: object, timeoutSeconds: number): Promise<unknown> {
    return this.#slow.call('agentCommand', [uuid, command, timeoutSeconds], timeoutSeconds * 1_000 + AGENT_MARGIN_MS);
  }
  /** QEMU's answer, {return: …} or {error: …}. */
  monitorCommand(uuid: string, command: object): Promise<unknown> {
    return this.#slow.call('monitorCommand', [uuid, command], this.#slowDeadlineMs);
  }

  /** Opens the event connection, and again whenever it is lost. */
  async #watch(): Promise<void> {
    // The loop must be registered before the first connection is opened.
    const loop = await EventLoop.running();
    const connection = await this.#fast.call('openForEvents', [], FAST_DEADLINE_MS);
    if (this.#closed) return;
    this.#stopWatching = loop.watch(connection, (event) => {
      this.#emit(event);
      if (event.kind === 'disconnected') this.#watchAgain();
    });
  }

  #watchAgain(): void {
    if (this.#closed) return;
    this.#watch().catch(() => setTimeout(() => this.#watchAgain(), REWATCH_PAUSE_MS).unref());
  }

  #emit(event: HypervisorEvent): void {
    for (const listener of this.#listeners) listener(event);
  }
}

interface PendingCall {
  readonly request: CallRequest;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
  /** null while it waits for a thread. */
  thread: Worker | null;
}

/** A few threads of one connection URI, started when needed, each with one call at a time; further calls wait in order. */
class Lane {
  readonly #name: string;
  readonly #uri: string;
  readonly #most: number;
  readonly #idle: Worker[] = [];
  readonly #busy = new Map<Worker, PendingCall>();
  readonly #stuck = new Set<Worker>();
  readonly #waiting: PendingCall[] = [];
  #nextId = 1;
  #closed = false;

  constructor(name: string, uri: string, most: number) {
    this.#name = name;
    this.#uri = uri;
    this.#most = most;
  }

  get stuck(): number {
    return this.#stuck.size;
  }

  call<K extends CallName>(call: K, args: CallArguments<K>, deadlineMs: number): Promise<CallResult<K>> {
    return new Promise((resolve, reject) => {
      if (this.#closed) {
        reject(new Error(`the connection to ${this.#uri} was closed`));
        return;
      }
      if (this.#stuck.size >= MOST_STUCK_THREADS) {
        reject(
          new LibvirtStuck(
            `${this.#stuck.size} calls to libvirt at ${this.#uri} do not come back; ${call} was not tried. ` +
              'libvirtd or a QEMU hangs: look at both, and restart libvirtd (guests go on).',
          ),
        );
        return;
      }
      const pending: PendingCall = {
        request: { id: this.#nextId++, call, args },
        resolve: resolve as (value: unknown) => void,
        reject,
        timer: setTimeout(() => this.#expire(pending, deadlineMs), deadlineMs),
        thread: null,
      };
      this.#waiting.push(pending);
      this.#dispatch();
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const pending of [...this.#waiting.splice(0), ...this.#busy.values()]) {
      clearTimeout(pending.timer);
      pending.reject(new Error(`the connection to ${this.#uri} was closed during ${pending.request.call}`));
    }
    await Promise.all(
      this.#idle.splice(0).map(async (thread) => {
        thread.ref();
        const ended = new Promise((exit) => thread.once('exit', exit));
        thread.postMessage('close');
        await ended;
      }),
    );
    // Those inside a call close by themselves when it returns.
    for (const thread of this.#busy.keys()) {
      this.#stuck.add(thread);
      thread.unref();
      thread.postMessage('close');
    }
    this.#busy.clear();
  }

  #dispatch(): void {
    while (this.#waiting.length > 0) {
      const thread = this.#idle.pop() ?? (this.#busy.size < this.#most ? this.#start() : null);
      if (thread === null) return;
      const pending = this.#waiting.shift() as PendingCall;
      pending.thread = thread;
      this.#busy.set(thread, pending);
      thread.ref();
      thread.postMessage(pending.request);
    }
  }

  #start(): Worker {
    const thread = startThread('libvirt-worker', { uri: this.#uri } satisfies WorkerStart);
    thread.on('message', (answer: CallAnswer) => this.#answered(thread, answer));
    thread.on('error', (error) => this.#ended(thread, error));
    thread.on('exit', () => this.#ended(thread, new Error('a libvirt thread ended unexpectedly')));
    return thread;
  }

  #answered(thread: Worker, answer: CallAnswer): void {
    const pending = this.#busy.get(thread);
    if (pending === undefined || pending.request.id !== answer.id) {
      // Given up, and back after all.
      if (!this.#closed) thread.postMessage('close');
      return;
    }
    this.#busy.delete(thread);
    this.#idle.push(thread);
    // Idle threads do not keep the process alive.
    thread.unref();
    clearTimeout(pending.timer);
    if (answer.ok) pending.resolve(answer.value);
    else pending.reject('libvirt' in answer ? new LibvirtError(answer.libvirt) : new Error(answer.message));
    this.#dispatch();
  }

  #expire(pending: PendingCall, deadlineMs: number): void {
    const { call } = pending.request;
    if (pending.thread === null) {
      this.#waiting.splice(this.#waiting.indexOf(pending), 1);
      pending.reject(
        new LibvirtStuck(
          `libvirt at ${this.#uri}: ${call} waited ${deadlineMs} ms for one of ${this.#most} ${this.#name} threads ` +
            'and was not tried: calls before it are slow. Ask again.',
        ),
      );
      return;
    }
    this.#busy.delete(pending.thread);
    this.#stuck.add(pending.thread);
    pending.thread.unref();
    pending.reject(
      new LibvirtStuck(
        `libvirt at ${this.#uri}: ${call} did not come back within ${deadlineMs} ms and was given up; whether it takes ` +
          'effect is unknown. Look whether libvirtd or that QEMU hangs.',
      ),
    );
    this.#dispatch();
  }

  #ended(thread: Worker, error: Error): void {
    this.#stuck.delete(thread);
    const index = this.#idle.indexOf(thread);
    if (index >= 0) this.#idle.splice(index, 1);
    const pending = this.#busy.get(thread);
    if (pending === undefined) return;
    this.#busy.delete(thread);
    clearTimeout(pending.timer);
    pending.reject(error);
    this.#dispatch();
  }
}

type WatchListener = (event: HypervisorEvent) => void;

/** libvirt's event loop: one for the process, started by the first Libvirt and stopped after the last. */
class EventLoop {
  static #shared: Promise<EventLoop> | null = null;
  static #users = 0;

  readonly #thread: Worker;
  readonly #watches = new Map<number, WatchListener>();
  #nextWatch = 1;

  private constructor(thread: Worker) {
    this.#thread = thread;
  }

  static acquire(): void {
    EventLoop.#users++;
  }

  static async release(): Promise<void> {
    EventLoop.#users--;
    if (EventLoop.#users > 0 || EventLoop.#shared === null) return;
    const starting = EventLoop.#shared;
    EventLoop.#shared = null;
    const thread = (await starting).#thread;
    thread.ref();
    const ended = new Promise((exit) => thread.once('exit', exit));
    thread.postMessage({ kind: 'stop' } satisfies EventRequest);
    await ended;
  }

  static running(): Promise<EventLoop> {
    EventLoop.#shared ??= EventLoop.#start();
    return EventLoop.#shared;
  }

  static #start(): Promise<EventLoop> {
    return new Promise((resolve, reject) => {
      const thread = startThread('libvirt-events', null);
      const loop = new EventLoop(thread);
      thread.on('message', (report: EventReport) => {
        if (report.kind === 'ready') {
          thread.unref();
          resolve(loop);
        } else loop.#report(report);
      });
      thread.once('error', (error) => {
        EventLoop.#shared = null;
        reject(error);
        // Its watchers watch again, by a new loop.
        for (const listener of loop.#watches.values()) listener({ kind: 'disconnected', message: error.message });
        loop.#watches.clear();
      });
    });
  }

  watch(connection: bigint, listener: WatchListener): () => void {
    const watch = this.#nextWatch++;
    this.#watches.set(watch, listener);
    this.#post({ kind: 'watch', watch, connection });
    return () => {
      if (this.#watches.delete(watch)) this.#post({ kind: 'unwatch', watch });
    };
  }

  #report(report: Exclude<EventReport, { kind: 'ready' }>): void {
    const listener = this.#watches.get(report.watch);
    if (listener === undefined) return;
    if (report.kind === 'watching') listener({ kind: 'connected' });
    else if (report.kind === 'lifecycle') listener({ kind: 'domain', ...report.event });
    else {
      this.#watches.delete(report.watch);
      listener({ kind: 'disconnected', message: report.message });
    }
  }

  #post(request: EventRequest): void {
    this.#thread.postMessage(request);
  }
}

/** A thread that runs a file beside this one: compiled, or from source by tsx, which Node 20 needs for TypeScript. */
function startThread(name: 'libvirt-worker' | 'libvirt-events', workerData: WorkerStart | null): Worker {
  const compiled = import.meta.url.endsWith('.js');
  const file = new URL(`./${name}.${compiled ? 'js' : 'ts'}`, import.meta.url);
  if (compiled) return new Worker(file, { workerData, name });
  const source = `import('tsx/esm/api').then(({ register }) => (register(), import(${JSON.stringify(file.href)})))`;
  return new Worker(source, { eval: true, workerData, name });
}

/**
 * The door of this room: who the containers on a VM's disk are.
 *
 *   const reader = new GuestDiskReader();
 *   const reading = await reader.listContainers({ kind: 'nbd', socketPath, exportName }, { diskId: vmUuid });
 *
 * Everything that touches the guest's bytes happens in a thread with a bounded heap. A look-up that is not done by its
 * deadline, or outgrows the heap, costs the thread: it is ended, the reading is unavailable, and the next look-up gets a
 * new thread. A disk that ended two threads in a row is left alone for a while, so that it cannot cost more than that.
 * Look-ups run one after another; a caller that wants several hosts' worth of them at once makes several readers.
 */
import { Worker } from 'node:worker_threads';
import { type Reading, unavailable } from '../model/reading.ts';
import type { DiskSource } from './disk.ts';
import type { ContainersOnDisk } from './look-up.ts';
import type { LookUpRequest } from './reader-thread.ts';

export interface GuestDiskReaderOptions {
  readonly heapMegabytes?: number;
  readonly quarantineMs?: number;
}

export interface LookUpOptions {
  /**
   * Names the disk over several look-ups, so that its journal need not be read from the start each time; an export's
   * name differs every time. A wrong one does no harm: the journal is recognised by its own content.
   */
  readonly diskId?: string;
  /** The first look-up at a disk reads its whole journal: some tenths of a second at worst. */
  readonly deadlineMs?: number;
}

const DEFAULT_DEADLINE_MS = 5_000;
/** A thread's own start is no disk's fault, and takes seconds on a machine that is busy. */
const START_LIMIT_MS = 60_000;

const MAX_FAILURES_BEFORE_QUARANTINE = 2;

interface Thread {
  readonly worker: Worker;
  /** Resolves when it takes requests; rejects when it could not be started. */
  readonly isReady: Promise<void>;
}

export class GuestDiskReader {
  readonly #options: Required<GuestDiskReaderOptions>;
  #thread: Thread | undefined;
  #queue: Promise<unknown> = Promise.resolve();
  #isClosed = false;
  /** Disks that ended a thread: how often in a row, and when last. */
  readonly #offenders = new Map<string, { failures: number; atMs: number }>();

  constructor(options: GuestDiskReaderOptions = {}) {
    this.#options = { heapMegabytes: 160, quarantineMs: 600_000, ...options };
  }

  listContainers(source: DiskSource, options: LookUpOptions = {}): Promise<Reading<ContainersOnDisk>> {
    const diskId = options.diskId ?? JSON.stringify(source);
    const deadlineMs = options.deadlineMs ?? DEFAULT_DEADLINE_MS;
    const reading = this.#queue.then(() => this.#lookUp({ diskId, source }, deadlineMs));
    this.#queue = reading.catch(() => undefined);
    return reading;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#queue;
    await this.#endThread();
  }

  async #lookUp(request: LookUpRequest, deadlineMs: number): Promise<Reading<ContainersOnDisk>> {
    if (this.#isClosed) return unavailable('ReaderDown', 'the reader of virtual disks was closed');
    const offender = this.#offenders.get(request.diskId);
    if (offender && offender.failures >= MAX_FAILURES_BEFORE_QUARANTINE) {
      const leftMs = offender.atMs + this.#options.quarantineMs - performance.now();
      if (leftMs > 0) {
        const left = `${Math.ceil(leftMs / 1000)} s`;
        return unavailable(
          'Quarantined',
          `reading the disk ended ${offender.failures} readers; tried again in ${left}`,
        );
      }
    }
    const { reading, costTheThread } = await this.#ask(request, deadlineMs);
    if (costTheThread) {
      const failures = (offender?.failures ?? 0) + 1;
      this.#offenders.set(request.diskId, { failures, atMs: performance.now() });
      await this.#endThread();
    } else {
      this.#offenders.delete(request.diskId);
    }
    return reading;
  }

  async #ask(
    request: LookUpRequest,
    deadlineMs: number,
  ): Promise<{ reading: Reading<ContainersOnDisk>; costTheThread: boolean }> {
    const { worker, isReady } = this.#thread ?? this.#startThread();
    try {
      await isReady;
    } catch (error) {
      return { reading: this.#readingOf(error as NodeJS.ErrnoException), costTheThread: true };
    }
    return new Promise((resolve) => {
      const settle = (reading: Reading<ContainersOnDisk>, costTheThread: boolean) => {
        clearTimeout(deadline);
        worker.off('message', onAnswer).off('error', onError);
        resolve({ reading, costTheThread });
      };
      const onAnswer = (reading: Reading<ContainersOnDisk>) => settle(reading, false);
      const onError = (error: NodeJS.ErrnoException) => settle(this.#readingOf(error), true);
      const deadline = setTimeout(() => {
        settle(unavailable('Exhausted', `reading the disk was not done in ${deadlineMs} ms`), true);
      }, deadlineMs);
      worker.on('message', onAnswer).on('error', onError);
      worker.postMessage(request);
    });
  }

  #readingOf(error: NodeJS.ErrnoException): Reading<never> {
    return error.code === 'ERR_WORKER_OUT_OF_MEMORY'
      ? unavailable('Exhausted', `reading the disk took more than ${this.#options.heapMegabytes} MB`)
      : unavailable('ReaderDown', `reading the disk failed: ${error.stack ?? error.message}`);
  }

  #startThread(): Thread {
    const worker = createThread(this.#options.heapMegabytes);
    const isReady = new Promise<void>((resolve, reject) => {
      const limit = setTimeout(() => reject(new Error(`not ready in ${START_LIMIT_MS} ms`)), START_LIMIT_MS);
      const settle = (done: () => void) => {
        clearTimeout(limit);
        done();
      };
      worker.once('message', () => settle(resolve));
      worker.once('error', (error) => settle(() => reject(error)));
      worker.once('exit', (code) => settle(() => reject(new Error(`it ended with code ${code}`))));
    });
    // Should it die between two look-ups, nobody waits for it: the next one starts another.
    worker.on('error', () => undefined);
    isReady.catch(() => undefined);
    const thread = { worker, isReady };
    this.#thread = thread;
    worker.once('exit', () => {
      if (this.#thread === thread) this.#thread = undefined;
    });
    return thread;
  }

  async #endThread(): Promise<void> {
    const thread = this.#thread;
    this.#thread = undefined;
    await thread?.worker.terminate();
  }
}

function createThread(heapMegabytes: number): Worker {
  const resourceLimits = { maxOldGenerationSizeMb: heapMegabytes, maxYoungGenerationSizeMb: 16 };
  if (import.meta.url.endsWith('.js'))
    return new Worker(new URL('./reader-thread.js', import.meta.url), { resourceLimits });
  // From source (tests, tsx): a thread does not inherit the loader that the main thread runs under.
  const source = JSON.stringify(new URL('./reader-thread.ts', import.meta.url).href);
  const script = `import('tsx/esm/api').then((tsx) => { tsx.register(); return import(${source}); })`;
  return new Worker(script, { eval: true, resourceLimits });
}

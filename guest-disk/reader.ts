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

const MAX_FAILURES_BEFORE_QUARANTINE = 2;

export class GuestDiskReader {
  readonly #options: Required<GuestDiskReaderOptions>;
  #thread: Worker | undefined;
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

  #ask(
    request: LookUpRequest,
    deadlineMs: number,
  ): Promise<{ reading: Reading<ContainersOnDisk>; costTheThread: boolean }> {
    const { heapMegabytes } = this.#options;
    const thread = this.#thread ?? this.#startThread();
    return new Promise((resolve) => {
      const settle = (reading: Reading<ContainersOnDisk>, costTheThread: boolean) => {
        clearTimeout(deadline);
        thread.off('message', onAnswer).off('error', onError);
        resolve({ reading, costTheThread });
      };
      const onAnswer = (reading: Reading<ContainersOnDisk>) => settle(reading, false);
      const onError = (error: NodeJS.ErrnoException) => {
        const reading =
          error.code === 'ERR_WORKER_OUT_OF_MEMORY'
            ? unavailable('Exhausted', `reading the disk took more than ${heapMegabytes} MB`)
            : unavailable('ReaderDown', `reading the disk failed: ${error.stack ?? error.message}`);
        settle(reading, true);
      };
      const deadline = setTimeout(() => {
        settle(unavailable('Exhausted', `reading the disk was not done in ${deadlineMs} ms`), true);
      }, deadlineMs);
      thread.on('message', onAnswer).on('error', onError);
      thread.postMessage(request);
    });
  }

  #startThread(): Worker {
    const thread = createThread(this.#options.heapMegabytes);
    this.#thread = thread;
    // Should it die between two look-ups, nobody waits for it: the next one starts another.
    thread.on('error', () => undefined);
    thread.once('exit', () => {
      if (this.#thread === thread) this.#thread = undefined;
    });
    return thread;
  }

  async #endThread(): Promise<void> {
    const thread = this.#thread;
    this.#thread = undefined;
    await thread?.terminate();
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

/**
 * Attaches apart from the sampling: by a few child processes (attacher.ts), each with one guest at a time. A guest that
 * crashes or hangs its attacher has ended only that, and it alone is to blame.
 *
 *   waiting ─▶ an idle attacher, or a new one ─▶ answered · crashed · silent for HANG_MS: killed
 */
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { type AttachRequest, MapperError } from './mapper.ts';
import type { AttachReply } from './sampler-protocol.ts';

const ATTACHERS = 2;
/** The longest honest attach is to a large guest, under load. */
const HANG_MS = 15_000;
/** An attacher without work ends: it is needed when VMs start, not while they run. */
const IDLE_MS = 30_000;

interface Job {
  readonly request: AttachRequest;
  readonly resolve: () => void;
  readonly reject: (error: MapperError) => void;
}

interface Attacher {
  readonly child: ChildProcess;
  job: Job | null;
  timer: NodeJS.Timeout | null;
}

export class AttachPool {
  readonly #attachers = new Set<Attacher>();
  readonly #waiting: Job[] = [];

  /** Leaves a cache file. Rejects with a MapperError; ReaderDown: the attacher has ended under this guest. */
  attach(request: AttachRequest): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ request, resolve, reject });
      this.#next();
    });
  }

  #next(): void {
    while (this.#waiting.length > 0) {
      const attacher = this.#free();
      const job = attacher && this.#waiting.shift();
      if (!attacher || !job) return;
      attacher.job = job;
      this.#after(attacher, HANG_MS);
      attacher.child.send(job.request, () => {});
    }
  }

  #free(): Attacher | null {
    for (const attacher of this.#attachers) if (attacher.job === null) return attacher;
    return this.#attachers.size < ATTACHERS ? this.#start() : null;
  }

  #start(): Attacher {
    const compiled = import.meta.url.endsWith('.js');
    const file = fileURLToPath(new URL(`./attacher.${compiled ? 'js' : 'ts'}`, import.meta.url));
    const child = fork(file, [], {
      serialization: 'advanced',
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      execArgv: compiled ? ['--enable-source-maps'] : ['--import', 'tsx'],
    });
    const attacher: Attacher = { child, job: null, timer: null };
    this.#attachers.add(attacher);
    child.on('message', (reply: AttachReply) => {
      const { job } = attacher;
      attacher.job = null;
      this.#after(attacher, IDLE_MS);
      if (reply.kind === 'attached') job?.resolve();
      else job?.reject(new MapperError(reply.reason, reply.message));
      this.#next();
    });
    let isOver = false;
    const end = (how: string): void => {
      if (isOver) return;
      isOver = true;
      if (attacher.timer) clearTimeout(attacher.timer);
      this.#attachers.delete(attacher);
      const message = `the attacher ended (${how}) while it looked for the kernel of this VM; another one is started`;
      attacher.job?.reject(new MapperError('ReaderDown', message));
      this.#next();
    };
    child.once('error', (error) => end(error.message));
    child.once('exit', (code, signal) => end(signal ?? `exit ${code}`));
    return attacher;
  }

  /** Ends an attacher that has not gone on to something else by then. */
  #after(attacher: Attacher, ms: number): void {
    if (attacher.timer) clearTimeout(attacher.timer);
    attacher.timer = setTimeout(() => attacher.child.kill('SIGKILL'), ms);
    attacher.timer.unref();
  }
}

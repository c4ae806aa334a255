/**
 * Keeps one process running: started again when it ends, at once the first time and later after longer pauses; ended with
 * us, however we end. The kernel sees to the last (PR_SET_PDEATHSIG, by util-linux's setpriv, which becomes the program,
 * so that the pid is the program's).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { open, rename, stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';

const FIRST_PAUSE_MS = 200;
const LONGEST_PAUSE_MS = 5_000;
/** Who ran this long was well: it is started again at once. */
const WELL_AFTER_MS = 10_000;
/** Before a start: the log of a process that goes on for months is not to fill the disk. */
const LONGEST_LOG_BYTES = 32 * 2 ** 20;

export interface Program {
  readonly name: string;
  readonly command: readonly string[];
  readonly env: NodeJS.ProcessEnv;
  readonly logFile: string;
  /** It tells by Node's channel to its parent what its user should know. */
  readonly tells: boolean;
  /** How long it may take to end in order. */
  readonly endWithinMs: number;
}

export type SupervisorEvent =
  | { readonly kind: 'started'; readonly pid: number; readonly again: boolean }
  | { readonly kind: 'said'; readonly text: string }
  | { readonly kind: 'ended'; readonly how: string; readonly pauseMs: number };

export class Supervisor {
  readonly program: Program;
  readonly #tell: (event: SupervisorEvent) => void;
  readonly #stopping = new AbortController();
  #child: ChildProcess | null = null;
  readonly #loop: Promise<void>;

  /** Starts it. @param tell called at every start and unexpected end */
  constructor(program: Program, tell: (event: SupervisorEvent) => void) {
    this.program = program;
    this.#tell = tell;
    this.#loop = this.#keepRunning();
  }

  /** null: between two starts. */
  get pid(): number | null {
    return this.#child?.pid ?? null;
  }

  /** SIGTERM, and SIGKILL after endWithinMs. Resolves when it has ended. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#child?.kill('SIGTERM');
    const force = setTimeout(() => this.#child?.kill('SIGKILL'), this.program.endWithinMs);
    await this.#loop;
    clearTimeout(force);
  }

  async #keepRunning(): Promise<void> {
    const { signal } = this.#stopping;
    let pauseMs = 0;
    for (let again = false; !signal.aborted; again = true) {
      const startedAtMs = performance.now();
      const how = await this.#runOnce(again).catch((error: unknown) => `could not be started: ${String(error)}`);
      this.#child = null;
      if (signal.aborted) return;
      const well = performance.now() - startedAtMs > WELL_AFTER_MS;
      pauseMs = well
        ? 0
        : Math.min(LONGEST_PAUSE_MS, pauseMs === 0 && !again ? 0 : Math.max(FIRST_PAUSE_MS, 2 * pauseMs));
      this.#tell({ kind: 'ended', how, pauseMs });
      await sleep(pauseMs, undefined, { signal }).catch(() => {});
    }
  }

  /** @returns how it ended */
  async #runOnce(again: boolean): Promise<string> {
    const { command, env, logFile, tells } = this.program;
    const size = await stat(logFile).then(
      (found) => found.size,
      () => 0,
    );
    if (size > LONGEST_LOG_BYTES) await rename(logFile, `${logFile}.1`);
    const log = await open(logFile, 'a', 0o640);
    try {
      // A process group of its own: Ctrl-C in a terminal is for us, who end the processes in their order.
      const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', ...command], {
        env,
        stdio: ['ignore', log.fd, log.fd, ...(tells ? ['ipc' as const] : [])],
        detached: true,
      });
      child.on('message', (message: { said?: unknown }) => {
        if (typeof message?.said === 'string') this.#tell({ kind: 'said', text: message.said });
      });
      this.#child = child;
      const ended = new Promise<string>((resolve, reject) => {
        child.once('error', reject);
        child.once('exit', (code, signal) => resolve(signal === null ? `exit code ${code}` : signal));
      });
      if (child.pid !== undefined) this.#tell({ kind: 'started', pid: child.pid, again });
      // Told to stop while the log was opened.
      if (this.#stopping.signal.aborted) child.kill('SIGTERM');
      return await ended;
    } finally {
      await log.close();
    }
  }
}

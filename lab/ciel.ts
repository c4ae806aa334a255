/**
 * Ciel as its user has it, run inside a lab's segment: `ciel up` as a process of its own, and the command line for
 * everything else. Nothing here reaches into the product.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';
import { execa } from 'execa';
import { findRuntime, type Runtime } from '../cli/runtime.ts';
import type { Status } from '../cli/status.ts';
import { cacheDirectory } from '../template/cache.ts';
import { sourceFile } from '../template/sources.ts';
import { inSegment, type Segment } from './segment.ts';

const UP_WITHIN_MS = 90_000;

export interface CommandOutcome {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

export class Ciel {
  readonly stateDirectory: string;
  readonly #segment: Segment;

  constructor(segment: Segment, stateDirectory: string) {
    this.#segment = segment;
    this.stateDirectory = stateDirectory;
  }

  /** Starts `ciel up` detached, so that it outlives us with --keep, and waits until its roles answer. */
  async up(environment: Readonly<Record<string, string>> = {}): Promise<Runtime> {
    await mkdir(this.stateDirectory, { recursive: true });
    const logFile = join(this.stateDirectory, 'up.log');
    const log = await open(logFile, 'a');
    const [file, args] = this.#command(['up']);
    const child = spawn(file, args, {
      detached: true,
      stdio: ['ignore', log.fd, log.fd],
      env: { ...process.env, ...environment },
    });
    child.unref();
    await log.close();
    const deadline = Date.now() + UP_WITHIN_MS;
    for (;;) {
      const runtime = await this.runtime();
      if (runtime !== null && runtime.up.pid === child.pid && (await this.cli('status', '--json')).exitCode === 0) {
        return runtime;
      }
      const tail = async () => (await readFile(logFile, 'utf8')).slice(-2000);
      if (child.exitCode !== null) throw new Error(`ciel up ended with ${child.exitCode}:\n${await tail()}`);
      if (Date.now() > deadline) throw new Error(`ciel up was not ready within ${UP_WITHIN_MS} ms:\n${await tail()}`);
      await pause(300);
    }
  }

  runtime(): Promise<Runtime | null> {
    return findRuntime(this.stateDirectory);
  }

  /** Asks `ciel up` to end and waits until it has. No error when it does not run. */
  async down(): Promise<void> {
    const pid = (await this.runtime())?.up.pid;
    if (pid === undefined) return;
    try {
      process.kill(pid, 'SIGTERM');
      for (;;) {
        process.kill(pid, 0);
        await pause(100);
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  }

  /** Runs one command as a user would. */
  async cli(...args: string[]): Promise<CommandOutcome> {
    const result = await execa(...this.#command(args), { reject: false, stdin: 'ignore', timeout: 300_000 });
    return { exitCode: result.exitCode ?? -1, stdout: result.stdout, stderr: result.stderr };
  }

  /** Runs one command and takes its JSON. @throws with what the command said when it fails. */
  async json<T>(...args: string[]): Promise<T> {
    const outcome = await this.cli(...args, '--json');
    if (outcome.exitCode !== 0) {
      throw new Error(`ciel ${args.join(' ')}: exit ${outcome.exitCode}: ${outcome.stderr || outcome.stdout}`);
    }
    return JSON.parse(outcome.stdout) as T;
  }

  /** `ciel status --watch`: calls back at each look, until the returned function is called. */
  watchStatus(see: (status: Status) => void): () => void {
    const [file, args] = this.#command(['status', '--watch', '--every', '2s', '--json']);
    const child: ChildProcess = spawn(file, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    if (child.stdout !== null)
      createInterface({ input: child.stdout }).on('line', (line) => see(JSON.parse(line) as Status));
    return () => child.kill('SIGTERM');
  }

  #command(args: readonly string[]): [string, string[]] {
    const temporal = join(cacheDirectory(), 'bin', 'temporal');
    return inSegment(this.#segment, 'env', [
      `CIEL_TEMPORAL_BINARY=${temporal}`,
      process.execPath,
      '--enable-source-maps',
      sourceFile('dist/cli/main.js'),
      ...args,
      '--state',
      this.stateDirectory,
    ]);
  }
}

/**
 * An exclusive lock on a directory, held while this process lives: flock(2) on a file in it. Node has no flock, so a
 * small child (util-linux's `flock`, which becomes `cat`) holds it and ends when our end of its pipe closes, however we
 * end: a lock is never left behind and never shared.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';

const CONFLICT_EXIT_CODE = 75;
const HELD = '.';

export interface ExclusiveLock {
  /** Resolves when the lock is lost though it was not released: its holder was killed. */
  readonly lost: Promise<void>;
  release(): Promise<void>;
}

/** @returns null when another process holds it. */
export async function tryLock(directory: string, name: string): Promise<ExclusiveLock | null> {
  const file = join(directory, `${name}.lock`);
  const holder: ChildProcess = spawn(
    'flock',
    ['--nonblock', '--no-fork', '--conflict-exit-code', String(CONFLICT_EXIT_CODE), file, 'cat'],
    // A process group of its own: Ctrl-C in a terminal is for us, and we still need the lock to stop in order.
    { stdio: ['pipe', 'pipe', 'inherit'], detached: true },
  );
  const { stdin, stdout } = holder;
  if (stdin === null || stdout === null) throw new Error('flock was started without its pipes');
  stdin.on('error', () => {}); // it ended first: the exit says why
  const ended = new Promise<number | string | Error>((resolve) => {
    holder.once('error', resolve);
    holder.once('exit', (code, signal) => resolve(code ?? signal ?? 'unknown'));
  });
  stdin.write(HELD);
  const first = await Promise.race([once(stdout, 'data').then(() => HELD), ended]);
  if (first === CONFLICT_EXIT_CODE) return null;
  if (first !== HELD) {
    const found = first instanceof Error ? first.message : `it ended with ${first}`;
    throw new Error(`wanted to lock ${file} with flock: ${found}. Is the directory writable and util-linux installed?`);
  }
  holder.unref();
  let released = false;
  return {
    lost: ended.then(() => (released ? new Promise<void>(() => {}) : undefined)),
    async release() {
      released = true;
      holder.ref(); // so that the process does not end before the lock is free
      stdin.end();
      await ended;
    },
  };
}

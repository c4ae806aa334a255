/** Processes by what tells one from another with the same pid: the start time in /proc. */
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RecordedProcess } from './runtime.ts';

const POLL_MS = 50;

/** null: no such process. A zombie has ended; only its parent has not looked yet. */
async function startTicks(pid: number): Promise<string | null> {
  const stat = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => '');
  // The second field is the command's name in parentheses, which may contain anything.
  const [state, ...fields] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return state === undefined || state === '' || state === 'Z' || state === 'X' ? null : (fields[18] ?? null);
}

/** null: it has ended already. */
export async function recordProcess(name: string, pid: number): Promise<RecordedProcess | null> {
  const ticks = await startTicks(pid);
  return ticks === null ? null : { name, pid, startTicks: ticks };
}

export async function isAlive(recorded: RecordedProcess): Promise<boolean> {
  return (await startTicks(recorded.pid)) === recorded.startTicks;
}

/** SIGTERM, and SIGKILL when it has not ended by then. */
export async function endProcess(recorded: RecordedProcess, withinMs: number): Promise<void> {
  const started = performance.now();
  let signal: 'SIGTERM' | 'SIGKILL' | null = 'SIGTERM';
  while (await isAlive(recorded)) {
    if (signal !== null) {
      process.kill(recorded.pid, signal);
      signal = null;
    }
    await sleep(POLL_MS);
    if (signal === null && performance.now() - started > withinMs) signal = 'SIGKILL';
  }
}

/**
 * After kill -9 of the only worker, restarted at once: how long until the step that was cut off is tried again, for each
 * step of a scale-out; and how long until an idle service answers an update. The shipped workflows, timeouts and
 * retries on Temporal's dev server, over activities that only note that they were called: what is measured is what
 * Ciel adds, not how long a disk takes. The new process's own start (loading modules and the bundle) is in it.
 *
 *     npm run bench -- recovery [RUNS]
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { table } from '../lab/demo-report.ts';
import { ServiceUnderTest, startEnvironment } from '../test/workflows/environment.ts';
import { pauseUpdate } from '../workflows/messages.ts';
import { type Spread, spread, writeResults } from './measure.ts';

const WORKER = join(import.meta.dirname, '../test/workflows/mortal-worker.ts');
/** By step of the scale-out, the activity that is cut off. */
const STEPS = {
  reserve: 'reserve',
  'clone disk': 'cloneDisk',
  'start VM': 'startVm',
  'prepare guest': 'prepareGuest',
  'install image': 'installImage',
  'start container': 'startContainer',
  probe: 'probeReplica',
  'admit (note it)': 'setRealServer',
  'admit (into LVS)': 'convergeVirtualServer',
} as const;
const LOOK_EVERY_MS = 10;

/** The times, in ms since the epoch, at which scale-outs called an activity. */
async function callsOf(activity: string, file: string): Promise<number[]> {
  if (!existsSync(file)) return [];
  const lines = (await readFile(file, 'utf8')).split('\n').map((line) => line.split(' '));
  return lines.flatMap(([name, , workflowType, , at]) =>
    name === activity && workflowType === 'scaleOut' ? [Number(at)] : [],
  );
}

/** One scale-out, cut off in one step. */
async function cutOff(activity: string): Promise<{ stepMs: number; idleMs: number }> {
  const environment = await startEnvironment({ workers: false });
  const folder = await mkdtemp(join(tmpdir(), 'ciel-recovery-'));
  const calls = join(folder, 'calls');
  const running: ChildProcess[] = [];
  const startWorker = () => {
    const args = ['--import', 'tsx', WORKER, environment.env.address, calls, activity];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'inherit'] });
    running.push(child);
    return child;
  };
  const called = async (times: number) => {
    for (;;) {
      const at = (await callsOf(activity, calls))[times - 1];
      if (at !== undefined) return at;
      await pause(LOOK_EVERY_MS);
    }
  };
  try {
    const first = startWorker();
    const service = await ServiceUnderTest.applied(environment, 'mortal');
    const { operationId } = await service.scale('out');
    await called(1);
    first.kill('SIGKILL');
    const killedAt = Date.now();
    const second = startWorker();
    const stepMs = (await called(2)) - killedAt;
    const { outcome } = await service.result(operationId);
    if (outcome !== 'completed') throw new Error(`the scale-out that was cut off in ${activity} ended as ${outcome}`);

    second.kill('SIGKILL');
    const killedIdleAt = Date.now();
    startWorker();
    await service.handle.executeUpdate(pauseUpdate, { args: [{ reason: 'does anybody answer?' }] });
    return { stepMs, idleMs: Date.now() - killedIdleAt };
  } finally {
    for (const child of running) child.kill('SIGKILL');
    await environment.stop();
    await rm(folder, { recursive: true });
  }
}

export default async function benchRecovery(args: readonly string[]): Promise<void> {
  const runs = Number(args[0] ?? 3);
  const recovered: Record<string, Spread> = {};
  const idle: number[] = [];
  for (const [step, activity] of Object.entries(STEPS)) {
    const took: number[] = [];
    for (let run = 0; run < runs; run += 1) {
      const { stepMs, idleMs } = await cutOff(activity);
      took.push(stepMs);
      idle.push(idleMs);
    }
    recovered[step] = spread(took);
  }
  const figures = { stepsMs: recovered, idleUpdateMs: spread(idle) };
  const rows = [...Object.entries(recovered), ['an idle service answers', figures.idleUpdateMs] as const];
  console.log(
    table(
      ['killed in', 'median ms', 'min', 'max'],
      rows.map(([name, { median, min, max }]) => [name, ...[median, min, max].map((value) => value.toFixed(0))]),
    ),
  );
  console.log(await writeResults('recovery', figures));
}

/**
 * kill -9 of the worker (invariant 7), in a step of an operation and while the service is idle. It needs no VM, but the
 * machine for itself, because it measures time: that is why it runs with those that do. The bench has the figures.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { pauseUpdate } from '../../workflows/messages.ts';
import { HOOK_TIMEOUT_MS, ServiceUnderTest, type StartedEnvironment, startEnvironment, until } from './environment.ts';

/** Of issue and design: 8 s for an operation. An idle service answers within 4 s on a quiet machine; the default is 10 s. */
const GOES_ON_WITHIN_MS = 8_000;

let environment: StartedEnvironment;
const folder = mkdtempSync(join(tmpdir(), 'ciel-mortal-'));
const callsFile = join(folder, 'calls');
const running: ChildProcess[] = [];

beforeAll(async () => {
  environment = await startEnvironment({ workers: false });
}, HOOK_TIMEOUT_MS);
afterAll(async () => {
  for (const child of running) child.kill('SIGKILL');
  await environment?.stop();
  rmSync(folder, { recursive: true });
});

function startWorker(): ChildProcess {
  const script = join(import.meta.dirname, 'mortal-worker.ts');
  const child = spawn(
    process.execPath,
    ['--import', 'tsx', script, environment.env.address, callsFile, 'installImage'],
    {
      stdio: ['ignore', 'ignore', 'inherit'],
    },
  );
  running.push(child);
  return child;
}
/** Those of scale-outs, each as "activity attempt". */
function calls(): string[] {
  if (!existsSync(callsFile)) return [];
  const lines = readFileSync(callsFile, 'utf8').trim().split('\n');
  return lines.flatMap((line) => {
    const [name, , workflowType, attempt] = line.split(' ');
    return workflowType === 'scaleOut' ? [`${name} ${attempt}`] : [];
  });
}
const called = (line: string) =>
  until(
    async () => calls(),
    (lines) => lines.includes(line),
    `${line} was not called`,
  );

describe('a worker killed with SIGKILL', () => {
  it('in a step: the operation goes on with that step and repeats none before it; idle: the service answers soon', {
    timeout: 60_000,
  }, async () => {
    const first = startWorker();
    const service = await ServiceUnderTest.applied(environment, 'mortal');
    const { operationId } = await service.scale('out');
    await called('installImage 1');

    first.kill('SIGKILL');
    let killedAt = Date.now();
    const second = startWorker();
    await called('installImage 2');
    expect(Date.now() - killedAt).toBeLessThan(GOES_ON_WITHIN_MS);
    expect((await service.result(operationId)).outcome).toBe('completed');
    const steps = ['reserve', 'cloneDisk', 'startVm', 'prepareGuest', 'startContainer', 'probeReplica'];
    for (const step of steps) expect(calls().filter((line) => line.startsWith(`${step} `))).toEqual([`${step} 1`]);

    second.kill('SIGKILL');
    killedAt = Date.now();
    startWorker();
    await service.handle.executeUpdate(pauseUpdate, { args: [{ reason: 'to see whether anybody answers' }] });
    expect(Date.now() - killedAt).toBeLessThan(GOES_ON_WITHIN_MS);
  });
});

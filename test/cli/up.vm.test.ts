/**
 * `ciel up` as a process, killed and started again. It runs from source; what its roles do when they run is shown where
 * the roles are tested.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, Connection } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { endProcess, isAlive, recordProcess } from '../../cli/processes.ts';
import { findRuntime, type Runtime } from '../../cli/runtime.ts';
import { monitorStart } from '../../model/starts.ts';
import { connectStore } from '../../store/database.ts';
import { readInstallationId } from '../../store/installation.ts';

const WITHIN_MS = 120_000;
const main = join(import.meta.dirname, '../../cli/main.ts');
const VM = { vmUuid: '11111111-1111-4111-8111-111111111111', vmName: 'shop-1', host: 'kvm-1' };

let state: string;
const started: ChildProcess[] = [];

beforeAll(async () => {
  state = await mkdtemp(join(tmpdir(), 'ciel-up-'));
  await chmod(state, 0o711);
});
afterAll(async () => {
  for (const child of started) child.kill('SIGKILL');
  const processes = (await findRuntime(state))?.processes ?? [];
  for (const left of processes) await endProcess(left, 1_000);
  await rm(state, { recursive: true, force: true });
});

/** Without the caller's own Temporal and database. */
function environment(): NodeJS.ProcessEnv {
  const entries = Object.entries(process.env).filter(([name]) => !/^(TEMPORAL_|DATABASE_URL$)/.test(name));
  return Object.fromEntries(entries);
}

function startUp(...options: string[]): { child: ChildProcess; said: () => string; exit: Promise<number | null> } {
  const child = spawn(process.execPath, ['--import', 'tsx', main, '--state', state, 'up', ...options], {
    env: environment(),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  started.push(child);
  let text = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (text += String(chunk)));
  return { child, said: () => text, exit: new Promise((resolve) => child.once('exit', (code) => resolve(code))) };
}

async function until<T>(what: string, look: () => Promise<T | null | undefined | false>): Promise<T> {
  const deadline = performance.now() + WITHIN_MS;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (performance.now() > deadline) throw new Error(`${what} did not come within ${WITHIN_MS / 1_000} s`);
    await sleep(50);
  }
}

/** As soon as its Temporal and its control role are recorded. */
function ready({ child, said }: ReturnType<typeof startUp>): Promise<Runtime> {
  return until('the runtime file', async () => {
    if (child.exitCode !== null) throw new Error(`ciel up ended with ${child.exitCode}: ${said()}`);
    const runtime = await findRuntime(state);
    const names = runtime?.processes.map(({ name }) => name).sort();
    return runtime?.up.pid === child.pid && String(names) === 'control,postgres,temporal' ? runtime : null;
  });
}

async function installationId({ databaseUrl }: Runtime): Promise<string> {
  const store = connectStore(databaseUrl);
  try {
    return await readInstallationId(store);
  } finally {
    await store.destroy();
  }
}

async function withTemporal<T>({ temporalAddress }: Runtime, work: (client: Client) => Promise<T>): Promise<T> {
  const connection = await Connection.connect({ address: temporalAddress });
  try {
    return await work(new Client({ connection }));
  } finally {
    await connection.close();
  }
}

describe('ciel up', { timeout: 4 * WITHIN_MS }, () => {
  it('loses nothing by SIGKILL, leaves no process, and ends in order (invariant 7)', async () => {
    const first = startUp();
    const before = await ready(first);
    const id = await installationId(before);
    const { workflowType, options } = monitorStart(VM);
    await withTemporal(before, (client) => client.workflow.start(workflowType, options));

    // A second one on the same directory is refused.
    const second = startUp();
    expect(await second.exit).toBe(3);
    expect(second.said()).toContain('another `ciel up` runs on this directory');

    // Whatever is killed is started again.
    const control = before.processes.find(({ name }) => name === 'control');
    if (control === undefined) throw new Error('no control role is recorded');
    process.kill(control.pid, 'SIGKILL');
    await until('another control role', async () =>
      (await findRuntime(state))?.processes.some(({ name, pid }) => name === 'control' && pid !== control.pid),
    );

    const killed = await ready(first);
    first.child.kill('SIGKILL');
    await first.exit;
    for (const left of killed.processes) {
      await until(`the end of ${left.name}`, async () => !(await isAlive(left)));
    }

    const third = startUp();
    const after = await ready(third);
    expect(after.temporalAddress).toBe(before.temporalAddress);
    expect(await installationId(after)).toBe(id);
    const status = await withTemporal(after, (client) =>
      client.workflow
        .getHandle(options.workflowId)
        .describe()
        .then((description) => description.status.name),
    );
    expect(status).toBe('RUNNING');

    third.child.kill('SIGTERM');
    expect(await third.exit).toBe(0);
    for (const left of after.processes) expect(await isAlive(left)).toBe(false);
    expect(await findRuntime(state)).toBeNull();
    expect(third.said()).toContain('ended');
    expect(await readFile(join(state, 'logs', 'temporal.log'), 'utf8')).not.toContain('malformed');
  });
});

describe('a recorded process', () => {
  it('is not another one that got its pid', async () => {
    const child = spawn('sleep', ['60']);
    try {
      const recorded = await recordProcess('sleep', child.pid ?? 0);
      if (recorded === null) throw new Error('it was not found in /proc');
      expect(await isAlive(recorded)).toBe(true);
      const other = { ...recorded, startTicks: '1' };
      expect(await isAlive(other)).toBe(false);
      await endProcess(other, 0);
      expect(child.exitCode).toBeNull();
      await endProcess(recorded, 5_000);
      expect(await isAlive(recorded)).toBe(false);
    } finally {
      child.kill('SIGKILL');
    }
  });
});

/**
 * `ciel up` as a process, killed and started again. It runs from source; what its roles do when they run is shown where
 * the roles are tested.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, Connection } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EXIT } from '../../cli/errors.ts';
import { endProcess, isAlive, recordProcess } from '../../cli/processes.ts';
import { findRuntime, type Runtime } from '../../cli/runtime.ts';
import { monitorStart } from '../../model/starts.ts';
import { connectStore } from '../../store/database.ts';
import { startEmbeddedPostgres } from '../../store/embedded-postgres.ts';
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

interface Started {
  readonly child: ChildProcess;
  readonly said: () => string;
  readonly exit: Promise<number | null>;
}

function startUp(...options: string[]): Started {
  return startIn(state, {}, ...options);
}

function startIn(directory: string, env: Readonly<Record<string, string>>, ...options: string[]): Started {
  const child = spawn(process.execPath, ['--import', 'tsx', main, '--state', directory, 'up', ...options], {
    env: { ...environment(), ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  started.push(child);
  let text = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (text += String(chunk)));
  return { child, said: () => text, exit: new Promise((resolve) => child.once('exit', (code) => resolve(code))) };
}

async function until<T>(
  what: string,
  look: () => Promise<T | null | undefined | false>,
  withinMs = WITHIN_MS,
): Promise<T> {
  const deadline = performance.now() + withinMs;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (performance.now() > deadline) throw new Error(`${what} did not come within ${withinMs / 1_000} s`);
    await sleep(50);
  }
}

/** As soon as its Temporal and its control role are recorded. */
function ready({ child, said }: Started): Promise<Runtime> {
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

describe('what `ciel up` lacks at its start', { timeout: 6 * WITHIN_MS }, () => {
  /** A first start makes a database and bundles the workflows. */
  const says = (up: Started, text: string) =>
    until(`"${text}"`, async () => up.said().includes(text), 2 * WITHIN_MS).catch((cause) => {
      throw new Error(`ciel up said only:\n${up.said()}`, { cause });
    });
  const end = async ({ child, exit }: Started) => {
    child.kill('SIGTERM');
    await exit;
  };

  it('is named and awaited: a database, Temporal', async () => {
    const noDatabase = startIn(state, { DATABASE_URL: 'postgresql://ciel:secret@127.0.0.1:1/ciel' });
    await says(noDatabase, 'awaits the database at 127.0.0.1:1/ciel (from DATABASE_URL)');
    expect(noDatabase.said()).not.toContain('secret');
    await end(noDatabase);
    const noTemporal = startIn(state, { TEMPORAL_ADDRESS: '127.0.0.1:1' });
    await says(noTemporal, 'control: awaits Temporal at 127.0.0.1:1');
    await end(noTemporal);
  });

  it('is a database that does not let it in, or is not there: it ends at once, with what to do', async () => {
    const postgres = await startEmbeddedPostgres({ directory: join(state, 'elsewhere') });
    try {
      const changed = (change: (url: URL) => void) => {
        const url = new URL(postgres.url);
        change(url);
        return startIn(join(state, 'refused'), { DATABASE_URL: url.href });
      };
      const wrongPassword = changed((url) => {
        url.password = 'wrong-secret';
      });
      expect(await wrongPassword.exit).toBe(EXIT.unreachable);
      expect(wrongPassword.said()).toContain('password authentication failed');
      expect(wrongPassword.said()).toContain('set DATABASE_URL to a PostgreSQL that this user may use');
      expect(wrongPassword.said()).not.toContain('wrong-secret');
      const noDatabase = changed((url) => {
        url.pathname = '/nowhere';
      });
      expect(await noDatabase.exit).toBe(EXIT.unreachable);
      expect(noDatabase.said()).toContain('database "nowhere" does not exist');
    } finally {
      await postgres.stop();
    }
  });

  it('is named and awaited: libvirt. A service that is refused keeps nothing from running', async () => {
    const libvirt = `qemu+unix:///system?socket=${state}/nobody`;
    const config = join(state, 'ciel.yaml');
    await writeFile(
      config,
      `version: 1
hosts: [{ name: h1, libvirt: "${libvirt}", storage: /srv, bridge: br0, capacity: { vcpus: 4, memory: 8GiB } }]
directors: [{ name: d1, reach: { kind: agent, host: h1, vm: lvs } }]
networks: [{ name: lan, subnet: 10.0.0.0/16, addresses: [10.0.1.1-10.0.1.99] }]
templates: [{ name: minimal, directory: /srv/minimal }]
services:
  - { name: s1, image: "registry:5000/s1:1", virtual: { director: d1, address: 10.0.0.10, port: 80 },
      network: lan, template: minimal, min: 0, max: 1 }
`,
    );
    const up = startUp('--config', config);
    await says(up, `host-h1: awaits libvirt at ${libvirt}`);
    await says(up, `not all of ${config} was applied; the rest runs`);
    expect(up.said()).toMatch(/s1 stays as it was: .*nobody took it up|s1 stays as it was: .*did not end in time/);
    expect(up.child.exitCode).toBeNull();
    await end(up);
  });

  it('is a file that is valid, or a directory that can be made: it ends, with what to do', async () => {
    const config = join(state, 'broken.yaml');
    await writeFile(config, 'version: 2\n');
    const broken = startUp('--config', config);
    expect(await broken.exit).toBe(2);
    expect(broken.said()).toContain(`${config}:1:10  version  expected 1, got 2`);
    const inTheWay = startIn(config, {});
    expect(await inTheWay.exit).toBe(1);
    expect(inTheWay.said()).toMatch(/broken\.yaml\n {2}found: ENOTDIR.*\n {2}to do: .*--state/);
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

/**
 * `npm run bench -- watch [VMS] [SECONDS]`: what watching costs each process, with recorded counters in place of guests:
 * a host process over a thousand VMs with three containers each, their monitor workflows on Temporal's dev server, and
 * the control role. What reading real guests costs is bench introspect's. CPU is of one core, by /proc.
 */
import { spawn } from 'node:child_process';
import { chmod, mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, Connection } from '@temporalio/client';
import { Worker } from '@temporalio/worker';
import Table from 'cli-table3';
import { pino } from 'pino';
import { v5 as uuidV5 } from 'uuid';
import { createWatchActivities } from '../activities/watch.ts';
import { findTemporalBinary, freePort, temporalServer } from '../cli/temporal-server.ts';
import { taskQueues } from '../model/names.ts';
import { hostStart, monitorStart } from '../model/starts.ts';
import type { VmCounters } from '../model/usage.ts';
import { connectStore } from '../store/database.ts';
import { startEmbeddedPostgres } from '../store/embedded-postgres.ts';
import { migrate } from '../store/migrations.ts';
import { RecordedHost } from '../test/activities/recorded-vms.ts';
import { connect } from '../worker/connections.ts';
import { writeResults } from './measure.ts';

const HOST = 'recorded';
const NAMESPACE = '6f3c5a52-6d0e-4b3e-9d5e-3b2f7b9a1c11';
const STARTS_AT_ONCE = 40;
const SETTLE_SECONDS = 20;
const TICKS_PER_SECOND = 100;
const PAGE_BYTES = 4096;
const WANTED_SHARE = 0.15;

const vmUuid = (index: number) => uuidV5(`${index}`, NAMESPACE);
const vmName = (index: number) => `vm-${index}`;

/** Counters that grow as time does: each VM uses a twentieth of its CPU, and none gets hot. */
class GrowingHost extends RecordedHost {
  #lastMs = performance.now();
  override async vms(): Promise<readonly VmCounters[]> {
    const nowMs = performance.now();
    this.advance((nowMs - this.#lastMs) / 1_000);
    this.bootMs = Math.round(this.bootMs);
    this.#lastMs = nowMs;
    return super.vms();
  }
}

/** The host process: its watching, as the host role has it. */
async function runHost(vms: number): Promise<void> {
  const log = pino({ level: 'warn' });
  const { connection, namespace, store } = await connect(
    process.env.DATABASE_URL ?? '',
    log,
    new AbortController().signal,
  );
  const source = new GrowingHost();
  source.bootMs = Math.round(Number((await readFile('/proc/uptime', 'utf8')).split(' ')[0]) * 1_000);
  for (let index = 0; index < vms; index += 1) source.add(vmUuid(index), vmName(index), ['web', 'db', 'cache']);
  const deliver = async () => {
    throw new Error('a quiet VM crossed');
  };
  const worker = await Worker.create({
    connection,
    namespace,
    taskQueue: taskQueues.watch(HOST),
    activities: createWatchActivities(HOST, { source, store, deliver, log }),
    maxConcurrentActivityTaskExecutions: 2,
  });
  await worker.run();
}

async function cpuSeconds(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'latin1');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}
async function residentBytes(pid: number): Promise<number> {
  return Number((await readFile(`/proc/${pid}/statm`, 'latin1')).split(' ')[1]) * PAGE_BYTES;
}

async function measure(vms: number, seconds: number): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'ciel-bench-'));
  await chmod(directory, 0o711);
  const log = await open(join(directory, 'log'), 'a');
  const ending: (() => Promise<void>)[] = [];
  const start = (command: readonly string[], env: NodeJS.ProcessEnv) => {
    const [file = '', ...args] = command;
    const child = spawn(file, args, { env, stdio: ['ignore', log.fd, log.fd] });
    const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
    ending.push(async () => {
      child.kill('SIGKILL');
      await ended;
    });
    if (child.pid === undefined) throw new Error(`${file} could not be started`);
    return child.pid;
  };
  try {
    const postgres = await startEmbeddedPostgres({ directory: join(directory, 'postgres') });
    ending.push(() => postgres.stop());
    const store = connectStore(postgres.url);
    ending.push(() => store.destroy());
    await migrate(store);
    const binary = await findTemporalBinary(null, process.env);
    const ports = { port: await freePort(), uiPort: await freePort() };
    const server = await temporalServer(binary, join(directory, 'temporal'), ports);
    const temporal = start(server.command, process.env);
    const env = { ...process.env, DATABASE_URL: postgres.url, TEMPORAL_ADDRESS: server.address };
    const node = [process.execPath, '--import', 'tsx'];
    const root = join(import.meta.dirname, '..');
    const control = start([...node, join(root, 'worker.ts'), '--role', 'control', '--log-level', 'warn'], env);
    const host = start([...node, join(import.meta.dirname, 'run.ts'), 'watch', `${vms}`, 'host'], env);

    const connection = await connectWhenReady(server.address);
    ending.push(() => connection.close());
    const client = new Client({ connection });
    const watching = hostStart(HOST);
    await client.workflow.start(watching.workflowType, watching.options);
    for (let first = 0; first < vms; first += STARTS_AT_ONCE) {
      const some = Array.from({ length: Math.min(STARTS_AT_ONCE, vms - first) }, (_, index) => first + index);
      await Promise.all(
        some.map((index) => {
          const { workflowType, options } = monitorStart({ vmUuid: vmUuid(index), vmName: vmName(index), host: HOST });
          return client.workflow.start(workflowType, options);
        }),
      );
    }
    for (let read = 0; read < vms; ) {
      const { count } = await store
        .selectFrom('container')
        .select(({ fn }) => fn.count<number>('vmUuid').distinct().as('count'))
        .executeTakeFirstOrThrow();
      read = count;
      await sleep(500);
    }
    await sleep(SETTLE_SECONDS * 1_000);

    const events = async () =>
      (
        await client.workflow
          .getHandle(monitorStart({ vmUuid: vmUuid(0), vmName: '', host: HOST }).options.workflowId)
          .describe()
      ).historyLength;
    const processes = { host, control, 'Temporal server': temporal };
    const before = await Promise.all(Object.values(processes).map(cpuSeconds));
    const eventsBefore = await events();
    const startedMs = performance.now();
    await sleep(seconds * 1_000);
    const elapsed = (performance.now() - startedMs) / 1_000;
    const after = await Promise.all(Object.values(processes).map(cpuSeconds));
    const figures = await Promise.all(
      Object.entries(processes).map(async ([name, pid], index) => ({
        name,
        cpuShare: ((after[index] ?? 0) - (before[index] ?? 0)) / elapsed,
        residentMiB: Math.round((await residentBytes(pid)) / 2 ** 20),
      })),
    );
    const eventsAfter = await events();

    const table = new Table({ head: ['process', `CPU (wanted < ${WANTED_SHARE * 100} %)`, 'memory'] });
    for (const { name, cpuShare, residentMiB } of figures) {
      table.push([name, `${(cpuShare * 100).toFixed(1)} %`, `${residentMiB} MiB`]);
    }
    console.log(`${vms} VMs with 3 containers each, watched for ${seconds} s:\n${table.toString()}`);
    console.log(`history of a quiet monitor: ${eventsBefore} events before, ${eventsAfter} after`);
    const results = { vms, seconds, processes: figures, monitorEvents: { before: eventsBefore, after: eventsAfter } };
    console.log(await writeResults('watch', results));
  } finally {
    for (const end of ending.reverse()) await end();
    await log.close();
    await rm(directory, { recursive: true, force: true });
  }
}

async function connectWhenReady(address: string): Promise<Connection> {
  for (;;) {
    try {
      return await Connection.connect({ address, connectTimeout: 1_000 });
    } catch {
      await sleep(200);
    }
  }
}

export default async function bench([vms = '1000', how = '60']: readonly string[]): Promise<void> {
  if (how === 'host') await runHost(Number(vms));
  else await measure(Number(vms), Number(how));
}

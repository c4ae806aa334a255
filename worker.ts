/**
 * The worker process: one or several roles over one connection to Temporal and one to the store. It waits, and says so,
 * for whatever it needs and does not find; ends in order on SIGTERM or SIGINT, and with an error when a role is lost,
 * because a process that begins anew is the simplest one that is right. Whoever supervises it (`ciel up`, systemd,
 * a container engine) starts it again.
 */
import { DefaultLogger, type LogLevel, Runtime } from '@temporalio/worker';
import { type Logger, pino } from 'pino';
import { awaited } from './worker/awaiting.ts';
import { type Connections, connect } from './worker/connections.ts';
import { startControl } from './worker/control.ts';
import { startDirector } from './worker/director.ts';
import { startHost } from './worker/host.ts';
import { parseWorkerOptions, type Role, USAGE, type WorkerOptions } from './worker/options.ts';
import type { RunningRole } from './worker/role.ts';

const USAGE_EXIT_CODE = 64;
/** Above the workers' shutdownForceTime: what still hangs then (a call into a hung libvirtd) is left to its own end. */
const END_WITHIN_MS = 9_000;

const LOG_LEVELS = { TRACE: 'trace', DEBUG: 'debug', INFO: 'info', WARN: 'warn', ERROR: 'error' } as const;

/** Temporal's own words go into the same log, and the SDK leaves signals to us. */
function installRuntime(log: Logger): void {
  const lowest = log.level.toUpperCase();
  Runtime.install({
    shutdownSignals: [],
    logger: new DefaultLogger(lowest in LOG_LEVELS ? (lowest as LogLevel) : 'INFO', ({ level, message, meta }) =>
      log[LOG_LEVELS[level]]({ temporal: meta }, message),
    ),
  });
}

function start(role: Role, options: WorkerOptions, connections: Connections, log: Logger, signal: AbortSignal) {
  switch (role.kind) {
    case 'control':
      return startControl(connections, log);
    case 'host':
      return startHost({ ...options, host: role.host }, connections, log, signal);
    case 'director':
      return startDirector(role.director, connections, log, signal);
  }
}

/** Runs until the signal aborts; rejects when a role is lost. */
async function run(options: WorkerOptions, log: Logger, signal: AbortSignal): Promise<void> {
  const connections = await connect(options.databaseUrl, log, signal);
  const running: RunningRole[] = [];
  try {
    for (const role of options.roles) running.push(await start(role, options, connections, log, signal));
    const workers = running.flatMap((role) => role.workers);
    const ended = Promise.all(workers.map((worker) => worker.run()));
    log.info(`running: ${running.map(({ name }) => name).join(', ')}`);
    const stop = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
    try {
      await Promise.race([stop, ended, ...running.map(({ lost }) => lost)]);
    } finally {
      for (const worker of workers) if (worker.getState() === 'RUNNING') worker.shutdown();
      await ended;
    }
  } finally {
    await Promise.allSettled(running.map((role) => role.close()));
    await connections.close();
  }
}

async function main(): Promise<void> {
  let options: WorkerOptions;
  try {
    options = parseWorkerOptions(process.argv.slice(2), process.env);
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n\n${USAGE}\n`);
    process.exitCode = USAGE_EXIT_CODE;
    return;
  }
  const log = pino({ level: options.logLevel, base: { pid: process.pid } });
  installRuntime(log);
  // `ciel up` has a channel to us, and tells its user.
  awaited.on('said', (text) => process.send?.({ said: text }));
  const stopping = new AbortController();
  for (const name of ['SIGTERM', 'SIGINT'] as const) {
    process.once(name, () => {
      log.info(`${name}: ends in order`);
      stopping.abort();
      endForSure();
    });
  }
  try {
    await run(options, log, stopping.signal);
  } catch (error) {
    if (!stopping.signal.aborted) {
      log.error(error, 'ends, to be started again');
      process.exitCode = 1;
      endForSure();
    }
  }
}

/** Node waits at its exit for a thread that hangs in a call, process.exit() too. */
function endForSure(): void {
  setTimeout(() => process.kill(process.pid, 'SIGKILL'), END_WITHIN_MS).unref();
}

await main();

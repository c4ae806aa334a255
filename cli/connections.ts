/**
 * Where Temporal and the database are: the environment names a cluster's (TEMPORAL_ADDRESS and the rest of Temporal's
 * standard client configuration, DATABASE_URL); what it does not name is taken from the runtime file of `ciel up`.
 */
import { loadClientConfigProfile, toClientOptions } from '@temporalio/envconfig';
import { sql } from 'kysely';
import { connectStore, isUnreachable, type Store } from '../store/database.ts';
import { CommandError, EXIT } from './errors.ts';
import type { Runtime } from './runtime.ts';
import type { TemporalTarget } from './temporal.ts';

/** A command uses one query at a time, `status` a few. */
const MAX_STORE_CONNECTIONS = 3;
const QUERY_TIMEOUT_MS = 20_000;

export function temporalTarget(env: NodeJS.ProcessEnv, runtime: Runtime | null): TemporalTarget | null {
  const defined = Object.entries(env).filter((entry): entry is [string, string] => entry[1] !== undefined);
  const profile = loadClientConfigProfile({ overrideEnvVars: Object.fromEntries(defined) });
  const { connectionOptions, namespace } = toClientOptions(profile);
  if (profile.address !== undefined) {
    const { address, apiKey, tls, metadata } = connectionOptions;
    return {
      address: profile.address,
      namespace: namespace ?? 'default',
      source: env.TEMPORAL_ADDRESS === undefined ? "Temporal's client configuration" : 'TEMPORAL_ADDRESS',
      connectionOptions: {
        ...(address === undefined ? {} : { address }),
        ...(tls === undefined ? {} : { tls }),
        ...(metadata === undefined ? {} : { metadata }),
        ...(typeof apiKey === 'string' ? { apiKey } : {}),
      },
    };
  }
  if (runtime === null) return null;
  return {
    address: runtime.temporalAddress,
    namespace: namespace ?? runtime.temporalNamespace,
    source: runtime.file,
    connectionOptions: { address: runtime.temporalAddress },
  };
}

export interface DatabaseTarget {
  readonly url: string;
  readonly source: string;
}

export function databaseTarget(env: NodeJS.ProcessEnv, runtime: Runtime | null): DatabaseTarget | null {
  const url = env.DATABASE_URL;
  if (url !== undefined && url !== '') return { url, source: 'DATABASE_URL' };
  return runtime === null ? null : { url: runtime.databaseUrl, source: runtime.file };
}

/** The database's place without its password, for messages. */
export function databasePlace({ url, source }: DatabaseTarget): string {
  const parsed = URL.canParse(url) ? new URL(url) : null;
  return parsed === null ? `(from ${source})` : `${parsed.host}${parsed.pathname} (from ${source})`;
}

/** @throws CommandError when there is none, it does not answer, or it is not Ciel's */
export async function openStore(target: DatabaseTarget): Promise<Store> {
  const store = connectStore(target.url, {
    maxConnections: MAX_STORE_CONNECTIONS,
    queryTimeoutMs: QUERY_TIMEOUT_MS,
    applicationName: 'ciel-cli',
  });
  try {
    await sql`select 1 from installation`.execute(store);
    return store;
  } catch (error) {
    await store.destroy();
    throw databaseProblem(target, error);
  }
}

const UNDEFINED_TABLE = '42P01';

export function databaseProblem(target: DatabaseTarget, error: unknown): CommandError {
  const found = error instanceof Error ? error.message || String(Reflect.get(error, 'code')) : String(error);
  const empty = error instanceof Error && 'code' in error && error.code === UNDEFINED_TABLE;
  const remedy = empty
    ? 'start a worker (`ciel up`), which makes the tables, or check that DATABASE_URL names the right database'
    : 'start it (`ciel up` starts one of its own), or set DATABASE_URL to a PostgreSQL that this user may use';
  return new CommandError(
    {
      exitCode: EXIT.unreachable,
      reason: isUnreachable(error) ? 'DatabaseUnreachable' : empty ? 'DatabaseEmpty' : 'DatabaseDenied',
      tried: `connected to the database at ${databasePlace(target)}`,
      found: empty ? 'no tables of Ciel in it' : found,
      remedy,
    },
    { cause: error },
  );
}

export function noInstallation(what: 'Temporal' | 'the database', stateDirectory: string | null): CommandError {
  const variable = what === 'Temporal' ? 'TEMPORAL_ADDRESS' : 'DATABASE_URL';
  return new CommandError({
    exitCode: EXIT.unreachable,
    reason: 'NoInstallation',
    tried: `looked for ${what}`,
    found: `neither ${variable} nor a running \`ciel up\` (${stateDirectory ?? 'default state directory'})`,
    remedy: `start \`ciel up\`, name its directory by --state, or set ${variable}`,
  });
}

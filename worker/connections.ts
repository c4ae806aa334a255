/** What every role is connected to: Temporal and the store, awaited at the start, and ended after everything else. */

import { Client } from '@temporalio/client';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import { NativeConnection } from '@temporalio/worker';
import type { Logger } from 'pino';
import { connectStore, type Store } from '../store/database.ts';
import { readInstallationId } from '../store/installation.ts';
import { migrate } from '../store/migrations.ts';
import { awaiting } from './awaiting.ts';

export interface Connections {
  readonly connection: NativeConnection;
  readonly client: Client;
  readonly namespace: string;
  readonly store: Store;
  readonly installationId: string;
  close(): Promise<void>;
}

/** Host, user and database, without the password. */
function databasePlace(url: string): string {
  const parsed = URL.canParse(url) ? new URL(url) : null;
  return parsed === null ? 'DATABASE_URL' : `${parsed.searchParams.get('host') ?? parsed.host}${parsed.pathname}`;
}

export async function connect(databaseUrl: string, log: Logger, signal: AbortSignal): Promise<Connections> {
  const store = connectStore(databaseUrl, { applicationName: 'ciel-worker' });
  try {
    const installationId = await awaiting(
      `the database at ${databasePlace(databaseUrl)}`,
      async () => {
        const steps = await migrate(store);
        if (steps.length > 0) log.info({ steps }, 'the schema was brought up to date');
        return readInstallationId(store);
      },
      log,
      signal,
    );
    const { connectionOptions, namespace = 'default' } = loadClientConnectConfig();
    const connection = await awaiting(
      `Temporal at ${connectionOptions.address ?? 'localhost:7233'}`,
      () => NativeConnection.connect(connectionOptions),
      log,
      signal,
    );
    return {
      connection,
      client: new Client({ connection, namespace }),
      namespace,
      store,
      installationId,
      async close() {
        await connection.close();
        await store.destroy();
      },
    };
  } catch (error) {
    await store.destroy();
    throw error;
  }
}

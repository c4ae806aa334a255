/** A store on a PostgreSQL of its own, empty but for the schema: one a test file, about a second. */
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connectStore, type Store } from '../../store/database.ts';
import { startEmbeddedPostgres } from '../../store/embedded-postgres.ts';
import { readInstallationId } from '../../store/installation.ts';
import { migrate } from '../../store/migrations.ts';

export interface StoreForTest {
  readonly store: Store;
  readonly url: string;
  readonly installationId: string;
  end(): Promise<void>;
}

export async function startStoreForTest(): Promise<StoreForTest> {
  const directory = await mkdtemp(join(tmpdir(), 'ciel-store-'));
  await chmod(directory, 0o711); // PostgreSQL's user passes through
  const postgres = await startEmbeddedPostgres({ directory: join(directory, 'postgres'), durable: false });
  const store = connectStore(postgres.url, { maxConnections: 20 });
  await migrate(store);
  return {
    store,
    url: postgres.url,
    installationId: await readInstallationId(store),
    async end() {
      await store.destroy();
      await postgres.stop();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

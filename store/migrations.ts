/**
 * Brings the schema up to date. Safe from several processes at once: kysely's migrator takes PostgreSQL's advisory lock,
 * and all pending steps are one transaction. Steps are only ever added; a published one never changes.
 */
import { type Migration, Migrator } from 'kysely';
import type { Store } from './database.ts';
import * as foundation from './migrations/0001-foundation.ts';

/** In order: kysely runs them by name. */
const MIGRATIONS: Readonly<Record<string, Migration>> = {
  '0001-foundation': foundation,
};

/** @returns the names of the steps that were run. */
export async function migrate(store: Store): Promise<readonly string[]> {
  const migrator = new Migrator({ db: store, provider: { getMigrations: async () => ({ ...MIGRATIONS }) } });
  const { error, results } = await migrator.migrateToLatest();
  if (error !== undefined) throw error;
  return (results ?? []).filter(({ status }) => status === 'Success').map(({ migrationName }) => migrationName);
}

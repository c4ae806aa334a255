/** The installation's id: random, made once with the schema. Marks and replica ids derive from it. */
import type { Store } from './database.ts';

export async function readInstallationId(store: Store): Promise<string> {
  const { id } = await store.selectFrom('installation').select('id').executeTakeFirstOrThrow();
  return id;
}

/** The replicas of each service as its workflow knows them: for matching containers to services, and for `ciel status`. */
import type { Replica } from '../model/replica.ts';
import type { Store } from './database.ts';

/** Replaces the service's rows by these. */
export async function saveReplicas(store: Store, service: string, replicas: readonly Replica[]): Promise<void> {
  await store.transaction().execute(async (transaction) => {
    const ids = replicas.map(({ replicaId }) => replicaId);
    let gone = transaction.deleteFrom('replica').where('service', '=', service);
    if (ids.length > 0) gone = gone.where('replicaId', 'not in', ids);
    await gone.execute();
    for (const replica of replicas) {
      const row = { service, ...replica };
      await transaction
        .insertInto('replica')
        .values(row)
        .onConflict((conflict) => conflict.column('replicaId').doUpdateSet(row))
        .execute();
    }
  });
}

export interface ReplicaRecord extends Replica {
  readonly service: string;
}
export async function listReplicas(store: Store, service?: string): Promise<readonly ReplicaRecord[]> {
  let query = store.selectFrom('replica').selectAll().orderBy('service').orderBy('replicaId');
  if (service !== undefined) query = query.where('service', '=', service);
  return (await query.execute()).map(({ servingSince, ...row }) => ({
    ...row,
    servingSince: servingSince?.toISOString() ?? null,
  }));
}

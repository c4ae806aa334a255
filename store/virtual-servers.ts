/**
 * Desired LVS entries. Workflows change these rows; the director role brings LVS to them, under a lock a virtual service.
 *
 * LVS entries carry no mark, so a row claims them: `claimVirtualServer` and `claimRealServer` are called right before
 * `ipvsadm -A`/`-a`, after looking that nothing of another is there (or the spec adopts it). Without a claim an existing
 * entry is not ours. What is no longer wanted keeps its row until it is out of LVS (`forget…`).
 */
import { sql } from 'kysely';
import { CielFailure } from '../model/failures.ts';
import type { ServiceSpec } from '../model/spec.ts';
import { jsonbOf, type Store } from './database.ts';

const UNIQUE_VIOLATION = '23505';

export interface DesiredRealServer {
  readonly service: string;
  readonly replicaId: string;
  readonly address: string;
  readonly port: number;
  readonly weight: number;
  readonly wanted: boolean;
  readonly ownedAt: Date | null;
  readonly healthy: boolean | null;
  readonly healthMessage: string;
}
export interface DesiredVirtualServer {
  readonly service: string;
  readonly director: string;
  readonly protocol: ServiceSpec['virtual']['protocol'];
  readonly address: string;
  readonly port: number;
  readonly scheduler: ServiceSpec['virtual']['scheduler'];
  readonly adopt: boolean;
  readonly health: ServiceSpec['health'];
  readonly wanted: boolean;
  readonly ownedAt: Date | null;
  readonly realServers: readonly DesiredRealServer[];
}

export async function setVirtualServer(store: Store, spec: ServiceSpec): Promise<void> {
  const { director, protocol, address, port, scheduler, adopt } = spec.virtual;
  const row = { director, protocol, address, port, scheduler, adopt, health: jsonbOf(spec.health), wanted: true };
  try {
    await store
      .insertInto('virtualServer')
      .values({ service: spec.name, ...row })
      .onConflict((conflict) => conflict.column('service').doUpdateSet(row))
      .execute();
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === UNIQUE_VIOLATION)) throw error;
    throw new CielFailure(
      'InvalidSpec',
      `wanted ${protocol} ${address}:${port} on director "${director}" for service "${spec.name}", but it is another ` +
        `service's, or is still being removed for one. Choose another virtual address or delete that service first.`,
      { cause: error },
    );
  }
}

export async function setRealServer(
  store: Store,
  server: {
    readonly service: string;
    readonly replicaId: string;
    readonly address: string;
    readonly port: number;
    readonly weight: number;
  },
): Promise<void> {
  const { address, port, weight } = server;
  await store
    .insertInto('realServer')
    .values({ ...server, wanted: true, healthMessage: '' })
    .onConflict((conflict) =>
      conflict.columns(['service', 'replicaId']).doUpdateSet({ address, port, weight, wanted: true }),
    )
    .execute();
}

export async function removeRealServer(store: Store, service: string, replicaId: string): Promise<void> {
  await store
    .updateTable('realServer')
    .set({ wanted: false })
    .where('service', '=', service)
    .where('replicaId', '=', replicaId)
    .execute();
}

export async function removeVirtualServer(store: Store, service: string): Promise<void> {
  await store.transaction().execute(async (transaction) => {
    await transaction.updateTable('virtualServer').set({ wanted: false }).where('service', '=', service).execute();
    await transaction.updateTable('realServer').set({ wanted: false }).where('service', '=', service).execute();
  });
}

export async function listVirtualServers(
  store: Store,
  { director, service }: { readonly director?: string; readonly service?: string } = {},
): Promise<readonly DesiredVirtualServer[]> {
  let query = store.selectFrom('virtualServer').selectAll().orderBy('service');
  if (director !== undefined) query = query.where('director', '=', director);
  if (service !== undefined) query = query.where('service', '=', service);
  const servers = await query.execute();
  if (servers.length === 0) return [];
  const names = servers.map((server) => server.service);
  const realServers = await store
    .selectFrom('realServer')
    .selectAll()
    .where('service', 'in', names)
    .orderBy('replicaId')
    .execute();
  return servers.map((server) => ({
    ...server,
    realServers: realServers.filter((real) => real.service === server.service),
  }));
}

export async function claimVirtualServer(store: Store, service: string): Promise<void> {
  await store
    .updateTable('virtualServer')
    .set({ ownedAt: sql<Date>`now()` })
    .where('service', '=', service)
    .where('ownedAt', 'is', null)
    .execute();
}
export async function claimRealServer(store: Store, service: string, replicaId: string): Promise<void> {
  await store
    .updateTable('realServer')
    .set({ ownedAt: sql<Date>`now()` })
    .where('service', '=', service)
    .where('replicaId', '=', replicaId)
    .where('ownedAt', 'is', null)
    .execute();
}
/** Once it is out of LVS. Wanted again meanwhile: it stays. */
export async function forgetVirtualServer(store: Store, service: string): Promise<void> {
  await store.deleteFrom('virtualServer').where('service', '=', service).where('wanted', '=', false).execute();
}
export async function forgetRealServer(store: Store, service: string, replicaId: string): Promise<void> {
  await store
    .deleteFrom('realServer')
    .where('service', '=', service)
    .where('replicaId', '=', replicaId)
    .where('wanted', '=', false)
    .execute();
}

/** What the director's probes found. @returns whether that is news. */
export async function setRealServerHealth(
  store: Store,
  service: string,
  replicaId: string,
  healthy: boolean,
  message: string,
): Promise<boolean> {
  const { numUpdatedRows } = await store
    .updateTable('realServer')
    .set({ healthy, healthMessage: message })
    .where('service', '=', service)
    .where('replicaId', '=', replicaId)
    .where('healthy', 'is distinct from', healthy)
    .executeTakeFirst();
  return numUpdatedRows > 0n;
}

/**
 * Runs `work` while no other process works on the same virtual service. The lock is the database session's: it ends with
 * the process. One connection is taken for as long.
 */
export async function withVirtualServerLock<T>(store: Store, service: string, work: () => Promise<T>): Promise<T> {
  const key = sql`hashtextextended(${`virtual-server/${service}`}, 0)`;
  return store.connection().execute(async (connection) => {
    await sql`select pg_advisory_lock(${key})`.execute(connection);
    try {
      return await work();
    } finally {
      await sql`select pg_advisory_unlock(${key})`.execute(connection);
    }
  });
}

/**
 * Reservations hold names, UUIDs, MACs, addresses and capacity until the thing is gone (invariants 3, 4). Constraints of
 * the schema make them unique over all hosts; capacity is added up under a lock of the hosts' rows, so two reservations
 * cannot both take the last of it.
 *
 * A reservation and its release take the same lock, and a release leaves a tombstone: an attempt of `reserve` that comes
 * after the undo of its step finds that and does nothing. Released addresses rest before they are given out again, until
 * neighbours and directors have forgotten them.
 */
import { sql } from 'kysely';
import { v5 as uuidV5 } from 'uuid';
import type { OperationRef, Reservation } from '../model/activities.ts';
import type { VmSize } from '../model/decision.ts';
import { CielFailure } from '../model/failures.ts';
import { replicaIdentity } from '../model/identity.ts';
import type { ServiceSpec } from '../model/spec.ts';
import { freeAddresses } from './addresses.ts';
import { readConfiguration } from './configuration.ts';
import { jsonbOf, type Store } from './database.ts';
import { HOST_PROCESS_GONE_AFTER_S } from './host-processes.ts';
import { assertOperationOpen } from './operations.ts';

export const ADDRESS_REST_MS = 5 * 60_000;

/** A host, and what of its capacity is reserved. */
export interface HostRoom {
  readonly host: string;
  readonly vcpus: number;
  readonly memoryBytes: number;
  readonly reservedVcpus: number;
  readonly reservedMemoryBytes: number;
  /** Its host process was seen lately. */
  readonly alive: boolean;
}
/** Chooses a host that has room, or says why none has. */
export type Choose = (
  hosts: readonly HostRoom[],
) => { readonly act: true; readonly host: string } | { readonly act: false; readonly explanation: string };

export interface ReserveRequest {
  readonly operation: OperationRef;
  readonly spec: ServiceSpec;
  readonly ordinal: number;
  readonly size: VmSize;
}

/** A repeat returns the first answer. Final: HostFull, AddressesExhausted, Superseded. */
export async function reserve(store: Store, request: ReserveRequest, choose: Choose): Promise<Reservation> {
  const { operation, spec, size } = request;
  const identity = replicaIdentity(operation.installationId, spec.name, operation.runId, request.ordinal);
  return store.transaction().execute(async (transaction) => {
    await lockReplica(transaction, identity.replicaId);
    const existing = await findReservation(transaction, identity.replicaId);
    if (existing !== null) return existing;
    await assertOperationOpen(transaction, operation);
    await assertNotReleased(transaction, identity.replicaId);

    const placement = choose(await lockHosts(transaction, spec.name));
    if (!placement.act) throw new CielFailure('HostFull', placement.explanation);
    const { host } = placement;

    const configuration = await readConfiguration(transaction);
    const network = configuration.networks.find(({ name }) => name === spec.network)?.spec;
    if (network === undefined) {
      throw new CielFailure(
        'InvalidSpec',
        `service "${spec.name}" names network "${spec.network}", which is not applied`,
      );
    }
    if (!configuration.templates.some(({ name }) => name === spec.template)) {
      throw new CielFailure(
        'TemplateMissing',
        `service "${spec.name}" names template "${spec.template}", which is not applied. Apply a ciel.yaml that has it.`,
      );
    }
    const taken = new Set(await takenAddresses(transaction));
    for (const service of [spec, ...configuration.services.map((applied) => applied.spec)]) {
      taken.add(service.virtual.address);
      for (const { address } of service.replicas) taken.add(address);
    }
    const [replicaAddress = '', vmAddress = ''] = freeAddresses(network, taken, 2);

    const mac = await freeMac(transaction, identity);
    await transaction
      .insertInto('reservation')
      .values({
        ...identity,
        mac,
        service: spec.name,
        operationId: operation.operationId,
        runId: operation.runId,
        host,
        replicaAddress,
        vmAddress,
        subnet: network.subnet,
        gateway: network.gateway ?? null,
        vcpus: size.vcpus,
        memoryBytes: size.memoryBytes,
        sizeReasons: jsonbOf(size.reasons),
        template: spec.template,
      })
      .execute();
    for (const address of [replicaAddress, vmAddress]) {
      const row = { address, network: network.name, replicaId: identity.replicaId, restsUntil: null, note: 'reserved' };
      await transaction
        .insertInto('address')
        .values(row)
        .onConflict((conflict) => conflict.column('address').doUpdateSet(row).where('address.replicaId', 'is', null))
        .execute();
    }
    const reservation = await findReservation(transaction, identity.replicaId);
    if (reservation === null) throw new Error(`reservation ${identity.replicaId} vanished in its own transaction`);
    return reservation;
  });
}

/** Gives everything back. A repeat, and a release of what was never reserved, only make sure of the tombstone. */
export async function release(store: Store, replicaId: string): Promise<void> {
  await store.transaction().execute(async (transaction) => {
    await lockReplica(transaction, replicaId);
    await transaction
      .insertInto('releasedReplica')
      .values({ replicaId })
      .onConflict((conflict) => conflict.doNothing())
      .execute();
    await transaction
      .updateTable('address')
      .set({
        replicaId: null,
        restsUntil: sql<Date>`now() + make_interval(secs => ${ADDRESS_REST_MS / 1_000})`,
        note: 'released',
      })
      .where('replicaId', '=', replicaId)
      .execute();
    await transaction.deleteFrom('reservation').where('replicaId', '=', replicaId).execute();
  });
}

/** An address that answered though no reservation holds it: left alone for a while, and then looked at again. */
export async function restAddress(store: Store, address: string, network: string, note: string): Promise<void> {
  const restsUntil = sql<Date>`now() + make_interval(secs => ${ADDRESS_REST_MS / 1_000})`;
  await store
    .insertInto('address')
    .values({ address, network, replicaId: null, restsUntil, note })
    .onConflict((conflict) =>
      conflict.column('address').doUpdateSet({ restsUntil, note }).where('address.replicaId', 'is', null),
    )
    .execute();
}

export async function findReservation(store: Store, replicaId: string): Promise<Reservation | null> {
  const row = await store.selectFrom('reservation').selectAll().where('replicaId', '=', replicaId).executeTakeFirst();
  return row === undefined ? null : toReservation(row);
}
export async function listReservations(store: Store): Promise<readonly Reservation[]> {
  const rows = await store.selectFrom('reservation').selectAll().orderBy('reservedAt').execute();
  return rows.map(toReservation);
}

type ReservationRow = Omit<Reservation, 'size'> & {
  readonly vcpus: number;
  readonly memoryBytes: number;
  readonly sizeReasons: readonly string[];
};
function toReservation(row: ReservationRow): Reservation {
  return {
    replicaId: row.replicaId,
    host: row.host,
    vmName: row.vmName,
    vmUuid: row.vmUuid,
    mac: row.mac,
    diskFileName: row.diskFileName,
    replicaAddress: row.replicaAddress,
    vmAddress: row.vmAddress,
    subnet: row.subnet,
    gateway: row.gateway,
    size: { vcpus: row.vcpus, memoryBytes: row.memoryBytes, reasons: row.sizeReasons },
    template: row.template,
  };
}

async function lockReplica(store: Store, replicaId: string): Promise<void> {
  await sql`select pg_advisory_xact_lock(hashtextextended(${`replica/${replicaId}`}, 0))`.execute(store);
}

async function assertNotReleased(store: Store, replicaId: string): Promise<void> {
  const released = await store
    .selectFrom('releasedReplica')
    .select('releasedAt')
    .where('replicaId', '=', replicaId)
    .executeTakeFirst();
  if (released === undefined) return;
  throw new CielFailure(
    'Superseded',
    `wanted to reserve for replica ${replicaId} and found that it was released at ` +
      `${released.releasedAt.toISOString()}; nothing was done. No action is needed.`,
  );
}

/** Locks all hosts' rows, always in the same order, and adds up what is reserved on each. */
async function lockHosts(store: Store, service: string): Promise<readonly HostRoom[]> {
  const hosts = await store.selectFrom('host').select(['name', 'spec']).orderBy('name').forUpdate().execute();
  const processes = await store
    .selectFrom('hostProcess')
    .select('host')
    .where('seenAt', '>', sql<Date>`now() - make_interval(secs => ${HOST_PROCESS_GONE_AFTER_S})`)
    .execute();
  const sums = await store
    .selectFrom('reservation')
    .select([
      'host',
      sql<number>`sum(vcpus)::bigint`.as('vcpus'),
      sql<number>`sum(memory_bytes)::bigint`.as('memoryBytes'),
    ])
    .groupBy('host')
    .execute();
  const rooms = hosts.map(({ name, spec }) => {
    const reserved = sums.find(({ host }) => host === name);
    return {
      host: name,
      vcpus: spec.capacity.vcpus,
      memoryBytes: spec.capacity.memoryBytes,
      reservedVcpus: reserved?.vcpus ?? 0,
      reservedMemoryBytes: reserved?.memoryBytes ?? 0,
      alive: processes.some(({ host }) => host === name),
    };
  });
  if (rooms.some(({ alive }) => alive)) return rooms;
  throw new CielFailure(
    'HypervisorUnreachable',
    `looked for a host for service "${service}" and found none whose host process was seen in the last ` +
      `${HOST_PROCESS_GONE_AFTER_S} s, of: ${hosts.map(({ name }) => name).join(', ') || 'no host at all'}. ` +
      `Start the host role there; it is tried again.`,
  );
}

async function takenAddresses(store: Store): Promise<readonly string[]> {
  const rows = await store
    .selectFrom('address')
    .select('address')
    .where(({ eb, or }) => or([eb('replicaId', 'is not', null), eb('restsUntil', '>', sql<Date>`now()`)]))
    .execute();
  return rows.map(({ address }) => address);
}

/** Three bytes of the replica's id, or of the next id derived from it, while another holds them. */
async function freeMac(store: Store, identity: { readonly replicaId: string; readonly mac: string }): Promise<string> {
  let mac = identity.mac;
  for (let clashes = 1; ; clashes += 1) {
    const holder = await store.selectFrom('reservation').select('replicaId').where('mac', '=', mac).executeTakeFirst();
    if (holder === undefined) return mac;
    const digits = uuidV5(`mac/${clashes}`, identity.replicaId).slice(24, 30);
    mac = `${identity.mac.slice(0, 8)}:${digits.slice(0, 2)}:${digits.slice(2, 4)}:${digits.slice(4, 6)}`;
  }
}

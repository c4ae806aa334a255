/** Ten-second means of use, kept for a day: what scale-in decides from. A figure that could not be read is null. */
import { sql } from 'kysely';
import type { ReplicaUsage } from '../model/decision.ts';
import type { Rollup } from '../model/usage.ts';
import { guestBytes, jsonText, type Store } from './database.ts';

export const ROLLUP_SECONDS = 10;
const KEEP_ROLLUPS_HOURS = 24;
const VM_ITSELF = '';

/** Writes each once: a repeat, or a second watcher of the same ten seconds, changes nothing. */
export async function saveRollups(store: Store, rollups: readonly Rollup[]): Promise<void> {
  if (rollups.length === 0) return;
  await sql`
    insert into rollup (vm_uuid, container_id, starts_at, samples, cpu_cores, cpu_cores_max, memory_bytes,
      io_bytes_per_second, unavailable)
    select "vmUuid", coalesce("containerId", ${VM_ITSELF}), "from", samples, "cpuCores", "cpuCoresMax",
      ${guestBytes('memoryBytes')}, "ioBytesPerSecond", unavailable
    from jsonb_to_recordset(${jsonText(rollups)}::jsonb) as row ("vmUuid" uuid, "containerId" text, "from" timestamptz,
      samples integer, "cpuCores" double precision, "cpuCoresMax" double precision, "memoryBytes" double precision,
      "ioBytesPerSecond" double precision, unavailable text)
    on conflict do nothing`.execute(store);
}

export async function pruneRollups(store: Store): Promise<number> {
  const { numAffectedRows } = await sql`
    delete from rollup where starts_at < now() - make_interval(hours => ${KEEP_ROLLUPS_HOURS})`.execute(store);
  return Number(numAffectedRows ?? 0);
}

/** Oldest first. @param containerId null: the VM itself. */
export async function listRollups(
  store: Store,
  vmUuid: string,
  containerId: string | null,
  since: Date,
): Promise<readonly Rollup[]> {
  const rows = await store
    .selectFrom('rollup')
    .selectAll()
    .where('vmUuid', '=', vmUuid)
    .where('containerId', '=', containerId ?? VM_ITSELF)
    .where('startsAt', '>=', since)
    .orderBy('startsAt')
    .execute();
  return rows.map(({ startsAt, ...row }) => ({ ...row, containerId, from: startsAt.toISOString() }));
}

const USAGE_MINUTES = 10;
/** What is measured now is written at the end of its ten seconds. */
const WRITTEN_WITHIN_SECONDS = 2 * ROLLUP_SECONDS;

/**
 * The last ten minutes of each replica of a service. A minute is complete when each of its rollups has figures; the
 * figures are null when none is, and a replica whose container is not seen has none.
 */
export async function replicaUsage(store: Store, service: string, now: Date): Promise<readonly ReplicaUsage[]> {
  const tenSecondsMs = ROLLUP_SECONDS * 1_000;
  const until = new Date(Math.floor((now.getTime() - WRITTEN_WITHIN_SECONDS * 1_000) / tenSecondsMs) * tenSecondsMs);
  const from = new Date(until.getTime() - USAGE_MINUTES * 60_000);
  const { rows } = await sql<ReplicaUsage>`
    with minute as (
      select replica.replica_id,
        floor(extract(epoch from rollup.starts_at - ${from}::timestamptz) / 60) as minute,
        count(*) filter (where rollup.cpu_cores is not null and rollup.memory_bytes is not null) as read,
        avg(rollup.cpu_cores) as mean, max(rollup.cpu_cores_max) as max, max(rollup.memory_bytes) as memory
      from replica
      join container on container.replica_id = replica.replica_id
      join rollup on rollup.vm_uuid = container.vm_uuid and rollup.container_id = container.container_id
        and rollup.starts_at >= ${from} and rollup.starts_at < ${until}
      where replica.service = ${service}
      group by replica.replica_id, container.container_id, 2
    ), complete as (
      select * from minute where read >= ${60 / ROLLUP_SECONDS}
    )
    select replica.replica_id,
      least(count(complete.minute), ${USAGE_MINUTES}) as complete_minutes,
      avg(complete.mean) as cpu_cores_mean, max(complete.max) as cpu_cores_max, max(complete.memory) as memory_bytes_max
    from replica left join complete on complete.replica_id = replica.replica_id
    where replica.service = ${service}
    group by replica.replica_id
    order by replica.replica_id`.execute(store);
  return rows;
}

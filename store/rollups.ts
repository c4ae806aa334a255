/** Ten-second means of use, kept for a day: what scale-in decides from. A figure that could not be read is null. */
import { sql } from 'kysely';
import type { Rollup } from '../model/usage.ts';
import { jsonText, type Store } from './database.ts';

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
      round("memoryBytes"), "ioBytesPerSecond", unavailable
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

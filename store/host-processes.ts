/**
 * One host process a host: beside the lock on its state directory, a row with the machine's id, so that two machines
 * which were given the same host name do not both act.
 */
import { sql } from 'kysely';
import { CielFailure } from '../model/failures.ts';
import type { Store } from './database.ts';

/** A process of another machine that was not seen for this long is taken for gone. */
export const HOST_PROCESS_GONE_AFTER_S = 30;

export interface HostProcess {
  readonly host: string;
  readonly machineId: string;
  /** Random, of this process. */
  readonly processId: string;
}

/**
 * Takes the host's row, or keeps it. On the same machine the state directory's lock has decided already.
 * Fails with HostBusy while another machine's process holds it.
 */
export async function claimHost(store: Store, { host, machineId, processId }: HostProcess): Promise<void> {
  const taken = await sql<{ machineId: string }>`
    insert into host_process (host, machine_id, process_id, started_at, seen_at)
    values (${host}, ${machineId}, ${processId}, now(), now())
    on conflict (host) do update
      set machine_id = excluded.machine_id, process_id = excluded.process_id, seen_at = now(),
          started_at = case when host_process.process_id = excluded.process_id then host_process.started_at else now() end
      where host_process.machine_id = excluded.machine_id
         or host_process.seen_at < now() - make_interval(secs => ${HOST_PROCESS_GONE_AFTER_S})
    returning machine_id`.execute(store);
  if (taken.rows.length > 0) return;
  const holder = await store
    .selectFrom('hostProcess')
    .select(['machineId', 'seenAt'])
    .where('host', '=', host)
    .executeTakeFirst();
  throw new CielFailure(
    'HostBusy',
    `wanted to run host "${host}" on machine ${machineId} and found it running on machine ${holder?.machineId} ` +
      `(seen ${holder?.seenAt.toISOString()}). Give each machine a host name of its own, or end the other process; ` +
      `it is tried again.`,
  );
}

export async function listHostProcesses(store: Store) {
  return store.selectFrom('hostProcess').selectAll().orderBy('host').execute();
}

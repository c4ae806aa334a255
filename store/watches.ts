/** The durable wish that a VM be watched: a row a VM, read by its host's watching every tick or two. */
import { sql } from 'kysely';
import type { VmLocation } from '../model/activities.ts';
import { CielFailure } from '../model/failures.ts';
import type { Store } from './database.ts';

export interface Watch {
  readonly vmUuid: string;
  readonly vmName: string;
  readonly host: string;
  /** Wall clock: a VM that is still hot then is reported again; null: report at once. */
  readonly quietUntil: Date | null;
}

export async function setWatch(
  store: Store,
  watch: { vmUuid: string; vmName: string; host: string; quietUntil: string | null },
): Promise<void> {
  await store
    .insertInto('watch')
    .values(watch)
    .onConflict((conflict) =>
      // Not its host: the VM may have moved since its monitor was started.
      conflict.column('vmUuid').doUpdateSet({ vmName: watch.vmName, quietUntil: watch.quietUntil }),
    )
    .execute();
}

/**
 * A VM that was migrated is watched where it runs. Only from a host that does not show it as running any more: while it
 * moves, libvirt has it on both.
 * @param running the UUIDs of the VMs that run on `host` now
 */
export async function takeOverWatches(store: Store, host: string, running: readonly string[]): Promise<void> {
  await sql`
    update watch set host = ${host} where host <> ${host} and vm_uuid = any(${running}::uuid[]) and not exists
      (select from vm where vm.vm_uuid = watch.vm_uuid and vm.host = watch.host and vm.state in ('running', 'blocked'))`.execute(
    store,
  );
}

/** Its latest containers go too: they are no longer read, and old figures must not look like new ones. */
export async function clearWatch(store: Store, vmUuid: string): Promise<void> {
  await store.transaction().execute(async (transaction) => {
    await transaction.deleteFrom('watch').where('vmUuid', '=', vmUuid).execute();
    await transaction.deleteFrom('container').where('vmUuid', '=', vmUuid).execute();
  });
}

export async function listWatches(store: Store, host?: string): Promise<readonly Watch[]> {
  let query = store.selectFrom('watch').select(['vmUuid', 'vmName', 'host', 'quietUntil']).orderBy('vmName');
  if (host !== undefined) query = query.where('host', '=', host);
  return query.execute();
}

/**
 * Which VM is meant by a name or UUID, by the hosts' latest counters; null when no host has it. A name that two hosts
 * have is refused: it must be told apart by UUID.
 */
export async function locateVm(store: Store, vm: string): Promise<VmLocation | null> {
  const isUuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(vm);
  const found = await store
    .selectFrom('vm')
    .select(['vmUuid', 'vmName', 'host', 'vcpus', 'memoryBytes'])
    .where(isUuid ? 'vmUuid' : 'vmName', '=', isUuid ? vm.toLowerCase() : vm)
    .orderBy('host')
    .execute();
  if (found.length > 1) {
    const places = found.map(({ vmUuid, host }) => `${vmUuid} on ${host}`).join(', ');
    throw new CielFailure(
      'UnknownVm',
      `looked for the VM named "${vm}" and found several: ${places}. Name it by UUID.`,
    );
  }
  return found[0] ?? null;
}

/**
 * The latest figures of VMs and containers, written by each host's watching every few seconds and read by `ciel status`,
 * `ciel top` and the metrics. Rows are replaced, never added up: history is in rollups.ts.
 *
 * One statement for all VMs of a host, rows as one JSON text: what counts with a thousand VMs is the time of the host
 * process's main thread, and JSON.stringify is native code.
 */
import { sql } from 'kysely';
import { type ContainerTable, guestBytes, jsonText, type Store, type VmTable } from './database.ts';

export type VmObservation = Omit<VmTable, 'at' | 'host'> & { readonly at: string };
export type ContainerObservation = Omit<ContainerTable, 'at' | 'labels' | 'addresses'> & {
  readonly at: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly addresses: Readonly<Record<string, string>>;
};

export async function saveVms(store: Store, host: string, vms: readonly VmObservation[]): Promise<void> {
  if (vms.length === 0) return;
  await sql`
    insert into vm (vm_uuid, vm_name, host, state, vcpus, memory_bytes, cpu_cores, unreadable, guest_boot, kernel_release, at)
    select "vmUuid", "vmName", ${host}, state, vcpus, "memoryBytes", "cpuCores", unreadable, "guestBoot", "kernelRelease", at
    from jsonb_to_recordset(${jsonText(vms)}::jsonb) as row ("vmUuid" uuid, "vmName" text, state text, vcpus integer,
      "memoryBytes" bigint, "cpuCores" double precision, unreadable text, "guestBoot" text, "kernelRelease" text, at timestamptz)
    on conflict (vm_uuid) do update set vm_name = excluded.vm_name, host = excluded.host, state = excluded.state,
      vcpus = excluded.vcpus, memory_bytes = excluded.memory_bytes, cpu_cores = excluded.cpu_cores,
      unreadable = excluded.unreadable, guest_boot = excluded.guest_boot, kernel_release = excluded.kernel_release,
      at = excluded.at`.execute(store);
}

/** Forgets what the host no longer has. @param present the UUIDs of all VMs that it has now. */
export async function forgetOtherVms(store: Store, host: string, present: readonly string[]): Promise<void> {
  await sql`delete from vm where host = ${host} and vm_uuid <> all(${present}::uuid[])`.execute(store);
}

/** @param vmUuids the VMs that were read now; containers of theirs that are not among `containers` are gone. */
export async function saveContainers(
  store: Store,
  vmUuids: readonly string[],
  containers: readonly ContainerObservation[],
): Promise<void> {
  if (vmUuids.length === 0) return;
  const rows = jsonText(containers);
  await store.transaction().execute(async (transaction) => {
    await sql`
      delete from container where vm_uuid = any(${vmUuids}::uuid[]) and (vm_uuid, container_id) not in
        (select (row->>'vmUuid')::uuid, row->>'containerId' from jsonb_array_elements(${rows}::jsonb) as row)`.execute(
      transaction,
    );
    await sql`
      insert into container (vm_uuid, container_id, runtime, cgroup_path, name, image, labels, addresses, service, replica_id,
        cpu_cores, memory_bytes, io_bytes_per_second, cpu_limit_cores, memory_limit_bytes, unavailable, at)
      select "vmUuid", "containerId", runtime, "cgroupPath", name, image, labels, addresses, service, "replicaId",
        "cpuCores", ${guestBytes('memoryBytes')}, "ioBytesPerSecond", "cpuLimitCores", ${guestBytes('memoryLimitBytes')},
        unavailable, at
      from jsonb_to_recordset(${rows}::jsonb) as row ("vmUuid" uuid, "containerId" text, runtime text, "cgroupPath" text,
        name text, image text, labels jsonb, addresses jsonb, service text, "replicaId" uuid, "cpuCores" double precision,
        "memoryBytes" double precision, "ioBytesPerSecond" double precision, "cpuLimitCores" double precision,
        "memoryLimitBytes" double precision, unavailable text, at timestamptz)
      on conflict (vm_uuid, container_id) do update set runtime = excluded.runtime, cgroup_path = excluded.cgroup_path,
        name = excluded.name, image = excluded.image, labels = excluded.labels, addresses = excluded.addresses,
        service = excluded.service, replica_id = excluded.replica_id, cpu_cores = excluded.cpu_cores,
        memory_bytes = excluded.memory_bytes, io_bytes_per_second = excluded.io_bytes_per_second,
        cpu_limit_cores = excluded.cpu_limit_cores, memory_limit_bytes = excluded.memory_limit_bytes,
        unavailable = excluded.unavailable, at = excluded.at`.execute(transaction);
  });
}

export async function listVms(store: Store) {
  return store.selectFrom('vm').selectAll().orderBy('vmName').execute();
}
export async function listContainers(store: Store, vmUuid?: string) {
  let query = store.selectFrom('container').selectAll().orderBy('vmUuid').orderBy('name').orderBy('containerId');
  if (vmUuid !== undefined) query = query.where('vmUuid', '=', vmUuid);
  return query.execute();
}

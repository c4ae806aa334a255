/**
 * How a specification gets into LVS: the tenant's replicas as real servers of the virtual one. Desired rows first, then
 * the director, whose refusal (not ours, no ip_vs) is the operator's answer.
 *
 * Made replicas are their operations' business: they come in by admission and leave by a drain, and under another virtual
 * address they answer only once they have been replaced.
 */
import { adoptedReplicaId } from '../model/identity.ts';
import type { Replica } from '../model/replica.ts';
import type { ServiceSpec } from '../model/spec.ts';
import { control, onDirector, type Within } from './calls.ts';
import { SERVING_WEIGHT } from './scale-out.ts';
import { changesOf, sameVirtualAddress } from './service-state.ts';

/** An operator waits for the answer to an `apply`, which has this time, and a refused one this to be taken back. */
const APPLY_WITHIN = '20 s';
export const TAKE_BACK_WITHIN = '10 s';

/** The adopted replicas of a specification; what is known already of one stays. */
export async function adoptedReplicas(
  installationId: string,
  spec: ServiceSpec,
  known: readonly Replica[],
): Promise<Replica[]> {
  const adopted: Replica[] = [];
  for (const { vm, address } of spec.replicas) {
    const replicaId = adoptedReplicaId(installationId, spec.name, vm, address);
    const replica = known.find((other) => other.replicaId === replicaId) ?? {
      replicaId,
      kind: 'adopted',
      state: 'serving',
      vmName: vm,
      vmUuid: null,
      host: null,
      address,
      vcpus: null,
      memoryBytes: null,
      servingSince: new Date().toISOString(),
    };
    adopted.push(await located(replica));
  }
  return adopted;
}

/** With its VM's identity, host and size, once a host has seen it. */
export async function located(replica: Replica): Promise<Replica> {
  if (replica.vmUuid !== null) return replica;
  const found = await control(`Find VM ${replica.vmName}`).locateVm({ vm: replica.vmName });
  return found === null ? replica : { ...replica, ...found };
}

export interface Registered {
  readonly spec: ServiceSpec;
  readonly adopted: readonly Replica[];
}

/** @param before null: the service is new */
export async function register(
  before: Registered | null,
  { spec, adopted }: Registered,
  within: Within = APPLY_WITHIN,
): Promise<void> {
  const { name, virtual } = spec;
  if (before !== null && !sameVirtualAddress(before.spec, spec)) await unregister(before.spec, within);
  await control(`Note virtual server ${virtual.address}:${virtual.port}`).setVirtualServer({ service: spec });
  if (!changesOf(before?.spec ?? null, spec).lvs) return;
  const listed = new Set(adopted.map(({ replicaId }) => replicaId));
  for (const { replicaId, address } of before?.adopted ?? []) {
    if (listed.has(replicaId)) continue;
    await control(`Forget real server ${address}`).removeRealServer({ service: name, replicaId });
  }
  for (const { replicaId, address } of adopted) {
    const realServer = { service: name, replicaId, address, port: virtual.port, weight: SERVING_WEIGHT };
    await control(`Note real server ${address}:${virtual.port}`).setRealServer(realServer);
  }
  const { director } = virtual;
  await onDirector(director, `Bring LVS to ${name}`, within).convergeVirtualServer({ director, service: name });
}

export async function unregister(spec: ServiceSpec, within: Within = APPLY_WITHIN): Promise<void> {
  const { name, virtual } = spec;
  const { director } = virtual;
  await control(`Forget the virtual server of ${name}`, within).removeVirtualServer({ service: name });
  await onDirector(director, `Take ${name} out of LVS`, within).convergeVirtualServer({ director, service: name });
}

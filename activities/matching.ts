/**
 * Which service a container is a replica of. A container belongs to a service only in a VM that the specification lists
 * or that we made, so that a guest cannot name its container into somebody's service.
 */
import type { ServiceSpec } from '../model/spec.ts';
import type { ContainerCounters, ContainerIdentity } from '../model/usage.ts';
import type { ReplicaRecord } from '../store/replicas.ts';

export interface Match {
  readonly service: string;
  readonly replicaId: string;
}

/** What matching goes by, read from the store every few seconds, by VM. */
export class ReplicasByVm {
  readonly services: ReadonlyMap<string, ServiceSpec>;
  /** By the VM's UUID; an adopted replica whose VM has not been seen yet by its name or UUID as the specification has it. */
  readonly #byVm = new Map<string, ReplicaRecord[]>();

  constructor(replicas: readonly ReplicaRecord[], services: readonly ServiceSpec[]) {
    this.services = new Map(services.map((spec) => [spec.name, spec]));
    for (const replica of replicas) {
      const { kind, vmUuid, vmName } = replica;
      if (vmUuid === null && kind === 'made') continue;
      const key = vmUuid ?? vmName;
      this.#byVm.set(key, [...(this.#byVm.get(key) ?? []), replica]);
    }
  }

  in(vm: { readonly uuid: string; readonly name: string }): readonly ReplicaRecord[] {
    const byName = (this.#byVm.get(vm.name) ?? []).filter(({ vmUuid }) => vmUuid === null);
    return [...(this.#byVm.get(vm.uuid) ?? []), ...byName];
  }
}

/** @param candidates the replicas that this VM may hold */
export function matchContainer(
  container: Pick<ContainerCounters, 'runtime'>,
  identity: ContainerIdentity | null,
  candidates: readonly ReplicaRecord[],
  services: ReadonlyMap<string, ServiceSpec>,
): Match | null {
  for (const replica of candidates) {
    const spec = services.get(replica.service);
    if (spec === undefined) continue;
    const matches = replica.kind === 'made' ? isMadeOne(container, identity, spec) : isAdopted(identity, replica, spec);
    if (matches) return { service: replica.service, replicaId: replica.replicaId };
  }
  return null;
}

/** The VM was made for this one container; systemd's services in it are none. Its name is known later than its use. */
function isMadeOne(
  { runtime }: Pick<ContainerCounters, 'runtime'>,
  identity: ContainerIdentity | null,
  spec: ServiceSpec,
): boolean {
  return runtime !== 'systemd' && (identity === null || identity.image === spec.image);
}

function isAdopted(identity: ContainerIdentity | null, replica: ReplicaRecord, spec: ServiceSpec): boolean {
  if (identity === null) return false;
  return spec.replicas.some(({ vm, address, container, label }) => {
    if (address !== replica.address || (vm !== replica.vmName && vm !== replica.vmUuid)) return false;
    if (container !== undefined) return identity.name === container;
    const [key = '', value] = splitOnce(label ?? '', '=');
    return identity.labels[key] === value;
  });
}

function splitOnce(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator);
  return [text.slice(0, at), text.slice(at + 1)];
}

/**
 * A replica: one container of a service in one VM, with an address of its own. Adopted ones are the tenant's and are
 * never stopped or changed; made ones are ours, and everything about them derives from the replica id.
 */
export const REPLICA_STATES = ['provisioning', 'serving', 'unhealthy', 'draining', 'failed'] as const;
export type ReplicaState = (typeof REPLICA_STATES)[number];

export interface Replica {
  readonly replicaId: string;
  readonly kind: 'adopted' | 'made';
  readonly state: ReplicaState;
  readonly vmName: string;
  /** null for an adopted replica whose VM has not been seen yet. */
  readonly vmUuid: string | null;
  readonly host: string | null;
  readonly address: string;
  readonly vcpus: number | null;
  readonly memoryBytes: number | null;
  /** Wall clock, ISO 8601: since when it is in LVS. */
  readonly servingSince: string | null;
}

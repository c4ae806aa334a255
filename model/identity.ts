/**
 * Names. A replica's id is a UUID v5 of (installation, first run id of its operation, ordinal), and everything that is
 * made for it derives from that id: so a retry finds what it made, and nothing else ever looks the same (invariants 3, 4).
 */
import { v5 as uuidV5 } from 'uuid';

export interface ReplicaIdentity {
  readonly replicaId: string;
  readonly vmName: string;
  readonly vmUuid: string;
  readonly mac: string;
  readonly diskFileName: string;
}

/** @param operationRunId the first run id of the operation's workflow: Temporal never gives it out twice. */
export function replicaIdentity(
  installationId: string,
  service: string,
  operationRunId: string,
  ordinal: number,
): ReplicaIdentity {
  const replicaId = uuidV5(`${operationRunId}/${ordinal}`, installationId);
  const short = replicaId.slice(0, 8);
  // Of 52:54:00, QEMU's prefix, with three bytes of the id behind it; the reservation's unique constraint decides a clash.
  const digits = replicaId.slice(24, 30);
  return {
    replicaId,
    vmName: `ciel-${service}-${short}`,
    vmUuid: uuidV5('vm', replicaId),
    mac: `52:54:00:${digits.slice(0, 2)}:${digits.slice(2, 4)}:${digits.slice(4, 6)}`,
    diskFileName: `ciel-${service}-${replicaId}.img`,
  };
}

export function adoptedReplicaId(installationId: string, service: string, vm: string, address: string): string {
  return uuidV5(`adopted/${service}/${vm}/${address}`, installationId);
}

/** The XML namespace of the mark that every domain we make carries in its metadata. */
export const MARK_NAMESPACE = 'urn:ciel:mark:1';
export interface Mark {
  readonly installationId: string;
  readonly replicaId: string;
  readonly service: string;
  readonly operationId: string;
}

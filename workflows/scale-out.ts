/**
 * scale-out/<service>/<n>: one replica more, or several, each its own saga.
 *
 *   reserve ▶ clone disk ▶ start VM ▶ prepare guest ▶ install image ▶ start container ▶ probe ▶ admit ▶ watch
 *           ╰──────────╯ safe points                                                   pivot ╯     ╰ safe point
 *
 * Before the pivot a failure, a pause or a cancellation undoes everything, newest first; from admission on the replica
 * has traffic, and the rest only goes forward. A host whose process leaves the first step lying is given up for another.
 */
import { WorkflowExecutionAlreadyStartedError } from '@temporalio/common';
import { CancellationScope, ParentClosePolicy, startChild } from '@temporalio/workflow';
import type { Reservation } from '../model/activities.ts';
import type { VmSize } from '../model/decision.ts';
import { replicaIdentity } from '../model/identity.ts';
import type { Replica, ReplicaState } from '../model/replica.ts';
import type { ServiceSpec } from '../model/spec.ts';
import { hostAttribute, monitorStart, vmAttribute } from '../model/starts.ts';
import { control, firstOnHost, onDirector, onHost } from './calls.ts';
import { causeOf, hostDidNotAnswer } from './failure.ts';
import type { OperationReport } from './messages.ts';
import { Operation } from './operation.ts';
import { Saga } from './saga.ts';

/** Round robin treats all alike; zero takes a replica out of the rotation. */
export const SERVING_WEIGHT = 1;

export interface ScaleOutInput {
  readonly installationId: string;
  readonly service: string;
  /** Pinned: a change of the specification is for the next operation. */
  readonly spec: ServiceSpec;
  readonly size: VmSize;
  readonly count: number;
  /** Why, in one sentence. */
  readonly explanation: string;
}

export async function scaleOut(input: ScaleOutInput): Promise<OperationReport> {
  const { spec, count } = input;
  const operation = new Operation('scaleOut', input, input.explanation, input.size);
  const made: Made[] = [];
  try {
    await operation.open();
    // An ordinal for each reservation: one that is given up on a dead host never shares a name with the next.
    const attempts = { ordinal: 0, avoidHosts: [] };
    for (let index = 0; index < count && (index === 0 || operation.mayGoOn); index += 1) {
      await makeReplica(operation, input, attempts, made);
    }
  } catch (error) {
    const stuck = made.some(({ replica }) => replica.state === 'failed');
    return operation.end({ ...results(made), outcome: stuck ? 'failed' : 'undone', message: causeOf(error).message });
  }
  const names = made.map(({ replica }) => replica.vmName).join(', ');
  return operation.end({
    ...results(made),
    outcome: 'completed',
    message: `${spec.name}: ${names} ${made.length === 1 ? 'serves' : 'serve'}`,
  });
}

interface Made {
  readonly replica: Replica;
  readonly reservation: Reservation;
}
function results(made: readonly Made[]): Pick<OperationReport, 'replicas' | 'reservations' | 'gone'> {
  return {
    replicas: made.map(({ replica }) => replica),
    reservations: made.map(({ reservation }) => reservation),
    gone: [],
  };
}

interface Attempts {
  ordinal: number;
  readonly avoidHosts: string[];
}

/** Adds to `made` what is there at its end: a serving replica, or a failed one when its removal was given up. */
async function makeReplica(operation: Operation, input: ScaleOutInput, attempts: Attempts, made: Made[]) {
  const saga = new Saga();
  let reservation: Reservation | null = null;
  try {
    operation.safePoint();
    reservation = await reserveWithDisk(operation, saga, input, attempts);
    operation.setReplicas(
      [...made.map(({ replica }) => replica), replicaOf(reservation, 'provisioning')],
      [vmAttribute(reservation.vmName), hostAttribute(reservation.host)],
    );
    operation.safePoint();
    await provision(operation, saga, input.spec, reservation);
    await admit(operation, saga, input.spec, reservation);
    made.push({ replica: replicaOf(reservation, 'serving'), reservation });
  } catch (error) {
    const undone = await operation.undo(saga);
    if (!undone && reservation !== null) made.push({ replica: replicaOf(reservation, 'failed'), reservation });
    throw error;
  }
  operation.setReplicas(made.map(({ replica }) => replica));
  await watch(operation, reservation);
}

/** Until a host takes the first step up; HostFull, of which none is left, ends it. */
async function reserveWithDisk(
  operation: Operation,
  saga: Saga,
  { spec, size }: ScaleOutInput,
  attempts: Attempts,
): Promise<Reservation> {
  for (;;) {
    const ordinal = attempts.ordinal++;
    const { installationId, service, runId } = operation.ref;
    // Known before anything is reserved, so that a reservation whose answer was lost is given back, too.
    const { replicaId } = replicaIdentity(installationId, service, runId, ordinal);
    saga.push('reserve', () => control('Give the reservation back').release({ operation: operation.ref, replicaId }), {
      onlyWhenAllUndone: true,
    });
    const reservation = await operation.step('reserve', () =>
      control('Reserve host, addresses and capacity').reserve({
        operation: operation.ref,
        spec,
        ordinal,
        size,
        avoidHosts: attempts.avoidHosts,
      }),
    );
    const { host, diskFileName } = reservation;
    const request = { operation: operation.ref, reservation };
    saga.push('clone disk', async () => onHost(host, `Remove disk ${diskFileName}`).removeDisk(request));
    try {
      await operation.step('clone disk', async () => {
        const summary = `Clone template ${reservation.template} to ${diskFileName}`;
        try {
          return await firstOnHost(host, summary).cloneDisk(request);
        } catch (error) {
          if (hostDidNotAnswer(error) || causeOf(error).name === 'Cancelled') throw error;
          // The host is there: from here on the ordinary patience, which fails at once for what is final.
          return await onHost(host, summary).cloneDisk(request);
        }
      });
      return reservation;
    } catch (error) {
      if (!hostDidNotAnswer(error)) throw error;
      // Nothing was begun there, so only the reservation is to be given back.
      saga.commit();
      await control('Give the reservation back').release({ operation: operation.ref, replicaId });
      attempts.avoidHosts.push(host);
      operation.safePoint();
    }
  }
}

async function provision(operation: Operation, saga: Saga, spec: ServiceSpec, reservation: Reservation) {
  const { host, vmName, replicaAddress } = reservation;
  const request = { operation: operation.ref, reservation };
  // Removing the VM undoes what happens inside it, too.
  saga.push('start VM', () => onHost(host, `Remove VM ${vmName}`).removeVm(request));
  await operation.step('start VM', () => onHost(host, `Define and start VM ${vmName}`).startVm(request));
  await operation.step('prepare guest', () =>
    onHost(host, `Wait for the guest, set its name and address`).prepareGuest(request),
  );
  await operation.step('install image', () =>
    onHost(host, `Install image ${spec.image}`, '20 min').installImage({ ...request, image: spec.image }),
  );
  await operation.step('start container', () =>
    onHost(host, `Start the container on ${replicaAddress}`).startContainer({ ...request, spec }),
  );
  await operation.step('probe', () =>
    onDirector(spec.virtual.director, `Ask ${replicaAddress}:${spec.virtual.port} itself`).probeReplica({
      spec,
      address: replicaAddress,
    }),
  );
}

/** The pivot: traffic comes only now that the replica has answered on its own address (invariant 2). */
async function admit(operation: Operation, saga: Saga, spec: ServiceSpec, reservation: Reservation) {
  const { director, port } = spec.virtual;
  const { replicaId, replicaAddress: address } = reservation;
  saga.push('admit', async () => {
    await control('Forget the real server').removeRealServer({ service: spec.name, replicaId });
    await onDirector(director, 'Take it out of LVS').convergeVirtualServer({ director, service: spec.name });
  });
  await operation.step('admit', async () => {
    const realServer = { service: spec.name, replicaId, address, port, weight: SERVING_WEIGHT };
    await control(`Note real server ${address}:${port}`).setRealServer(realServer);
    await onDirector(director, `Put ${address}:${port} into LVS`).convergeVirtualServer({
      director,
      service: spec.name,
    });
  });
  saga.commit();
}

async function watch(operation: Operation, { vmUuid, vmName, host }: Reservation): Promise<void> {
  const { workflowType, options } = monitorStart({ vmUuid, vmName, host });
  await CancellationScope.nonCancellable(() =>
    operation.forward('watch', async () => {
      try {
        await startChild(workflowType, { ...options, parentClosePolicy: ParentClosePolicy.ABANDON });
      } catch (error) {
        if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
      }
    }),
  );
}

function replicaOf(reservation: Reservation, state: ReplicaState): Replica {
  const { replicaId, vmName, vmUuid, host, replicaAddress, size } = reservation;
  return {
    replicaId,
    kind: 'made',
    state,
    vmName,
    vmUuid,
    host,
    address: replicaAddress,
    vcpus: size.vcpus,
    memoryBytes: size.memoryBytes,
    servingSince: state === 'serving' ? new Date().toISOString() : null,
  };
}

/**
 * scale-in/<service>/<n>: removes replicas that Ciel made, one after another.
 *
 *   drain (weight 0, wait) ▶ out of LVS ▶ stop watching ▶ stop container ▶ remove VM ▶ remove disk ▶ release
 *   ╰ safe point        pivot ╯
 *
 * Before the pivot a failure restores the weight; from there on nothing reaches the replica, and the rest goes forward.
 * What cannot be removed after all stays a failed replica, which counts until it is gone.
 */
import { CancellationScope, getExternalWorkflowHandle } from '@temporalio/workflow';
import type { Reservation } from '../model/activities.ts';
import { workflowIds } from '../model/names.ts';
import type { Replica } from '../model/replica.ts';
import type { ServiceSpec } from '../model/spec.ts';
import { vmAttribute } from '../model/starts.ts';
import { control, onDirector, onHost } from './calls.ts';
import { causeOf } from './failure.ts';
import type { OperationReport } from './messages.ts';
import { Operation } from './operation.ts';
import { Saga } from './saga.ts';
import { SERVING_WEIGHT } from './scale-out.ts';

export interface Victim {
  readonly replica: Replica;
  readonly reservation: Reservation;
}
export interface ScaleInInput {
  readonly installationId: string;
  readonly service: string;
  readonly spec: ServiceSpec;
  readonly victims: readonly Victim[];
  readonly explanation: string;
}

export async function scaleIn(input: ScaleInInput): Promise<OperationReport> {
  const { victims, spec } = input;
  const operation = new Operation('scaleIn', input, input.explanation, null);
  operation.setReplicas(victims.map(({ replica }) => replica));
  const gone: string[] = [];
  const kept: Victim[] = [];
  const results = () => ({
    gone,
    replicas: kept.map(({ replica }) => replica),
    reservations: kept.map(({ reservation }) => reservation),
  });
  try {
    await operation.open();
    for (const victim of victims) {
      operation.safePoint();
      operation.setReplicas(
        victims.map(({ replica }) => replica).filter(({ replicaId }) => !gone.includes(replicaId)),
        [vmAttribute(victim.replica.vmName)],
      );
      await takeOutOfLvs(operation, spec, victim);
      const removed = await CancellationScope.nonCancellable(() => remove(operation, spec, victim));
      if (removed) gone.push(victim.replica.replicaId);
      else kept.push({ ...victim, replica: { ...victim.replica, state: 'failed', servingSince: null } });
    }
  } catch (error) {
    return operation.end({ ...results(), outcome: 'undone', message: causeOf(error).message });
  }
  const names = (of: readonly string[]) =>
    victims.filter(({ replica }) => of.includes(replica.replicaId)).map(({ replica }) => replica.vmName);
  return operation.end({
    ...results(),
    outcome: kept.length === 0 ? 'completed' : 'failed',
    message: `${spec.name}: ${names(gone).join(', ') || 'nothing'} removed${kept.length > 0 ? `; could not be removed: ${kept.map(({ replica }) => replica.vmName).join(', ')}` : ''}`,
  });
}

/** Traffic leaves before the replica stops (invariant 2). */
async function takeOutOfLvs(operation: Operation, spec: ServiceSpec, { replica }: Victim): Promise<void> {
  const { director, port } = spec.virtual;
  const { replicaId, address } = replica;
  const service = spec.name;
  const saga = new Saga();
  const weighted = async (weight: number, summary: string) => {
    await control(summary).setRealServer({ service, replicaId, address, port, weight });
    await onDirector(director, summary).convergeVirtualServer({ director, service });
  };
  try {
    // A failed one never served, and one that is noted again would.
    if (replica.state !== 'failed') {
      saga.push('drain', () => weighted(SERVING_WEIGHT, `Restore the weight of ${address}`));
      await operation.step('drain', async () => {
        await weighted(0, `No new connections to ${address}`);
        const request = { director, service, address, port, deadlineMs: spec.drainMs };
        await onDirector(director, `Wait until ${address} has no connection left`).waitDrained(request);
      });
    }
    await operation.step('out of LVS', async () => {
      await control(`Forget real server ${address}`).removeRealServer({ service, replicaId });
      await onDirector(director, `Take ${address} out of LVS`).convergeVirtualServer({ director, service });
    });
  } catch (error) {
    await operation.undo(saga);
    throw error;
  }
}

/** @returns false when an operator gave a part of it up: then the reservation is kept, because the thing is there. */
async function remove(operation: Operation, spec: ServiceSpec, { replica, reservation }: Victim): Promise<boolean> {
  const { host, vmName, vmUuid, diskFileName, replicaId } = reservation;
  const request = { operation: operation.ref, reservation };
  await operation.forward('stop watching', async () => {
    await control(`Stop watching ${vmName}`).clearWatch({ vmUuid });
    try {
      await getExternalWorkflowHandle(workflowIds.monitor(vmUuid)).cancel();
    } catch {
      // It has no monitor.
    }
  });
  if (replica.state === 'serving') {
    try {
      await operation.step('stop container', () =>
        onHost(host, `Stop the container in ${vmName}`, '1 min').stopContainer({ ...request, spec }),
      );
    } catch {
      // Stopping it is a courtesy to the service; the VM goes in the next step, whatever its guest answers.
    }
  }
  const vmGone = await operation.forward('remove VM', () => onHost(host, `Remove VM ${vmName}`).removeVm(request));
  const diskGone = await operation.forward('remove disk', () =>
    onHost(host, `Remove disk ${diskFileName}`).removeDisk(request),
  );
  if (!vmGone || !diskGone) return false;
  return operation.forward('release', () =>
    control('Give the reservation back').release({ operation: operation.ref, replicaId }),
  );
}

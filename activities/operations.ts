/** The store as workflows use it: operations and their steps, replicas, watches and desired LVS rows; and the offer of pressure. */
import { ApplicationFailure, type Client, WorkflowNotFoundError, WorkflowUpdateFailedError } from '@temporalio/client';
import type { ControlActivities, PressureAnswer } from '../model/activities.ts';
import type { Pressure } from '../model/decision.ts';
import { CielFailure } from '../model/failures.ts';
import { workflowIds } from '../model/names.ts';
import { deleteService, saveService } from '../store/configuration.ts';
import type { Store } from '../store/database.ts';
import { closeOperation, openOperation, recordStep } from '../store/operations.ts';
import { saveReplicas } from '../store/replicas.ts';
import { removeRealServer, removeVirtualServer, setRealServer, setVirtualServer } from '../store/virtual-servers.ts';
import { clearWatch, locateVm, setWatch } from '../store/watches.ts';
import type { pressureUpdate } from '../workflows/messages.ts';

export function createOperationActivities(
  store: Store,
  client: Client,
): Omit<ControlActivities, 'decide' | 'reserve' | 'release' | 'replicaUsage' | 'templateBase'> {
  return {
    openOperation: ({ operation, kind, summary }) => openOperation(store, operation, kind, summary),
    closeOperation: ({ operation, outcome, message }) => closeOperation(store, operation, outcome, message),
    recordStep: ({ operation, step, state, message }) => recordStep(store, operation, step, state, message),
    async setVirtualServer({ service }) {
      // The workflow has accepted this specification: from now on it is what matching and status go by.
      await saveService(store, service);
      await setVirtualServer(store, service);
    },
    setRealServer: (server) => setRealServer(store, server),
    removeRealServer: ({ service, replicaId }) => removeRealServer(store, service, replicaId),
    async removeVirtualServer({ service }) {
      await removeVirtualServer(store, service);
      await deleteService(store, service);
    },
    saveReplicas: ({ service, replicas }) => saveReplicas(store, service, replicas),
    setWatch: (watch) => setWatch(store, watch),
    clearWatch: ({ vmUuid }) => clearWatch(store, vmUuid),
    offerPressure: ({ service, pressure, updateId }) => offerPressure(client, service, pressure, updateId),
    locateVm: ({ vm }) => locateVm(store, vm),
  };
}

async function offerPressure(
  client: Client,
  service: string,
  pressure: Pressure,
  updateId: string,
): Promise<PressureAnswer> {
  const handle = client.workflow.getHandle(workflowIds.service(service));
  const name: (typeof pressureUpdate)['name'] = 'pressure';
  try {
    return await handle.executeUpdate<PressureAnswer, [Pressure]>(name, { args: [pressure], updateId });
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) {
      throw new CielFailure(
        'UnknownService',
        `offered the pressure on VM ${pressure.evidence.vmName} to service "${service}" and found no such service running. ` +
          'Apply a ciel.yaml that has it.',
        { cause: error },
      );
    }
    if (!(error instanceof WorkflowUpdateFailedError)) throw error;
    const reason = error.cause instanceof ApplicationFailure ? (error.cause.type ?? 'Refused') : 'Refused';
    return { accepted: false, reason, explanation: error.cause?.message ?? error.message, retryAt: null };
  }
}

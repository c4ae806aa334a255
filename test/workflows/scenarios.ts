/** What the recorded histories tell: each scenario ends with the workflows whose histories are kept. */
import { CielFailure } from '../../model/failures.ts';
import { workflowIds } from '../../model/names.ts';
import { monitorStart } from '../../model/starts.ts';
import {
  crossingSignal,
  pauseUpdate,
  removeUpdate,
  resumeUpdate,
  retryUpdate,
  stopMonitorUpdate,
} from '../../workflows/messages.ts';
import { ServiceUnderTest, type StartedEnvironment, until } from './environment.ts';
import { container, crossing, vmEvidence } from './evidence.ts';
import { watches } from './world.ts';

/** By the name of the file that it is kept in: the workflow's id. */
export type Recorded = Readonly<Record<string, string>>;

/** A whole life: hot, scaled out, paused, resumed, scaled in, removed. */
export async function life(environment: StartedEnvironment): Promise<Recorded> {
  const service = await ServiceUnderTest.applied(environment, 'life');
  const vmUuid = 'e0000000-0000-4000-8000-000000000001';
  const { workflowType, options } = monitorStart({ vmUuid, vmName: 'shop-1', host: 'h1' });
  const monitor = await environment.env.client.workflow.start(workflowType, options);
  const evidence = vmEvidence([container('life', 'life', 0.1, 0.8)], { vmUuid });
  await monitor.signal(crossingSignal, crossing(vmUuid, 1, { evidence }));
  await until(
    async () => watches.get(vmUuid),
    (at) => typeof at === 'string',
    'not answered',
  );
  await service.result('scale-out/life/1');
  await service.handle.executeUpdate(pauseUpdate, { args: [{ reason: 'maintenance' }] });
  await service.handle.executeUpdate(resumeUpdate);
  await service.scaled('in');
  await service.handle.executeUpdate(removeUpdate);
  await service.handle.result();
  await monitor.executeUpdate(stopMonitorUpdate);
  await monitor.result();
  return {
    service: workflowIds.service('life'),
    monitor: workflowIds.monitor(vmUuid),
    'scale-out': workflowIds.scaleOut('life', 1),
    'scale-in': workflowIds.scaleIn('life', 2),
  };
}

/** A scale-out that fails late, is undone, and needs an operator on the way. */
export async function undone(environment: StartedEnvironment): Promise<Recorded> {
  const service = await ServiceUnderTest.applied(environment, 'undone');
  service.world.once('probeReplica', () => {
    throw new CielFailure('UnhealthyReplica', '10.0.1.50:80 did not answer within 120 s');
  });
  service.world.once('removeVm', () => {
    throw new CielFailure('NotOurs', 'the domain bears no mark');
  });
  const { operationId } = await service.scale('out');
  await until(
    () => service.describeOperation(operationId),
    ({ phase }) => phase === 'needsOperator',
    'not stuck',
  );
  await service.operation(operationId).executeUpdate(retryUpdate);
  await service.result(operationId);
  return { 'scale-out-undone': operationId };
}

/**
 * Crossing continue-as-new, on a server that suggests it after a few events instead of thousands: nothing that a service
 * or a monitor knows is lost, and an operation that began in an earlier run finds its service.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { monitorStart } from '../../model/starts.ts';
import { crossingSignal, dumpQuery, pauseUpdate, pressureUpdate, resumeUpdate } from '../../workflows/messages.ts';
import {
  HOOK_TIMEOUT_MS,
  refusalOf,
  ServiceUnderTest,
  type StartedEnvironment,
  startEnvironment,
  until,
} from './environment.ts';
import { container, crossing, pressureOn, vmEvidence } from './evidence.ts';
import { locations, monitorDecisions, watches } from './world.ts';

let environment: StartedEnvironment;
beforeAll(async () => {
  environment = await startEnvironment({ dynamicConfig: { 'limit.historyCount.suggestContinueAsNew': '30' } });
}, HOOK_TIMEOUT_MS);
afterAll(() => environment?.stop());

async function runIdOf(service: ServiceUnderTest): Promise<string> {
  return (await service.handle.describe()).runId;
}
async function crossed(service: ServiceUnderTest): Promise<void> {
  const before = await runIdOf(service);
  while ((await runIdOf(service)) === before) {
    await service.handle.executeUpdate(pauseUpdate, { args: [{ reason: 'to fill the history' }] });
    await service.handle.executeUpdate(resumeUpdate);
  }
}

describe.concurrent('a service that continues as new', () => {
  it('while its operation runs is found by the report, and forgets neither requests nor numbers nor cooldowns', async () => {
    const service = await ServiceUnderTest.applied(environment, 'crosses');
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    service.world.once('installImage', () => held);
    const first = await service.scale('out', null, 'request-1');
    await until(async () => service.world.calls.includes('installImage'), Boolean, 'the operation does not run');
    await crossed(service);
    expect((await service.describe()).operationInFlight).toBe(first.operationId);
    expect(await refusalOf(service.scale('out'))).toMatchObject({ reason: 'OperationInFlight' });
    release();
    expect((await service.result(first.operationId)).outcome).toBe('completed');
    await crossed(service);

    expect(await service.scale('out', null, 'request-1')).toEqual(first);
    const pressure = await service.handle.executeUpdate(pressureUpdate, { args: [pressureOn('crosses', 'p')] });
    expect(pressure).toMatchObject({ accepted: false, reason: 'CoolingDown' });
    const second = await service.scaled('in');
    expect(second.operationId).toBe('scale-in/crosses/2');
    expect(service.world.left).toEqual([]);
    const numbers = service.world.decisions.map(({ number }) => number);
    expect(new Set(numbers).size).toBe(numbers.length);
    expect(new Set(service.world.decisions.map(({ runId }) => runId)).size).toBe(1);
  });

  it('notices at once that its operation was terminated, and is not blocked by it', async () => {
    const service = await ServiceUnderTest.applied(environment, 'orphaned');
    service.world.once('installImage', () => new Promise((resolve) => setTimeout(resolve, 3_000)));
    const { operationId } = await service.scale('out');
    await until(async () => service.world.calls.includes('installImage'), Boolean, 'the operation does not run');
    await service.operation(operationId).terminate('by an operator');
    await crossed(service);
    const { recent } = await service.settled();
    expect(recent.map(({ message }) => message)).toContainEqual(
      expect.stringContaining(`${operationId} is gone without a report`),
    );
  });

  it('finds the VM of an adopted replica that no host had seen yet', async () => {
    const service = await ServiceUnderTest.applied(environment, 'unseen');
    expect((await service.describe()).replicas[0]?.vmUuid).toBe(null);
    const vm = { vmUuid: 'd0000000-0000-4000-8000-000000000002', vmName: 'shop-unseen', host: 'h1' };
    locations.set('shop-unseen', { ...vm, vcpus: 2, memoryBytes: 2 ** 31 });
    await crossed(service);
    await until(
      async () => service.world.replicas,
      ([replica]) => replica?.vmUuid === vm.vmUuid && replica.vcpus === 2,
      'not found',
    );
  });

  it('carries a state that is plain JSON', async () => {
    // Of two replicas none is idle capacity at min 2, so the new run decides nothing.
    const service = await ServiceUnderTest.applied(environment, 'plain', { min: 2 });
    await service.result('scale-out/plain/1');
    const before = await service.handle.query(dumpQuery);
    await crossed(service);
    const after = await service.handle.query(dumpQuery);
    const lasting = (state: unknown) => ({ ...(state as object), recent: null, paused: null, stalled: null });
    expect(lasting(after)).toEqual(lasting(before));
  });
});

describe.concurrent('a monitor that continues as new', () => {
  it('takes no crossing twice', async () => {
    const vmUuid = 'd0000000-0000-4000-8000-000000000001';
    const { workflowType, options } = monitorStart({ vmUuid, vmName: 'shop-1', host: 'h1' });
    const handle = await environment.env.client.workflow.start(workflowType, options);
    const { runId } = await handle.describe();
    const report = (sequence: number) =>
      crossing(vmUuid, sequence, { evidence: vmEvidence([container('x', null, 0.1, 0.8)], { vmUuid }) });
    let sequence = 0;
    const current = environment.env.client.workflow.getHandle(options.workflowId);
    while ((await current.describe()).runId === runId) {
      sequence += 1;
      watches.set(vmUuid, null);
      await current.signal(crossingSignal, report(sequence));
      await until(
        async () => watches.get(vmUuid),
        (at) => typeof at === 'string',
        'not taken',
      );
    }
    for (let earlier = 1; earlier <= sequence; earlier += 1) await current.signal(crossingSignal, report(earlier));
    watches.set(vmUuid, null);
    await current.signal(crossingSignal, report(sequence + 1));
    await until(
      async () => watches.get(vmUuid),
      (at) => typeof at === 'string',
      'not taken',
    );
    const decisions = monitorDecisions.filter(({ subject }) => subject === vmUuid);
    expect(decisions.map(({ number }) => number)).toEqual(Array.from({ length: sequence + 1 }, (_, i) => i + 1));
  });
});

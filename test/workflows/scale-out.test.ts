/**
 * scale-out/<service>/<n> on a real Temporal server, with activities that act on a world in memory. Real VMs are for
 * *.vm.test.ts; what the service decides is in service.test.ts.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CielFailure } from '../../model/failures.ts';
import {
  acknowledgeSignal,
  endAtSafePointSignal,
  pauseUpdate,
  retryUpdate,
  skipUpdate,
} from '../../workflows/messages.ts';
import {
  eventCount,
  HOOK_TIMEOUT_MS,
  refusalOf,
  ServiceUnderTest,
  type StartedEnvironment,
  scaleOutAlone,
  startEnvironment,
  until,
} from './environment.ts';
import { type ActivityName, watches } from './world.ts';

let environment: StartedEnvironment;
beforeAll(async () => {
  environment = await startEnvironment();
}, HOOK_TIMEOUT_MS);
afterAll(() => environment?.stop());

describe.concurrent('a scale-out', () => {
  it('makes one replica in the order of the design, admits it only after it has answered (invariant 2), and watches it', async () => {
    const service = await ServiceUnderTest.applied(environment, 'happy');
    service.world.calls.length = 0;
    const { operationId } = await service.scaled('out');

    expect(operationId).toBe('scale-out/happy/1');
    const chain = service.world.calls.filter((name) => name !== 'recordStep');
    expect(chain).toEqual([
      'decide',
      'openOperation',
      'reserve',
      'cloneDisk',
      'startVm',
      'prepareGuest',
      'installImage',
      'startContainer',
      'probeReplica',
      'setRealServer',
      'convergeVirtualServer',
      'closeOperation',
      'saveReplicas',
    ]);
    const { replicas } = await service.describe();
    expect(replicas.map(({ kind, state }) => [kind, state])).toEqual([
      ['adopted', 'serving'],
      ['made', 'serving'],
    ]);
    expect(service.world.replicas).toEqual(replicas);
    expect([...service.world.inLvs.values()].map(({ address }) => address)).toEqual(['10.0.0.21', '10.0.1.50']);
    expect(service.world.violations).toEqual([]);
    const vmUuid = replicas[1]?.vmUuid ?? '';
    await until(async () => watches.has(vmUuid), Boolean, 'the new VM is not watched');
    expect(service.world.steps).toContain('admit done');
  });

  it('costs at most 120 events, in its own workflow', async () => {
    const service = await ServiceUnderTest.applied(environment, 'budget');
    const { operationId } = await service.scaled('out');
    expect(await eventCount(service.operation(operationId))).toBeLessThanOrEqual(120);
  });

  it('tells its story in the Temporal UI: summaries, details, search attributes', async () => {
    const service = await ServiceUnderTest.applied(environment, 'story');
    const { operationId } = await service.scaled('out');
    const description = await service.operation(operationId).describe();
    expect(await description.staticSummary()).toMatch(/story: asked for by an operator; one replica more, of 1 vCPU/);
    const attributes = Object.fromEntries(
      description.typedSearchAttributes.getAll().map(({ key, value }) => [key.name, value]),
    );
    expect(attributes).toMatchObject({ CielService: 'story', CielHost: 'h1', CielPhase: 'completed' });
    expect(attributes.CielVm).toMatch(/^ciel-story-/);
    const { events } = await service.operation(operationId).fetchHistory();
    const summaries = (events ?? []).flatMap(({ userMetadata }) =>
      userMetadata?.summary?.data ? [JSON.parse(Buffer.from(userMetadata.summary.data).toString())] : [],
    );
    expect(summaries).toContain('Install image registry:5000/story:1');
    const metadata: { currentDetails: string } = await service
      .operation(operationId)
      .query('__temporal_workflow_metadata');
    expect(metadata.currentDetails).toMatch(/- \*\*prepare guest\*\* done, \d\d:\d\d:\d\d, took \d+\.\d s/);
  });

  const AFTER = [
    'openOperation',
    'reserve',
    'cloneDisk',
    'startVm',
    'prepareGuest',
    'installImage',
    'startContainer',
    'probeReplica',
    'setRealServer',
    'convergeVirtualServer',
  ] as const;
  const STEPS: [ActivityName, 'before' | 'after'][] = [
    ...AFTER.map((name): [ActivityName, 'after'] => [name, 'after']),
    ['reserve', 'before'],
    ['startVm', 'before'],
    ['convergeVirtualServer', 'before'],
  ];
  it.each(STEPS)('leaves nothing behind when %s fails %s its effect (invariant 3)', async (name, when) => {
    const fail = () => {
      throw new CielFailure('StorageFull', 'no space left');
    };
    const { world, report } = await scaleOutAlone(environment, `fail-${name.toLowerCase()}-${when}`, (fresh) => {
      fresh.once(name, fail, when);
      if (name === 'cloneDisk') fresh.once(name, fail, when); // its first attempt is on trial only
    });
    expect(await report).toMatchObject({ outcome: 'undone', message: 'no space left', replicas: [] });
    expect(world.left).toEqual([]);
    expect(world.inLvs.size).toBe(0);
    expect(world.violations).toEqual([]);
    expect(world.openOperations).toEqual([]);
  });

  it('undoes newest first, and shows what was undone', async () => {
    const service = await ServiceUnderTest.applied(environment, 'order');
    service.world.once('probeReplica', () => {
      throw new CielFailure('UnhealthyReplica', '10.0.1.50:80 did not answer within 120 s');
    });
    const { operationId } = await service.scaled('out');
    const undos = service.world.calls.filter((name) => /^remove|^release/.test(name));
    expect(undos).toEqual(['removeVm', 'removeDisk', 'release']);
    const { phase, steps } = await service.describeOperation(operationId);
    expect(phase).toBe('undone');
    expect(steps.map(({ name, state }) => `${name} ${state}`)).toEqual([
      'reserve undone',
      'clone disk undone',
      'start VM undone',
      'prepare guest done',
      'install image done',
      'start container done',
      'probe failed',
    ]);
  });

  it('waits out what passes: a retryable failure is no failure', async () => {
    const service = await ServiceUnderTest.applied(environment, 'patient');
    service.world.once('prepareGuest', () => {
      throw new CielFailure('GuestNotReady', 'no agent yet');
    });
    expect((await service.scaled('out')).outcome).toBe('completed');
  });

  it('takes another host when the process of the first leaves the first step lying (invariants 3 and 4)', async () => {
    const service = await ServiceUnderTest.applied(environment, 'two-hosts');
    service.world.hosts = ['h-without-process', 'h1'];
    const { operationId } = await service.scale('out');
    const { outcome, replicas } = await service.result(operationId);
    expect(outcome).toBe('completed');
    expect(replicas[0]?.host).toBe('h1');
    expect(service.world.reservations.size).toBe(1);
  });

  it('ends at the safe point before the VM starts when the service is paused, and leaves nothing (invariants 3 and 10)', async () => {
    const service = await ServiceUnderTest.applied(environment, 'pause-early');
    service.world.once('cloneDisk', () =>
      service.handle.executeUpdate(pauseUpdate, { args: [{ reason: 'change night' }] }),
    );
    const { outcome, message } = await service.scaled('out');
    expect(outcome).toBe('undone');
    expect(message).toContain('change night');
    expect(service.world.calls).not.toContain('startVm');
    expect(service.world.left).toEqual([]);
  });

  it('goes on to admission once the VM has started, and begins no further replica (invariant 10)', async () => {
    const service = await ServiceUnderTest.applied(environment, 'pause-late');
    service.world.once('prepareGuest', () =>
      service.handle.executeUpdate(pauseUpdate, { args: [{ reason: 'later' }] }),
    );
    const { outcome, replicas } = await service.scaled('out', 3);
    expect(outcome).toBe('completed');
    expect(replicas).toHaveLength(1);
    expect(service.world.vms.size).toBe(1);
  });

  it('undoes everything when it is cancelled', async () => {
    const service = await ServiceUnderTest.applied(environment, 'cancelled');
    service.world.once('installImage', () => service.operation('scale-out/cancelled/1').cancel(), 'after');
    expect((await service.scaled('out')).outcome).toBe('undone');
    expect(service.world.left).toEqual([]);
  });

  it('stays open when an undo fails, names what is stuck, and goes on after retry', async () => {
    const service = await ServiceUnderTest.applied(environment, 'stuck');
    service.world.once('startContainer', () => {
      throw new CielFailure('ContainerExited', 'exit code 1');
    });
    service.world.once('removeVm', () => {
      throw new CielFailure('NotOurs', 'the domain bears no mark');
    });
    const { operationId } = await service.scale('out');
    const stuck = await until(
      () => service.describeOperation(operationId),
      ({ phase }) => phase === 'needsOperator',
      'not stuck',
    );
    expect(stuck.stuck).toEqual(['undo start VM: the domain bears no mark']);
    expect((await service.describe()).operationInFlight).toBe(operationId);
    await service.operation(operationId).executeUpdate(retryUpdate);
    const { outcome, message } = await service.result(operationId);
    expect([outcome, message]).toEqual(['undone', 'exit code 1']);
    expect(service.world.left).toEqual([]);
  });

  it('after skip keeps the reservation of what is still there, and counts it as a failed replica (invariants 1 and 3)', async () => {
    const service = await ServiceUnderTest.applied(environment, 'skipped', { max: 2 });
    service.world.once('startContainer', () => {
      throw new CielFailure('ContainerExited', 'exit code 1');
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
    await service.operation(operationId).executeUpdate(skipUpdate);
    expect((await service.result(operationId)).outcome).toBe('failed');
    const { replicas } = await service.describe();
    expect(replicas.map(({ state }) => state)).toEqual(['serving', 'failed']);
    expect(service.world.reservations.size).toBe(1);
    expect(await refusalOf(service.scale('out'))).toMatchObject({ reason: 'AtMax' });
    // Scaling in takes the failed one first, and min does not protect it.
    await service.scaled('in');
    expect(service.world.left).toEqual([]);
    expect(service.world.violations).toEqual([]);
  });

  it('refuses retry and skip in any other phase', async () => {
    const service = await ServiceUnderTest.applied(environment, 'not-stuck');
    let refused: unknown;
    service.world.once('installImage', async () => {
      refused = await refusalOf(service.operation('scale-out/not-stuck/1').executeUpdate(retryUpdate));
    });
    await service.scaled('out');
    expect(refused).toMatchObject({ reason: 'NotStuck' });
  });

  it('reports until it is acknowledged: a service that takes note late still learns of it', async () => {
    const service = await ServiceUnderTest.applied(environment, 'late');
    // Its own end comes before the service is done with the report: saving takes one failed attempt longer.
    service.world.once('saveReplicas', () => {
      throw new CielFailure('StoreUnreachable', 'the database restarts');
    });
    expect((await service.scaled('out')).outcome).toBe('completed');
    expect((await service.describe()).replicas).toHaveLength(2);
  });

  it('ignores a safe point and an acknowledgement that come after the end', async () => {
    const service = await ServiceUnderTest.applied(environment, 'after-end');
    const { operationId } = await service.scaled('out');
    const handle = service.operation(operationId);
    await handle.result();
    await expect(handle.signal(endAtSafePointSignal, { reason: 'late' })).rejects.toThrow(/completed|not found/);
    await expect(handle.signal(acknowledgeSignal)).rejects.toThrow(/completed|not found/);
  });
});

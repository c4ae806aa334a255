/**
 * service/<name>: who may begin what, and when. The steps of operations are in scale-out.test.ts and scale-in.test.ts,
 * crossing continue-as-new in continue-as-new.test.ts.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CielFailure } from '../../model/failures.ts';
import {
  applyUpdate,
  pauseSignal,
  pauseUpdate,
  pressureUpdate,
  removeUpdate,
  replicaHealthSignal,
  resumeSignal,
  resumeUpdate,
} from '../../workflows/messages.ts';
import {
  eventCount,
  HOOK_TIMEOUT_MS,
  refusalOf,
  ServiceUnderTest,
  type StartedEnvironment,
  startEnvironment,
  until,
} from './environment.ts';
import { pressureOn } from './evidence.ts';
import { locations } from './world.ts';

let environment: StartedEnvironment;
beforeAll(async () => {
  environment = await startEnvironment();
}, HOOK_TIMEOUT_MS);
afterAll(() => environment?.stop());

describe.concurrent('apply', () => {
  it('puts the adopted replicas into LVS and knows where their VMs are', async () => {
    const vm = { vmUuid: 'b0000000-0000-4000-8000-000000000002', vmName: 'shop-adopts', host: 'h1' };
    locations.set('shop-adopts', { ...vm, vcpus: 2, memoryBytes: 2 ** 31 });
    const service = ServiceUnderTest.unborn(environment, 'adopts');
    const answer = await service.apply();
    expect(answer).toEqual({ generation: 1, changes: ['created'], operationId: null });
    expect([...service.world.inLvs.values()]).toEqual([{ address: '10.0.0.21', weight: 1 }]);
    const { replicas } = await service.describe();
    expect(replicas).toEqual([expect.objectContaining({ kind: 'adopted', state: 'serving', ...vm, vcpus: 2 })]);
    expect(service.world.replicas).toEqual(replicas);
  });

  it('changes nothing when nothing changed', async () => {
    const service = await ServiceUnderTest.applied(environment, 'unchanged');
    service.world.calls.length = 0;
    expect(await service.apply()).toEqual({ generation: 1, changes: [], operationId: null });
    expect(service.world.calls).toEqual([]);
  });

  it('takes bounds and targets at once, and says what changed', async () => {
    const service = await ServiceUnderTest.applied(environment, 'bounds');
    const { generation, changes } = await service.apply({ max: 5 });
    expect([generation, changes]).toEqual([2, ['max: 3 -> 5']]);
    expect((await service.describe()).spec.max).toBe(5);
  });

  it('leaves LVS alone when only bounds change, so that a director that is away is no hindrance', async () => {
    const service = await ServiceUnderTest.applied(environment, 'no-lvs');
    service.world.calls.length = 0;
    await service.apply({ max: 2 });
    expect(service.world.calls).not.toContain('convergeVirtualServer');
  });

  it('takes an adopted replica that is listed no more out of LVS, and leaves made ones to their operations', async () => {
    const service = await ServiceUnderTest.applied(environment, 'unlisted', { min: 0 });
    await service.scaled('out');
    await service.apply({ replicas: [] });
    expect([...service.world.inLvs.values()].map(({ address }) => address)).toEqual(['10.0.1.50']);
    expect((await service.describe()).replicas.map(({ kind }) => kind)).toEqual(['made']);
  });

  it('loses no replica that an operation reports meanwhile (invariant 3)', async () => {
    const service = await ServiceUnderTest.applied(environment, 'meanwhile');
    let applied: Promise<unknown> = Promise.resolve();
    // The change is under way, at the director, while the operation ends.
    service.world.once('closeOperation', async () => {
      service.world.once('convergeVirtualServer', () => service.result('scale-out/meanwhile/1'));
      applied = service.apply({ min: 0, replicas: [] });
      await until(
        async () => service.world.calls.at(-1),
        (name) => name === 'convergeVirtualServer',
        'no change',
      );
    });
    await service.scaled('out');
    await applied;
    expect((await service.describe()).replicas.map(({ kind }) => kind)).toEqual(['made']);
    expect(service.world.replicas).toHaveLength(1);
  });

  it('moves to another virtual address with replace, but not while an operation is in flight', async () => {
    const service = await ServiceUnderTest.applied(environment, 'moves');
    const virtual = { ...service.spec.virtual, address: '10.0.0.99' };
    expect(await refusalOf(service.apply({ virtual }))).toMatchObject({ reason: 'InvalidSpec' });
    let meanwhile: unknown;
    service.world.once('installImage', async () => {
      meanwhile = await refusalOf(service.apply({ virtual }, true));
    });
    await service.scaled('out');
    expect(meanwhile).toMatchObject({ reason: 'OperationInFlight' });
    const { operationId } = await service.apply({ virtual }, true);
    await service.result(operationId ?? '');
    expect(service.world.virtualServer?.virtual.address).toBe('10.0.0.99');
    expect(service.world.violations).toEqual([]);
  });

  it('refuses another image without replace, and writes nothing to the history', async () => {
    const service = await ServiceUnderTest.applied(environment, 'no-replace');
    const before = await eventCount(service.handle);
    const { reason, explanation } = await refusalOf(service.apply({ image: 'registry:5000/other:2' }));
    expect(reason).toBe('InvalidSpec');
    expect(explanation).toContain('a change of image replaces the replicas of no-replace: apply with --replace');
    expect(await eventCount(service.handle)).toBe(before);
  });

  it('rolls made replicas over with replace, one by one, making before breaking', async () => {
    const service = await ServiceUnderTest.applied(environment, 'rolls');
    await service.scaled('out');
    const [, old] = (await service.describe()).replicas;
    const { operationId } = await service.apply({ image: 'registry:5000/rolls:2' }, true);
    expect(operationId).toBe('scale-out/rolls/2');
    const { replicas } = await until(
      () => service.describe(),
      (seen) => seen.operationInFlight === null && seen.replicas.every(({ replicaId }) => replicaId !== old?.replicaId),
      'not rolled over',
    );
    expect(replicas.map(({ kind, state }) => `${kind} ${state}`)).toEqual(['adopted serving', 'made serving']);
    expect(service.world.vms.size).toBe(1);
    expect(service.world.violations).toEqual([]);
  });

  it('breaks before making where max leaves no room', async () => {
    const service = await ServiceUnderTest.applied(environment, 'tight', { max: 2 });
    await service.scaled('out');
    await service.apply({ image: 'registry:5000/tight:2' }, true);
    await until(
      () => service.describe(),
      ({ operationInFlight, recent }) =>
        operationInFlight === null && recent.some(({ message }) => /^scale-out.tight.3 completed/.test(message)),
      'not rolled over',
    );
    expect(service.world.vms.size).toBe(1);
  });

  it('leaves no service behind when LVS holds an entry that is not ours (invariants 3 and 6)', async () => {
    const service = ServiceUnderTest.unborn(environment, 'not-ours');
    service.world.once('convergeVirtualServer', () => {
      throw new CielFailure('NotOurs', '10.0.0.10:80 is in LVS already and bears no row of ours');
    });
    const { reason, explanation } = await refusalOf(service.apply());
    expect(reason).toBe('NotOurs');
    expect(explanation).toBe('not-ours stays as it was: 10.0.0.10:80 is in LVS already and bears no row of ours');
    expect(service.world.virtualServer).toBe(null);
    await service.handle.result();
  });

  it('takes up what is applied while a first apply fails', async () => {
    const service = ServiceUnderTest.unborn(environment, 'tried-again');
    const outcome: { second?: Promise<{ generation: number }> } = {};
    service.world.once('convergeVirtualServer', async () => {
      const update = await service.handle.startUpdate(applyUpdate, {
        args: [{ spec: service.spec, replace: false }],
        waitForStage: 'ACCEPTED',
      });
      outcome.second = update.result();
      throw new CielFailure('NoIpvs', 'ip_vs is not loaded');
    });
    expect(await refusalOf(service.apply())).toMatchObject({ reason: 'NoIpvs' });
    expect(await outcome.second).toMatchObject({ generation: 1 });
    expect((await service.describe()).operationInFlight).toBe(null);
  });

  it('takes a refused change back whole', async () => {
    const service = await ServiceUnderTest.applied(environment, 'back');
    service.world.once('convergeVirtualServer', () => {
      throw new CielFailure('NoIpvs', 'ip_vs is not loaded');
    });
    const replicas = [{ vm: 'other', container: 'back', address: '10.0.0.44' }];
    expect(await refusalOf(service.apply({ replicas }))).toMatchObject({ reason: 'NoIpvs' });
    expect([...service.world.inLvs.values()].map(({ address }) => address)).toEqual(['10.0.0.21']);
    const { generation, replicas: kept } = await service.describe();
    expect([generation, kept.map(({ address }) => address)]).toEqual([1, ['10.0.0.21']]);
  });

  it('makes the replicas that min asks for', async () => {
    const service = ServiceUnderTest.unborn(environment, 'below-min', { min: 2 });
    const { operationId } = await service.apply();
    expect(operationId).toBe('scale-out/below-min/1');
    await service.result(operationId ?? '');
    expect((await service.describe()).replicas).toHaveLength(2);
  });

  it('does not try for ever to reach min when it cannot', async () => {
    const service = ServiceUnderTest.unborn(environment, 'hopeless', { min: 2 });
    service.world.hosts = [];
    const { operationId } = await service.apply();
    expect((await service.result(operationId ?? '')).outcome).toBe('undone');
    service.world.hosts = ['h1'];
    const { operationInFlight, recent } = await service.describe();
    expect(operationInFlight).toBe(null);
    expect(recent[0]?.message).toContain('no host has room');
    // A resume, or another specification, makes it try again.
    await service.handle.executeUpdate(pauseUpdate, { args: [{ reason: '' }] });
    await service.handle.executeUpdate(resumeUpdate);
    await until(
      () => service.describe(),
      ({ replicas }) => replicas.length === 2,
      'min is not reached',
    );
  });
});

describe.concurrent('pressure', () => {
  it('is answered by one operation at a time, then by the cooldown; refusals are decisions too (invariants 1 and 8)', async () => {
    const service = await ServiceUnderTest.applied(environment, 'pressed');
    const offer = (id: string) => service.handle.executeUpdate(pressureUpdate, { args: [pressureOn('pressed', id)] });
    let meanwhile: unknown;
    service.world.once('prepareGuest', async () => {
      meanwhile = await offer('second');
    });
    const answer = await offer('first');
    expect(answer).toMatchObject({ accepted: true, operationId: 'scale-out/pressed/1' });
    await service.result('scale-out/pressed/1');
    expect(meanwhile).toMatchObject({ accepted: false, reason: 'OperationInFlight' });
    expect(await offer('third')).toMatchObject({ accepted: false, reason: 'CoolingDown' });
    const outcomes = service.world.decisions.map(({ number, outcome }) => [number, outcome.act || outcome.reason]);
    expect(outcomes).toEqual([
      [1, true],
      [2, 'OperationInFlight'],
      [3, 'CoolingDown'],
    ]);
    expect(service.world.vms.size).toBe(1);
  });

  it('that is delivered twice begins one operation (invariant 7)', async () => {
    const service = await ServiceUnderTest.applied(environment, 'twice');
    const offer = () => service.handle.executeUpdate(pressureUpdate, { args: [pressureOn('twice', 'same')] });
    const answers = await Promise.all([offer(), offer()]);
    expect(answers.map((answer) => answer.accepted && answer.operationId)).toEqual([
      'scale-out/twice/1',
      'scale-out/twice/1',
    ]);
    await service.result('scale-out/twice/1');
    expect(service.world.vms.size).toBe(1);
  });

  it('waits after a scale-out that failed, until an operator applies something', async () => {
    const service = await ServiceUnderTest.applied(environment, 'unlucky');
    const offer = (id: string) => service.handle.executeUpdate(pressureUpdate, { args: [pressureOn('unlucky', id)] });
    service.world.once('installImage', () => {
      throw new CielFailure('ImageMissing', 'there is no image unlucky:1');
    });
    expect(await offer('first')).toMatchObject({ accepted: true });
    expect(await service.result('scale-out/unlucky/1')).toMatchObject({ outcome: 'undone' });
    const refused = await offer('second');
    expect(refused).toMatchObject({ accepted: false, reason: 'FailedBefore' });
    expect(refused).toMatchObject({ explanation: expect.stringContaining('there is no image unlucky:1') });
    await service.apply({ max: 5 });
    expect(await offer('third')).toMatchObject({ accepted: true });
    await service.result('scale-out/unlucky/2');
  });

  it('makes no replica beyond max (invariant 1)', async () => {
    const service = await ServiceUnderTest.applied(environment, 'full', { max: 1 });
    const answer = await service.handle.executeUpdate(pressureUpdate, { args: [pressureOn('full', 'only')] });
    expect(answer).toMatchObject({ accepted: false, reason: 'AtMax' });
    expect((await service.describe()).operationInFlight).toBe(null);
  });
});

describe.concurrent('scale', () => {
  it('finds the first answer again under the same request id', async () => {
    const service = await ServiceUnderTest.applied(environment, 'repeat');
    const requestId = 'request-1';
    const first = await service.scale('out', null, requestId);
    expect(await service.scale('out', null, requestId)).toEqual(first);
    await service.result(first.operationId);
    expect(await service.scale('out', null, requestId)).toEqual(first);
    expect(service.world.vms.size).toBe(1);
  });

  it('reaches a target by one operation that makes several replicas', async () => {
    const service = await ServiceUnderTest.applied(environment, 'target');
    expect((await service.scaled('out', 3)).replicas).toHaveLength(2);
    expect((await service.describe()).replicas).toHaveLength(3);
    expect(await refusalOf(service.scale('out', 3))).toMatchObject({ reason: 'AlreadyThere' });
    expect((await service.scaled('in', 1)).gone).toHaveLength(2);
    expect(service.world.left).toEqual([]);
  });

  it.each([
    ['out', 4, 'AtMax'],
    ['out', 1, 'AlreadyThere'],
    ['out', 1.5, 'InvalidSpec'],
    ['in', 0, 'AtMin'],
    ['in', null, 'AtMin'],
  ] as const)('%s to %s is refused as %s and leaves no trace', async (direction, target, reason) => {
    const service = await ServiceUnderTest.applied(environment, `refuse-${direction}-${target}`.replace('.', '-'));
    const before = await eventCount(service.handle);
    expect(await refusalOf(service.scale(direction, target))).toMatchObject({ reason });
    expect(await eventCount(service.handle)).toBe(before);
  });

  it('never removes an adopted replica (invariant 6)', async () => {
    const service = await ServiceUnderTest.applied(environment, 'adopted-only', {
      min: 0,
    });
    expect(await refusalOf(service.scale('in'))).toMatchObject({ reason: 'AtMin' });
  });
});

describe.concurrent('pause and resume', () => {
  it('refuse what they refuse, with the reason (invariant 10)', async () => {
    const service = await ServiceUnderTest.applied(environment, 'paused');
    expect(await refusalOf(service.handle.executeUpdate(resumeUpdate))).toMatchObject({ reason: 'AlreadyThere' });
    await service.handle.executeUpdate(pauseUpdate, { args: [{ reason: 'maintenance' }] });
    expect(await refusalOf(service.handle.executeUpdate(pauseUpdate, { args: [{ reason: 'x' }] }))).toEqual({
      reason: 'Paused',
      explanation: 'paused already: maintenance',
    });
    expect(await refusalOf(service.scale('out'))).toMatchObject({ reason: 'Paused' });
    const answer = await service.handle.executeUpdate(pressureUpdate, { args: [pressureOn('paused', 'p')] });
    expect(answer).toMatchObject({ accepted: false, reason: 'Paused' });
    await service.handle.executeUpdate(resumeUpdate);
    expect((await service.scaled('out')).outcome).toBe('completed');
  });

  it('work by signals from the own CLI, and a vain one is noted', async () => {
    const service = await ServiceUnderTest.applied(environment, 'signals');
    await service.handle.signal(pauseSignal);
    await until(
      () => service.describe(),
      ({ paused }) => paused === 'by signal',
      'not paused',
    );
    await service.handle.signal('scaleService', { direction: 'out' });
    await until(
      () => service.describe(),
      ({ recent }) => /scale by signal was refused: signals is paused/.test(recent[0]?.message ?? ''),
      'the refusal is not noted',
    );
    await service.handle.signal(resumeSignal);
    await service.handle.signal('scaleService', { direction: 'out' });
    await until(
      () => service.describe(),
      ({ replicas }) => replicas.length === 2,
      'not scaled',
    );
  });
});

describe.concurrent('a replica', () => {
  it('that does not answer any more is reported, and again when it does', async () => {
    const service = await ServiceUnderTest.applied(environment, 'dies');
    const [replica] = (await service.describe()).replicas;
    const report = (healthy: boolean) =>
      service.handle.signal(replicaHealthSignal, {
        replicaId: replica?.replicaId ?? '',
        healthy,
        message: healthy ? 'HTTP 200' : 'connection refused',
      });
    await report(false);
    const { recent } = await until(
      () => service.describe(),
      ({ replicas }) => replicas[0]?.state === 'unhealthy',
      'not reported',
    );
    expect(recent[0]?.message).toBe('shop-dies (10.0.0.21) does not answer: connection refused');
    await report(true);
    await until(
      async () => service.world.replicas,
      (replicas) => replicas[0]?.state === 'serving',
      'not well again',
    );
  });
});

describe.concurrent('remove', () => {
  it('removes what we made, leaves adopted replicas served, and ends (invariants 3 and 6)', async () => {
    const service = await ServiceUnderTest.applied(environment, 'removed');
    const { replicas } = await service.scaled('out');
    const { removing } = await service.handle.executeUpdate(removeUpdate);
    expect(removing).toEqual([replicas[0]?.vmName]);
    await service.handle.result();
    expect(service.world.left).toEqual([]);
    expect([...service.world.inLvs.values()].map(({ address }) => address)).toEqual(['10.0.0.21']);
    expect(service.world.replicas).toEqual([]);
    expect(service.world.violations).toEqual([]);
  });

  it('takes the virtual server out when no replica is left', async () => {
    const service = ServiceUnderTest.unborn(environment, 'none-left', { min: 0, replicas: [] });
    await service.apply();
    await service.scaled('out');
    await service.handle.executeUpdate(removeUpdate);
    await service.handle.result();
    expect([...service.world.inLvs.values()]).toEqual([]);
    expect(service.world.virtualServer).toBe(null);
  });

  it('ends the operation in flight at its safe point (invariant 10)', async () => {
    const service = await ServiceUnderTest.applied(environment, 'mid-flight');
    service.world.once('cloneDisk', () => service.handle.executeUpdate(removeUpdate));
    const { outcome, message } = await service.scaled('out');
    expect([outcome, message]).toEqual(['undone', 'the service is being deleted']);
    await service.handle.result();
    expect(service.world.left).toEqual([]);
  });

  it('of a service that is made anew gives new names to everything (invariants 3 and 4)', async () => {
    const service = await ServiceUnderTest.applied(environment, 'reborn');
    const first = await service.scaled('out');
    await service.handle.executeUpdate(removeUpdate);
    await service.handle.result();
    await service.apply();
    const second = await service.scaled('out');
    expect(second.operationId).toBe(first.operationId);
    expect(second.replicas[0]?.replicaId).not.toBe(first.replicas[0]?.replicaId);
    // Its decisions count from one again, and are not those of the first.
    expect(service.world.decisions.filter(({ number }) => number === 1).map(({ runId }) => runId)).toHaveLength(2);
  });
});

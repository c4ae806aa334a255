/** scale-in/<service>/<n>: traffic leaves first, then the replica goes, with everything that was made for it. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CielFailure } from '../../model/failures.ts';
import { retryUpdate } from '../../workflows/messages.ts';
import { HOOK_TIMEOUT_MS, ServiceUnderTest, type StartedEnvironment, startEnvironment, until } from './environment.ts';
import { watches } from './world.ts';

let environment: StartedEnvironment;
beforeAll(async () => {
  environment = await startEnvironment();
}, HOOK_TIMEOUT_MS);
afterAll(() => environment?.stop());

async function withTwo(name: string): Promise<ServiceUnderTest> {
  const service = await ServiceUnderTest.applied(environment, name);
  await service.scaled('out');
  service.world.calls.length = 0;
  return service;
}

describe.concurrent('a scale-in', () => {
  it('drains, deregisters, removes, gives back (invariants 2 and 3)', async () => {
    const service = await withTwo('drains');
    const vmUuid = (await service.describe()).replicas[1]?.vmUuid ?? '';
    await until(async () => watches.has(vmUuid), Boolean, 'the new VM is not watched');
    let weight: number | undefined;
    service.world.once('waitDrained', () => {
      weight = [...service.world.inLvs.values()].find(({ address }) => address === '10.0.1.50')?.weight;
    });
    const report = await service.scaled('in');
    expect(report).toMatchObject({ operationId: 'scale-in/drains/2', outcome: 'completed', replicas: [] });
    expect(weight).toBe(0);
    expect(service.world.calls.filter((name) => name !== 'recordStep')).toEqual([
      'replicaUsage',
      'decide',
      'openOperation',
      'setRealServer',
      'convergeVirtualServer',
      'waitDrained',
      'removeRealServer',
      'convergeVirtualServer',
      'stopContainer',
      'removeVm',
      'removeDisk',
      'release',
      'closeOperation',
      'saveReplicas',
    ]);
    expect(service.world.left).toEqual([]);
    expect(service.world.violations).toEqual([]);
    expect(watches.has(vmUuid)).toBe(false);
    await environment.env.client.workflow.getHandle(`monitor/${vmUuid}`).result();
  });

  it('restores the weight when the director refuses before the pivot', async () => {
    const service = await withTwo('restores');
    service.world.once('waitDrained', () => {
      throw new CielFailure('NoIpvs', 'ip_vs is gone');
    });
    expect((await service.scaled('in')).outcome).toBe('undone');
    expect([...service.world.inLvs.values()].map(({ weight }) => weight)).toEqual([1, 1]);
    expect((await service.describe()).replicas).toHaveLength(2);
    expect(service.world.vms.size).toBe(1);
  });

  it('removes the VM of a guest that does not answer', async () => {
    const service = await withTwo('mute');
    service.world.once('stopContainer', () => {
      throw new CielFailure('ContainerExited', 'no such container');
    });
    expect((await service.scaled('in')).outcome).toBe('completed');
    expect(service.world.left).toEqual([]);
  });

  it('only goes forward after the pivot: it asks an operator rather than undo', async () => {
    const service = await withTwo('forward');
    service.world.once('removeDisk', () => {
      throw new CielFailure('NotOurs', 'the file is not ours');
    });
    const { operationId } = await service.scale('in');
    const { stuck } = await until(
      () => service.describeOperation(operationId),
      ({ phase }) => phase === 'needsOperator',
      'not stuck',
    );
    expect(stuck).toEqual(['remove disk: the file is not ours']);
    await service.operation(operationId).executeUpdate(retryUpdate);
    expect((await service.result(operationId)).outcome).toBe('completed');
    expect(service.world.left).toEqual([]);
  });
});

/** The rest of the store, subject by subject. Reservations have a file of their own. */
import { randomUUID } from 'node:crypto';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { OperationRef } from '../../model/activities.ts';
import type { DecisionInput, Refusal } from '../../model/decision.ts';
import type { VmEvidence } from '../../model/evidence.ts';
import type { Replica } from '../../model/replica.ts';
import { readConfiguration, readHost, saveConfiguration, saveService } from '../../store/configuration.ts';
import { connectStore, jsonText, reaching } from '../../store/database.ts';
import { listDecisions, readDecision, recordDecision } from '../../store/decisions.ts';
import { tryLock } from '../../store/exclusive-lock.ts';
import { claimHost } from '../../store/host-processes.ts';
import { migrate } from '../../store/migrations.ts';
import { forgetOtherVms, listContainers, listVms, saveContainers, saveVms } from '../../store/observations.ts';
import {
  assertOperationOpen,
  closeOperation,
  listOperations,
  listSteps,
  openOperation,
  recordStep,
} from '../../store/operations.ts';
import { listReplicas, saveReplicas } from '../../store/replicas.ts';
import { listRollups, pruneRollups, replicaUsage, saveRollups } from '../../store/rollups.ts';
import {
  claimRealServer,
  claimVirtualServer,
  forgetRealServer,
  forgetVirtualServer,
  listVirtualServers,
  removeRealServer,
  removeVirtualServer,
  setRealServer,
  setRealServerHealth,
  setVirtualServer,
  withVirtualServerLock,
} from '../../store/virtual-servers.ts';
import { clearWatch, listWatches, locateVm, setWatch, takeOverWatches } from '../../store/watches.ts';
import { serviceForTest, specForTest } from './spec-for-test.ts';
import { type StoreForTest, startStoreForTest } from './store-for-test.ts';

let test: StoreForTest;
beforeAll(async () => {
  test = await startStoreForTest();
});
afterAll(() => test.end());

const VM = '11111111-1111-4111-8111-111111111111';
const NOW = '2026-01-02T03:04:05.000Z';

describe('migrations', () => {
  it('run once when several processes start at the same time', async () => {
    const others = [connectStore(test.url), connectStore(test.url)];
    expect(await Promise.all(others.map(migrate))).toEqual([[], []]);
    await Promise.all(others.map((store) => store.destroy()));
  });
});

describe('configuration', () => {
  it('counts a generation a change, keeps what a file does not name, and reports what changed', async () => {
    const { store } = test;
    expect(await saveConfiguration(store, specForTest())).toEqual([
      'host kvm-1',
      'director lvs',
      'network lan',
      'template docker',
    ]);
    expect(await saveConfiguration(store, specForTest())).toEqual([]);
    const other = specForTest({
      networks: [{ name: 'dmz', subnet: '10.1.0.0/24', addresses: ['10.1.0.5-10.1.0.9'] }],
      services: [],
    });
    const moved = specForTest({ templates: [{ name: 'docker', directory: '/elsewhere' }] });
    expect(await saveConfiguration(store, { ...other, templates: moved.templates })).toEqual([
      'network dmz',
      'template docker',
    ]);
    await saveService(store, serviceForTest());
    const { networks, templates, services } = await readConfiguration(store);
    expect(networks.map(({ name, generation }) => [name, generation])).toEqual([
      ['dmz', 1],
      ['lan', 1],
    ]);
    expect(templates).toMatchObject([{ generation: 2, spec: { directory: '/elsewhere' } }]);
    expect(services[0]?.spec).toEqual(serviceForTest());
    await expect(readHost(store, 'kvm-9')).rejects.toThrow('found: kvm-1');
  });
});

describe('text that a guest chose', () => {
  it('never makes a row unwritable (invariant 9)', async () => {
    const { store } = test;
    const nasty = `a\0b\ud800c\\u0000"'\u{1f600}`;
    const container = {
      vmUuid: VM,
      containerId: 'c'.repeat(64),
      runtime: 'docker' as const,
      cgroupPath: nasty,
      name: nasty,
      image: null,
      labels: { [nasty]: nasty },
      addresses: {},
      service: null,
      replicaId: null,
      cpuCores: 0.25,
      memoryBytes: 2 ** 40,
      ioBytesPerSecond: null,
      cpuLimitCores: null,
      memoryLimitBytes: null,
      unavailable: null,
      at: NOW,
    };
    await saveContainers(store, [VM], [container]);
    const shown = `a\ufffdb\ufffdc\\u0000"'\u{1f600}`;
    expect(await listContainers(store, VM)).toEqual([
      { ...container, cgroupPath: shown, name: shown, labels: { [shown]: shown }, at: new Date(NOW) },
    ]);
    await saveContainers(store, [VM], []);
    expect(await listContainers(store, VM)).toEqual([]);
  });

  it('has numbers that no column holds, and they cost that figure alone (invariant 9)', async () => {
    const { store } = test;
    const container = {
      vmUuid: VM,
      containerId: 'd'.repeat(64),
      runtime: 'docker' as const,
      cgroupPath: '/docker/d',
      name: 'd',
      image: null,
      labels: {},
      addresses: {},
      service: null,
      replicaId: null,
      cpuCores: 1e300,
      memoryBytes: 2 ** 64,
      ioBytesPerSecond: 1e300,
      cpuLimitCores: null,
      memoryLimitBytes: 0.5,
      unavailable: null,
      at: NOW,
    };
    const honest = { ...container, containerId: 'e'.repeat(64), memoryBytes: 4096, memoryLimitBytes: 8192 };
    await saveContainers(store, [VM], [container, { ...honest }]);
    expect(await listContainers(store, VM)).toMatchObject([
      { memoryBytes: null, memoryLimitBytes: expect.toBeOneOf([0, 1]) },
      { memoryBytes: 4096, memoryLimitBytes: 8192 },
    ]);
    await saveContainers(store, [VM], []);
    const rollup = {
      vmUuid: VM,
      containerId: 'd'.repeat(64),
      from: new Date(Date.now() - 20_000).toISOString(),
      samples: 1,
      cpuCores: 1,
      cpuCoresMax: 1,
      memoryBytes: 2 ** 64,
      ioBytesPerSecond: null,
      unavailable: null,
    };
    await saveRollups(store, [rollup]);
    const [saved] = await listRollups(store, VM, rollup.containerId, new Date(Date.now() - 60_000));
    expect(saved).toMatchObject({ cpuCores: 1, memoryBytes: null });
  });

  it('is otherwise written as it is', () => {
    for (const value of ['\\u0000', '\\\\u0000', 'plain', '\u{1f600}', { 'a\\b': ['\n', '\\ud800'] }]) {
      expect(JSON.parse(jsonText(value))).toEqual(value);
    }
  });
});

describe('latest counters', () => {
  it('replace those of one host, and tell where a VM is', async () => {
    const { store } = test;
    const vm = (vmUuid: string, vmName: string) => ({
      vmUuid,
      vmName,
      state: 'running' as const,
      vcpus: 1,
      memoryBytes: 2 ** 30,
      cpuCores: 0.5,
      unreadable: null,
      guestBoot: null,
      kernelRelease: null,
      at: NOW,
    });
    const other = randomUUID();
    await saveVms(store, 'kvm-1', [vm(VM, 'shop-1'), vm(randomUUID(), 'gone')]);
    await saveVms(store, 'kvm-2', [vm(other, 'shop-2')]);
    await forgetOtherVms(store, 'kvm-1', [VM]);
    expect((await listVms(store)).map(({ vmName }) => vmName)).toEqual(['shop-1', 'shop-2']);
    const place = { vmUuid: VM, vmName: 'shop-1', host: 'kvm-1', vcpus: 1, memoryBytes: 2 ** 30 };
    expect(await locateVm(store, 'shop-1')).toEqual(place);
    expect(await locateVm(store, VM.toUpperCase())).toEqual(place);
    expect(await locateVm(store, 'shop-3')).toBeNull();
    await saveVms(store, 'kvm-2', [vm(other, 'shop-1')]);
    await expect(locateVm(store, 'shop-1')).rejects.toMatchObject({ failure: 'UnknownVm' });
    await forgetOtherVms(store, 'kvm-2', []);
  });
});

describe('watches', () => {
  it('are set, changed and cleared by VM', async () => {
    const { store } = test;
    await setWatch(store, { vmUuid: VM, vmName: 'shop-1', host: 'kvm-0', quietUntil: null });
    // Its monitor knows the host that it began on; the VM is watched where it runs.
    await takeOverWatches(store, 'kvm-2', [VM]);
    await setWatch(store, { vmUuid: VM, vmName: 'shop-1', host: 'kvm-0', quietUntil: NOW });
    expect(await listWatches(store, 'kvm-0')).toEqual([]);
    expect(await listWatches(store, 'kvm-2')).toEqual([
      { vmUuid: VM, vmName: 'shop-1', host: 'kvm-2', quietUntil: new Date(NOW) },
    ]);
    await clearWatch(store, VM);
    await clearWatch(store, VM);
    expect(await listWatches(store)).toEqual([]);
  });
});

describe('a host', () => {
  it('is run by one machine at a time, and taken over when that one is gone', async () => {
    const { store } = test;
    const first = { host: 'kvm-7', machineId: 'one', processId: randomUUID() };
    await claimHost(store, first);
    await claimHost(store, first);
    await claimHost(store, { ...first, processId: randomUUID() });
    const second = { host: 'kvm-7', machineId: 'two', processId: randomUUID() };
    await expect(claimHost(store, second)).rejects.toMatchObject({ failure: 'HostBusy' });
    await store
      .updateTable('hostProcess')
      .set({ seenAt: new Date(Date.now() - 60_000) })
      .where('host', '=', 'kvm-7')
      .execute();
    await claimHost(store, second);
  });
});

describe('rollups', () => {
  const rollup = (from: string, cpuCores: number | null) => ({
    vmUuid: VM,
    containerId: null,
    from,
    samples: 10,
    cpuCores,
    cpuCoresMax: cpuCores,
    memoryBytes: 1000.4,
    ioBytesPerSecond: null,
    unavailable: cpuCores === null ? 'Stale' : null,
  });
  it('are written once, keep what is missing missing, and are pruned', async () => {
    const { store } = test;
    const now = Date.now();
    const iso = (agoMs: number) => new Date(now - agoMs).toISOString();
    await saveRollups(store, [rollup(iso(20_000), 0.5), rollup(iso(10_000), null)]);
    await saveRollups(store, [rollup(iso(10_000), 9), rollup(iso(48 * 3_600_000), 1)]);
    await saveRollups(store, []);
    const since = new Date(now - 100 * 3_600_000);
    expect(await listRollups(store, VM, null, since)).toHaveLength(3);
    expect(await pruneRollups(store)).toBe(1);
    expect(await listRollups(store, VM, null, since)).toEqual([
      { ...rollup(iso(20_000), 0.5), memoryBytes: 1000 },
      { ...rollup(iso(10_000), null), memoryBytes: 1000 },
    ]);
  });
});

describe('usage of replicas', () => {
  it('counts only minutes whose every ten seconds were read, and says nothing of what was not (invariant 5)', async () => {
    const { store } = test;
    const seen: Replica = {
      replicaId: randomUUID(),
      kind: 'made',
      state: 'serving',
      vmName: 'one',
      vmUuid: randomUUID(),
      host: 'kvm-1',
      address: '10.0.0.101',
      vcpus: 1,
      memoryBytes: 2 ** 29,
      servingSince: NOW,
    };
    const unseen = { ...seen, replicaId: randomUUID(), vmName: 'two', vmUuid: randomUUID() };
    await saveReplicas(store, 'usage', [seen, unseen]);
    const vmUuid = seen.vmUuid ?? '';
    const containerId = 'd'.repeat(64);
    await saveContainers(
      store,
      [vmUuid],
      [
        {
          vmUuid,
          containerId,
          runtime: 'docker',
          cgroupPath: '/',
          name: null,
          image: null,
          labels: {},
          addresses: {},
          service: 'usage',
          replicaId: seen.replicaId,
          cpuCores: null,
          memoryBytes: null,
          ioBytesPerSecond: null,
          cpuLimitCores: null,
          memoryLimitBytes: null,
          unavailable: null,
          at: NOW,
        },
      ],
    );
    const now = Date.parse('2026-05-05T12:00:05.000Z');
    const rollups = Array.from({ length: 70 }, (_, index) => ({
      vmUuid,
      containerId,
      from: new Date(Date.parse('2026-05-05T11:59:30.000Z') - index * 10_000).toISOString(),
      samples: 10,
      // The newest minute and one in the middle have a hole.
      cpuCores: index === 0 || index === 20 ? null : 0.5,
      cpuCoresMax: index === 30 ? 0.9 : 0.6,
      memoryBytes: 1000 + index,
      ioBytesPerSecond: 0,
      unavailable: null,
    }));
    await saveRollups(store, rollups);
    const usage = await replicaUsage(store, 'usage', new Date(now));
    expect(usage.find(({ replicaId }) => replicaId === seen.replicaId)).toEqual({
      replicaId: seen.replicaId,
      completeMinutes: 8,
      cpuCoresMean: 0.5,
      cpuCoresMax: 0.9,
      memoryBytesMax: 1059,
    });
    expect(usage.find(({ replicaId }) => replicaId === unseen.replicaId)).toEqual({
      replicaId: unseen.replicaId,
      completeMinutes: 0,
      cpuCoresMean: null,
      cpuCoresMax: null,
      memoryBytesMax: null,
    });
    await saveReplicas(store, 'usage', []);
    await saveContainers(store, [vmUuid], []);
  });
});

describe('decisions', () => {
  it('are recorded once by workflow, run and number; the first stands (invariant 8)', async () => {
    const { store } = test;
    const input: DecisionInput = { kind: 'attribute', evidence: { vmName: 'shop-1' } as VmEvidence, now: NOW };
    const refusal: Refusal = { act: false, reason: 'NotHot', explanation: 'x', retryAt: null };
    const row = {
      workflowId: `monitor/${VM}`,
      runId: 'r1',
      number: 1,
      subject: VM,
      kind: input.kind,
      input,
      outcome: refusal,
      policyVersion: '1',
    };
    const answers = await Promise.all([recordDecision(store, row), recordDecision(store, row)]);
    expect(answers[0]).toEqual(answers[1]);
    const late = await recordDecision(store, { ...row, outcome: { ...refusal, reason: 'NoEvidence' } });
    expect(late).toEqual({ ...answers[0], outcome: refusal });
    await recordDecision(store, { ...row, runId: 'r2' });
    const recorded = await listDecisions(store, { subject: VM, limit: 10 });
    expect(recorded.map(({ runId }) => runId)).toEqual(['r2', 'r1']);
    expect(await readDecision(store, String(answers[0]?.decisionId))).toMatchObject({
      input,
      outcome: refusal,
      act: false,
    });
    expect(await readDecision(store, 'none')).toBeNull();
  });
});

describe('operations', () => {
  const operation = (): OperationRef => ({
    installationId: test.installationId,
    service: 'mosaic',
    operationId: 'scale-out/mosaic/1',
    runId: randomUUID(),
  });
  it('are open until closed, and the first outcome stands', async () => {
    const { store } = test;
    const ref = operation();
    await expect(assertOperationOpen(store, ref)).rejects.toMatchObject({ failure: 'Superseded' });
    await openOperation(store, ref, 'scaleOut', 'one more');
    await openOperation(store, ref, 'scaleOut', 'one more');
    await assertOperationOpen(store, ref);
    await closeOperation(store, ref, 'completed', 'done');
    await closeOperation(store, ref, 'failed', 'late');
    await openOperation(store, ref, 'scaleOut', 'late');
    await expect(assertOperationOpen(store, ref)).rejects.toThrow('it completed');
    expect(await listOperations(store, { service: 'mosaic', limit: 5 })).toMatchObject([
      { state: 'completed', message: 'done' },
    ]);
  });

  it('keep a step ended when its start is reported late, and let a failed one start again', async () => {
    const { store } = test;
    const ref = operation();
    await openOperation(store, ref, 'scaleOut', '');
    await recordStep(store, ref, 'start VM', 'started', '');
    await recordStep(store, ref, 'start VM', 'done', 'shop-1 runs');
    await recordStep(store, ref, 'start VM', 'started', '');
    expect(await listSteps(store, ref.runId)).toMatchObject([{ state: 'done', endedAt: expect.any(Date) }]);
    await recordStep(store, ref, 'start VM', 'failed', 'no undo');
    await recordStep(store, ref, 'start VM', 'started', 'again');
    expect(await listSteps(store, ref.runId)).toMatchObject([{ state: 'started', endedAt: null }]);
  });
});

describe('replicas', () => {
  it('of a service are replaced as a whole, others stay', async () => {
    const { store } = test;
    const replica = (vmName: string): Replica => ({
      replicaId: randomUUID(),
      kind: 'made',
      state: 'serving',
      vmName,
      vmUuid: randomUUID(),
      host: 'kvm-1',
      address: '10.0.0.100',
      vcpus: 1,
      memoryBytes: 2 ** 29,
      servingSince: NOW,
    });
    const [one, two, other] = [replica('one'), replica('two'), replica('other')];
    await saveReplicas(store, 'nginx', [other]);
    await saveReplicas(store, 'mosaic', [one, two]);
    await saveReplicas(store, 'mosaic', [{ ...two, state: 'draining' }]);
    expect(await listReplicas(store, 'mosaic')).toEqual([{ ...two, state: 'draining', service: 'mosaic' }]);
    await saveReplicas(store, 'mosaic', []);
    expect((await listReplicas(store)).map(({ vmName }) => vmName)).toEqual(['other']);
  });
});

describe('virtual servers', () => {
  it('keep the row of what is no longer wanted until it is forgotten, with its claim (invariant 6)', async () => {
    const { store } = test;
    const spec = serviceForTest();
    const real = { service: 'mosaic', replicaId: randomUUID(), address: '10.0.0.100', port: 80, weight: 1 };
    await setVirtualServer(store, spec);
    await claimVirtualServer(store, 'mosaic');
    await setRealServer(store, real);
    await claimRealServer(store, 'mosaic', real.replicaId);
    expect(await setRealServerHealth(store, 'mosaic', real.replicaId, false, 'no answer')).toBe(true);
    expect(await setRealServerHealth(store, 'mosaic', real.replicaId, false, 'no answer')).toBe(false);
    await forgetVirtualServer(store, 'mosaic');
    await removeRealServer(store, 'mosaic', real.replicaId);
    expect(await listVirtualServers(store, { director: 'lvs' })).toMatchObject([
      {
        service: 'mosaic',
        wanted: true,
        ownedAt: expect.any(Date),
        health: spec.health,
        realServers: [{ wanted: false, healthy: false, ownedAt: expect.any(Date) }],
      },
    ]);
    await forgetRealServer(store, 'mosaic', real.replicaId);
    await removeVirtualServer(store, 'mosaic');
    expect(await listVirtualServers(store)).toMatchObject([{ wanted: false, realServers: [] }]);
    await expect(setVirtualServer(store, serviceForTest('nginx'))).rejects.toMatchObject({ failure: 'InvalidSpec' });
    await forgetVirtualServer(store, 'mosaic');
    await setVirtualServer(store, serviceForTest('nginx'));
  });

  it('are worked on by one at a time', async () => {
    const trace: string[] = [];
    const work = (name: string) =>
      withVirtualServerLock(test.store, 'mosaic', async () => {
        trace.push(`${name} in`);
        await sleep(20);
        trace.push(`${name} out`);
      });
    await Promise.all([work('a'), work('a')]);
    expect(trace).toEqual(['a in', 'a out', 'a in', 'a out']);
  });
});

describe('a database that is away', () => {
  it('is StoreUnreachable, which is retried', async () => {
    const store = connectStore('postgresql://ciel@127.0.0.1:1/ciel');
    await expect(reaching(() => migrate(store))).rejects.toMatchObject({
      failure: 'StoreUnreachable',
      retryable: true,
    });
    await store.destroy();
  });
});

describe('an exclusive lock', () => {
  it('is held by one, and free again after its release', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'ciel-lock-'));
    const lock = await tryLock(directory, 'host');
    expect(await tryLock(directory, 'host')).toBeNull();
    await lock?.release();
    const again = await tryLock(directory, 'host');
    expect(again).not.toBeNull();
    await again?.release();
  });
});

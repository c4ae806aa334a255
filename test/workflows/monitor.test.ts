/** monitor/<vm uuid> and host/<name>: what watching costs, and what becomes of a crossing. */
import { Worker } from '@temporalio/worker';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { taskQueues } from '../../model/names.ts';
import { hostStart, monitorStart } from '../../model/starts.ts';
import { crossingSignal, describeMonitorQuery, stopMonitorUpdate } from '../../workflows/messages.ts';
import {
  eventCount,
  HOOK_TIMEOUT_MS,
  ServiceUnderTest,
  type StartedEnvironment,
  startEnvironment,
  until,
} from './environment.ts';
import { container, crossing, vmEvidence } from './evidence.ts';
import { monitorDecisions, watchCalls, watches } from './world.ts';

let environment: StartedEnvironment;
beforeAll(async () => {
  environment = await startEnvironment();
}, HOOK_TIMEOUT_MS);
afterAll(() => environment?.stop());

let lastUuid = 0;
async function monitored() {
  lastUuid += 1;
  const vmUuid = `c0000000-0000-4000-8000-${String(lastUuid).padStart(12, '0')}`;
  const { workflowType, options } = monitorStart({ vmUuid, vmName: 'shop-1', host: 'h1' });
  const handle = await environment.env.client.workflow.start(workflowType, options);
  await until(async () => watches.has(vmUuid), Boolean, 'not watched');
  return { vmUuid, handle };
}
/** Reported with evidence, as the host does. */
function hot(vmUuid: string, sequence: number, containers: Parameters<typeof vmEvidence>[0]) {
  return crossing(vmUuid, sequence, { evidence: vmEvidence(containers, { vmUuid }) });
}
const decisionsOn = (vmUuid: string) => monitorDecisions.filter(({ subject }) => subject === vmUuid);
const quiet = (vmUuid: string) =>
  until(
    async () => watches.get(vmUuid),
    (at) => typeof at === 'string',
    'not quiet',
  );

describe.concurrent('a monitor', () => {
  it('costs no event and keeps no timer while nothing crosses: at most 2 an hour', async () => {
    const { handle } = await monitored();
    await until(
      () => eventCount(handle),
      (count) => count >= 10,
      'the first workflow tasks are not done',
    );
    const { events } = await handle.fetchHistory();
    const timers = (events ?? []).filter(({ timerStartedEventAttributes }) => timerStartedEventAttributes != null);
    expect(timers).toEqual([]);
    const { pendingActivities } = (await handle.describe()).raw;
    expect(pendingActivities ?? []).toEqual([]);
    const before = await eventCount(handle);
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    expect(await eventCount(handle)).toBe(before);
  });

  it('has the cause found and offers the pressure to its service, which begins an operation', async () => {
    const service = await ServiceUnderTest.applied(environment, 'hot');
    const { vmUuid, handle } = await monitored();
    const began = Date.now();
    await handle.signal(crossingSignal, hot(vmUuid, 1, [container('hot', 'hot', 0.1, 0.8)]));
    await until(
      async () => service.world.decisions.length,
      (count) => count === 1,
      'nothing was decided',
    );
    // The bench measures it from the guest on; what is ours here is a fraction of the 10 s.
    expect(Date.now() - began).toBeLessThan(5_000);
    await quiet(vmUuid);
    expect(watches.get(vmUuid)).toMatch(/Z$/);
    expect((await service.result('scale-out/hot/1')).outcome).toBe('completed');
    const { lastCrossing, quietUntil } = await handle.query(describeMonitorQuery);
    expect(lastCrossing).toEqual({ kind: 'hot', at: '2026-01-01T00:00:10.000Z', message: 'CPU at 95 % for 3 s' });
    expect(quietUntil).toBe(watches.get(vmUuid));
  });

  it('takes a crossing once, however often it is delivered (invariant 7)', async () => {
    const { vmUuid, handle } = await monitored();
    const same = hot(vmUuid, 7, [container('stranger', null, 0.1, 0.8)]);
    for (let delivery = 0; delivery < 3; delivery += 1) await handle.signal(crossingSignal, same);
    await handle.signal(crossingSignal, { ...same, sequence: 6 });
    await quiet(vmUuid);
    expect(decisionsOn(vmUuid)).toHaveLength(1);
    // Another boot counts anew.
    await handle.signal(crossingSignal, { ...same, boot: 'boot-2', sequence: 1 });
    await until(
      async () => decisionsOn(vmUuid).length,
      (count) => count === 2,
      'the new boot is not heard',
    );
  });

  it('asks the next candidate when the first refuses, and stays quiet until it may ask again', async () => {
    const first = await ServiceUnderTest.applied(environment, 'first', { max: 1 });
    const second = await ServiceUnderTest.applied(environment, 'second');
    const { vmUuid, handle } = await monitored();
    const containers = [container('first', 'first', 0.1, 0.6), container('second', 'second', 0.1, 0.3)];
    await handle.signal(crossingSignal, hot(vmUuid, 1, containers));
    await until(
      async () => second.world.operations.size,
      (count) => count === 1,
      'the second was not asked',
    );
    expect((await second.result('scale-out/second/1')).outcome).toBe('completed');
    expect(first.world.decisions.map(({ outcome }) => !outcome.act && outcome.reason)).toEqual(['AtMax']);
  });

  it('begins nothing for a container that belongs to no service, nor for one whose service is gone (invariant 6)', async () => {
    const { vmUuid, handle } = await monitored();
    await handle.signal(crossingSignal, hot(vmUuid, 1, [container('mosaic', null, 0.1, 0.8)]));
    await quiet(vmUuid);
    expect(decisionsOn(vmUuid)[0]?.outcome).toMatchObject({ act: false, reason: 'UnmanagedCause' });
    watches.set(vmUuid, null);
    await handle.signal(crossingSignal, hot(vmUuid, 2, [container('ghost', 'ghost', 0.1, 0.8)]));
    await quiet(vmUuid);
    expect(await handle.query('__temporal_workflow_metadata')).toMatchObject({
      currentDetails: expect.stringContaining('ghost'),
    });
  });

  it.each(['low', 'gone', 'rebooted', 'unreadable'] as const)(
    'notes that a VM is %s, and decides nothing',
    async (kind) => {
      const { vmUuid, handle } = await monitored();
      await handle.signal(crossingSignal, crossing(vmUuid, 1, { kind, message: `it is ${kind}` }));
      await until(
        () => handle.query(describeMonitorQuery),
        ({ lastCrossing }) => lastCrossing?.kind === kind,
        'not noted',
      );
      expect(decisionsOn(vmUuid)).toEqual([]);
    },
  );

  it('ends on stop, and a crossing that was on its way does not start it anew', async () => {
    const { vmUuid, handle } = await monitored();
    await handle.executeUpdate(stopMonitorUpdate);
    expect(watches.has(vmUuid)).toBe(false);
    const { workflowType, options } = monitorStart({ vmUuid, vmName: 'shop-1', host: 'h1' });
    await environment.env.client.workflow.signalWithStart(workflowType, {
      ...options,
      signal: crossingSignal,
      signalArgs: [crossing(vmUuid, 1)],
    });
    await handle.result();
    expect(watches.has(vmUuid)).toBe(false);
    expect(watchCalls.filter((call) => call === `setWatch ${vmUuid}`)).toHaveLength(1);
  });

  it('ends when it is cancelled, too, with its wish cleared', async () => {
    const { vmUuid, handle } = await monitored();
    await handle.cancel();
    await handle.result();
    expect(watches.has(vmUuid)).toBe(false);
  });
});

describe.concurrent('a host', () => {
  it('is watched by one activity, whose retries leave no trace in the history', async () => {
    let attempts = 0;
    const worker = await Worker.create({
      connection: environment.env.nativeConnection,
      taskQueue: taskQueues.watch('watched'),
      activities: {
        async watchHost() {
          attempts += 1;
          if (attempts < 3) throw new Error('libvirt went away');
          await new Promise((resolve) => setTimeout(resolve, 500));
          throw new Error('the end of this test');
        },
      },
    });
    await worker.runUntil(async () => {
      const { workflowType, options } = hostStart('watched');
      const handle = await environment.env.client.workflow.start(workflowType, options);
      await until(
        async () => attempts,
        (count) => count >= 3,
        'not tried again',
        15_000,
      );
      // Started, one workflow task, one activity scheduled: the attempts are the server's own business.
      expect(await eventCount(handle)).toBeLessThanOrEqual(5);
      await handle.terminate();
    });
  });
});

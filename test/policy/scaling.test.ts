/** Whether a service gets a replica more or fewer. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { DecisionInput, ReplicaUsage, ServiceState } from '../../model/decision.ts';
import type { Replica } from '../../model/replica.ts';
import { decideOutcome } from '../../policy/decide.ts';
import { pressureOn } from '../workflows/evidence.ts';
import { MIB, serviceSpec } from '../workflows/world.ts';

const NOW = '2026-01-01T01:00:00.000Z';
const spec = serviceSpec('mosaic');

function replica(id: string, changes: Partial<Replica> = {}): Replica {
  return {
    replicaId: id,
    kind: 'made',
    state: 'serving',
    vmName: `vm-${id}`,
    vmUuid: `uuid-${id}`,
    host: 'h1',
    address: '10.0.1.1',
    vcpus: 1,
    memoryBytes: 2 ** 30,
    servingSince: '2026-01-01T00:00:00.000Z',
    ...changes,
  };
}
const adopted = replica('adopted', { kind: 'adopted' });
function state(changes: Partial<ServiceState> = {}): ServiceState {
  return {
    paused: false,
    deleting: false,
    operationInFlight: null,
    replicas: [adopted],
    lastScaleOutAt: null,
    lastScaleInAt: null,
    failedScaleOuts: null,
    ...changes,
  };
}
function usage(replicaId: string, cpuCoresMax: number | null, completeMinutes = 10): ReplicaUsage {
  return { replicaId, completeMinutes, cpuCoresMean: cpuCoresMax, cpuCoresMax, memoryBytesMax: 1e8 };
}

type ScaleOutInput = Extract<DecisionInput, { kind: 'scaleOut' }>;
type ScaleInInput = Extract<DecisionInput, { kind: 'scaleIn' }>;
const pressed: ScaleOutInput = {
  kind: 'scaleOut',
  spec,
  state: state(),
  trigger: { kind: 'pressure', pressure: pressureOn('mosaic', 'd') },
  templateBaseMemoryBytes: 128 * MIB,
  now: NOW,
};
const out = (changes: Partial<ScaleOutInput>) => {
  const outcome = decideOutcome<'scaleOut'>({ ...pressed, ...changes });
  return outcome.act ? 'act' : outcome.reason;
};

describe('scale-out', () => {
  it.each<[string, Partial<ScaleOutInput>, string]>([
    ['acts under pressure', {}, 'act'],
    ['not while paused', { state: state({ paused: true }) }, 'Paused'],
    ['not while deleting', { state: state({ deleting: true }) }, 'Deleting'],
    [
      'not beside another operation',
      { state: state({ operationInFlight: 'scale-out/mosaic/1' }) },
      'OperationInFlight',
    ],
    [
      'not at max, where failed ones count',
      { state: state({ replicas: [adopted, replica('1', { state: 'failed' }), replica('2', { state: 'failed' })] }) },
      'AtMax',
    ],
    ['not within the cooldown', { state: state({ lastScaleOutAt: '2026-01-01T00:59:50.000Z' }) }, 'CoolingDown'],
    [
      'not soon after one that failed',
      { state: state({ failedScaleOuts: { count: 1, at: '2026-01-01T00:59:30.000Z', message: 'no image' } }) },
      'FailedBefore',
    ],
    [
      'a while after one that failed',
      { state: state({ failedScaleOuts: { count: 1, at: '2026-01-01T00:58:59.000Z', message: 'no image' } }) },
      'act',
    ],
    [
      'later the more often it failed',
      { state: state({ failedScaleOuts: { count: 4, at: '2026-01-01T00:53:00.000Z', message: 'no image' } }) },
      'FailedBefore',
    ],
    [
      'but an operator may try',
      {
        state: state({ failedScaleOuts: { count: 9, at: '2026-01-01T00:59:59.000Z', message: 'no image' } }),
        trigger: { kind: 'operator', requestId: 'r' },
      },
      'act',
    ],
    ['after the cooldown', { state: state({ lastScaleOutAt: '2026-01-01T00:59:30.000Z' }) }, 'act'],
    [
      'an operator waits for no cooldown',
      { state: state({ lastScaleOutAt: '2026-01-01T00:59:50.000Z' }), trigger: { kind: 'operator', requestId: 'r' } },
      'act',
    ],
    ['not into bounds that hold no replica', { templateBaseMemoryBytes: 8192 * MIB }, 'TooSmall'],
  ])('%s', (_, changes, expected) => {
    expect(out(changes)).toBe(expected);
  });

  it('says when to ask again, and what it found', () => {
    const outcome = decideOutcome<'scaleOut'>({
      ...pressed,
      state: state({ lastScaleOutAt: '2026-01-01T00:59:50.000Z' }),
    });
    expect(outcome).toMatchObject({ retryAt: '2026-01-01T01:00:20.000Z' });
    expect(decideOutcome<'scaleOut'>(pressed).explanation).toBe(
      'mosaic: VM shop-1 is hot and container "mosaic" uses 94 % of what the containers use; one replica more, of 1 vCPU and 256 MiB',
    );
  });
});

const idle: ScaleInInput = {
  kind: 'scaleIn',
  spec,
  state: state({ replicas: [adopted, replica('1')] }),
  trigger: { kind: 'idle' },
  usage: [usage('adopted', 0.2), usage('1', 0.2)],
  now: NOW,
};
const inward = (changes: Partial<ScaleInInput>) => {
  const outcome = decideOutcome<'scaleIn'>({ ...idle, ...changes });
  return outcome.act ? outcome.replicaId : outcome.reason;
};
const operator = { kind: 'operator', requestId: 'r' } as const;

describe('scale-in', () => {
  it.each<[string, Partial<ScaleInInput>, string]>([
    ['two at 20 % become one at 40 %', {}, '1'],
    ['not when the others would be hot', { usage: [usage('adopted', 0.4), usage('1', 0.4)] }, 'WouldBeHot'],
    ['not on missing data (invariant 5)', { usage: [usage('adopted', 0.2), usage('1', null)] }, 'IncompleteData'],
    ['not on a replica without data (invariant 5)', { usage: [usage('1', 0.2)] }, 'IncompleteData'],
    ['not on young data (invariant 5)', { usage: [usage('adopted', 0.2), usage('1', 0.2, 9)] }, 'IncompleteData'],
    [
      'not while the size of another is unknown (invariant 5)',
      { state: state({ replicas: [{ ...adopted, vcpus: null }, replica('1')] }) },
      'IncompleteData',
    ],
    ['not below min (invariant 1)', { spec: { ...spec, min: 2 } }, 'AtMin'],
    ['an operator neither (invariant 1)', { spec: { ...spec, min: 2 }, trigger: operator }, 'AtMin'],
    [
      'never an adopted one (invariant 6)',
      { state: state({ replicas: [adopted, adopted] }), trigger: operator },
      'AtMin',
    ],
    [
      'not soon after a scale-out',
      { state: { ...idle.state, lastScaleOutAt: '2026-01-01T00:56:00.000Z' } },
      'CoolingDown',
    ],
    ['an operator asks without data', { usage: [], trigger: operator }, '1'],
    [
      'a failed one first, even at min',
      { state: state({ replicas: [adopted, replica('bad', { state: 'failed' })] }), trigger: operator },
      'bad',
    ],
    [
      'then one that does not answer, then the youngest',
      {
        state: state({
          replicas: [adopted, replica('1'), replica('2', { servingSince: '2026-01-01T00:30:00.000Z' })],
        }),
        trigger: operator,
      },
      '2',
    ],
  ])('%s', (_, changes, expected) => {
    expect(inward(changes)).toBe(expected);
  });

  it('leaves at least min working replicas, and takes only made ones, whatever the state (invariants 1, 5 and 6)', () => {
    const replicas = fc.array(
      fc.record({
        kind: fc.constantFrom<Replica['kind']>('adopted', 'made'),
        state: fc.constantFrom<Replica['state']>('serving', 'unhealthy', 'failed', 'draining'),
        cpu: fc.option(fc.double({ min: 0, max: 1, noNaN: true }), { nil: null }),
      }),
      { maxLength: 6 },
    );
    fc.assert(
      fc.property(replicas, fc.integer({ min: 0, max: 4 }), fc.boolean(), (list, min, byOperator) => {
        const all = list.map(({ kind, state: of }, index) => replica(String(index), { kind, state: of }));
        const outcome = decideOutcome<'scaleIn'>({
          ...idle,
          spec: { ...spec, min },
          state: state({ replicas: all }),
          usage: list.map(({ cpu }, index) => usage(String(index), cpu)),
          trigger: byOperator ? operator : { kind: 'idle' },
        });
        if (!outcome.act) return;
        const victim = all.find(({ replicaId }) => replicaId === outcome.replicaId);
        expect(victim?.kind).toBe('made');
        const working = all.filter((each) => each.state !== 'failed' && each !== victim).length;
        if (victim?.state !== 'failed') expect(working).toBeGreaterThanOrEqual(min);
        const serving = list.filter((each) => each.state === 'serving');
        if (!byOperator && victim?.state !== 'failed') expect(serving.every(({ cpu }) => cpu !== null)).toBe(true);
      }),
    );
  });
});

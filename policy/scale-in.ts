/**
 * Whether a service gives a replica up, and which. Only what Ciel made is ever removed, never below min. On its own it
 * acts on complete data only (invariant 5): ten minutes of every serving replica, the sum of their peaks spread over one
 * fewer, and at most 0.85 of the target left on any of them. An operator may ask earlier, and knows why.
 *
 * Which: one that failed, else one that does not answer, else the youngest.
 */
import type { DecisionInput, Refusal, RefusalReason, ReplicaUsage, ScaleIn } from '../model/decision.ts';
import type { Replica } from '../model/replica.ts';
import { cooldownEnd } from './cooldown.ts';
import { figure, instant, isoInstant, percent } from './figures.ts';

const COMPLETE_MINUTES = 10;
const MAX_LOAD_AFTER = 0.85;
const ASK_AGAIN_MS = 60_000;

type Input = Extract<DecisionInput, { kind: 'scaleIn' }>;

export function scaleIn(input: Input): ScaleIn | Refusal {
  const { spec, state, trigger, now } = input;
  const at = instant(now);
  const soon = at === null ? null : isoInstant(at + ASK_AGAIN_MS);
  const refuse = (reason: RefusalReason, explanation: string, retryAt: string | null = null): Refusal => ({
    act: false,
    reason,
    explanation: `${spec.name}: ${explanation}`,
    retryAt,
  });
  if (state.deleting) return refuse('Deleting', 'the service is being deleted');
  if (state.paused) return refuse('Paused', `paused; ciel resume ${spec.name} lets it scale again`);
  if (state.operationInFlight !== null) {
    return refuse('OperationInFlight', `${state.operationInFlight} is in flight, and one at a time runs`, soon);
  }
  const made = state.replicas.filter(({ kind }) => kind === 'made').sort(byUselessness);
  const [victim] = made;
  if (victim === undefined) {
    return refuse('AtMin', "every replica is adopted: they are the tenant's, and Ciel does not stop them");
  }
  const working = state.replicas.filter((replica) => replica.state !== 'failed').length;
  if (victim.state !== 'failed' && working <= spec.min) {
    return refuse('AtMin', `has ${working} replicas, and min is ${spec.min}`);
  }
  if (trigger.kind === 'operator') {
    return act(victim, `${spec.name}: asked for by an operator; ${victim.vmName} ${why(victim)}`);
  }
  const end = cooldownEnd('in', spec, state, now);
  if (end !== null) return refuse('CoolingDown', 'the last operation is too recent', end);
  if (victim.state === 'failed') return act(victim, `${spec.name}: ${victim.vmName} ${why(victim)}`);

  const others = state.replicas.filter(
    ({ replicaId, state: of }) => replicaId !== victim.replicaId && of === 'serving',
  );
  const load = loadWithout(victim, others, input);
  if (typeof load === 'string') return refuse('IncompleteData', load, soon);
  if (load > MAX_LOAD_AFTER) {
    return refuse('WouldBeHot', `without ${victim.vmName} the others would be at ${percent(load)} of the target`, soon);
  }
  return act(
    victim,
    `${spec.name}: without ${victim.vmName} the others stay at ${percent(load)} of the target; it ${why(victim)}`,
  );
}

function act(victim: Replica, explanation: string): ScaleIn {
  return { act: true, replicaId: victim.replicaId, explanation };
}

const USELESSNESS: readonly Replica['state'][] = ['failed', 'unhealthy', 'draining', 'provisioning', 'serving'];
function byUselessness(a: Replica, b: Replica): number {
  const order = USELESSNESS.indexOf(a.state) - USELESSNESS.indexOf(b.state);
  return order || (instant(b.servingSince) ?? 0) - (instant(a.servingSince) ?? 0);
}
function why(victim: Replica): string {
  if (victim.state === 'failed') return 'failed';
  return victim.state === 'unhealthy' ? 'does not answer' : 'is the youngest';
}

/** The largest load of any other replica, as a share of its target, or what is missing to tell. */
function loadWithout(victim: Replica, others: readonly Replica[], { spec, usage }: Input): number | string {
  if (others.length === 0) return `no other replica than ${victim.vmName} is serving`;
  let demand = 0;
  for (const replica of [victim, ...others]) {
    // One that does not answer has no load to give to the others.
    if (replica.state !== 'serving') continue;
    const use = usage.find(({ replicaId }) => replicaId === replica.replicaId);
    const peak = completePeak(use);
    if (peak === null) {
      return `the figures of ${replica.vmName} are complete for ${use?.completeMinutes ?? 0} of ${COMPLETE_MINUTES} minutes`;
    }
    demand += peak;
  }
  const loads: number[] = [];
  for (const replica of others) {
    const capacity = figure(spec.run.cpuLimitCores ?? replica.vcpus);
    if (capacity === null || capacity === 0) return `the size of ${replica.vmName} is not known`;
    loads.push(demand / others.length / (capacity * spec.targets.cpu));
  }
  return Math.max(...loads);
}

function completePeak(usage: ReplicaUsage | undefined): number | null {
  if (usage === undefined || !(usage.completeMinutes >= COMPLETE_MINUTES)) return null;
  if (figure(usage.cpuCoresMean) === null || figure(usage.memoryBytesMax) === null) return null;
  return figure(usage.cpuCoresMax);
}

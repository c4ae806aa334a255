/**
 * Whether a service gets one replica more, and of which size. Standing refusals come first (they hold for whoever asks),
 * then the cooldown (for pressure only), then the size.
 */
import type { DecisionInput, Refusal, RefusalReason, ScaleOut } from '../model/decision.ts';
import { backoffEnd, cooldownEnd } from './cooldown.ts';
import { instant, isoInstant, mebibytes, virtualCpus } from './figures.ts';
import { sizeFor } from './size.ts';

const ASK_AGAIN_MS = 30_000;

export function scaleOut(input: Extract<DecisionInput, { kind: 'scaleOut' }>): ScaleOut | Refusal {
  const { spec, state, trigger, now } = input;
  const refuse = (reason: RefusalReason, explanation: string, retryAt: string | null = null): Refusal => ({
    act: false,
    reason,
    explanation: `${spec.name}: ${explanation}`,
    retryAt,
  });
  if (state.deleting) return refuse('Deleting', 'the service is being deleted');
  if (state.paused) return refuse('Paused', `paused; ciel resume ${spec.name} lets it scale again`);
  if (state.operationInFlight !== null) {
    const at = instant(now);
    const retryAt = at === null ? null : isoInstant(at + ASK_AGAIN_MS);
    return refuse('OperationInFlight', `${state.operationInFlight} is in flight, and one at a time runs`, retryAt);
  }
  // Failed ones count: what could not be removed may still run, and must not be made again and again (invariant 1).
  if (state.replicas.length >= spec.max) {
    return refuse('AtMax', `has ${state.replicas.length} replicas that are not gone, and max is ${spec.max}`);
  }
  if (trigger.kind !== 'operator') {
    const end = cooldownEnd('out', spec, state, now);
    if (end !== null) return refuse('CoolingDown', `the last scale-out was at ${state.lastScaleOutAt}`, end);
    const failed = state.failedScaleOuts;
    const again = failed === null ? null : backoffEnd(failed, now);
    if (failed !== null && again !== null) {
      const times = failed.count === 1 ? 'the last scale-out' : `the last ${failed.count} scale-outs`;
      const remedy = `mend it and apply, or ciel scale ${spec.name} out`;
      return refuse('FailedBefore', `${times} failed (${failed.message}); next try at ${again}: ${remedy}`, again);
    }
  }
  const result = sizeFor({
    spec,
    pressure: trigger.kind === 'pressure' ? trigger.pressure : null,
    servingReplicas: state.replicas.filter((replica) => replica.state === 'serving').length,
    templateBaseMemoryBytes: input.templateBaseMemoryBytes,
  });
  if (!result.fits) return refuse('TooSmall', result.why);
  const cause =
    trigger.kind === 'pressure'
      ? `VM ${trigger.pressure.evidence.vmName} is hot and ${trigger.pressure.candidate.explanation}`
      : 'asked for by an operator';
  const { size } = result;
  return {
    act: true,
    size,
    explanation: `${spec.name}: ${cause}; one replica more, of ${virtualCpus(size.vcpus)} and ${mebibytes(size.memoryBytes)}`,
  };
}

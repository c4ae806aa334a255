/** Follows an operation to its end, telling each step as it happens. Its workflow's answers are the truth; a worker that is being restarted is waited for. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describeOperationQuery, type OperationDescription, type OperationStep } from '../workflows/messages.ts';
import type { CommandContext } from './context.ts';
import { CommandError, EXIT } from './errors.ts';
import { printableSentence } from './escape.ts';
import type { Temporal } from './temporal.ts';
import { durationText } from './units.ts';

const POLL_MS = 1_000;
const QUERY_DEADLINE_MS = 5_000;

/** @throws CommandError when it was undone, failed, needs the operator, or does not end in time */
export async function followOperation(
  context: CommandContext,
  temporal: Temporal,
  operationId: string,
  timeoutMs: number,
): Promise<OperationDescription> {
  const told = new Map<string, OperationStep['state']>();
  const deadline = Date.now() + timeoutMs;
  const handle = temporal.client.workflow.getHandle(operationId);
  while (Date.now() < deadline && !context.signal.aborted) {
    const description = await temporal
      .ask(`asked operation ${operationId}`, () => handle.query(describeOperationQuery), QUERY_DEADLINE_MS)
      .catch((error: unknown) => {
        if (error instanceof CommandError && error.problem.exitCode === EXIT.unreachable) return null;
        throw error;
      });
    if (description !== null) {
      tell(description.steps, told, context);
      const { phase } = description;
      if (phase === 'completed') return description;
      if (phase !== 'running' && phase !== 'undoing') throw unsuccessful(description);
    }
    await sleep(POLL_MS);
  }
  throw new CommandError({
    exitCode: EXIT.failed,
    reason: 'TimedOut',
    tried: `waited for operation ${operationId}`,
    found: `it has not ended within ${durationText(timeoutMs)}; it goes on`,
    remedy: `follow it with: ciel explain ${operationId}`,
  });
}

function tell(
  steps: readonly OperationStep[],
  told: Map<string, OperationStep['state']>,
  { terminal }: CommandContext,
): void {
  for (const { name, state, startedAt, endedAt, message } of steps) {
    if (told.get(name) === state) continue;
    told.set(name, state);
    const took = endedAt === null ? '' : ` after ${durationText(Date.parse(endedAt) - Date.parse(startedAt))}`;
    terminal.printError(`  ${name} ${state}${took}${message === '' ? '' : `: ${printableSentence(message)}`}`);
  }
}

function unsuccessful({ operationId, phase, stuck, steps }: OperationDescription): CommandError {
  // A step that was undone keeps the message of its failure.
  const failed = steps.find(({ message }) => message !== '');
  const why = failed === undefined ? '' : `; step ${failed.name}: ${printableSentence(failed.message)}`;
  const needsOperator = phase === 'needsOperator';
  return new CommandError({
    exitCode: EXIT.failed,
    reason: phase,
    tried: `waited for operation ${operationId}`,
    found: needsOperator ? `it could not undo: ${stuck.map(printableSentence).join('; ')}` : `it ended ${phase}${why}`,
    remedy: needsOperator
      ? `remove the cause, then: ciel operation retry ${operationId} (or skip, to give the rest up)`
      : `see the whole of it with: ciel explain ${operationId}`,
  });
}

/**
 * What only running workflows know, beside what the store tells: asked when Temporal answers, and otherwise missing with
 * the reason.
 */
import type { QueryDefinition } from '@temporalio/common';
import { describeOperationQuery, type OperationPhase } from '../workflows/messages.ts';
import type { CommandContext, GlobalOptions } from './context.ts';
import { problemOf } from './errors.ts';
import { printableSentence } from './escape.ts';
import type { Temporal } from './temporal.ts';
import type { Terminal } from './terminal.ts';

const QUERY_DEADLINE_MS = 5_000;

export interface LiveOperation {
  /** Of the workflow; null when it did not answer. */
  readonly phase: OperationPhase | null;
  /** In phase needsOperator: what could not be done or undone. */
  readonly stuck: readonly string[];
  /** What the step in flight waits for: failed attempts that are made again. */
  readonly retrying: readonly { readonly attempt: number; readonly failure: string }[];
}

/** Temporal when it answers, else why it does not; the exit code then says so. */
export async function reachTemporal(
  context: CommandContext,
  globals: GlobalOptions,
): Promise<{ readonly temporal: Temporal } | { readonly unavailable: string }> {
  try {
    return { temporal: await context.openTemporal(globals) };
  } catch (error) {
    const { found, exitCode } = problemOf(error, 'connected to Temporal');
    context.exitCode(exitCode);
    return { unavailable: `Temporal: ${found}` };
  }
}
export type Reached = Awaited<ReturnType<typeof reachTemporal>>;

export async function ask<T>(
  reached: Reached,
  workflowId: string,
  query: QueryDefinition<T>,
): Promise<
  { readonly answer: T; readonly unavailable: null } | { readonly answer: null; readonly unavailable: string }
> {
  if ('unavailable' in reached) return { answer: null, unavailable: reached.unavailable };
  const { temporal } = reached;
  try {
    const handle = temporal.client.workflow.getHandle(workflowId);
    const answer = await temporal.ask(`asked ${workflowId}`, () => handle.query(query), QUERY_DEADLINE_MS);
    return { answer, unavailable: null };
  } catch (error) {
    return { answer: null, unavailable: problemOf(error, `asked ${workflowId}`).found };
  }
}

export async function liveOperation(reached: Reached, operationId: string): Promise<LiveOperation> {
  const { answer } = await ask(reached, operationId, describeOperationQuery);
  return {
    phase: answer?.phase ?? null,
    stuck: answer?.stuck ?? [],
    retrying: 'temporal' in reached ? await askRetries(reached.temporal, operationId) : [],
  };
}

/** What holds an operation up, and what the operator can do; empty when it simply runs. */
export function liveNotes(operationId: string, live: LiveOperation, { colours }: Terminal): string[] {
  const { phase, stuck, retrying } = live;
  const needsOperator =
    phase === 'needsOperator'
      ? [
          colours.red(`${operationId} needs the operator: ${stuck.map(printableSentence).join('; ')}`) +
            `\n  to do: remove the cause, then: ciel operation retry ${operationId} (or skip, to give it up)`,
        ]
      : [];
  return [
    ...needsOperator,
    ...retrying.map(({ attempt, failure }) =>
      colours.yellow(`${operationId} tries again (attempt ${attempt}): ${printableSentence(failure)}`),
    ),
  ];
}

/** What a workflow tries again and again. Empty as well when Temporal does not answer, which is said elsewhere. */
export async function askRetries(temporal: Temporal, workflowId: string): Promise<LiveOperation['retrying']> {
  try {
    const { raw } = await temporal.ask(
      `asked what ${workflowId} waits for`,
      (client) => client.workflow.getHandle(workflowId).describe(),
      QUERY_DEADLINE_MS,
    );
    return (raw.pendingActivities ?? []).flatMap(({ attempt, lastFailure }) =>
      lastFailure?.message ? [{ attempt: attempt ?? 1, failure: lastFailure.message }] : [],
    );
  } catch {
    return [];
  }
}

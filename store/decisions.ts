/** Every decision with its whole input and outcome, the refusals too: what `ciel explain` reads and `ciel simulate` replays. */
import type { Decision, DecisionInput, DecisionKind, DecisionOutcome } from '../model/decision.ts';
import { jsonbOf, type Store } from './database.ts';

/** The number counts within the workflow's chain of runs (its first run id): what is made anew counts from one again. */
export interface DecisionKey {
  readonly workflowId: string;
  readonly runId: string;
  readonly number: number;
}
export interface RecordedDecision extends DecisionKey {
  readonly decisionId: string;
  readonly kind: DecisionKind;
  readonly subject: string;
  readonly input: DecisionInput;
  readonly outcome: DecisionOutcome<DecisionKind>;
  readonly act: boolean;
  readonly policyVersion: string;
  readonly at: Date;
}

/** What was decided under this key before, so that a repeated attempt answers the same; null: nothing yet. */
export async function findDecision(store: Store, key: DecisionKey): Promise<RecordedDecision | null> {
  const row = await store
    .selectFrom('decision')
    .selectAll()
    .where('workflowId', '=', key.workflowId)
    .where('runId', '=', key.runId)
    .where('number', '=', key.number)
    .executeTakeFirst();
  return row === undefined ? null : { ...row, decisionId: String(row.decisionId) };
}

/** Records it, unless an attempt beside this one was first. @returns what stands. */
export async function recordDecision(
  store: Store,
  decision: Omit<RecordedDecision, 'decisionId' | 'act' | 'at'>,
): Promise<Decision> {
  const { input, outcome } = decision;
  await store
    .insertInto('decision')
    .values({ ...decision, input: jsonbOf(input), outcome: jsonbOf(outcome), act: outcome.act })
    .onConflict((conflict) => conflict.columns(['workflowId', 'runId', 'number']).doNothing())
    .execute();
  const stands = await findDecision(store, decision);
  if (stands === null) throw new Error(`decision ${decision.number} of ${decision.workflowId} is not there`);
  return { decisionId: stands.decisionId, policyVersion: stands.policyVersion, outcome: stands.outcome };
}

/** Newest first. @param subject a VM's UUID or a service's name; without it, of all. */
export async function listDecisions(
  store: Store,
  { subject, workflowId, limit }: { readonly subject?: string; readonly workflowId?: string; readonly limit: number },
): Promise<readonly RecordedDecision[]> {
  let query = store.selectFrom('decision').selectAll().orderBy('decisionId', 'desc').limit(limit);
  if (subject !== undefined) query = query.where('subject', '=', subject);
  if (workflowId !== undefined) query = query.where('workflowId', '=', workflowId);
  return (await query.execute()).map((row) => ({ ...row, decisionId: String(row.decisionId) }));
}
export async function readDecision(store: Store, decisionId: string): Promise<RecordedDecision | null> {
  if (!/^\d{1,15}$/.test(decisionId)) return null;
  const row = await store
    .selectFrom('decision')
    .selectAll()
    .where('decisionId', '=', Number(decisionId))
    .executeTakeFirst();
  return row === undefined ? null : { ...row, decisionId: String(row.decisionId) };
}

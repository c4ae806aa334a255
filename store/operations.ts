/**
 * Operations: one row each, open until its workflow closes it, and a row a step. Temporal holds what happens; these rows
 * are what irrevocable steps check, so that a late attempt of a closed operation does nothing.
 */
import { sql } from 'kysely';
import type { OperationRef } from '../model/activities.ts';
import { CielFailure } from '../model/failures.ts';
import type { OperationState, Store } from './database.ts';

/** A repeat, or a late attempt after the operation was closed, changes nothing. */
export async function openOperation(
  store: Store,
  operation: OperationRef,
  kind: string,
  summary: string,
): Promise<void> {
  const { operationId, runId, service } = operation;
  await store
    .insertInto('operation')
    .values({ runId, operationId, service, kind, summary, state: 'open', message: '' })
    .onConflict((conflict) => conflict.column('runId').doNothing())
    .execute();
}

/** The first outcome stands. */
export async function closeOperation(
  store: Store,
  operation: OperationRef,
  outcome: Exclude<OperationState, 'open'>,
  message: string,
): Promise<void> {
  await store
    .updateTable('operation')
    .set({ state: outcome, message, closedAt: sql<Date>`now()` })
    .where('runId', '=', operation.runId)
    .where('state', '=', 'open')
    .execute();
}

/**
 * Final failure Superseded unless the operation is open. Inside a transaction the row stays locked against closing until
 * its end, so that what is written with it cannot come after the close.
 */
export async function assertOperationOpen(store: Store, operation: OperationRef): Promise<void> {
  let query = store.selectFrom('operation').select('state').where('runId', '=', operation.runId);
  if (store.isTransaction) query = query.forShare();
  const row = await query.executeTakeFirst();
  if (row?.state === 'open') return;
  throw new CielFailure(
    'Superseded',
    `a step of ${operation.operationId} (run ${operation.runId}) looked whether its operation is still open and found ` +
      `${row === undefined ? 'no row of it' : `it ${row.state}`}; nothing was done. No action is needed.`,
  );
}

export async function recordStep(
  store: Store,
  operation: OperationRef,
  step: string,
  state: 'started' | 'done' | 'undone' | 'failed',
  message: string,
): Promise<void> {
  const endedAt = state === 'started' ? null : sql<Date>`now()`;
  await store
    .insertInto('operationStep')
    .values({ runId: operation.runId, step, state, message, endedAt })
    .onConflict((conflict) => {
      const change = conflict.columns(['runId', 'step']).doUpdateSet({ state, message, endedAt });
      // A late attempt of "started" does not hide that the step has ended.
      return state === 'started' ? change.where('operationStep.state', 'in', ['started', 'failed']) : change;
    })
    .execute();
}

export interface OperationRecord {
  readonly runId: string;
  readonly operationId: string;
  readonly service: string;
  readonly kind: string;
  readonly summary: string;
  readonly state: OperationState;
  readonly message: string;
  readonly openedAt: Date;
  readonly closedAt: Date | null;
}
/** Newest first. */
export async function listOperations(
  store: Store,
  filter: {
    readonly service?: string;
    readonly operationId?: string;
    readonly state?: OperationState;
    readonly limit: number;
  },
): Promise<readonly OperationRecord[]> {
  const { service, operationId, state, limit } = filter;
  let query = store.selectFrom('operation').selectAll().orderBy('openedAt', 'desc').limit(limit);
  if (service !== undefined) query = query.where('service', '=', service);
  if (operationId !== undefined) query = query.where('operationId', '=', operationId);
  if (state !== undefined) query = query.where('state', '=', state);
  return query.execute();
}
export async function listSteps(store: Store, runId: string) {
  return store.selectFrom('operationStep').selectAll().where('runId', '=', runId).orderBy('startedAt').execute();
}

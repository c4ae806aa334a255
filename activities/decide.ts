/**
 * Decisions: the policy is run once, by this ordinary activity, so that history and store hold what went in and what came
 * out, and a better policy never breaks the replay of an old history.
 */
import type { ControlActivities } from '../model/activities.ts';
import type { Decision, DecisionInput, DecisionKind, DecisionOutcome } from '../model/decision.ts';
import { decideOutcome, POLICY_VERSION } from '../policy/decide.ts';

export interface DecisionRow {
  readonly workflowId: string;
  readonly runId: string;
  readonly number: number;
  readonly kind: DecisionKind;
  /** The VM or service that it is about. */
  readonly subject: string;
  readonly policyVersion: string;
  readonly input: DecisionInput;
  readonly outcome: DecisionOutcome<DecisionKind>;
}

export interface DecideDependencies {
  /** Inserts the row, or returns the decision that is there already for (workflowId, runId, number). */
  readonly recordDecision: (row: DecisionRow) => Promise<Decision>;
}

export function createDecideActivities({ recordDecision }: DecideDependencies): Pick<ControlActivities, 'decide'> {
  return {
    async decide({ workflowId, runId, number, subject, input }) {
      const outcome = decideOutcome(input);
      // An earlier attempt may have recorded its outcome and died before it could return it: that one holds.
      const row = {
        workflowId,
        runId,
        number,
        subject,
        kind: input.kind,
        policyVersion: POLICY_VERSION,
        input,
        outcome,
      };
      return (await recordDecision(row)) as Decision<typeof input.kind>;
    },
  };
}

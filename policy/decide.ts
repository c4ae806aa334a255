/**
 * The policy as one function of a decision's whole input. The version is recorded with each decision: raise it with
 * every change that could make another outcome of the same input.
 */
import type { DecisionInput, DecisionKind, DecisionOutcome } from '../model/decision.ts';
import { attribute } from './culprit.ts';
import { scaleIn } from './scale-in.ts';
import { scaleOut } from './scale-out.ts';

export const POLICY_VERSION = '2';

export function decideOutcome<K extends DecisionKind>(input: Extract<DecisionInput, { kind: K }>): DecisionOutcome<K>;
export function decideOutcome(input: DecisionInput): DecisionOutcome<DecisionKind> {
  switch (input.kind) {
    case 'attribute':
      return attribute(input.evidence, input.now);
    case 'scaleOut':
      return scaleOut(input);
    case 'scaleIn':
      return scaleIn(input);
  }
}

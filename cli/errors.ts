/**
 * How a command ends that did not succeed: an exit code that scripts can switch on, and a message that says what was
 * tried, what was found, and what to do.
 */
import type { FailureName } from '../model/failures.ts';
import { CielFailure } from '../model/failures.ts';

export const EXIT = {
  ok: 0,
  /** Something went wrong that has no code of its own; `ciel doctor`: something lacks. */
  failed: 1,
  /** The command line or a file is not valid. */
  usage: 2,
  /** Understood and declined, with the reason; nothing was changed. */
  refused: 3,
  /** Temporal, the database, libvirt or a worker does not answer. */
  unreachable: 4,
  /** There is no such service, VM, operation, decision or template. */
  notFound: 5,
} as const;
export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

export interface CommandProblem {
  readonly exitCode: ExitCode;
  /** A stable word for scripts: a refusal reason, a failure's name, or one of this file's. */
  readonly reason: string;
  /** In the past tense: "asked service mosaic to scale out". */
  readonly tried: string;
  readonly found: string;
  /** null: nothing that an operator could do is known. */
  readonly remedy: string | null;
}

export class CommandError extends Error {
  readonly problem: CommandProblem;
  constructor(problem: CommandProblem, options?: ErrorOptions) {
    super(`${problem.tried}: ${problem.found}`, options);
    this.name = 'CommandError';
    this.problem = problem;
  }
}

const FAILURE_EXITS: Partial<Record<FailureName, ExitCode>> = {
  HypervisorUnreachable: EXIT.unreachable,
  DirectorUnreachable: EXIT.unreachable,
  AgentUnreachable: EXIT.unreachable,
  StoreUnreachable: EXIT.unreachable,
  UnknownVm: EXIT.notFound,
  UnknownService: EXIT.notFound,
  TemplateMissing: EXIT.notFound,
  InvalidSpec: EXIT.usage,
  HostBusy: EXIT.refused,
  NotOurs: EXIT.refused,
  AtMax: EXIT.refused,
  AtMin: EXIT.refused,
  Paused: EXIT.refused,
};

/** Any thrown value as a problem; what is not foreseen keeps its message and counts as failed. */
export function problemOf(error: unknown, tried: string): CommandProblem {
  if (error instanceof CommandError) return error.problem;
  if (error instanceof CielFailure) {
    // Its message says what was tried and what can be done already.
    const exitCode = FAILURE_EXITS[error.failure] ?? EXIT.failed;
    return { exitCode, reason: error.failure, tried, found: error.message, remedy: null };
  }
  const found = error instanceof Error ? error.message || error.name : String(error);
  return { exitCode: EXIT.failed, reason: 'Failed', tried, found, remedy: null };
}

/** One block of three short lines: an error is read by people in a hurry. */
export function renderProblem({ tried, found, remedy }: CommandProblem): string {
  const lines = [`error: ${tried}`, `  found: ${found}`];
  if (remedy !== null) lines.push(`  to do: ${remedy}`);
  return lines.join('\n');
}

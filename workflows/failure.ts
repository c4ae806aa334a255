/** What workflows say of a failed call: the cause under Temporal's wrappers, in words for people. */
import {
  ActivityFailure,
  ApplicationFailure,
  isCancellation,
  TemporalFailure,
  TimeoutFailure,
} from '@temporalio/workflow';

export interface Cause {
  /** Of model/failures.ts where it is one of ours. */
  readonly name: string;
  readonly message: string;
}

/**
 * Anything but a failure of Temporal's is a mistake in the workflow and thrown again: then the workflow task fails, not
 * the workflow, and a mended worker takes it up where it was.
 */
export function causeOf(error: unknown): Cause {
  if (!(error instanceof TemporalFailure)) throw error;
  if (isCancellation(error)) return { name: 'Cancelled', message: 'the operation was cancelled' };
  if (error instanceof ActivityFailure) {
    const { cause } = error;
    // When retries run into the end of their time, the last failure says more than the timeout does.
    if (cause instanceof TimeoutFailure) {
      return cause.cause instanceof TemporalFailure ? causeOf(cause.cause) : timedOut(error, cause);
    }
    return cause instanceof TemporalFailure ? causeOf(cause) : { name: 'Error', message: error.message };
  }
  if (error instanceof ApplicationFailure) return { name: error.type ?? 'Error', message: error.message };
  return { name: error.name, message: error.message };
}

function timedOut({ activityType }: ActivityFailure, { timeoutType }: TimeoutFailure): Cause {
  const what: Record<string, string> = {
    SCHEDULE_TO_START: 'nobody took it up: check that the process for this host or director runs',
    SCHEDULE_TO_CLOSE: 'it did not end in time: check that the process for this host or director runs',
    START_TO_CLOSE: 'an attempt took too long',
    HEARTBEAT: 'the process that ran it is gone',
  };
  return { name: 'TimedOut', message: `${activityType}: ${what[timeoutType ?? ''] ?? 'timed out'}` };
}

export function hostDidNotAnswer(error: unknown): boolean {
  return (
    error instanceof ActivityFailure &&
    error.cause instanceof TimeoutFailure &&
    error.cause.timeoutType === 'SCHEDULE_TO_START'
  );
}

/** A refusal of an update: the type is the reason, one word of a closed set. */
export function refusal(reason: string, explanation: string): ApplicationFailure {
  return ApplicationFailure.create({ type: reason, message: explanation, nonRetryable: true });
}

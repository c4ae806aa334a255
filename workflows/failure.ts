/** What workflows say of a failed call: the cause under Temporal's wrappers, in words for people. */
import { ActivityFailure, ApplicationFailure, isCancellation, TimeoutFailure } from '@temporalio/workflow';

export interface Cause {
  /** Of model/failures.ts where it is one of ours. */
  readonly name: string;
  readonly message: string;
}

export function causeOf(error: unknown): Cause {
  if (isCancellation(error)) return { name: 'Cancelled', message: 'the operation was cancelled' };
  if (error instanceof ActivityFailure) {
    const { cause } = error;
    // When retries run into the end of their time, the last failure says more than the timeout does.
    if (cause instanceof TimeoutFailure) {
      return cause.cause !== undefined ? causeOf(cause.cause) : timedOut(error, cause);
    }
    return causeOf(cause ?? new Error(error.message));
  }
  if (error instanceof ApplicationFailure) return { name: error.type ?? 'Error', message: error.message };
  if (error instanceof Error) return { name: error.name, message: error.message };
  return { name: 'Error', message: String(error) };
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

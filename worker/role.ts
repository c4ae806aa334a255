/** What a role is to the process: Temporal workers that run until they are told to end, and what to end after them. */
import type { Worker } from '@temporalio/worker';

export interface RunningRole {
  readonly name: string;
  readonly workers: readonly Worker[];
  /** Rejects when the role cannot go on, with what happened: the process ends then, and is started anew. */
  readonly lost: Promise<never>;
  close(): Promise<void>;
}

/**
 * How long activities may go on after SIGTERM before they are cancelled, and until they are given up. What they leave
 * half done, their next attempt finds.
 */
export const SHUTDOWN = { shutdownGraceTime: '500 ms', shutdownForceTime: '6 s' } as const;

export const NEVER: Promise<never> = new Promise(() => {});

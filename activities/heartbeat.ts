/**
 * Says for every activity with a heartbeat timeout that its process lives: a killed worker is noticed within the
 * timeout, and a long step needs no beats of its own. What hangs in a living process is ended by startToCloseTimeout.
 *
 * For the workers of host provisioning and of directors. The endless watchers beat by themselves, from the loop that
 * their beat stands for.
 */
import type { Context } from '@temporalio/activity';
import type { ActivityInterceptorsFactory } from '@temporalio/worker';
import { workflowTypes } from '../model/starts.ts';

const SELF_BEATING: readonly (string | undefined)[] = [workflowTypes.host, workflowTypes.director];

/** The SDK sends one in 0.8 of the timeout whatever is asked; more often here costs nothing and misses none. */
const BEATS_PER_TIMEOUT = 5;

export const processHeartbeat: ActivityInterceptorsFactory = (context: Context) => ({
  inbound: {
    async execute(input, next) {
      const { heartbeatTimeoutMs, workflowType } = context.info;
      if (!heartbeatTimeoutMs || SELF_BEATING.includes(workflowType)) return next(input);
      const beat = setInterval(() => context.heartbeat(), heartbeatTimeoutMs / BEATS_PER_TIMEOUT);
      try {
        return await next(input);
      } finally {
        clearInterval(beat);
      }
    },
  },
});

/**
 * The border between Ciel's failures and Temporal's: a CielFailure becomes an ApplicationFailure of the same name, so
 * that workflows switch on one vocabulary, and final ones are not retried. Every worker that runs activities has it.
 */
import { ApplicationFailure } from '@temporalio/common';
import type { ActivityInterceptorsFactory } from '@temporalio/worker';
import { CielFailure } from '../model/failures.ts';

export const failureBorder: ActivityInterceptorsFactory = () => ({
  inbound: {
    async execute(input, next) {
      try {
        return await next(input);
      } catch (error) {
        if (!(error instanceof CielFailure)) throw error;
        throw ApplicationFailure.create({
          type: error.failure,
          message: error.message,
          nonRetryable: !error.retryable,
          cause: error,
        });
      }
    },
  },
});

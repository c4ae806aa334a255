/** A database that is away is StoreUnreachable in Temporal's history and UI, whatever the driver calls it. */
import type { ActivityInterceptorsFactory } from '@temporalio/worker';
import { reaching } from '../store/database.ts';

export const storeBorder: ActivityInterceptorsFactory = () => ({
  inbound: { execute: (input, next) => reaching(() => next(input)) },
});

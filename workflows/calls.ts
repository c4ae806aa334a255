/**
 * The activities as workflows call them: by queue, with timeouts and retries in one place. A summary goes with each call
 * and is what Temporal's UI shows beside it.
 *
 * After kill -9 of a worker its activity is tried again once a timeout has noticed: heartbeatTimeout (or, for short ones
 * without heartbeats, startToCloseTimeout) + the retry's interval. These stay below 8 s together.
 */
import {
  ActivityCancellationType,
  proxyActivities,
  proxyLocalActivities,
  type RetryPolicy,
} from '@temporalio/workflow';
import type { ControlActivities, DirectorActivities, HostActivities, WatchActivities } from '../model/activities.ts';
import { FINAL_FAILURES } from '../model/failures.ts';
import { taskQueues } from '../model/names.ts';

/** How long a step is tried: retryable failures within it are waited out. 'endless' for what only goes forward. */
export type Within = `${number} s` | `${number} min` | 'endless';

const RETRY: RetryPolicy = {
  initialInterval: '1 s',
  backoffCoefficient: 1.5,
  maximumInterval: '5 s',
  nonRetryableErrorTypes: [...FINAL_FAILURES],
};
/** The store and the policy answer in milliseconds; an attempt that takes longer has lost its worker. */
const CONTROL_ATTEMPT = '6 s';
const PROVISIONING_HEARTBEAT = '5 s';
/** One attempt, as long as its process lives: copying a disk or fetching an image may take its time. */
const PROVISIONING_ATTEMPT = '20 min';
/** How long a host may leave a first step in its queue before another host is chosen. */
const HOST_ANSWERS_WITHIN = '10 s';
/** Watchers lose their samples for this long when a host process dies. One a host, so beats cost nothing to speak of. */
const WATCH_HEARTBEAT = '10 s';
const WATCH_ATTEMPT = '365 days';

function closing(within: Within) {
  return within === 'endless' ? {} : { scheduleToCloseTimeout: within };
}

/** Policy and the store. */
export function control(summary: string, within: Within = '5 min') {
  return proxyActivities<ControlActivities>({
    taskQueue: taskQueues.control,
    startToCloseTimeout: CONTROL_ATTEMPT,
    ...closing(within),
    retry: RETRY,
    summary,
  });
}

/** libvirt, disks and guests of one host. */
export function onHost(host: string, summary: string, within: Within = '15 min') {
  return proxyActivities<HostActivities>({
    taskQueue: taskQueues.host(host),
    startToCloseTimeout: PROVISIONING_ATTEMPT,
    heartbeatTimeout: PROVISIONING_HEARTBEAT,
    ...closing(within),
    retry: RETRY,
    summary,
  });
}

/**
 * The same for the first step on a host: one attempt, which fails with a SCHEDULE_TO_START timeout exactly when the host
 * has not begun anything, so that another host may be taken.
 */
export function firstOnHost(host: string, summary: string) {
  return proxyActivities<HostActivities>({
    taskQueue: taskQueues.host(host),
    scheduleToStartTimeout: HOST_ANSWERS_WITHIN,
    startToCloseTimeout: PROVISIONING_ATTEMPT,
    heartbeatTimeout: PROVISIONING_HEARTBEAT,
    retry: { maximumAttempts: 1 },
    summary,
  });
}

/** LVS, and probes from the director's segment. */
export function onDirector(director: string, summary: string, within: Within = '5 min') {
  return proxyActivities<DirectorActivities>({
    taskQueue: taskQueues.director(director),
    startToCloseTimeout: PROVISIONING_ATTEMPT,
    heartbeatTimeout: PROVISIONING_HEARTBEAT,
    ...closing(within),
    retry: RETRY,
    summary,
  });
}

const WATCHING = {
  startToCloseTimeout: WATCH_ATTEMPT,
  heartbeatTimeout: WATCH_HEARTBEAT,
  retry: { initialInterval: '1 s', maximumInterval: '10 s' },
  cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
} as const;

export function watchingHost(host: string) {
  return proxyActivities<WatchActivities>({ ...WATCHING, taskQueue: taskQueues.watch(host) });
}
export function watchingDirector(director: string) {
  return proxyActivities<DirectorActivities>({ ...WATCHING, taskQueue: taskQueues.director(director) });
}

/**
 * Rows beside Temporal's history, for `ciel status`. As local activities they cost one event each and no workflow task;
 * and when the store is away, an operation does not wait for them: its history knows the steps anyway.
 */
export function recording(summary: string) {
  return proxyLocalActivities<ControlActivities>({
    startToCloseTimeout: '1 s',
    scheduleToCloseTimeout: '1 s',
    retry: { maximumAttempts: 1 },
    summary,
  });
}

/**
 * A worker process that a test kills: the shipped workflows, over activities that only write down that they were called.
 * Arguments: address of Temporal, file of the calls, and the activity whose first call by a scale-out never returns.
 */
import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import { Context } from '@temporalio/activity';
import { NativeConnection, Worker } from '@temporalio/worker';
import { failureBorder } from '../../activities/failure-border.ts';
import { processHeartbeat } from '../../activities/heartbeat.ts';
import { taskQueues } from '../../model/names.ts';
import { workflowBundle } from './environment.ts';
import { controlActivities, createWorld, directorActivities, hostActivities, type World } from './world.ts';

const [address, callsFile, stuck] = process.argv.slice(2);
if (address === undefined || callsFile === undefined) throw new Error('usage: mortal-worker.ts ADDRESS FILE ACTIVITY');

/** Written before the call, so that what a kill cuts off is there, too. */
function written<T extends object>(activities: T, callsFile: string): T {
  const entries = Object.entries(activities).map(([name, activity]) => [
    name,
    (...args: unknown[]) => {
      const { attempt, workflowType } = Context.current().info;
      const called = `${name} of ${workflowType} `;
      const isFirst = !existsSync(callsFile) || !readFileSync(callsFile, 'utf8').includes(called);
      appendFileSync(callsFile, `${called}${attempt} ${Date.now()}\n`);
      return name === stuck && workflowType === 'scaleOut' && isFirst ? new Promise(() => {}) : activity(...args);
    },
  ]);
  return Object.fromEntries(entries);
}

const world: World = createWorld('mortal');
// A new process knows nothing of what the last one made; what it is asked for here must not depend on it.
world.answering.add('10.0.1.50');
const offerPressure = () => Promise.reject(new Error('nobody is hot here'));
const connection = await NativeConnection.connect({ address });
const common = { connection, stickyQueueScheduleToStartTimeout: '2 s' } as const;
const interceptors = { activity: [failureBorder, processHeartbeat] };
const workers = await Promise.all([
  Worker.create({
    ...common,
    taskQueue: taskQueues.control,
    workflowBundle: await workflowBundle(),
    activities: written(controlActivities(offerPressure), callsFile),
    interceptors: { activity: [failureBorder] },
  }),
  Worker.create({
    ...common,
    taskQueue: taskQueues.host('h1'),
    activities: written(hostActivities(), callsFile),
    interceptors,
  }),
  Worker.create({
    ...common,
    taskQueue: taskQueues.director('d1'),
    activities: written(directorActivities(), callsFile),
    interceptors,
  }),
]);
await Promise.all(workers.map((worker) => worker.run()));

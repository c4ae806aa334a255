/** The director role: LVS, by the rows of the store, and probes from where it runs. */
import { isDeepStrictEqual } from 'node:util';
import { Worker } from '@temporalio/worker';
import type { Logger } from 'pino';
import { createDirectorActivities, storedVirtualServers } from '../activities/director.ts';
import { agentReach, localReach } from '../activities/director-reach.ts';
import { failureBorder } from '../activities/failure-border.ts';
import { processHeartbeat } from '../activities/heartbeat.ts';
import { storeBorder } from '../activities/store-border.ts';
import { taskQueues, workflowIds } from '../model/names.ts';
import { directorStart } from '../model/starts.ts';
import { Libvirt } from '../native/libvirt.ts';
import { readDirector, readHost } from '../store/configuration.ts';
import { isUnreachable } from '../store/database.ts';
import { awaiting } from './awaiting.ts';
import type { Connections } from './connections.ts';
import { type RunningRole, SHUTDOWN } from './role.ts';

/** Probing is one; converging and draining are one a virtual service that changes. */
const MOST_ACTIVITIES = 50;
const LOOK_AT_CONFIGURATION_EVERY_MS = 5_000;

export async function startDirector(
  name: string,
  connections: Connections,
  log: Logger,
  signal: AbortSignal,
): Promise<RunningRole> {
  const { connection, client, namespace, store } = connections;
  const configured = async () => {
    const director = await readDirector(store, name);
    const uri = director.reach.kind === 'agent' ? (await readHost(store, director.reach.host)).libvirt : null;
    return { director, uri };
  };
  const begun = await awaiting(`director "${name}" in the applied configuration`, configured, log, signal);
  const { director, uri } = begun;
  const libvirt = uri === null ? null : await awaiting(`libvirt at ${uri}`, () => Libvirt.connect(uri), log, signal);
  const reach =
    libvirt === null || director.reach.kind === 'local' ? localReach() : agentReach(libvirt, director.reach.vm);
  const worker = await Worker.create({
    connection,
    namespace,
    taskQueue: taskQueues.director(name),
    activities: createDirectorActivities({
      director,
      reach,
      rows: storedVirtualServers(store),
      reportHealth: (service, health) =>
        client.workflow.getHandle(workflowIds.service(service)).signal('replicaHealth', health),
    }),
    interceptors: { activity: [failureBorder, storeBorder, processHeartbeat] },
    maxConcurrentActivityTaskExecutions: MOST_ACTIVITIES,
    ...SHUTDOWN,
  });
  const { workflowType, options } = directorStart(name);
  await awaiting(
    `workflow ${options.workflowId} to be started`,
    () => client.workflow.start(workflowType, { ...options, workflowIdConflictPolicy: 'USE_EXISTING' }),
    log,
    signal,
  );

  let looking: NodeJS.Timeout | undefined;
  const lost = new Promise<never>((_, reject) => {
    looking = setInterval(async () => {
      try {
        if (isDeepStrictEqual(await configured(), begun)) return;
        reject(new Error(`the configuration of director "${name}" has changed`));
      } catch (error) {
        if (!isUnreachable(error)) reject(error);
      }
    }, LOOK_AT_CONFIGURATION_EVERY_MS);
  });
  lost.catch(() => {});
  return {
    name: `director ${name}`,
    workers: [worker],
    lost,
    async close() {
      clearInterval(looking);
      await libvirt?.close();
    },
  };
}

/**
 * The host role: watches the VMs of one host, and makes and removes those that are ours. It runs on the host, once: by a
 * lock on its state directory, and a row with the machine's id.
 *
 * Two Temporal workers with slots of their own, so that no amount of provisioning keeps watching waiting. The virtual
 * machines are read through a libvirt connection of its own, too.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { Worker } from '@temporalio/worker';
import type { Logger } from 'pino';
import { failureBorder } from '../activities/failure-border.ts';
import { processHeartbeat } from '../activities/heartbeat.ts';
import { HostCounters } from '../activities/host-counters.ts';
import { createHostActivities } from '../activities/hypervisor.ts';
import { storeBorder } from '../activities/store-border.ts';
import { createWatchActivities } from '../activities/watch.ts';
import type { Crossing } from '../model/evidence.ts';
import { taskQueues } from '../model/names.ts';
import { hostStart, monitorStart } from '../model/starts.ts';
import { Libvirt } from '../native/libvirt.ts';
import { readHost, readTemplate } from '../store/configuration.ts';
import { isUnreachable } from '../store/database.ts';
import { tryLock } from '../store/exclusive-lock.ts';
import { claimHost } from '../store/host-processes.ts';
import { assertOperationOpen } from '../store/operations.ts';
import { awaiting } from './awaiting.ts';
import type { Connections } from './connections.ts';
import { type RunningRole, SHUTDOWN } from './role.ts';

/** Copying disks and starting guests: more at a time only makes each slower. */
const MOST_PROVISIONING = 8;
/** Keeps the host's row fresh; a row that is older than 30 s is taken for a dead process. */
const CLAIM_EVERY_MS = 5_000;

export interface HostRoleOptions {
  readonly host: string;
  readonly stateDirectory: string;
}

export async function startHost(
  { host: name, stateDirectory }: HostRoleOptions,
  connections: Connections,
  log: Logger,
  signal: AbortSignal,
): Promise<RunningRole> {
  const { connection, client, namespace, store, installationId } = connections;
  const directory = join(stateDirectory, `host-${name}`);
  await mkdir(directory, { recursive: true });
  const lock = await awaiting(
    `the lock on ${directory}, which another host process holds`,
    async () => {
      const held = await tryLock(directory, 'host');
      if (held === null) throw new Error('it is held');
      return held;
    },
    log,
    signal,
  );
  const processId = randomUUID();
  const machineId = await machine();
  const claim = () => claimHost(store, { host: name, machineId, processId });
  const closing: (() => Promise<void>)[] = [() => lock.release()];
  const close = async () => {
    for (const end of closing.reverse()) await end();
  };
  try {
    const host = await awaiting(
      `host "${name}" in the applied configuration`,
      () => readHost(store, name),
      log,
      signal,
    );
    await awaiting(`host "${name}" for this machine`, claim, log, signal);
    const connectLibvirt = () =>
      awaiting(`libvirt at ${host.libvirt}`, () => Libvirt.connect(host.libvirt), log, signal);
    const [libvirt, watchingLibvirt] = await Promise.all([connectLibvirt(), connectLibvirt()]);
    closing.push(async () => {
      await Promise.all([libvirt.close(), watchingLibvirt.close()]);
    });
    const counters = await HostCounters.start(
      watchingLibvirt,
      {
        cacheDirectory: join(directory, 'attaches'),
        btfDirectory: process.env.CIEL_BTF ?? join(stateDirectory, 'btf'),
      },
      log,
    );
    closing.push(() => counters.close());

    const deliver = async (crossing: Crossing): Promise<void> => {
      const { workflowType, options } = monitorStart(crossing);
      await client.workflow.signalWithStart(workflowType, { ...options, signal: 'crossing', signalArgs: [crossing] });
    };
    const watching = await Worker.create({
      connection,
      namespace,
      taskQueue: taskQueues.watch(name),
      activities: createWatchActivities(name, { source: counters, store, deliver, log }),
      interceptors: { activity: [failureBorder, storeBorder] },
      maxConcurrentActivityTaskExecutions: 2, // one, and the retry that ends it
      ...SHUTDOWN,
    });
    const provisioning = await Worker.create({
      connection,
      namespace,
      taskQueue: taskQueues.host(name),
      activities: createHostActivities({
        host,
        installationId,
        libvirt,
        readTemplate: (template) => readTemplate(store, template),
        assertOpen: (operation) => assertOperationOpen(store, operation),
      }),
      interceptors: { activity: [failureBorder, storeBorder, processHeartbeat] },
      maxConcurrentActivityTaskExecutions: MOST_PROVISIONING,
      ...SHUTDOWN,
    });
    const { workflowType, options } = hostStart(name);
    await awaiting(
      `workflow ${options.workflowId} to be started`,
      () => client.workflow.start(workflowType, { ...options, workflowIdConflictPolicy: 'USE_EXISTING' }),
      log,
      signal,
    );

    let stillClaiming: NodeJS.Timeout | undefined;
    const lost = new Promise<never>((_, reject) => {
      void lock.lost.then(() => reject(new Error(`the lock on ${directory} was lost: its holder was killed`)));
      stillClaiming = setInterval(async () => {
        try {
          await claim();
          const applied = await readHost(store, name);
          if (!isDeepStrictEqual(applied, host)) reject(new Error(`the configuration of host "${name}" has changed`));
        } catch (error) {
          // The store will be back; whoever else would take the host needs it too.
          if (!isUnreachable(error)) reject(error);
        }
      }, CLAIM_EVERY_MS);
    });
    lost.catch(() => {});
    closing.push(async () => clearInterval(stillClaiming));
    return { name: `host ${name}`, workers: [watching, provisioning], lost, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Of the machine, not of a boot: what systemd keeps; without it the host name must do. */
async function machine(): Promise<string> {
  const id = await readFile('/etc/machine-id', 'utf8').catch(() => '');
  return id.trim() || hostname();
}

/** The control role: workflows, and the activities of policy and store. As many of these processes as one likes. */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { isGrpcServiceError } from '@temporalio/client';
import { Worker } from '@temporalio/worker';
import type { Logger } from 'pino';
import { createDecideActivities } from '../activities/decide.ts';
import { failureBorder } from '../activities/failure-border.ts';
import { createOperationActivities } from '../activities/operations.ts';
import { createReservationActivities } from '../activities/reservations.ts';
import { storeBorder } from '../activities/store-border.ts';
import { createUsageActivities } from '../activities/usage.ts';
import type { ControlActivities } from '../model/activities.ts';
import { SEARCH_ATTRIBUTES, taskQueues } from '../model/names.ts';
import { recordDecision } from '../store/decisions.ts';
import type { Connections } from './connections.ts';
import { NEVER, type RunningRole, SHUTDOWN } from './role.ts';

/** Short ones, and offers of pressure, which wait for a service's answer. */
const MOST_ACTIVITIES = 200;
/** A task that was handed to a control process which has since died is given to another after this. */
const STICKY_QUEUE_TIMEOUT = '2 s';

export async function startControl(connections: Connections, log: Logger): Promise<RunningRole> {
  const { connection, client, namespace, store } = connections;
  await registerSearchAttributes(connections, log);
  const activities: ControlActivities = {
    ...createDecideActivities({ recordDecision: (row) => recordDecision(store, row) }),
    ...createReservationActivities(store),
    ...createOperationActivities(store, client),
    ...createUsageActivities(store),
  };
  const worker = await Worker.create({
    connection,
    namespace,
    taskQueue: taskQueues.control,
    ...workflows(),
    activities,
    interceptors: { activity: [failureBorder, storeBorder] },
    maxConcurrentActivityTaskExecutions: MOST_ACTIVITIES,
    stickyQueueScheduleToStartTimeout: STICKY_QUEUE_TIMEOUT,
    ...SHUTDOWN,
  });
  return { name: 'control', workers: [worker], lost: NEVER, close: async () => {} };
}

/** The bundle that the build made; from source, they are bundled now. */
function workflows() {
  const bundle = fileURLToPath(new URL('../workflow-bundle.js', import.meta.url));
  if (existsSync(bundle)) return { workflowBundle: { codePath: bundle } };
  return { workflowsPath: fileURLToPath(new URL('../workflows/index.ts', import.meta.url)) };
}

/** temporal.api.enums.v1.IndexedValueType. */
const INDEXED_VALUE_TYPES = { Keyword: 2 } as const;

/** The dev server of `ciel up` has them already; a cluster's operator may have to add them where we are not allowed to. */
async function registerSearchAttributes({ connection, namespace }: Connections, log: Logger): Promise<void> {
  const names = Object.keys(SEARCH_ATTRIBUTES) as (keyof typeof SEARCH_ATTRIBUTES)[];
  try {
    const { operatorService } = connection;
    const { customAttributes } = await operatorService.listSearchAttributes({ namespace });
    const missing = names.filter((name) => !(name in customAttributes));
    if (missing.length === 0) return;
    await operatorService.addSearchAttributes({
      namespace,
      searchAttributes: Object.fromEntries(missing.map((name) => [name, INDEXED_VALUE_TYPES[SEARCH_ATTRIBUTES[name]]])),
    });
    log.info({ searchAttributes: missing }, 'search attributes were added to Temporal');
  } catch (error) {
    if (!isGrpcServiceError(error)) throw error;
    log.warn(
      `wanted the search attributes ${names.join(', ')} (Keyword) in Temporal's namespace "${namespace}": ` +
        `${error.details || error.message}. Add them with \`temporal operator search-attribute create\`; ` +
        'workflows cannot start without them.',
    );
  }
}

/**
 * A real Temporal dev server, the workflows as they are shipped, and workers whose activities act on a world in memory.
 * One for each test file; tests in it differ by the names of their services.
 */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, rename, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { WithStartWorkflowOperation, type WorkflowHandle } from '@temporalio/client';
import { WorkflowNotFoundError } from '@temporalio/common';
import { TestWorkflowEnvironment } from '@temporalio/testing';
import { bundleWorkflowCode, DefaultLogger, Runtime, Worker, type WorkerOptions } from '@temporalio/worker';
import { failureBorder } from '../../activities/failure-border.ts';
import { processHeartbeat } from '../../activities/heartbeat.ts';
import { CielFailure } from '../../model/failures.ts';
import { SEARCH_ATTRIBUTES, taskQueues, workflowIds } from '../../model/names.ts';
import type { ServiceSpec } from '../../model/spec.ts';
import { serviceStart, workflowTypes } from '../../model/starts.ts';
import {
  acknowledgeSignal,
  applyUpdate,
  describeOperationQuery,
  describeServiceQuery,
  type OperationReport,
  pressureUpdate,
  type ScaleRequest,
  type ServiceDescription,
  scaleUpdate,
} from '../../workflows/messages.ts';
import type { ScaleOutInput } from '../../workflows/scale-out.ts';
import {
  controlActivities,
  createWorld,
  directorActivities,
  hostActivities,
  INSTALLATION,
  MIB,
  type OfferPressure,
  serviceSpec,
  type World,
} from './world.ts';

const ROOT = join(import.meta.dirname, '../..');

/** Bundling and two servers' start, on a machine that does something else beside it. */
export const HOOK_TIMEOUT_MS = 60_000;

Runtime.install({ logger: new DefaultLogger('ERROR') });

/** A missing binary fails the tests: skipped ones would look like passed ones. */
export function temporalBinary(): string {
  const cache = process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache');
  const candidates = [
    process.env.TEMPORAL_CLI,
    join(ROOT, 'build/bin/temporal'),
    join(cache, 'ciel/bin/temporal'),
  ].filter((path) => path !== undefined);
  const found = candidates.find((path) => existsSync(path));
  if (found !== undefined) return found;
  throw new Error(`no Temporal CLI at ${candidates.join(' or ')}: install it by "bash lab/set-up.sh test"`);
}

/** Built once for all test files, under a name that follows from what goes into it. */
export async function workflowBundle(workflowsPath = join(ROOT, 'workflows/index.ts')): Promise<{ codePath: string }> {
  const hash = createHash('sha256').update(readFileSync(join(ROOT, 'package-lock.json')));
  for (const room of ['workflows', 'model', 'test/workflows/broken']) {
    for (const file of readdirSync(join(ROOT, room)).sort()) hash.update(readFileSync(join(ROOT, room, file)));
  }
  const folder = join(ROOT, 'node_modules/.cache/ciel-workflow-bundles');
  const codePath = join(folder, `${hash.update(workflowsPath).digest('hex').slice(0, 24)}.js`);
  if (!existsSync(codePath)) {
    const { code } = await bundleWorkflowCode({ workflowsPath, logger: new DefaultLogger('ERROR') });
    await mkdir(folder, { recursive: true });
    const unfinished = `${codePath}.${process.pid}`;
    await writeFile(unfinished, code);
    await rename(unfinished, codePath);
  }
  return { codePath };
}

/** @param workers whether to run workers in this process, for all tests of the file */
export async function startEnvironment({
  dynamicConfig = {},
  workers: withWorkers = true,
}: {
  dynamicConfig?: Record<string, string>;
  workers?: boolean;
} = {}) {
  const env = await TestWorkflowEnvironment.createLocal({
    server: {
      executable: { type: 'existing-path', path: temporalBinary() },
      searchAttributes: Object.keys(SEARCH_ATTRIBUTES).map((name) => ({ name, type: 'KEYWORD' })),
      extraArgs: Object.entries(dynamicConfig).flatMap(([key, value]) => ['--dynamic-config-value', `${key}=${value}`]),
      log: { format: 'pretty', level: 'error' },
    },
  });
  const bundle = await workflowBundle();
  const offerPressure: OfferPressure = async ({ service, pressure, updateId }) => {
    try {
      const handle = env.client.workflow.getHandle(workflowIds.service(service));
      return await handle.executeUpdate(pressureUpdate, { args: [pressure], updateId });
    } catch (error) {
      if (!(error instanceof WorkflowNotFoundError)) throw error;
      throw new CielFailure('UnknownService', `there is no service ${service}`);
    }
  };
  const common = { connection: env.nativeConnection, stickyQueueScheduleToStartTimeout: '2 s' } as const;
  const acting = { interceptors: { activity: [failureBorder, processHeartbeat] } };
  const options: WorkerOptions[] = [
    {
      ...common,
      taskQueue: taskQueues.control,
      workflowBundle: bundle,
      activities: controlActivities(offerPressure),
      interceptors: { activity: [failureBorder] },
    },
    { ...common, ...acting, taskQueue: taskQueues.host('h1'), activities: hostActivities() },
    { ...common, ...acting, taskQueue: taskQueues.director('d1'), activities: directorActivities() },
  ];
  const workers = await Promise.all(withWorkers ? options.map((each) => Worker.create(each)) : []);
  const running = workers.map((worker) => worker.run());
  return {
    env,
    async stop() {
      for (const worker of workers) worker.shutdown();
      await Promise.all(running);
      await env.teardown();
    },
  };
}
export type StartedEnvironment = Awaited<ReturnType<typeof startEnvironment>>;

/** One service in its world, and how the tests speak to it. */
export class ServiceUnderTest {
  readonly world: World;
  readonly spec: ServiceSpec;
  readonly #env: TestWorkflowEnvironment;

  static readonly #names = new Set<string>();

  private constructor(env: TestWorkflowEnvironment, world: World, spec: ServiceSpec) {
    if (ServiceUnderTest.#names.has(spec.name)) throw new Error(`two tests have a service ${spec.name}`);
    ServiceUnderTest.#names.add(spec.name);
    this.#env = env;
    this.world = world;
    this.spec = spec;
  }

  static async applied(
    { env }: StartedEnvironment,
    name: string,
    changes: Partial<ServiceSpec> = {},
  ): Promise<ServiceUnderTest> {
    const service = new ServiceUnderTest(env, createWorld(name), serviceSpec(name, changes));
    await service.apply();
    return service;
  }
  static unborn({ env }: StartedEnvironment, name: string, changes: Partial<ServiceSpec> = {}): ServiceUnderTest {
    return new ServiceUnderTest(env, createWorld(name), serviceSpec(name, changes));
  }

  get handle(): WorkflowHandle {
    return this.#env.client.workflow.getHandle(workflowIds.service(this.world.service));
  }
  operation(id: string): WorkflowHandle {
    return this.#env.client.workflow.getHandle(id);
  }

  async apply(changes: Partial<ServiceSpec> = {}, replace = false) {
    const { workflowType, options } = serviceStart(INSTALLATION, this.world.service);
    return this.#env.client.workflow.executeUpdateWithStart(applyUpdate, {
      args: [{ spec: { ...this.spec, ...changes }, replace }],
      startWorkflowOperation: new WithStartWorkflowOperation(workflowType, {
        ...options,
        workflowIdConflictPolicy: 'USE_EXISTING',
      }),
    });
  }

  async scale(
    direction: ScaleRequest['direction'],
    target: number | null = null,
    requestId: string = crypto.randomUUID(),
  ) {
    return this.handle.executeUpdate(scaleUpdate, { args: [{ direction, target, requestId }] });
  }
  /** Scales and waits for the operation's end, which comes when the service has taken note of it. */
  async scaled(direction: ScaleRequest['direction'], target: number | null = null): Promise<OperationReport> {
    const { operationId } = await this.scale(direction, target);
    return this.result(operationId);
  }
  result(operationId: string): Promise<OperationReport> {
    return this.operation(operationId).result();
  }

  describe(): Promise<ServiceDescription> {
    return this.handle.query(describeServiceQuery);
  }
  async describeOperation(id: string) {
    return this.operation(id).query(describeOperationQuery);
  }
  settled(): Promise<ServiceDescription> {
    return until(
      () => this.describe(),
      ({ operationInFlight }) => operationInFlight === null,
      `${this.world.service} has an operation in flight`,
    );
  }
}

/** A scale-out without its service, for tests of nothing but the operation: it is acknowledged before it reports. */
export async function scaleOutAlone({ env }: StartedEnvironment, name: string, prepare: (world: World) => void) {
  const world = createWorld(name);
  prepare(world);
  // As its service has applied it.
  world.virtualServer = serviceSpec(name);
  const size = { vcpus: 1, memoryBytes: 256 * MIB, reasons: [] };
  const input: ScaleOutInput = {
    installationId: INSTALLATION,
    service: name,
    spec: serviceSpec(name),
    size,
    count: 1,
    explanation: 'a test',
  };
  const handle = await env.client.workflow.signalWithStart(workflowTypes.scaleOut, {
    workflowId: workflowIds.scaleOut(name, 1),
    taskQueue: taskQueues.control,
    args: [input],
    signal: acknowledgeSignal,
  });
  return { world, report: handle.result() as Promise<OperationReport> };
}

/** Polls, because what is waited for is visible by query only. */
export async function until<T>(
  look: () => Promise<T>,
  isIt: (value: T) => boolean,
  otherwise: string,
  withinMs = 25_000,
): Promise<T> {
  const deadline = Date.now() + withinMs;
  for (;;) {
    const value = await look();
    if (isIt(value)) return value;
    if (Date.now() > deadline) throw new Error(`${otherwise} after ${withinMs} ms: ${JSON.stringify(value)}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** Of an update that was refused or failed: the reason and its explanation. */
export async function refusalOf(update: Promise<unknown>): Promise<{ reason: string; explanation: string }> {
  try {
    await update;
  } catch (error) {
    const cause = error instanceof Error ? error.cause : undefined;
    if (cause instanceof Error && 'type' in cause) return { reason: String(cause.type), explanation: cause.message };
    throw error;
  }
  throw new Error('the update was not refused');
}

export async function eventCount(handle: WorkflowHandle): Promise<number> {
  return (await handle.fetchHistory()).events?.length ?? 0;
}

/**
 * `ciel status`: services with their replicas, VMs with their containers, operations in flight. The store tells what was
 * seen and done last, with its age; each service's workflow tells its intent (paused, quiet, deleting). Whichever of them
 * does not answer is shown as unavailable with the reason, and the rest is shown all the same.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import { workflowIds } from '../model/names.ts';
import { readConfiguration } from '../store/configuration.ts';
import type { Store } from '../store/database.ts';
import { listHostProcesses } from '../store/host-processes.ts';
import { listContainers, listVms } from '../store/observations.ts';
import { listOperations, listSteps } from '../store/operations.ts';
import { listReplicas } from '../store/replicas.ts';
import { listVirtualServers } from '../store/virtual-servers.ts';
import { listWatches } from '../store/watches.ts';
import { describeServiceQuery, type ServiceDescription } from '../workflows/messages.ts';
import { type CommandContext, type GlobalOptions, globalOptions } from './context.ts';
import { CommandError, EXIT } from './errors.ts';
import { printable, safeJson } from './escape.ts';
import { ask, type LiveOperation, liveOperation, type Reached, reachTemporal } from './live.ts';
import { durationOption } from './options.ts';
import { renderStatus } from './status-text.ts';

const MAX_OPERATIONS = 100;

/** What a script gets by --json: rows of the store with instants as ISO 8601. */
type Plain<Row> = { readonly [Key in keyof Row]: Row[Key] extends Date | null ? WrittenInstant<Row[Key]> : Row[Key] };
type WrittenInstant<T> = T extends Date ? string : T;
type Rows<Read extends (...parameters: never[]) => Promise<readonly unknown[]>> = Plain<
  Awaited<ReturnType<Read>>[number]
>;

function plain<Row extends object>(row: Row): Plain<Row> {
  const entries = Object.entries(row).map(([key, value]) => [key, value instanceof Date ? value.toISOString() : value]);
  return Object.fromEntries(entries) as Plain<Row>;
}

export interface ServiceStatus {
  readonly name: string;
  readonly min: number;
  readonly max: number;
  readonly generation: number;
  readonly virtual: { readonly address: string; readonly port: number; readonly director: string };
  /** Of the workflow; null when it did not answer. */
  readonly intent: Pick<
    ServiceDescription,
    'paused' | 'deleting' | 'operationInFlight' | 'quietUntil' | 'recent'
  > | null;
  /** Why `intent` is null. */
  readonly unavailable: string | null;
  readonly replicas: readonly (Rows<typeof listReplicas> & {
    /** As wanted in LVS; null: it has no entry. */
    readonly weight: number | null;
    readonly healthy: boolean | null;
    readonly healthMessage: string;
  })[];
}
export interface VmStatus extends Rows<typeof listVms> {
  readonly watched: boolean;
  readonly containers: readonly Rows<typeof listContainers>[];
}
export interface OperationStatus extends Rows<typeof listOperations>, LiveOperation {
  readonly steps: readonly Rows<typeof listSteps>[];
}
export interface Status {
  readonly at: string;
  readonly services: readonly ServiceStatus[];
  readonly vms: readonly VmStatus[];
  /** Seen by hosts, but neither watched nor with a replica in them; 0 when only one service is shown. */
  readonly otherVms: number;
  readonly operations: readonly OperationStatus[];
  readonly hosts: readonly { readonly name: string; readonly seenAt: string | null }[];
}

export function statusCommand(context: CommandContext): Command {
  return new Command('status')
    .description('services, replicas, VMs with their containers, and operations in flight')
    .argument('[service]', 'only this one, with its VMs')
    .option('--watch', 'show it again and again until interrupted')
    .addOption(durationOption('--every <duration>', 'how often --watch looks', '2s'))
    .addHelpText(
      'after',
      '\nWith --watch --json: one line of JSON a look.\n\nExamples:\n  ciel status mosaic --watch\n' +
        '  ciel status --json | jq -r \'.services[].replicas[] | select(.state != "serving") | .vmName\'',
    )
    .action(async (service: string | undefined, options: { watch?: true; every: number }, command: Command) => {
      const globals = globalOptions(command);
      const store = await context.openStore(globals);
      if (options.watch !== true) {
        show(await collect(context, globals, store, service ?? null), context, globals, false);
        return;
      }
      while (!context.signal.aborted) {
        show(await collect(context, globals, store, service ?? null), context, globals, true);
        await sleep(options.every, undefined, { signal: context.signal }).catch(() => undefined);
      }
    });
}

const CLEAR_AND_HOME = '\u001b[H\u001b[2J';

function show(status: Status, context: CommandContext, { json }: GlobalOptions, again: boolean): void {
  const { terminal } = context;
  if (json) {
    terminal.print(safeJson(status, again ? undefined : 2));
    return;
  }
  if (again && terminal.interactive) terminal.write(CLEAR_AND_HOME);
  terminal.print(renderStatus(status, terminal, context.now()));
}

async function collect(
  context: CommandContext,
  globals: GlobalOptions,
  store: Store,
  only: string | null,
): Promise<Status> {
  const configuration = await readConfiguration(store);
  const [replicas, virtualServers, vms, containers, watches, processes] = await Promise.all([
    listReplicas(store),
    listVirtualServers(store),
    listVms(store),
    listContainers(store),
    listWatches(store),
    listHostProcesses(store),
  ]);
  const wanted = configuration.services.filter(({ name }) => only === null || name === only);
  if (only !== null && wanted.length === 0) {
    const names = configuration.services.map(({ name }) => name).join(', ');
    throw new CommandError({
      exitCode: EXIT.notFound,
      reason: 'UnknownService',
      tried: `looked for service "${printable(only)}"`,
      found: `there are: ${names === '' ? 'none' : names}`,
      remedy: 'services come from `ciel apply -f ciel.yaml`',
    });
  }
  const reached = await reachTemporal(context, globals);
  const intents = await Promise.all(wanted.map(({ name }) => intentOf(reached, name)));
  const services = wanted.map(({ name, spec, generation }, index): ServiceStatus => {
    const realServers = virtualServers.find((server) => server.service === name)?.realServers ?? [];
    return {
      name,
      min: spec.min,
      max: spec.max,
      generation,
      virtual: spec.virtual,
      ...(intents[index] ?? { intent: null, unavailable: 'not asked' }),
      replicas: replicas
        .filter((replica) => replica.service === name)
        .map((replica) => {
          const real = realServers.find(({ replicaId }) => replicaId === replica.replicaId);
          return {
            ...replica,
            weight: real?.wanted === true ? real.weight : null,
            healthy: real?.healthy ?? null,
            healthMessage: real?.healthMessage ?? '',
          };
        }),
    };
  });
  const watched = new Set(watches.map(({ vmUuid }) => vmUuid));
  const withReplica = new Set(services.flatMap((service) => service.replicas.map(({ vmName }) => vmName)));
  const shownVms = vms.filter(
    ({ vmUuid, vmName }) => withReplica.has(vmName) || (only === null && watched.has(vmUuid)),
  );
  const open = await listOperations(store, {
    state: 'open',
    limit: MAX_OPERATIONS,
    ...(only === null ? {} : { service: only }),
  });
  return {
    at: context.now().toISOString(),
    services,
    vms: shownVms.map((vm) => ({
      ...plain(vm),
      watched: watched.has(vm.vmUuid),
      containers: containers.filter(({ vmUuid }) => vmUuid === vm.vmUuid).map(plain),
    })),
    otherVms: only === null ? vms.length - shownVms.length : 0,
    operations: await Promise.all(
      open.map(async (operation) => {
        return {
          ...plain(operation),
          ...(await liveOperation(reached, operation.operationId)),
          steps: (await listSteps(store, operation.runId)).map(plain),
        };
      }),
    ),
    hosts: configuration.hosts.map(({ name }) => ({
      name,
      seenAt: processes.find(({ host }) => host === name)?.seenAt.toISOString() ?? null,
    })),
  };
}

async function intentOf(reached: Reached, service: string): Promise<Pick<ServiceStatus, 'intent' | 'unavailable'>> {
  const { answer, unavailable } = await ask(reached, workflowIds.service(service), describeServiceQuery);
  if (answer === null) return { intent: null, unavailable };
  const { paused, deleting, operationInFlight, quietUntil, recent } = answer;
  return { intent: { paused, deleting, operationInFlight, quietUntil, recent }, unavailable };
}

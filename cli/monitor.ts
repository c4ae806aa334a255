/** `ciel monitor`: the durable wish that a VM be watched. One workflow a VM holds it, whatever host the VM is on. */
import { WorkflowExecutionAlreadyStartedError, WorkflowNotFoundError } from '@temporalio/client';
import { Command } from 'commander';
import { workflowIds } from '../model/names.ts';
import { monitorStart } from '../model/starts.ts';
import type { Store } from '../store/database.ts';
import { listVms } from '../store/observations.ts';
import { listWatches, locateVm } from '../store/watches.ts';
import { describeMonitorQuery, type MonitorDescription, stopMonitorUpdate } from '../workflows/messages.ts';
import { type CommandContext, globalOptions, printResult } from './context.ts';
import { CommandError, EXIT, problemOf, renderProblem } from './errors.ts';
import { printable } from './escape.ts';
import type { Temporal } from './temporal.ts';
import { table } from './terminal.ts';
import { ageText, coresText, durationText } from './units.ts';

export function monitorCommand(context: CommandContext): Command {
  const monitor = new Command('monitor').description('choose which VMs are watched');
  monitor
    .command('start')
    .description('watch VMs from outside')
    .argument('<vm...>', 'names or UUIDs')
    .addHelpText('after', '\nExample:\n  ciel monitor start shop-1')
    .action((vms: string[], _options: unknown, command: Command) => eachVm(context, command, vms, start));
  monitor
    .command('stop')
    .description('watch VMs no longer')
    .argument('<vm...>', 'names or UUIDs')
    .addHelpText('after', '\nExample:\n  ciel monitor stop shop-1')
    .action((vms: string[], _options: unknown, command: Command) => eachVm(context, command, vms, stop));
  monitor
    .command('list')
    .description('list the watched VMs')
    .addHelpText('after', '\nExample:\n  ciel monitor list --json')
    .action((_options: unknown, command: Command) => list(context, command));
  return monitor;
}

interface VmOutcome {
  readonly vm: string;
  readonly vmUuid: string;
  readonly outcome: 'started' | 'already watched' | 'stopped' | 'was not watched';
}

/** All of them, even when one fails: the exit code is the first failure's. */
async function eachVm(
  context: CommandContext,
  command: Command,
  vms: readonly string[],
  act: (vm: string, store: Store, temporal: Temporal) => Promise<VmOutcome>,
): Promise<void> {
  const globals = globalOptions(command);
  const store = await context.openStore(globals);
  const temporal = await context.openTemporal(globals);
  const done: VmOutcome[] = [];
  const failed: { vm: string; reason: string; message: string }[] = [];
  for (const vm of vms) {
    try {
      done.push(await act(vm, store, temporal));
    } catch (error) {
      const problem = problemOf(error, `${command.name()} watching VM "${printable(vm)}"`);
      context.terminal.printError(renderProblem(problem));
      failed.push({ vm, reason: problem.reason, message: problem.found });
      context.exitCode(problem.exitCode);
    }
  }
  printResult(context, globals, { ok: failed.length === 0, vms: done, failed }, () =>
    done.map(({ vm, vmUuid, outcome }) => `${printable(vm)} (${vmUuid})  ${outcome}`).join('\n'),
  );
}

async function start(vm: string, store: Store, temporal: Temporal): Promise<VmOutcome> {
  const found = await locateVm(store, vm);
  if (found === null) throw await unknownVm(store, vm);
  const { workflowType, options } = monitorStart(found);
  const tried = `started watching VM "${printable(found.vmName)}"`;
  const outcome = await temporal.ask(tried, async (client) => {
    try {
      await client.workflow.start(workflowType, { ...options, workflowIdConflictPolicy: 'FAIL' });
      return 'started';
    } catch (error) {
      if (error instanceof WorkflowExecutionAlreadyStartedError) return 'already watched';
      throw error;
    }
  });
  return { vm: found.vmName, vmUuid: found.vmUuid, outcome };
}

/** A VM that is gone can still be named: by the name that it was watched under, or by its UUID. */
async function stop(vm: string, store: Store, temporal: Temporal): Promise<VmOutcome> {
  const watched = (await listWatches(store)).find(({ vmUuid, vmName }) => vmUuid === vm.toLowerCase() || vmName === vm);
  const found = watched ?? (await locateVm(store, vm));
  if (found === null) throw await unknownVm(store, vm);
  const { vmUuid, vmName } = found;
  const outcome = await temporal.ask(`stopped watching VM "${printable(vmName)}"`, async (client) => {
    try {
      const handle = client.workflow.getHandle(workflowIds.monitor(vmUuid));
      await handle.executeUpdate(stopMonitorUpdate);
      // It lingers for seconds. A start meanwhile would find it running, and be lost with its end.
      await handle.result();
      return 'stopped';
    } catch (error) {
      if (error instanceof WorkflowNotFoundError) return 'was not watched';
      throw error;
    }
  });
  return { vm: vmName, vmUuid, outcome };
}

async function unknownVm(store: Store, vm: string): Promise<CommandError> {
  const names = (await listVms(store)).map(({ vmName }) => printable(vmName));
  const found =
    names.length === 0 ? 'no host has reported a VM yet' : `not among the VMs that hosts report: ${names.join(', ')}`;
  return new CommandError({
    exitCode: EXIT.notFound,
    reason: 'UnknownVm',
    tried: `looked for VM "${printable(vm)}"`,
    found,
    remedy:
      'check the name by `virsh list`; hosts report within seconds once `ciel apply` has named them and their host role runs',
  });
}

interface ListedMonitor {
  readonly vmName: string;
  readonly vmUuid: string;
  readonly host: string;
  readonly quietUntil: string | null;
  readonly state: string | null;
  readonly cpuCores: number | null;
  readonly unreadable: string | null;
  readonly seenAt: string | null;
  readonly lastCrossing: MonitorDescription['lastCrossing'];
  /** Why the workflow could not be asked. */
  readonly workflowUnavailable: string | null;
}

async function list(context: CommandContext, command: Command): Promise<void> {
  const globals = globalOptions(command);
  const store = await context.openStore(globals);
  const temporal = await context.openTemporal(globals);
  const [watches, vms] = await Promise.all([listWatches(store), listVms(store)]);
  const monitors = await Promise.all(
    watches.map(async ({ vmUuid, vmName, host, quietUntil }): Promise<ListedMonitor> => {
      const vm = vms.find((candidate) => candidate.vmUuid === vmUuid);
      const described = await describe(temporal, vmUuid);
      return {
        vmName,
        vmUuid,
        host,
        quietUntil: quietUntil?.toISOString() ?? null,
        state: vm?.state ?? null,
        cpuCores: vm?.cpuCores ?? null,
        unreadable: vm?.unreadable ?? null,
        seenAt: vm?.at.toISOString() ?? null,
        lastCrossing: described.description?.lastCrossing ?? null,
        workflowUnavailable: described.unavailable,
      };
    }),
  );
  printResult(context, globals, { monitors }, () => renderList(monitors, context));
}

async function describe(
  temporal: Temporal,
  vmUuid: string,
): Promise<{ description: MonitorDescription | null; unavailable: string | null }> {
  try {
    const handle = temporal.client.workflow.getHandle(workflowIds.monitor(vmUuid));
    const description = await temporal.ask('asked a monitor', () => handle.query(describeMonitorQuery), 5_000);
    return { description, unavailable: null };
  } catch (error) {
    return { description: null, unavailable: problemOf(error, 'asked a monitor').found };
  }
}

function renderList(monitors: readonly ListedMonitor[], { terminal, now }: CommandContext): string {
  if (monitors.length === 0) return 'No VM is watched. Start with: ciel monitor start VM';
  const at = now();
  return table(
    [
      { head: 'VM', flexible: true },
      { head: 'HOST', flexible: true },
      { head: 'STATE' },
      { head: 'CPU', align: 'right' },
      { head: 'SEEN' },
      { head: 'QUIET FOR' },
      { head: 'LAST CROSSING', flexible: true },
    ],
    monitors.map((monitor) => [
      printable(monitor.vmName),
      monitor.host,
      monitor.state ?? 'not seen',
      monitor.cpuCores === null ? '–' : coresText(monitor.cpuCores),
      monitor.seenAt === null ? '–' : ageText(monitor.seenAt, at),
      quietText(monitor.quietUntil, at),
      crossingText(monitor, at),
    ]),
    terminal,
  );
}

function quietText(quietUntil: string | null, now: Date): string {
  const left = quietUntil === null ? 0 : new Date(quietUntil).getTime() - now.getTime();
  return left > 0 ? durationText(left) : '–';
}

function crossingText({ lastCrossing, workflowUnavailable, unreadable }: ListedMonitor, now: Date): string {
  if (workflowUnavailable !== null) return `unavailable: ${printable(workflowUnavailable)}`;
  if (lastCrossing !== null) return `${lastCrossing.kind} ${ageText(lastCrossing.at, now)}`;
  return unreadable === null ? 'none' : `unreadable: ${printable(unreadable)}`;
}

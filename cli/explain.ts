/**
 * `ciel explain`: why something was done or refused, from what was recorded when it was decided: who was considered, the
 * numbers, the reason; and what an operation's steps took.
 */
import { Command, InvalidArgumentError } from 'commander';
import { readConfiguration } from '../store/configuration.ts';
import type { Store } from '../store/database.ts';
import { listDecisions, type RecordedDecision, readDecision } from '../store/decisions.ts';
import { listOperations, listSteps, type OperationRecord } from '../store/operations.ts';
import { locateVm } from '../store/watches.ts';
import { type CommandContext, type GlobalOptions, globalOptions, printResult } from './context.ts';
import { CommandError, EXIT } from './errors.ts';
import { printable } from './escape.ts';
import { renderDecision, renderOperation } from './explain-text.ts';
import { type LiveOperation, liveOperation, reachTemporal } from './live.ts';

export interface ExplainedOperation extends OperationRecord {
  readonly steps: Awaited<ReturnType<typeof listSteps>>;
  /** null: it has ended. */
  readonly live: LiveOperation | null;
}
export interface Explanation {
  readonly subject: string;
  /** Newest first. */
  readonly decisions: readonly RecordedDecision[];
  readonly operations: readonly ExplainedOperation[];
}

export function explainCommand(context: CommandContext): Command {
  return new Command('explain')
    .description('why: decisions with their evidence, operations with their steps')
    .argument('<what>', "a service, a VM, an operation (scale-out/mosaic/3) or a decision's number")
    .option('--last <n>', 'of a service or VM: how many decisions and operations', parseLast, 3)
    .addHelpText('after', '\nExamples:\n  ciel explain mosaic --last 1\n  ciel explain scale-out/mosaic/3')
    .action(async (what: string, { last }: { last: number }, command: Command) => {
      const globals = globalOptions(command);
      const recorded = await explain(await context.openStore(globals), what, last);
      const explanation = { ...recorded, operations: await withLive(recorded.operations, context, globals) };
      printResult(context, globals, explanation, () => renderExplanation(explanation, context));
    });
}

function parseLast(text: string): number {
  const last = Number(text);
  if (Number.isInteger(last) && last >= 1 && last <= 1_000) return last;
  throw new InvalidArgumentError('A number from 1 to 1000 is expected.');
}

type Recorded = Omit<ExplainedOperation, 'live'>;

/** Whether it tries something again, or needs the operator, only its workflow knows; who has ended is not asked. */
async function withLive(
  operations: readonly Recorded[],
  context: CommandContext,
  globals: GlobalOptions,
): Promise<ExplainedOperation[]> {
  const isOpen = ({ state }: Recorded) => state === 'open';
  const reached = operations.some(isOpen) ? await reachTemporal(context, globals) : null;
  return Promise.all(
    operations.map(async (operation) => {
      const asked = reached !== null && isOpen(operation);
      return { ...operation, live: asked ? await liveOperation(reached, operation.operationId) : null };
    }),
  );
}

async function explain(
  store: Store,
  what: string,
  last: number,
): Promise<Omit<Explanation, 'operations'> & { readonly operations: readonly Recorded[] }> {
  if (/^\d+$/.test(what)) {
    const decision = await readDecision(store, what);
    if (decision === null) throw notFound(`decision ${what}`, 'no such decision is recorded');
    return { subject: `decision ${what}`, decisions: [decision], operations: [] };
  }
  if (what.includes('/')) {
    const operations = await withSteps(store, await listOperations(store, { operationId: what, limit: last }));
    if (operations.length === 0) throw notFound(`operation ${printable(what)}`, 'no such operation is recorded');
    return { subject: `operation ${what}`, decisions: [], operations };
  }
  // A service's name and a VM's may be the same; decisions on a VM are filed under its UUID.
  const vm = await locateVm(store, what);
  const [{ services }, ofService, ofVm, operations] = await Promise.all([
    readConfiguration(store),
    listDecisions(store, { subject: what, limit: last }),
    vm === null ? [] : listDecisions(store, { subject: vm.vmUuid, limit: last }),
    listOperations(store, { service: what, limit: last }),
  ]);
  const decisions = [...ofService, ...ofVm].toSorted((a, b) => b.at.getTime() - a.at.getTime()).slice(0, last);
  const isKnown = vm !== null || services.some(({ name }) => name === what);
  if (decisions.length === 0 && operations.length === 0 && !isKnown) {
    throw notFound(`"${printable(what)}"`, 'no decision about a service or VM of that name, and no operation');
  }
  return { subject: what, decisions, operations: await withSteps(store, operations) };
}

async function withSteps(store: Store, operations: readonly OperationRecord[]): Promise<Recorded[]> {
  return Promise.all(
    operations.map(async (operation) => ({ ...operation, steps: await listSteps(store, operation.runId) })),
  );
}

function notFound(what: string, found: string): CommandError {
  const remedy = 'see `ciel status` for services, VMs and operations; a service decides when its VM is hot or idle';
  return new CommandError({ exitCode: EXIT.notFound, reason: 'NotFound', tried: `looked for ${what}`, found, remedy });
}

function renderExplanation({ decisions, operations, subject }: Explanation, context: CommandContext): string {
  if (decisions.length === 0 && operations.length === 0) return `Nothing was decided about ${printable(subject)} yet.`;
  const now = context.now();
  return [
    ...decisions.map((decision) => renderDecision(decision, context.terminal, now)),
    ...operations.map((operation) => renderOperation(operation, context.terminal, now)),
  ].join('\n\n');
}

/** The text of `ciel explain`: the outcome first, then why, then the numbers that it rests on. */
import type {
  Attribution,
  Candidate,
  DecisionInput,
  Refusal,
  ReplicaUsage,
  ScaleIn,
  ScaleOut,
  Trigger,
} from '../model/decision.ts';
import type { VmEvidence, Windows } from '../model/evidence.ts';
import type { RecordedDecision } from '../store/decisions.ts';
import { containerText, printable, printableSentence } from './escape.ts';
import type { ExplainedOperation } from './explain.ts';
import { liveNotes } from './live.ts';
import { type Cell, type Terminal, table } from './terminal.ts';
import { ageText, bytesText, coresText, durationText, percentText, rateText } from './units.ts';

const TITLES: Record<RecordedDecision['kind'], string> = {
  attribute: 'Who makes the VM hot?',
  scaleOut: 'Scale out?',
  scaleIn: 'Scale in?',
};

export function renderDecision(decision: RecordedDecision, terminal: Terminal, now: Date): string {
  const { bold, dim } = terminal.colours;
  const { decisionId, kind, input, outcome, policyVersion, at } = decision;
  const about = input.kind === 'attribute' ? `VM ${printable(input.evidence.vmName)}` : `service ${input.spec.name}`;
  return [
    bold(`Decision ${decisionId}: ${about}. ${TITLES[kind]}`),
    dim(`  ${ageText(at, now)}, ${at.toISOString()}; policy ${policyVersion}; ${decision.workflowId}`),
    ...outcomeLines(outcome, terminal),
    ...inputLines(input, terminal),
  ].join('\n');
}

function outcomeLines(outcome: Attribution | ScaleOut | ScaleIn | Refusal, { colours }: Terminal): string[] {
  if (!outcome.act) {
    const again = outcome.retryAt === null ? '' : `\n  Asking again makes sense from ${outcome.retryAt} on.`;
    return [`  ${colours.yellow(`No: ${outcome.reason}`)}. ${printableSentence(outcome.explanation)}${again}`];
  }
  const yes = `  ${colours.green('Yes')}. ${printableSentence(outcome.explanation)}`;
  if ('candidates' in outcome) return [yes, ...outcome.candidates.map(candidateLine)];
  if ('size' in outcome) {
    const { vcpus, memoryBytes, reasons } = outcome.size;
    const size = `${vcpus} ${vcpus === 1 ? 'vCPU' : 'vCPUs'}, ${bytesText(memoryBytes)}`;
    return [yes, `  Size of the new VM: ${size}`, ...reasons.map((reason) => `    - ${printableSentence(reason)}`)];
  }
  return [yes, `  Replica ${outcome.replicaId} goes.`];
}

function candidateLine({ name, containerId, service, by, share, explanation }: Candidate, index: number): string {
  const container = containerText(name, containerId);
  const what = { level: 'of the use', change: 'of the growth', limit: 'of its limit' }[by];
  return `    ${index + 1}. ${container} (service ${service}): ${percentText(share)} ${what}. ${printableSentence(explanation)}`;
}

function inputLines(input: DecisionInput, terminal: Terminal): string[] {
  if (input.kind === 'attribute') return evidenceLines(input.evidence, terminal);
  const { state, trigger, spec } = input;
  const serving = state.replicas.filter((replica) => replica.state === 'serving').length;
  const lines = [
    `  Asked by: ${triggerText(trigger)}`,
    `  Replicas then: ${state.replicas.length} (${serving} serving), bounds ${spec.min}–${spec.max}`,
  ];
  if (trigger.kind === 'pressure') lines.push(...evidenceLines(trigger.pressure.evidence, terminal));
  if (input.kind === 'scaleIn') lines.push(...usageLines(input.usage, terminal));
  return lines;
}

function triggerText(trigger: Trigger): string {
  switch (trigger.kind) {
    case 'pressure':
      return `pressure on VM ${printable(trigger.pressure.evidence.vmName)}, attributed by decision ${trigger.pressure.decisionId}`;
    case 'operator':
      return `an operator, request ${printable(trigger.requestId)}`;
    case 'idle':
      return 'the service itself, once a minute while above its minimum';
  }
}

function evidenceLines(evidence: VmEvidence, terminal: Terminal): string[] {
  const { vmName, vcpus, cpuCores, target, cause, onset, containers, others, unreadable } = evidence;
  const share = cpuCores.since === null ? null : cpuCores.since.mean / vcpus;
  const used = share === null ? (cpuCores.unavailable ?? 'not read') : `${percentText(share)} of ${vcpus} vCPU`;
  const lines = [
    `  Evidence: VM ${printable(vmName)}: CPU ${printable(used)}, target ${percentText(target.cpu)}; ` +
      `cause ${cause ?? 'none'}; ${onset === null ? 'no step found' : `rising since ${onset}`}`,
  ];
  if (unreadable !== null) return [...lines, `    containers unreadable: ${printable(unreadable)}`];
  // Before and since of the figure that the VM is hot by; of the others, since is enough.
  const byMemory = cause === 'vmMemory' || cause === 'replicaMemoryLimit';
  const rows = containers.map((container): Cell[] => [
    `    ${containerText(container.name, container.containerId)}`,
    container.service ?? 'unmanaged',
    windowsText(container.cpuCores, coresText, !byMemory),
    windowsText(container.memoryBytes, bytesText, byMemory),
    windowsText(container.ioBytesPerSecond, rateText, false),
  ]);
  if (others.count > 0)
    rows.push([`    ${others.count} others`, '', windowsText(others.cpuCores, coresText, !byMemory)]);
  return [
    ...lines,
    table(
      [
        { head: '    CONTAINER', flexible: true },
        { head: 'SERVICE', flexible: true },
        { head: byMemory ? 'CPU' : 'CPU before → since' },
        { head: byMemory ? 'MEMORY before → since' : 'MEMORY', flexible: true },
        { head: 'I/O', flexible: true },
      ],
      rows,
      terminal,
    ),
  ];
}

/** Means. */
function windowsText(
  { before, since, unavailable }: Windows,
  figure: (value: number) => string,
  withBefore: boolean,
): string {
  if (since === null) return `unavailable${unavailable === null ? '' : `: ${printable(unavailable)}`}`;
  if (!withBefore) return figure(since.mean);
  return `${before === null ? '?' : figure(before.mean)} → ${figure(since.mean)}`;
}

function usageLines(usage: readonly ReplicaUsage[], terminal: Terminal): string[] {
  return [
    table(
      [
        { head: '    REPLICA' },
        { head: 'COMPLETE MINUTES', align: 'right' },
        { head: 'CPU MEAN', align: 'right' },
        { head: 'CPU MAX', align: 'right' },
        { head: 'MEMORY MAX', align: 'right' },
      ],
      usage.map((replica) => [
        `    ${replica.replicaId.slice(0, 8)}`,
        String(replica.completeMinutes),
        replica.cpuCoresMean === null ? 'missing' : coresText(replica.cpuCoresMean),
        replica.cpuCoresMax === null ? 'missing' : coresText(replica.cpuCoresMax),
        replica.memoryBytesMax === null ? 'missing' : bytesText(replica.memoryBytesMax),
      ]),
      terminal,
    ),
  ];
}

export function renderOperation(operation: ExplainedOperation, terminal: Terminal, now: Date): string {
  const { operationId, summary, state, message, openedAt, closedAt, steps, live } = operation;
  const { bold, dim } = terminal.colours;
  const took = durationText((closedAt ?? now).getTime() - openedAt.getTime());
  const rows = steps.map(({ step, state: stepState, startedAt, endedAt }): Cell[] => [
    `  ${printable(step)}`,
    stepCell(stepState, terminal),
    endedAt === null
      ? `${durationText(now.getTime() - startedAt.getTime())} so far`
      : durationText(endedAt.getTime() - startedAt.getTime()),
  ]);
  // Whole, and not in the table: why a step failed must not be cut.
  const messages = steps.flatMap(({ step, message: said }) =>
    said === '' ? [] : [`  ${printable(step)}: ${printableSentence(said)}`],
  );
  return [
    bold(`Operation ${operationId}: ${printable(summary)}`),
    dim(`  begun ${ageText(openedAt, now)}, ${openedAt.toISOString()}; run ${operation.runId}`),
    state === 'open'
      ? `  ${terminal.colours.cyan('in flight')} for ${took}${live?.phase == null ? '' : `, phase ${live.phase}`}`
      : `  ${stepCellText(state, terminal)} after ${took}`,
    ...(message === '' ? [] : [`  ${printableSentence(message)}`]),
    table([{ head: '  STEP' }, { head: 'STATE' }, { head: 'TOOK', align: 'right' }], rows, terminal),
    ...messages,
    ...(live === null ? [] : liveNotes(operationId, live, terminal).map((note) => `  ${note}`)),
  ].join('\n');
}

function stepCell(state: ExplainedOperation['steps'][number]['state'], { colours }: Terminal): Cell {
  if (state === 'started') return { text: state, colour: colours.cyan };
  return { text: state, colour: state === 'done' ? colours.green : colours.yellow };
}

function stepCellText(state: Exclude<ExplainedOperation['state'], 'open'>, { colours }: Terminal): string {
  return state === 'completed' ? colours.green(state) : colours.red(state);
}

/** The text of `ciel status`: 80 columns suffice; every figure has its age, what is missing its reason. */
import { containerText, printable, printableSentence } from './escape.ts';
import { liveNotes } from './live.ts';
import { remedyFor } from './remedies.ts';
import type { OperationStatus, ServiceStatus, Status, VmStatus } from './status.ts';
import { type Cell, type Terminal, table } from './terminal.ts';
import { ageText, bytesText, coresText, durationText, percentText, rateText } from './units.ts';

/** Hosts report every few seconds: older figures are not the present. */
const STALE_MS = 20_000;
const NONE = '–';

export function renderStatus(status: Status, terminal: Terminal, now: Date): string {
  const { bold, dim } = terminal.colours;
  const blocks: string[] = [];
  const block = (title: string, body: string) => blocks.push(`${bold(title)}\n${body}`);
  if (status.services.length === 0) blocks.push('No services. They come from: ciel apply -f ciel.yaml');
  else block('Services', servicesTable(status, terminal, now));
  const replicas = status.services.flatMap((service) => service.replicas.map((replica) => ({ service, replica })));
  if (replicas.length > 0) block('Replicas', replicasTable(replicas, terminal, now));
  if (status.operations.length > 0) block('Operations in flight', operationsTable(status.operations, terminal, now));
  if (status.vms.length > 0) block('VMs, as seen from outside', vmsTable(status.vms, terminal, now));
  if (status.otherVms > 0) {
    const more = status.otherVms === 1 ? 'One more VM, not watched' : `${status.otherVms} more VMs, not watched`;
    blocks.push(dim(`${more} (ciel monitor start VM)`));
  }
  blocks.push(hostsLine(status.hosts, terminal, now));
  for (const operation of status.operations) blocks.push(...liveNotes(operation.operationId, operation, terminal));
  const missing = unavailableNotes(status);
  if (missing.length > 0) blocks.push(terminal.colours.yellow(missing.join('\n')));
  return blocks.join('\n\n');
}

/** The reasons behind every "unavailable" above: too long for a cell, too important to be cut. */
function unavailableNotes({ services, vms }: Status): string[] {
  return [
    ...services.flatMap(({ name, unavailable }) =>
      unavailable === null ? [] : [`service ${name}: its workflow is unavailable: ${printableSentence(unavailable)}`],
    ),
    ...vms.flatMap(({ vmName, unreadable, containers }) => [
      ...(unreadable === null ? [] : unreadableNote(vmName, unreadable)),
      ...containers.flatMap(({ name, containerId, unavailable }) => {
        const container = containerText(name, containerId);
        // Its VM's reason is said already.
        return unavailable === null || unavailable === unreadable
          ? []
          : [`container ${container} in ${printable(vmName)}: ${printableSentence(unavailable)}`];
      }),
    ]),
  ];
}

/** @param unreadable "GuestPaused: what was found" */
function unreadableNote(vmName: string, unreadable: string): string[] {
  const remedy = remedyFor(unreadable.split(':')[0] ?? '', { name: vmName, libvirtUri: null });
  const note = `VM ${printable(vmName)}: containers unreadable: ${printableSentence(unreadable)}`;
  return remedy === null ? [note] : [note, `  to do: ${remedy}`];
}

function servicesTable({ services }: Status, terminal: Terminal, now: Date): string {
  return table(
    [
      { head: 'SERVICE', flexible: true },
      { head: 'SERVED AT' },
      { head: 'SERVING', align: 'right' },
      { head: 'MIN–MAX', align: 'right' },
      { head: 'STATE', flexible: true },
    ],
    services.map((service) => [
      service.name,
      `${service.virtual.address}:${service.virtual.port}`,
      `${service.replicas.filter(({ state }) => state === 'serving').length} of ${service.replicas.length}`,
      `${service.min}–${service.max}`,
      stateCell(service, terminal, now),
    ]),
    terminal,
  );
}

function stateCell({ intent, replicas }: ServiceStatus, { colours }: Terminal, now: Date): Cell {
  if (intent === null) return { text: 'unavailable', colour: colours.yellow };
  if (intent.deleting) return { text: 'being deleted', colour: colours.yellow };
  if (intent.paused !== null) return { text: `paused: ${printable(intent.paused)}`, colour: colours.yellow };
  if (intent.operationInFlight !== null) return { text: intent.operationInFlight, colour: colours.cyan };
  const bad = replicas.filter(({ state }) => state === 'unhealthy' || state === 'failed').length;
  if (bad > 0) return { text: `${bad} not healthy`, colour: colours.red };
  const quietMs = intent.quietUntil === null ? 0 : Date.parse(intent.quietUntil) - now.getTime();
  return quietMs > 0 ? `cooling down for ${durationText(quietMs)}` : 'steady';
}

function replicasTable(
  replicas: readonly { service: ServiceStatus; replica: ServiceStatus['replicas'][number] }[],
  terminal: Terminal,
  now: Date,
): string {
  return table(
    [
      { head: 'SERVICE', flexible: true },
      { head: 'VM', flexible: true },
      { head: 'KIND' },
      { head: 'ADDRESS' },
      { head: 'STATE' },
      { head: 'LVS' },
      { head: 'SERVING SINCE' },
    ],
    replicas.map(({ service, replica }) => [
      service.name,
      printable(replica.vmName),
      replica.kind,
      replica.address,
      replicaState(replica.state, terminal),
      lvsCell(replica, terminal),
      replica.servingSince === null ? NONE : ageText(replica.servingSince, now),
    ]),
    terminal,
  );
}

function replicaState(state: ServiceStatus['replicas'][number]['state'], { colours }: Terminal): Cell {
  if (state === 'serving') return { text: state, colour: colours.green };
  return { text: state, colour: state === 'provisioning' || state === 'draining' ? colours.cyan : colours.red };
}

function lvsCell({ weight, healthy }: ServiceStatus['replicas'][number], { colours }: Terminal): Cell {
  if (weight === null) return NONE;
  if (healthy === false) return { text: 'dead', colour: colours.red };
  return `weight ${weight}`;
}

function operationsTable(operations: readonly OperationStatus[], terminal: Terminal, now: Date): string {
  return table(
    [{ head: 'OPERATION', flexible: true }, { head: 'BEGUN' }, { head: 'STEP' }, { head: 'DOING', flexible: true }],
    operations.map(({ operationId, openedAt, steps, summary, phase }) => {
      const current = steps.findLast(({ endedAt }) => endedAt === null) ?? steps.at(-1);
      const step =
        current === undefined ? NONE : current.state === 'started' ? current.step : `${current.step} ${current.state}`;
      const took = current === undefined ? '' : ` ${durationText(elapsedMs(current, now))}`;
      const doing =
        phase === 'needsOperator'
          ? { text: 'needs the operator', colour: terminal.colours.red }
          : printable(current?.message || summary);
      return [operationId, ageText(openedAt, now), `${step}${took}`, doing];
    }),
    terminal,
  );
}

function elapsedMs({ startedAt, endedAt }: OperationStatus['steps'][number], now: Date): number {
  return (endedAt === null ? now.getTime() : Date.parse(endedAt)) - Date.parse(startedAt);
}

/** VMs and, indented below each, its containers, in one table: so that figures stand under each other. */
function vmsTable(vms: readonly VmStatus[], terminal: Terminal, now: Date): string {
  const { colours } = terminal;
  const rows = vms.flatMap((vm): Cell[][] => {
    const stale = now.getTime() - Date.parse(vm.at) > STALE_MS;
    const head: Cell[] = [
      { text: printable(vm.vmName), colour: colours.bold },
      vmState(vm, terminal),
      vm.cpuCores === null ? NONE : `${coresText(vm.cpuCores)} (${percentText(vm.cpuCores / vm.vcpus)})`,
      bytesText(vm.memoryBytes),
      '',
      { text: ageText(vm.at, now), colour: stale ? colours.red : colours.dim },
    ];
    return [head, ...vm.containers.map((container) => containerRow(container, terminal, now))];
  });
  return table(
    [
      { head: 'VM / CONTAINER', flexible: true },
      { head: 'SERVICE', flexible: true },
      { head: 'CPU', align: 'right' },
      { head: 'MEMORY', align: 'right' },
      { head: 'I/O', align: 'right' },
      { head: 'SEEN' },
    ],
    rows,
    terminal,
  );
}

function vmState({ state, unreadable, watched }: VmStatus, { colours }: Terminal): Cell {
  if (state !== 'running') return { text: state, colour: colours.yellow };
  if (unreadable !== null) return { text: 'unreadable', colour: colours.yellow };
  return { text: watched ? 'watched' : 'not watched', colour: colours.dim };
}

function containerRow(container: VmStatus['containers'][number], { colours }: Terminal, now: Date): Cell[] {
  const { cpuCores, memoryBytes, ioBytesPerSecond, unavailable, at } = container;
  const name = `  ${containerText(container.name, container.containerId)}`;
  const missing: Cell = unavailable === null ? NONE : { text: 'unavailable', colour: colours.yellow };
  return [
    name,
    container.service ?? NONE,
    cpuCores === null ? missing : coresText(cpuCores),
    memoryBytes === null ? missing : bytesText(memoryBytes),
    ioBytesPerSecond === null ? missing : rateText(ioBytesPerSecond),
    { text: ageText(at, now), colour: now.getTime() - Date.parse(at) > STALE_MS ? colours.red : colours.dim },
  ];
}

function hostsLine(hosts: Status['hosts'], { colours }: Terminal, now: Date): string {
  const texts = hosts.map(({ name, seenAt }) => {
    if (seenAt === null) return colours.red(`${name} never seen: is its host role running?`);
    const stale = now.getTime() - Date.parse(seenAt) > 2 * STALE_MS;
    const text = `${name} seen ${ageText(seenAt, now)}`;
    return stale ? colours.red(`${text}: is its host role running?`) : text;
  });
  return `Hosts: ${texts.length === 0 ? 'none' : texts.join(', ')}`;
}

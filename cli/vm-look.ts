/** Two looks into a VM, made into rates and names: what `ciel introspect` shows, as JSON and as text. */
import { NamesOfContainers } from '../guest-disk/matching-names.ts';
import { available, mapReading, type Reading, unavailable } from '../model/reading.ts';
import type { ContainerCounters, ContainerDetails, ContainerIdentity, VmIntrospection } from '../model/usage.ts';
import { type DetailsLook, detailsLook } from './container-details.ts';
import { renderDetails } from './details-text.ts';
import { containerText, printable } from './escape.ts';
import { type NamesLook, type NamesOnDisk, namesAgeText, namesLook, namesNotes } from './names-on-disk.ts';
import { NO_RATE_YET, perSecond, sum, timeRate } from './rates.ts';
import { type Cell, type Terminal, table } from './terminal.ts';
import { bytesText, coresText, durationText, percentText, rateText } from './units.ts';
import type { FoundVm } from './vm-search.ts';

export interface ContainerLook extends DetailsLook {
  readonly id: string;
  readonly runtime: ContainerCounters['runtime'];
  /** null: not known, see `names`. */
  readonly name: string | null;
  readonly image: string | null;
  readonly labels: ContainerIdentity['labels'] | null;
  readonly addresses: ContainerIdentity['addresses'] | null;
  readonly startedAt: string | null;
  readonly cgroupPath: string;
  readonly run: string;
  readonly cpuCores: Reading<number>;
  /** By guest CPU number; null where there is no such CPU. */
  readonly perCpuCores: Reading<readonly (number | null)[]>;
  readonly memoryBytes: Reading<number>;
  readonly memoryAnonBytes: Reading<number>;
  readonly memoryFileBytes: Reading<number>;
  readonly memorySwapCacheBytes: Reading<number>;
  /** null: no limit. */
  readonly memoryLimitBytes: Reading<number | null>;
  readonly ioReadBytesPerSecond: Reading<number>;
  readonly ioWriteBytesPerSecond: Reading<number>;
  /** Since the container began, at the second look: u64, so as text. */
  readonly counters: Pick<
    ContainerCounters,
    'cpuNanoseconds' | 'cpuUserNanoseconds' | 'cpuSystemNanoseconds' | 'ioReadBytes' | 'ioWriteBytes'
  > &
    Partial<
      Pick<
        ContainerDetails,
        'cpuPeriods' | 'cpuThrottledPeriods' | 'cpuThrottledNanoseconds' | 'ioReads' | 'ioWrites' | 'pressure'
      >
    >;
}
export interface VmLook {
  readonly vm: {
    readonly uuid: string;
    readonly name: string;
    readonly pid: number;
    readonly libvirtUri: string | null;
  };
  readonly guest: {
    readonly kernelRelease: string;
    readonly nodename: string;
    readonly boot: string;
    readonly cpus: number;
    readonly ramBytes: number | null;
  };
  /** CPU of the whole QEMU process. */
  readonly cpuCores: Reading<number>;
  /** Between the two looks. */
  readonly intervalMs: number;
  readonly names: NamesLook;
  readonly containers: readonly ContainerLook[];
}

type CpuAt = Awaited<ReturnType<FoundVm['cpuNanoseconds']>>;

export function vmLook(
  vm: Pick<FoundVm, 'uuid' | 'name' | 'pid' | 'libvirtUri' | 'ramBytes'>,
  before: VmIntrospection,
  after: VmIntrospection,
  [cpuBefore, cpuAfter]: readonly [CpuAt, CpuAt],
  names: Reading<NamesOnDisk>,
): VmLook {
  const { uuid, name, pid, libvirtUri, ramBytes } = vm;
  const identities = new NamesOfContainers(after.containers, names.available ? names.value.containers : []);
  const elapsed = after.atNanoseconds - before.atNanoseconds;
  return {
    vm: { uuid, name, pid, libvirtUri },
    guest: {
      kernelRelease: after.kernelRelease,
      nodename: after.nodename,
      boot: after.guestBoot,
      cpus: after.possibleCpus,
      ramBytes,
    },
    cpuCores:
      cpuBefore === null || cpuAfter === null
        ? unavailable('ProcessGone', 'the QEMU process has ended')
        : timeRate(available(cpuBefore.cpu), available(cpuAfter.cpu), cpuAfter.at - cpuBefore.at),
    intervalMs: Number(elapsed) / 1e6,
    names: namesLook(names, Date.now()),
    containers: after.containers.map((container) => {
      const earlier =
        after.guestBoot === before.guestBoot
          ? before.containers.find(
              ({ id, cgroupPath, run }) =>
                id === container.id && cgroupPath === container.cgroupPath && run === container.run,
            )
          : undefined;
      return containerLook(earlier ?? null, container, elapsed, after.containers, identities.of(container));
    }),
  };
}

function containerLook(
  before: ContainerCounters | null,
  after: ContainerCounters,
  elapsed: bigint,
  containers: readonly ContainerCounters[],
  identity: ContainerIdentity | null,
): ContainerLook {
  const { cpuNanoseconds, cpuUserNanoseconds, cpuSystemNanoseconds, ioReadBytes, ioWriteBytes } = after;
  return {
    id: after.id,
    runtime: after.runtime,
    name: identity?.name ?? null,
    image: identity?.image ?? null,
    labels: identity?.labels ?? null,
    addresses: identity?.addresses ?? null,
    startedAt: identity?.startedAt ?? null,
    cgroupPath: after.cgroupPath,
    run: after.run,
    cpuCores: before === null ? NO_RATE_YET : timeRate(before.cpuNanoseconds, cpuNanoseconds, elapsed),
    perCpuCores: before === null ? NO_RATE_YET : perCpu(before.perCpuNanoseconds, after.perCpuNanoseconds, elapsed),
    memoryBytes: after.memoryBytes,
    memoryAnonBytes: after.memoryAnonBytes,
    memoryFileBytes: after.memoryFileBytes,
    memorySwapCacheBytes: after.memorySwapCacheBytes,
    memoryLimitBytes: after.memoryLimitBytes,
    ioReadBytesPerSecond: before === null ? NO_RATE_YET : perSecond(before.ioReadBytes, ioReadBytes, elapsed),
    ioWriteBytesPerSecond: before === null ? NO_RATE_YET : perSecond(before.ioWriteBytes, ioWriteBytes, elapsed),
    ...detailsLook(before, after, elapsed, containers),
    counters: {
      cpuNanoseconds,
      cpuUserNanoseconds,
      cpuSystemNanoseconds,
      ioReadBytes,
      ioWriteBytes,
      ...(after.details === null ? {} : countersOf(after.details)),
    },
  };
}

function countersOf(details: ContainerDetails) {
  const { cpuPeriods, cpuThrottledPeriods, cpuThrottledNanoseconds, ioReads, ioWrites, pressure } = details;
  return { cpuPeriods, cpuThrottledPeriods, cpuThrottledNanoseconds, ioReads, ioWrites, pressure };
}

function perCpu(
  before: ContainerCounters['perCpuNanoseconds'],
  after: ContainerCounters['perCpuNanoseconds'],
  elapsed: bigint,
): Reading<readonly (number | null)[]> {
  if (!before.available) return before;
  return mapReading(after, (cpus) =>
    cpus.map((value, cpu) => {
      const earlier = before.value[cpu] ?? null;
      return value === null || earlier === null ? null : Number(value - earlier) / Number(elapsed);
    }),
  );
}

/** @param isWide with a paragraph for each container: limits, devices, interfaces, pressure */
export function renderLook(look: VmLook, terminal: Terminal, isWide = false): string {
  const { vm, guest, cpuCores, containers, intervalMs, names } = look;
  const { bold, dim, yellow } = terminal.colours;
  const used = cpuCores.available ? coresText(cpuCores.value) : 'unavailable';
  const ram = guest.ramBytes === null ? '' : `, ${bytesText(guest.ramBytes)} RAM`;
  const head = [
    `${bold(printable(vm.name))}  Linux ${printable(guest.kernelRelease)} on "${printable(guest.nodename)}"`,
    `CPU ${used} of ${guest.cpus}${ram}; read from outside over ${durationText(intervalMs)}`,
  ];
  const notes = reasonsOf(look, isWide).map((note) => yellow(note));
  if (containers.length === 0) return [...head, '', 'No container runs in it.', ...notes].join('\n');
  const rows = containers.map((container): Cell[] => [
    nameOf(container),
    imageCell(container),
    figure(container.cpuCores, coresText, terminal),
    memoryCell(container, terminal),
    figure(sum(container.ioReadBytesPerSecond, container.ioWriteBytesPerSecond), rateText, terminal),
    networkCell(container, terminal),
  ]);
  const body = table(
    [
      { head: 'CONTAINER', flexible: true },
      { head: 'IMAGE', flexible: true },
      { head: 'CPU', align: 'right' },
      { head: 'MEMORY', align: 'right' },
      { head: 'DISK', align: 'right' },
      { head: 'NETWORK', align: 'right' },
    ],
    rows,
    terminal,
  );
  const nameNote = dim(names.available ? (namesAgeText(names) ?? '') : 'Without names, containers are shown by id.');
  const paragraphs = isWide
    ? containers.flatMap((container) => ['', bold(nameOf(container)), renderDetails(container, terminal)])
    : [];
  const all = [...containers.flatMap(warningsOf), ...notes];
  return [
    ...head,
    '',
    body,
    ...paragraphs,
    ...(all.length === 0 ? [] : ['', ...all]),
    ...(nameNote === '' ? [] : [nameNote]),
  ].join('\n');
}

function nameOf({ name, id }: ContainerLook): string {
  return containerText(name, id);
}

/** Both ways. */
function networkCell(container: ContainerLook, terminal: Terminal): Cell {
  const { network, networkReceivedBytesPerSecond: received, networkSentBytesPerSecond: sent } = container;
  if (network.available && network.value.isHost) return "the guest's";
  if (network.available && network.value.sharedWith.length > 0 && !received.available) return 'shared';
  if (network.available && network.value.interfaces.every(({ isLoopback }) => isLoopback)) return '–';
  return figure(sum(received, sent), rateText, terminal);
}

const WORTH_SAYING = 0.01;

/** What slows a container down that its use does not show. */
function warningsOf(container: ContainerLook): string[] {
  const { cpuThrottledRatio: throttled, cpuLimitCores: limit, oomKills } = container;
  const warnings: string[] = [];
  if (throttled.available && throttled.value >= WORTH_SAYING && limit.available && limit.value !== null)
    warnings.push(
      `${nameOf(container)}: held back ${percentText(throttled.value)} of the time by its limit of ${coresText(limit.value)} CPUs`,
    );
  if (oomKills.available && oomKills.value > 0n)
    warnings.push(`${nameOf(container)}: ${oomKills.value} killed for want of memory since it began`);
  return warnings;
}

function imageCell({ runtime, image }: ContainerLook): Cell {
  if (runtime === 'systemd') return '(service)';
  return image === null || image === '' ? '–' : printable(image);
}

function figure(reading: Reading<number>, text: (value: number) => string, { colours }: Terminal): Cell {
  return reading.available ? text(reading.value) : { text: 'unavailable', colour: colours.yellow };
}

function memoryCell({ memoryBytes, memoryLimitBytes }: ContainerLook, terminal: Terminal): Cell {
  if (!memoryBytes.available) return figure(memoryBytes, bytesText, terminal);
  const limit = memoryLimitBytes.available ? memoryLimitBytes.value : null;
  return limit === null ? bytesText(memoryBytes.value) : `${bytesText(memoryBytes.value)} of ${bytesText(limit)}`;
}

function wideFigures(look: ContainerLook): [string, Reading<unknown>][] {
  return [
    ['CPU limit', look.cpuLimitCores],
    ['CPU shares', look.cpuShares],
    ['time held back', look.cpuThrottledRatio],
    ['anonymous memory', look.memoryAnonBytes],
    ['file memory', look.memoryFileBytes],
    ['inactive file memory', look.memoryInactiveFileBytes],
    ['mapped memory', look.memoryMappedBytes],
    ['kernel memory', look.memoryKernelBytes],
    ['peak memory', look.memoryPeakBytes],
    ['memory limit', look.memoryLimitBytes],
    ['swap', look.memorySwapBytes],
    ['OOM kills', look.oomKills],
    ['tasks', look.pids],
    ['task limit', look.pidsLimit],
    ['CPU pressure', look.pressure.cpu.someRatio],
    ['CPU pressure on every task', look.pressure.cpu.fullRatio],
    ['memory pressure', look.pressure.memory.someRatio],
    ['memory pressure on every task', look.pressure.memory.fullRatio],
    ['I/O pressure', look.pressure.io.someRatio],
    ['I/O pressure on every task', look.pressure.io.fullRatio],
    ['CPU by CPU', look.perCpuCores],
    ['devices', look.ioDevices],
  ];
}

/** Each reason once, with the figures it concerns. */
function reasonsOf({ containers, names }: VmLook, isWide: boolean): string[] {
  const notes = new Map<string, Set<string>>();
  const note = (what: string, reading: Reading<unknown>) => {
    if (reading.available) return;
    const why = `${reading.reason}: ${printable(reading.message)}`;
    notes.set(why, (notes.get(why) ?? new Set()).add(what));
  };
  for (const container of containers) {
    note('CPU', container.cpuCores);
    note('memory', container.memoryBytes);
    note('disk reads', container.ioReadBytesPerSecond);
    note('disk writes', container.ioWriteBytesPerSecond);
    note('network', container.network);
    if (container.network.available)
      for (const { name, counters } of container.network.value.interfaces)
        note(`traffic of ${printable(name)}`, counters);
    if (isWide) for (const [what, reading] of wideFigures(container)) note(what, reading);
  }
  const lines = [...notes].map(([why, what]) => `${[...what].join(', ')} unavailable: ${why}`);
  return [...namesNotes(names), ...lines];
}

/** Two looks into a VM, made into rates and names: what `ciel introspect` shows, as JSON and as text. */
import { available, mapReading, type Reading, unavailable } from '../model/reading.ts';
import type { ContainerCounters, ContainerIdentity, VmIntrospection } from '../model/usage.ts';
import { printable } from './escape.ts';
import { type Cell, type Terminal, table } from './terminal.ts';
import { bytesText, coresText, durationText, rateText } from './units.ts';
import type { FoundVm } from './vm-search.ts';

export interface ContainerLook {
  readonly id: string;
  readonly runtime: ContainerCounters['runtime'];
  /** null: not known, see `names`. */
  readonly name: string | null;
  readonly image: string | null;
  readonly labels: ContainerIdentity['labels'] | null;
  readonly addresses: ContainerIdentity['addresses'] | null;
  readonly startedAt: string | null;
  readonly cgroupPath: string;
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
  readonly names: { readonly available: boolean; readonly reason: string | null; readonly message: string | null };
  readonly containers: readonly ContainerLook[];
}

type CpuAt = Awaited<ReturnType<FoundVm['cpuNanoseconds']>>;

export function vmLook(
  vm: Pick<FoundVm, 'uuid' | 'name' | 'pid' | 'libvirtUri' | 'ramBytes'>,
  before: VmIntrospection,
  after: VmIntrospection,
  [cpuBefore, cpuAfter]: readonly [CpuAt, CpuAt],
  names: Reading<readonly ContainerIdentity[]>,
): VmLook {
  const { uuid, name, pid, libvirtUri, ramBytes } = vm;
  const identities = names.available ? names.value : [];
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
        : rate(available(cpuBefore.cpu), available(cpuAfter.cpu), cpuAfter.at - cpuBefore.at, 1),
    intervalMs: Number(elapsed) / 1e6,
    names: {
      available: names.available,
      reason: names.available ? null : names.reason,
      message: names.available ? null : names.message,
    },
    containers: after.containers.map((container) => {
      const earlier =
        after.guestBoot === before.guestBoot ? before.containers.find(({ id }) => id === container.id) : undefined;
      return containerLook(
        earlier ?? null,
        container,
        elapsed,
        identities.find(({ id }) => id === container.id) ?? null,
      );
    }),
  };
}

function containerLook(
  before: ContainerCounters | null,
  after: ContainerCounters,
  elapsed: bigint,
  identity: ContainerIdentity | null,
): ContainerLook {
  const first = unavailable('NotFound', 'it began between the two looks: no rate yet');
  const between = (counter: (of: ContainerCounters) => Reading<bigint>, perUnit: number) =>
    before === null ? first : rate(counter(before), counter(after), elapsed, perUnit);
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
    cpuCores: between((of) => of.cpuNanoseconds, 1),
    perCpuCores: before === null ? first : perCpu(before.perCpuNanoseconds, after.perCpuNanoseconds, elapsed),
    memoryBytes: after.memoryBytes,
    memoryAnonBytes: after.memoryAnonBytes,
    memoryFileBytes: after.memoryFileBytes,
    memorySwapCacheBytes: after.memorySwapCacheBytes,
    memoryLimitBytes: after.memoryLimitBytes,
    ioReadBytesPerSecond: between((of) => of.ioReadBytes, NANOSECONDS),
    ioWriteBytesPerSecond: between((of) => of.ioWriteBytes, NANOSECONDS),
    counters: { cpuNanoseconds, cpuUserNanoseconds, cpuSystemNanoseconds, ioReadBytes, ioWriteBytes },
  };
}

const NANOSECONDS = 1e9;

/** @param perUnit 1 for nanoseconds of CPU time, which give cores; 1e9 for bytes, which give bytes a second */
function rate(before: Reading<bigint>, after: Reading<bigint>, elapsed: bigint, perUnit: number): Reading<number> {
  if (!before.available) return before;
  return mapReading(after, (value) => (Number(value - before.value) / Number(elapsed)) * perUnit);
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

export function renderLook(look: VmLook, terminal: Terminal): string {
  const { vm, guest, cpuCores, containers, intervalMs, names } = look;
  const { bold, dim, yellow } = terminal.colours;
  const used = cpuCores.available ? coresText(cpuCores.value) : 'unavailable';
  const ram = guest.ramBytes === null ? '' : `, ${bytesText(guest.ramBytes)} RAM`;
  const head = [
    `${bold(printable(vm.name))}  Linux ${printable(guest.kernelRelease)} on "${printable(guest.nodename)}"`,
    `CPU ${used} of ${guest.cpus}${ram}; read from outside over ${durationText(intervalMs)}`,
  ];
  const notes = reasonsOf(look).map((note) => yellow(note));
  if (containers.length === 0) return [...head, '', 'No container runs in it.', ...notes].join('\n');
  const rows = containers.map((container): Cell[] => [
    printable(container.name ?? (container.runtime === 'systemd' ? container.id : container.id.slice(0, 12))),
    imageCell(container),
    figure(container.cpuCores, coresText, terminal),
    memoryCell(container, terminal),
    figure(container.ioReadBytesPerSecond, rateText, terminal),
    figure(container.ioWriteBytesPerSecond, rateText, terminal),
  ]);
  const body = table(
    [
      { head: 'CONTAINER', flexible: true },
      { head: 'IMAGE', flexible: true },
      { head: 'CPU', align: 'right' },
      { head: 'MEMORY', align: 'right' },
      { head: 'READS', align: 'right' },
      { head: 'WRITES', align: 'right' },
    ],
    rows,
    terminal,
  );
  const nameNote = names.available ? [] : [dim('Without names, containers are shown by id.')];
  return [...head, '', body, ...(notes.length === 0 ? [] : ['', ...notes]), ...nameNote].join('\n');
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

/** Each reason once, with the figures it concerns. */
function reasonsOf({ containers, names }: VmLook): string[] {
  const notes = new Map<string, Set<string>>();
  const note = (what: string, reading: Reading<unknown>) => {
    if (reading.available) return;
    const why = `${reading.reason}: ${printable(reading.message)}`;
    notes.set(why, (notes.get(why) ?? new Set()).add(what));
  };
  for (const { cpuCores, memoryBytes, ioReadBytesPerSecond, ioWriteBytesPerSecond } of containers) {
    note('CPU', cpuCores);
    note('memory', memoryBytes);
    note('reads', ioReadBytesPerSecond);
    note('writes', ioWriteBytesPerSecond);
  }
  const lines = [...notes].map(([why, what]) => `${[...what].join(', ')} unavailable: ${why}`);
  return names.available ? lines : [`names unavailable: ${names.reason}: ${printable(names.message ?? '')}`, ...lines];
}

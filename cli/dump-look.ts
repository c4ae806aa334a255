/** What a dump shows: one instant of a VM, so counters and levels, no rates. As JSON and as text. */
import { NamesOfContainers } from '../guest-disk/matching-names.ts';
import type { Reading } from '../model/reading.ts';
import type { ContainerCounters, ContainerIdentity, VmIntrospection } from '../model/usage.ts';
import { containerText, printable } from './escape.ts';
import { type Cell, type Terminal, table } from './terminal.ts';
import { bytesText, durationText } from './units.ts';

export interface DumpLook {
  readonly dump: {
    readonly file: string;
    readonly format: string;
    /** Of the file: the guest stood still until then, or a little less. */
    readonly writtenAt: string;
  };
  readonly guest: {
    readonly kernelRelease: string;
    readonly nodename: string;
    readonly boot: string;
    readonly cpus: number;
  };
  readonly names: { readonly available: boolean; readonly reason: string | null; readonly message: string | null };
  readonly containers: readonly DumpedContainer[];
}

/** Every figure as it was, since the container began; u64 ones as text in JSON. */
export type DumpedContainer = ContainerCounters & {
  /** null: not known, see `names`. */
  readonly name: string | null;
  readonly image: string | null;
  readonly labels: ContainerIdentity['labels'] | null;
  readonly addresses: ContainerIdentity['addresses'] | null;
  readonly startedAt: string | null;
};

export function dumpLook(
  dump: DumpLook['dump'],
  { kernelRelease, nodename, guestBoot, possibleCpus, containers }: VmIntrospection,
  names: Reading<readonly ContainerIdentity[]>,
): DumpLook {
  const identities = new NamesOfContainers(containers, names.available ? names.value : []);
  return {
    dump,
    guest: { kernelRelease, nodename, boot: guestBoot, cpus: possibleCpus },
    names: {
      available: names.available,
      reason: names.available ? null : names.reason,
      message: names.available ? null : names.message,
    },
    containers: containers.map((container) => {
      const identity = identities.of(container);
      return {
        ...container,
        name: identity?.name ?? null,
        image: identity?.image ?? null,
        labels: identity?.labels ?? null,
        addresses: identity?.addresses ?? null,
        startedAt: identity?.startedAt ?? null,
      };
    }),
  };
}

export function renderDumpLook({ dump, guest, names, containers }: DumpLook, terminal: Terminal): string {
  const { bold, dim } = terminal.colours;
  const head = [
    `${bold(printable(dump.file))}  Linux ${printable(guest.kernelRelease)} on "${printable(guest.nodename)}"`,
    `${dump.format} of ${dump.writtenAt}, ${guest.cpus} CPU${guest.cpus === 1 ? '' : 's'}: one instant, so totals and no rates`,
  ];
  if (containers.length === 0) return [...head, '', 'No container ran in it.'].join('\n');
  const figure = <T>(reading: Reading<T>, text: (value: T) => string): Cell =>
    reading.available ? text(reading.value) : { text: 'unavailable', colour: terminal.colours.yellow };
  const bytes = (value: bigint): string => bytesText(Number(value));
  const body = table(
    [
      { head: 'CONTAINER', flexible: true },
      { head: 'IMAGE', flexible: true },
      { head: 'CPU TIME', align: 'right' },
      { head: 'MEMORY', align: 'right' },
      { head: 'READ', align: 'right' },
      { head: 'WRITTEN', align: 'right' },
    ],
    containers.map((container) => [
      containerText(container.name, container.id),
      container.image === null ? '–' : printable(container.image),
      figure(container.cpuNanoseconds, (value) => durationText(Number(value) / 1e6)),
      figure(container.memoryBytes, bytesText),
      figure(container.ioReadBytes, bytes),
      figure(container.ioWriteBytes, bytes),
    ]),
    terminal,
  );
  return [...head, '', body, ...(names.available ? [] : [dim('Without names, containers are shown by id.')])].join(
    '\n',
  );
}

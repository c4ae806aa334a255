/** A container's details as lines of text: `ciel introspect --wide`. */
import type { Reading } from '../model/reading.ts';
import type { DeviceLook, InterfaceLook, NetworkLook } from './container-details.ts';
import { idText, printable } from './escape.ts';
import type { Terminal } from './terminal.ts';
import { bytesText, coresText, percentText, rateText } from './units.ts';
import type { ContainerLook } from './vm-look.ts';

const LABEL_WIDTH = 12;

export function renderDetails(look: ContainerLook, { colours }: Terminal): string {
  const show = <T>(reading: Reading<T>, text: (value: T) => string): string =>
    reading.available ? text(reading.value) : colours.yellow('unavailable');
  const line = (label: string, ...parts: readonly string[]): string =>
    `  ${colours.dim(label.padEnd(LABEL_WIDTH))}${parts.join(', ')}`;
  const limit = (reading: Reading<number | null>, text: (value: number) => string): string =>
    show(reading, (value) => (value === null ? 'no limit' : `limit ${text(value)}`));
  const count = (value: number | bigint): string => String(value);
  const lines = [
    ...identityLines(look, line),
    line(
      'CPU',
      `user ${show(look.cpuUserCores, coresText)}`,
      `system ${show(look.cpuSystemCores, coresText)}`,
      limit(look.cpuLimitCores, coresText),
      `shares ${show(look.cpuShares, count)}`,
      `held back ${show(look.cpuThrottledRatio, percentText)}`,
    ),
    line(
      'by CPU',
      show(look.perCpuCores, (cores) =>
        cores.flatMap((used, cpu) => (used === null ? [] : [`${cpu}: ${coresText(used)}`])).join(', '),
      ),
    ),
    line(
      'memory',
      `anon ${show(look.memoryAnonBytes, bytesText)}`,
      `file ${show(look.memoryFileBytes, bytesText)} (inactive ${show(look.memoryInactiveFileBytes, bytesText)}, ` +
        `mapped ${show(look.memoryMappedBytes, bytesText)})`,
      `kernel ${show(look.memoryKernelBytes, bytesText)}`,
    ),
    line(
      '',
      `peak ${show(look.memoryPeakBytes, bytesText)}`,
      limit(look.memoryLimitBytes, bytesText),
      `swap ${show(look.memorySwapBytes, bytesText)}`,
      `OOM kills ${show(look.oomKills, count)}`,
    ),
    line('tasks', show(look.pids, count), limit(look.pidsLimit, count)),
    line(
      'waited for',
      ...(['cpu', 'memory', 'io'] as const).map((resource) => {
        const { someRatio, fullRatio } = look.pressure[resource];
        const name = resource === 'cpu' ? 'CPU' : resource === 'io' ? 'I/O' : resource;
        return `${name} ${show(someRatio, percentText)} (every task ${show(fullRatio, percentText)})`;
      }),
    ),
    ...(look.ioDevices.available ? look.ioDevices.value : []).map((device) =>
      line(deviceName(device), ...deviceTraffic(device, show)),
    ),
    ...(look.network.available ? networkLines(look.network.value, show, line) : []),
  ];
  return lines.join('\n');
}

/** What it is, and what the disk says of it. */
function identityLines(look: ContainerLook, line: (label: string, ...parts: readonly string[]) => string): string[] {
  const { id, runtime, cgroupPath, startedAt, labels, addresses } = look;
  const pairs = (of: Readonly<Record<string, string>>, between: string): string[] =>
    Object.entries(of).map(([name, value]) => `${printable(name)}${between}${printable(value)}`);
  const labelled = pairs(labels ?? {}, '=');
  const addressed = pairs(addresses ?? {}, ' ');
  return [
    line(runtime, printable(id)),
    line('cgroup', printable(cgroupPath)),
    ...(startedAt === null ? [] : [line('started', printable(startedAt))]),
    ...(labelled.length === 0 ? [] : [line('labels', ...labelled)]),
    ...(addressed.length === 0 ? [] : [line('addresses', ...addressed)]),
  ];
}

type Show = <T>(reading: Reading<T>, text: (value: T) => string) => string;
const perSecondText = (value: number): string => `${value < 10 ? value.toFixed(1) : Math.round(value)}/s`;

function deviceName({ name, major, minor }: DeviceLook): string {
  return name === null ? `${major}:${minor}` : printable(name);
}

function deviceTraffic(device: DeviceLook, show: Show): string[] {
  return [
    `reads ${show(device.readBytesPerSecond, rateText)} (${show(device.readsPerSecond, perSecondText)})`,
    `writes ${show(device.writeBytesPerSecond, rateText)} (${show(device.writesPerSecond, perSecondText)})`,
  ];
}

function networkLines(
  { isHost, sharedWith, interfaces }: NetworkLook,
  show: Show,
  line: (label: string, ...parts: readonly string[]) => string,
): string[] {
  if (isHost) return [line('network', "the guest's own")];
  const shared = sharedWith.map(idText);
  return [
    ...(shared.length === 0 ? [] : [line('network', `shared with ${shared.join(', ')}`)]),
    ...interfaces.map((device) => line(printable(device.name), ...interfaceTraffic(device, show))),
  ];
}

function interfaceTraffic(device: InterfaceLook, show: Show): string[] {
  const { counters, kind } = device;
  const kinds = kind === null ? [] : [printable(kind)];
  if (!counters.available) return [...kinds, `traffic ${show(counters, () => '')}`];
  const { receiveErrors, sendErrors, receiveDropped, sendDropped } = counters.value;
  const lost = [
    [receiveErrors + sendErrors, 'errors'] as const,
    [receiveDropped + sendDropped, 'dropped'] as const,
  ].filter(([number]) => number > 0n);
  return [
    ...kinds,
    `received ${show(device.receivedBytesPerSecond, rateText)} (${show(device.receivedPacketsPerSecond, perSecondText)})`,
    `sent ${show(device.sentBytesPerSecond, rateText)} (${show(device.sentPacketsPerSecond, perSecondText)})`,
    ...lost.map(([number, what]) => `${number} ${what}`),
  ];
}

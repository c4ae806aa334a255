/**
 * What `ciel introspect` shows of a container beside its CPU, memory and I/O: limits and throttling, where its memory goes,
 * devices, tasks, pressure, and the interfaces of its network, as rates between two looks.
 */
import { available, mapReading, type Reading, unavailable } from '../model/reading.ts';
import {
  type ContainerCounters,
  type ContainerDetails,
  type DeviceCounters,
  type InterfaceCounters,
  type InterfaceCounts,
  PRESSURE_RESOURCES,
  type PressureResource,
} from '../model/usage.ts';
import { NO_RATE_YET, perSecond, sum, timeRate } from './rates.ts';

export interface DetailsLook {
  readonly cpuUserCores: Reading<number>;
  readonly cpuSystemCores: Reading<number>;
  /** null: no limit. */
  readonly cpuLimitCores: Reading<number | null>;
  /** As cgroup v1 says it: 1024 is cpu.weight's 100. */
  readonly cpuShares: Reading<number>;
  /** Time in which it was kept from running by its CPU limit, by time passed; summed over CPUs. */
  readonly cpuThrottledRatio: Reading<number>;
  readonly memoryPeakBytes: Reading<number>;
  readonly memorySwapBytes: Reading<number>;
  readonly memoryInactiveFileBytes: Reading<number>;
  readonly memoryMappedBytes: Reading<number>;
  readonly memoryKernelBytes: Reading<number>;
  readonly oomKills: Reading<bigint>;
  readonly ioReadsPerSecond: Reading<number>;
  readonly ioWritesPerSecond: Reading<number>;
  readonly ioDevices: Reading<readonly DeviceLook[]>;
  readonly pids: Reading<number>;
  /** null: no limit. */
  readonly pidsLimit: Reading<number | null>;
  /** The share of the time in which some, or all, of its tasks that had work to do waited. */
  readonly pressure: Readonly<
    Record<PressureResource, { readonly someRatio: Reading<number>; readonly fullRatio: Reading<number> }>
  >;
  /** Over all interfaces but the loopback device. Unavailable where another container is shown with the same. */
  readonly networkReceivedBytesPerSecond: Reading<number>;
  readonly networkSentBytesPerSecond: Reading<number>;
  readonly network: Reading<NetworkLook>;
}

export interface DeviceLook {
  readonly major: number;
  readonly minor: number;
  readonly name: string | null;
  readonly readBytesPerSecond: Reading<number>;
  readonly writeBytesPerSecond: Reading<number>;
  readonly readsPerSecond: Reading<number>;
  readonly writesPerSecond: Reading<number>;
  readonly counters: Pick<DeviceCounters, 'readBytes' | 'writeBytes' | 'reads' | 'writes'>;
}

export interface NetworkLook {
  readonly namespace: number;
  /** The guest's own, whose interfaces are no container's and not listed. */
  readonly isHost: boolean;
  /** Other containers in the same namespace: what is shown of it is theirs, too, and to be counted once. */
  readonly sharedWith: readonly string[];
  readonly interfaces: readonly InterfaceLook[];
}
export interface InterfaceLook {
  readonly name: string;
  readonly kind: string | null;
  readonly index: number;
  readonly isLoopback: boolean;
  readonly receivedBytesPerSecond: Reading<number>;
  readonly receivedPacketsPerSecond: Reading<number>;
  readonly sentBytesPerSecond: Reading<number>;
  readonly sentPacketsPerSecond: Reading<number>;
  readonly counters: Reading<InterfaceCounts>;
}

const NOT_ASKED = unavailable('NotFound', 'it was not asked for');

/** @param containers of the second look, in their order: the first one of a network namespace shows its traffic */
export function detailsLook(
  before: ContainerCounters | null,
  after: ContainerCounters,
  elapsed: bigint,
  containers: readonly ContainerCounters[],
): DetailsLook {
  const timeOf = (counter: (of: ContainerCounters) => Reading<bigint>): Reading<number> =>
    before === null ? NO_RATE_YET : timeRate(counter(before), counter(after), elapsed);
  const now = <T>(figure: (of: ContainerDetails) => Reading<T>): Reading<T> =>
    after.details === null ? NOT_ASKED : figure(after.details);
  const counterOf =
    (figure: (of: ContainerDetails) => Reading<bigint>) =>
    (of: ContainerCounters): Reading<bigint> =>
      of.details === null ? NOT_ASKED : figure(of.details);
  const rateOf = (figure: (of: ContainerDetails) => Reading<bigint>): Reading<number> =>
    before === null ? NO_RATE_YET : perSecond(counterOf(figure)(before), counterOf(figure)(after), elapsed);
  // What one CPU adds to the mean may take away from another's: a total may fall by a hair.
  const shareOf = (figure: (of: ContainerDetails) => Reading<bigint>): Reading<number> =>
    mapReading(timeOf(counterOf(figure)), (ratio) => Math.max(0, ratio));
  const network = networkLook(before, after, elapsed, containers);
  return {
    cpuUserCores: timeOf((of) => of.cpuUserNanoseconds),
    cpuSystemCores: timeOf((of) => of.cpuSystemNanoseconds),
    cpuLimitCores: now(cpuLimit),
    cpuShares: now((of) => of.cpuShares),
    cpuThrottledRatio: timeOf(counterOf((of) => of.cpuThrottledNanoseconds)),
    memoryPeakBytes: now((of) => of.memoryPeakBytes),
    memorySwapBytes: now((of) => of.memorySwapBytes),
    memoryInactiveFileBytes: now((of) => of.memoryInactiveFileBytes),
    memoryMappedBytes: now((of) => of.memoryMappedBytes),
    memoryKernelBytes: now((of) => of.memoryKernelBytes),
    oomKills: now((of) => of.oomKills),
    ioReadsPerSecond: rateOf((of) => of.ioReads),
    ioWritesPerSecond: rateOf((of) => of.ioWrites),
    ioDevices: mapReading(
      now((of) => of.ioDevices),
      (devices) => devices.map((device) => deviceLook(earlierDevice(before, device), device, elapsed)),
    ),
    pids: now((of) => of.pids),
    pidsLimit: now((of) => of.pidsLimit),
    pressure: Object.fromEntries(
      PRESSURE_RESOURCES.map((resource) => [
        resource,
        {
          someRatio: shareOf((of) => of.pressure[resource].someNanoseconds),
          fullRatio: shareOf((of) => of.pressure[resource].fullNanoseconds),
        },
      ]),
    ) as DetailsLook['pressure'],
    networkReceivedBytesPerSecond: trafficOf(network, after.id, containers, (of) => of.receivedBytesPerSecond),
    networkSentBytesPerSecond: trafficOf(network, after.id, containers, (of) => of.sentBytesPerSecond),
    network,
  };
}

function cpuLimit({ cpuQuotaNanoseconds: quota, cpuPeriodNanoseconds: period }: ContainerDetails) {
  if (!period.available) return period;
  return mapReading(quota, (nanoseconds) => (nanoseconds === null ? null : Number(nanoseconds) / Number(period.value)));
}

function earlierDevice(before: ContainerCounters | null, { major, minor }: DeviceCounters): DeviceCounters | null {
  const devices = before?.details?.ioDevices;
  if (devices?.available !== true) return null;
  // A device that it had not used before: from nothing.
  return (
    devices.value.find((device) => device.major === major && device.minor === minor) ?? {
      major,
      minor,
      name: null,
      readBytes: 0n,
      writeBytes: 0n,
      reads: 0n,
      writes: 0n,
    }
  );
}

function deviceLook(before: DeviceCounters | null, after: DeviceCounters, elapsed: bigint): DeviceLook {
  const { major, minor, name, readBytes, writeBytes, reads, writes } = after;
  const rate = (counter: 'readBytes' | 'writeBytes' | 'reads' | 'writes'): Reading<number> =>
    before === null ? NO_RATE_YET : perSecond(available(before[counter]), available(after[counter]), elapsed);
  return {
    major,
    minor,
    name,
    readBytesPerSecond: rate('readBytes'),
    writeBytesPerSecond: rate('writeBytes'),
    readsPerSecond: rate('reads'),
    writesPerSecond: rate('writes'),
    counters: { readBytes, writeBytes, reads, writes },
  };
}

function namespaceOf(container: ContainerCounters): number | null {
  const network = container.details?.network;
  return network?.available === true ? network.value.namespace : null;
}

function networkLook(
  before: ContainerCounters | null,
  after: ContainerCounters,
  elapsed: bigint,
  containers: readonly ContainerCounters[],
): Reading<NetworkLook> {
  if (after.details === null) return NOT_ASKED;
  const earlier = before !== null && namespaceOf(before) === namespaceOf(after) ? before.details?.network : undefined;
  const known = earlier?.available === true ? earlier.value.interfaces : [];
  return mapReading(after.details.network, ({ namespace, isHost, interfaces }) => ({
    namespace,
    isHost,
    sharedWith: containers
      .filter((other) => other.id !== after.id && namespaceOf(other) === namespace)
      .map(({ id }) => id),
    interfaces: interfaces.map((device) =>
      interfaceLook(known.find(({ index }) => index === device.index) ?? null, device, elapsed),
    ),
  }));
}

function interfaceLook(before: InterfaceCounters | null, after: InterfaceCounters, elapsed: bigint): InterfaceLook {
  const { name, kind, index, isLoopback, counts } = after;
  const rate = (counter: keyof InterfaceCounts): Reading<number> => {
    if (before === null) return NO_RATE_YET;
    const of = (reading: Reading<InterfaceCounts>) => mapReading(reading, (value) => value[counter]);
    return perSecond(of(before.counts), of(counts), elapsed);
  };
  return {
    name,
    kind,
    index,
    isLoopback,
    receivedBytesPerSecond: rate('receivedBytes'),
    receivedPacketsPerSecond: rate('receivedPackets'),
    sentBytesPerSecond: rate('sentBytes'),
    sentPacketsPerSecond: rate('sentPackets'),
    counters: counts,
  };
}

/** So that nothing is counted twice: the traffic of a namespace is its first container's. */
function trafficOf(
  network: Reading<NetworkLook>,
  id: string,
  containers: readonly ContainerCounters[],
  rate: (of: InterfaceLook) => Reading<number>,
): Reading<number> {
  if (!network.available) return network;
  if (network.value.isHost)
    return unavailable('NotFound', "it uses the guest's own network: its traffic cannot be told from the guest's");
  const first = containers.find((container) => container.id === id || network.value.sharedWith.includes(container.id));
  if (first !== undefined && first.id !== id)
    return unavailable('NotFound', `it shares the network of container ${first.id}, where the traffic is shown`);
  return sum(...network.value.interfaces.filter(({ isLoopback }) => !isLoopback).map(rate));
}

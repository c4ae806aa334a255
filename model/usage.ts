/**
 * What is measured: counters of one VM and of its containers at one instant (a sample), rates between two samples
 * (usage), and ten-second means of usage (a rollup), which is what the store keeps and evidence is made from.
 *
 * Counters are u64 and stay bigint until they become rates. Instants are nanoseconds of the host's CLOCK_BOOTTIME.
 */
import type { Reading } from './reading.ts';

/** lxc is LXD's and Incus', too. systemd: a service of the guest, no container; shown when asked for, never decided on. */
export const CONTAINER_RUNTIMES = ['docker', 'podman', 'containerd', 'lxc', 'crio', 'nspawn', 'systemd'] as const;
export type ContainerRuntime = (typeof CONTAINER_RUNTIMES)[number];

/** One container as the guest's kernel accounts for it. Byte figures are plain numbers: no guest has 2^53 bytes. */
export interface ContainerCounters {
  /** The runtime's full id, taken from the cgroup's name. */
  readonly id: string;
  readonly runtime: ContainerRuntime;
  /** The path below the hierarchy's root, e.g. /system.slice/docker-<id>.scope. The guest's bytes: escape before use. */
  readonly cgroupPath: string;
  /**
   * Names what the counters count: another after the container was started anew, and after its counters went back. Within
   * one run and one boot of the guest no counter is ever lower than before.
   */
  readonly run: string;
  readonly cpuNanoseconds: Reading<bigint>;
  readonly cpuUserNanoseconds: Reading<bigint>;
  readonly cpuSystemNanoseconds: Reading<bigint>;
  /** By guest CPU number; null for CPUs that are not possible. */
  readonly perCpuNanoseconds: Reading<readonly (bigint | null)[]>;
  readonly memoryBytes: Reading<number>;
  readonly memoryAnonBytes: Reading<number>;
  readonly memoryFileBytes: Reading<number>;
  readonly memorySwapCacheBytes: Reading<number>;
  /** null: no limit. */
  readonly memoryLimitBytes: Reading<number | null>;
  readonly ioReadBytes: Reading<bigint>;
  readonly ioWriteBytes: Reading<bigint>;
  /** null: not asked for. What decisions are made from is above. */
  readonly details: ContainerDetails | null;
}

/** What else the guest's kernel keeps of a container: read for people and exporters, not for decisions. */
export interface ContainerDetails {
  /** The bandwidth limit: `quota` nanoseconds of CPU time in each `period`; null: no limit. */
  readonly cpuQuotaNanoseconds: Reading<bigint | null>;
  readonly cpuPeriodNanoseconds: Reading<bigint>;
  readonly cpuPeriods: Reading<bigint>;
  readonly cpuThrottledPeriods: Reading<bigint>;
  /** Summed over CPUs. */
  readonly cpuThrottledNanoseconds: Reading<bigint>;
  /** As cgroup v1 says it: 1024 is what cgroup v2's cpu.weight calls 100. */
  readonly cpuShares: Reading<number>;
  readonly memoryPeakBytes: Reading<number>;
  readonly memorySwapBytes: Reading<number>;
  readonly memoryInactiveFileBytes: Reading<number>;
  readonly memoryMappedBytes: Reading<number>;
  readonly memoryKernelBytes: Reading<number>;
  readonly oomKills: Reading<bigint>;
  readonly ioReads: Reading<bigint>;
  readonly ioWrites: Reading<bigint>;
  readonly ioDevices: Reading<readonly DeviceCounters[]>;
  readonly pids: Reading<number>;
  /** null: no limit. */
  readonly pidsLimit: Reading<number | null>;
  readonly pressure: Readonly<Record<PressureResource, PressureCounters>>;
  readonly network: Reading<NetworkCounters>;
}

/** One block device. Names are the guest's bytes: escape before use. */
export interface DeviceCounters {
  readonly major: number;
  readonly minor: number;
  /** null: this kernel tells its numbers only. */
  readonly name: string | null;
  readonly readBytes: bigint;
  readonly writeBytes: bigint;
  readonly reads: bigint;
  readonly writes: bigint;
}

export const PRESSURE_RESOURCES = ['cpu', 'memory', 'io'] as const;
export type PressureResource = (typeof PRESSURE_RESOURCES)[number];

/** Time in which some, or all, of the container's tasks that had work to do waited for the resource. */
export interface PressureCounters {
  readonly someNanoseconds: Reading<bigint>;
  readonly fullNanoseconds: Reading<bigint>;
}

/** The network namespace that the container's processes are in; several containers may share one. */
export interface NetworkCounters {
  /** As in `readlink /proc/PID/ns/net`. */
  readonly namespace: number;
  /** The guest's own: nobody's in particular, so its interfaces are not listed. */
  readonly isHost: boolean;
  readonly interfaces: readonly InterfaceCounters[];
}

export interface InterfaceCounters {
  readonly name: string;
  /** "veth", "macvlan", …; null: hardware, or the loopback device. */
  readonly kind: string | null;
  readonly index: number;
  readonly isLoopback: boolean;
  readonly counts: Reading<InterfaceCounts>;
}
export interface InterfaceCounts {
  readonly receivedBytes: bigint;
  readonly receivedPackets: bigint;
  readonly receiveErrors: bigint;
  readonly receiveDropped: bigint;
  readonly sentBytes: bigint;
  readonly sentPackets: bigint;
  readonly sendErrors: bigint;
  readonly sendDropped: bigint;
}

/** One look into a VM's memory. */
export interface VmIntrospection {
  /** Of the instant of the reading, CLOCK_BOOTTIME of the host. */
  readonly atNanoseconds: bigint;
  /** Names the guest's boot: it differs after every reboot or kexec, and after the guest was restored to an earlier state. */
  readonly guestBoot: string;
  readonly kernelRelease: string;
  readonly nodename: string;
  readonly possibleCpus: number;
  readonly jiffies: bigint;
  readonly containers: readonly ContainerCounters[];
}

export const VM_STATES = [
  'running',
  'blocked',
  'paused',
  'shutdown',
  'shutoff',
  'crashed',
  'suspended',
  'unknown',
] as const;
export type VmState = (typeof VM_STATES)[number];

/** One VM as libvirt accounts for it, of the bulk call that each tick makes. */
export interface VmCounters {
  readonly uuid: string;
  readonly name: string;
  readonly libvirtId: number | null;
  readonly state: VmState;
  readonly atNanoseconds: bigint;
  /** CPU time of the guest (all of the domain's cgroup or process), null when not running. */
  readonly cpuNanoseconds: bigint | null;
  readonly vcpus: number;
  readonly memoryBytes: number;
}

/** Rates of one container between two samples. cpuCores: 1 is one vCPU fully used. */
export interface ContainerUsage {
  readonly id: string;
  readonly cpuCores: Reading<number>;
  readonly memoryBytes: Reading<number>;
  readonly ioBytesPerSecond: Reading<number>;
}
export interface VmUsage {
  readonly uuid: string;
  readonly cpuCores: Reading<number>;
  readonly vcpus: number;
  readonly memoryBytes: number;
  readonly containers: Reading<readonly ContainerUsage[]>;
}

/** A ten-second mean: what the store keeps of a VM (containerId null) or of one container. */
export interface Rollup {
  readonly vmUuid: string;
  readonly containerId: string | null;
  /** Start of the ten seconds, by the wall clock, as ISO 8601. */
  readonly from: string;
  readonly samples: number;
  readonly cpuCores: number | null;
  readonly cpuCoresMax: number | null;
  readonly memoryBytes: number | null;
  readonly ioBytesPerSecond: number | null;
  /** Why a figure is null. */
  readonly unavailable: string | null;
}

export interface ContainerAround {
  readonly runtime: ContainerRuntime;
  readonly id: string;
}

/** Who a container is, from the runtime's own state on the virtual disk, read from outside. */
export interface ContainerIdentity {
  readonly id: string;
  readonly runtime: ContainerRuntime;
  /** The containers that the runtime of this one runs in (Docker in Docker, kind), outermost first. */
  readonly within: readonly ContainerAround[];
  readonly name: string;
  readonly image: string;
  readonly imageId: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly addresses: Readonly<Record<string, string>>;
  /** null: the runtime keeps this in memory only. */
  readonly running: boolean | null;
  readonly startedAt: string | null;
  /** null: no limit. */
  readonly cpuLimitCores: number | null;
  readonly memoryLimitBytes: number | null;
}

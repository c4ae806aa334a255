/**
 * What a decision is made from: statistics of two windows, before and since the rise, never raw samples. Bounded, so
 * that it can be recorded with each decision (at most 16 KiB) and replayed by another policy.
 */
import type { ContainerRuntime } from './usage.ts';

export interface WindowStatistics {
  readonly samples: number;
  readonly mean: number;
  /** Standard deviation of the samples. */
  readonly deviation: number;
  readonly p90: number;
  readonly max: number;
}
/** null: nothing was read in that window, with the reason in `unavailable`. */
export interface Windows {
  readonly before: WindowStatistics | null;
  readonly since: WindowStatistics | null;
  readonly unavailable: string | null;
}

export interface ContainerEvidence {
  readonly containerId: string;
  readonly runtime: ContainerRuntime;
  /** The runtime's name of it, from the virtual disk; null while that is not known. */
  readonly name: string | null;
  /** The service that it is a replica of by the matching rule; null: unmanaged. */
  readonly service: string | null;
  readonly cpuCores: Windows;
  readonly memoryBytes: Windows;
  readonly ioBytesPerSecond: Windows;
  readonly cpuLimitCores: number | null;
  readonly memoryLimitBytes: number | null;
}

export const CROSSING_KINDS = ['hot', 'low', 'gone', 'rebooted', 'unreadable'] as const;
export type CrossingKind = (typeof CROSSING_KINDS)[number];
export const HOT_CAUSES = ['vmCpu', 'vmMemory', 'replicaCpuLimit', 'replicaMemoryLimit'] as const;
export type HotCause = (typeof HOT_CAUSES)[number];

export const MAX_EVIDENCE_CONTAINERS = 24;

export interface VmEvidence {
  readonly vmUuid: string;
  readonly vmName: string;
  readonly host: string;
  readonly vcpus: number;
  readonly memoryBytes: number;
  /** The share of the VM's capacity above which it counts as hot. */
  readonly target: { readonly cpu: number; readonly memory: number };
  readonly cause: HotCause | null;
  /** Start of the rise by change detection, wall clock, ISO 8601; null when no step was found. */
  readonly onset: string | null;
  readonly cpuCores: Windows;
  /** The largest by change and level, at most MAX_EVIDENCE_CONTAINERS; the rest is summed in `others`. */
  readonly containers: readonly ContainerEvidence[];
  readonly others: { readonly count: number; readonly cpuCores: Windows };
  /** Why containers could not be read, null when they could. */
  readonly unreadable: string | null;
}

/** What watching a host reports of one VM. (boot, sequence) tells a second delivery from a new one. */
export interface Crossing {
  readonly kind: CrossingKind;
  readonly vmUuid: string;
  readonly vmName: string;
  readonly host: string;
  readonly boot: string;
  readonly sequence: number;
  /** Wall clock, ISO 8601. */
  readonly at: string;
  readonly evidence: VmEvidence | null;
  readonly message: string;
}

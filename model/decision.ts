/**
 * A decision: act, or refuse, with the reason. The reason is one word of a closed set, the same in logs, metrics, the
 * Temporal UI and tests, with a sentence for people beside it. Each is recorded with its whole input.
 */
import type { VmEvidence } from './evidence.ts';
import type { Replica } from './replica.ts';
import type { ServiceSpec } from './spec.ts';

export const REFUSAL_REASONS = [
  'NotHot',
  'NoEvidence', // containers could not be read
  'LoadOutsideContainers', // kernel, steal, or processes in no container explain more than the containers do
  'NoneStandsOut',
  'UnmanagedCause', // the cause is no replica of a service
  'AtMax',
  'AtMin',
  'Paused',
  'CoolingDown',
  'FailedBefore',
  'OperationInFlight',
  'Deleting',
  'TooSmall', // the size bounds do not allow a VM that could hold one replica
  'HostFull',
  'IncompleteData',
  'WouldBeHot', // without the replica, the others would be over target
  'AlreadyThere',
] as const;
export type RefusalReason = (typeof REFUSAL_REASONS)[number];

export interface Refusal {
  readonly act: false;
  readonly reason: RefusalReason;
  readonly explanation: string;
  /** Wall clock, ISO 8601: earliest time at which asking again makes sense; null when only a change helps. */
  readonly retryAt: string | null;
}

export interface Candidate {
  readonly containerId: string;
  readonly name: string | null;
  readonly service: string;
  /** By level: its share of the VM's use stands out. By change: its share of the growth since the rise. */
  readonly by: 'level' | 'change' | 'limit';
  /** Of the use or of the growth, 0..1. */
  readonly share: number;
  readonly explanation: string;
}
export interface Attribution {
  readonly act: true;
  /** Best first. */
  readonly candidates: readonly Candidate[];
  readonly explanation: string;
}

export interface VmSize {
  readonly vcpus: number;
  readonly memoryBytes: number;
  /** One line for each bound or measurement that shaped it. */
  readonly reasons: readonly string[];
}
export interface ScaleOut {
  readonly act: true;
  readonly size: VmSize;
  readonly explanation: string;
}
export interface ScaleIn {
  readonly act: true;
  readonly replicaId: string;
  readonly explanation: string;
}

/** What a monitor offers to a service. */
export interface Pressure {
  readonly evidence: VmEvidence;
  readonly candidate: Candidate;
  readonly decisionId: string;
}

/** Who asked for a scale-out or scale-in. */
export type Trigger =
  | { readonly kind: 'pressure'; readonly pressure: Pressure }
  | { readonly kind: 'operator'; readonly requestId: string }
  | { readonly kind: 'idle' };

/** What the service knows of itself when it asks for a decision. */
export interface ServiceState {
  readonly paused: boolean;
  readonly deleting: boolean;
  readonly operationInFlight: string | null;
  readonly replicas: readonly Replica[];
  /** Wall clock, ISO 8601; null: none yet. */
  readonly lastScaleOutAt: string | null;
  readonly lastScaleInAt: string | null;
  /** Scale-outs that failed since the last one that served, or since the specification changed; null: none. */
  readonly failedScaleOuts: FailedScaleOuts | null;
}

export interface FailedScaleOuts {
  readonly count: number;
  /** Of the last one: wall clock, ISO 8601, and what became of it. */
  readonly at: string;
  readonly message: string;
}

/** Means of the last ten minutes for one replica, as the store's rollups give them; null figures: missing data. */
export interface ReplicaUsage {
  readonly replicaId: string;
  readonly completeMinutes: number;
  readonly cpuCoresMean: number | null;
  readonly cpuCoresMax: number | null;
  readonly memoryBytesMax: number | null;
}

/** Everything a policy function sees, per kind of decision. `now` is wall clock ISO 8601, from workflow time. */
export type DecisionInput =
  | { readonly kind: 'attribute'; readonly evidence: VmEvidence; readonly now: string }
  | {
      readonly kind: 'scaleOut';
      readonly spec: ServiceSpec;
      readonly state: ServiceState;
      readonly trigger: Trigger;
      /** An empty VM of the template needs this much for itself. */
      readonly templateBaseMemoryBytes: number;
      readonly now: string;
    }
  | {
      readonly kind: 'scaleIn';
      readonly spec: ServiceSpec;
      readonly state: ServiceState;
      readonly trigger: Trigger;
      readonly usage: readonly ReplicaUsage[];
      readonly now: string;
    };
export type DecisionKind = DecisionInput['kind'];
export type DecisionOutcome<K extends DecisionKind> = K extends 'attribute'
  ? Attribution | Refusal
  : K extends 'scaleOut'
    ? ScaleOut | Refusal
    : ScaleIn | Refusal;

/** A decision as it is recorded and returned. */
export interface Decision<K extends DecisionKind = DecisionKind> {
  readonly decisionId: string;
  readonly policyVersion: string;
  readonly outcome: DecisionOutcome<K>;
}

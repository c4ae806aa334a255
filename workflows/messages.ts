/**
 * What happens when, and what if it fails: deterministic code without I/O. This file is the public vocabulary: every
 * signal, update and query, with its payload. Clients (the CLI, activities, Temporal's own CLI) may rely on the names.
 *
 * An update where somebody waits for yes or no; a signal where nobody does, or where the sender has only Temporal's CLI.
 * A signal cannot refuse, so what it asks in vain is noted in the workflow's current details.
 */
import { defineQuery, defineSignal, defineUpdate } from '@temporalio/workflow';
import type { PressureAnswer, Reservation } from '../model/activities.ts';
import type { Pressure, VmSize } from '../model/decision.ts';
import type { Crossing } from '../model/evidence.ts';
import type { Replica } from '../model/replica.ts';
import type { ServiceSpec } from '../model/spec.ts';

// --- service/<name> ---------------------------------------------------------------------------------------------

export interface ApplyRequest {
  readonly spec: ServiceSpec;
  /** A change of image, run, address or template rolls the made replicas over; without this it is refused. */
  readonly replace: boolean;
}
export interface ApplyAnswer {
  readonly generation: number;
  /** Empty: the service already was as the specification says. */
  readonly changes: readonly string[];
  /** The first operation, when the change needs one. */
  readonly operationId: string | null;
}
export interface ScaleRequest {
  readonly direction: 'out' | 'in';
  /**
   * How many replicas there shall be. Without it: one more or fewer, and the request id makes a repeat of the same
   * request find its first answer.
   */
  readonly target: number | null;
  readonly requestId: string;
}
export interface ScaleAnswer {
  readonly operationId: string;
}
export interface PauseRequest {
  readonly reason: string;
}
export interface RemoveAnswer {
  /** Replicas that will be removed; adopted ones stay served. */
  readonly removing: readonly string[];
}

/** Creates the service or changes it. */
export const applyUpdate = defineUpdate<ApplyAnswer, [ApplyRequest]>('apply');
/** No new operation starts; one in flight ends at a safe point. Refused when paused already. */
export const pauseUpdate = defineUpdate<void, [PauseRequest]>('pause');
export const resumeUpdate = defineUpdate<void, []>('resume');
/** Returns at acceptance with the operation's id. Refused with the reason: AtMax, AtMin, Paused, OperationInFlight, … */
export const scaleUpdate = defineUpdate<ScaleAnswer, [ScaleRequest]>('scale');
/** A monitor offers pressure; the answer is a value, not a refusal, because "no" is an ordinary answer. */
export const pressureUpdate = defineUpdate<PressureAnswer, [Pressure]>('pressure');
/** Ends the operation at its safe point, drains, removes what we made, leaves adopted replicas served, and closes. */
export const removeUpdate = defineUpdate<RemoveAnswer, []>('remove');

/** For `temporal workflow signal`: the same as the updates, without an answer. */
export const pauseSignal = defineSignal<[PauseRequest?]>('pauseService');
export const resumeSignal = defineSignal('resumeService');
export const scaleSignal = defineSignal<[ScaleRequest]>('scaleService');

/** An operation reports its end until it is acknowledged. */
export interface OperationReport {
  readonly operationId: string;
  readonly runId: string;
  readonly kind: 'scaleOut' | 'scaleIn';
  readonly outcome: 'completed' | 'undone' | 'failed';
  /** Made and there now; those in state failed could be neither finished nor removed. */
  readonly replicas: readonly Replica[];
  /** Of those replicas: what a later removal needs. */
  readonly reservations: readonly Reservation[];
  /** Ids of replicas that are gone. */
  readonly gone: readonly string[];
  readonly message: string;
}
export const operationReportSignal = defineSignal<[OperationReport]>('operationReport');

/** The director's probes: a replica was taken out of LVS because it does not answer, or was put back. */
export interface ReplicaHealth {
  readonly replicaId: string;
  readonly healthy: boolean;
  readonly message: string;
}
export const replicaHealthSignal = defineSignal<[ReplicaHealth]>('replicaHealth');

export interface ServiceDescription {
  readonly service: string;
  readonly generation: number;
  readonly spec: ServiceSpec;
  readonly paused: string | null;
  readonly deleting: boolean;
  readonly operationInFlight: string | null;
  readonly replicas: readonly Replica[];
  readonly quietUntil: string | null;
  /** The last things that happened, newest first, one sentence each with its time. */
  readonly recent: readonly { readonly at: string; readonly message: string }[];
}
export const describeServiceQuery = defineQuery<ServiceDescription>('describe');
/** The whole state as it is carried to the next run: for debugging, without promise. */
export const dumpQuery = defineQuery<unknown>('dump');

// --- monitor/<vm uuid> -------------------------------------------------------------------------------------------

export const crossingSignal = defineSignal<[Crossing]>('crossing');
/** Ends the wish that this VM be watched. */
export const stopMonitorUpdate = defineUpdate<void, []>('stop');
export interface MonitorDescription {
  readonly vmUuid: string;
  readonly vmName: string;
  readonly host: string;
  readonly quietUntil: string | null;
  readonly lastCrossing: { readonly kind: string; readonly at: string; readonly message: string } | null;
}
export const describeMonitorQuery = defineQuery<MonitorDescription>('describe');

// --- operations --------------------------------------------------------------------------------------------------

export const OPERATION_PHASES = ['running', 'undoing', 'needsOperator', 'completed', 'undone', 'failed'] as const;
export type OperationPhase = (typeof OPERATION_PHASES)[number];

export interface OperationStep {
  readonly name: string;
  readonly state: 'started' | 'done' | 'undone' | 'failed';
  readonly startedAt: string;
  readonly endedAt: string | null;
  readonly message: string;
}
export interface OperationDescription {
  readonly operationId: string;
  readonly kind: 'scaleOut' | 'scaleIn';
  readonly service: string;
  readonly phase: OperationPhase;
  readonly size: VmSize | null;
  readonly replicas: readonly Replica[];
  readonly steps: readonly OperationStep[];
  /** In phase needsOperator: what could not be undone. */
  readonly stuck: readonly string[];
}
export const describeOperationQuery = defineQuery<OperationDescription>('describe');
/** The service has taken note of the report. */
export const acknowledgeSignal = defineSignal('acknowledge');
/** Nothing to do: that it can be delivered shows the service that its operation is still there. */
export const presenceSignal = defineSignal('presence');
/** End at the next safe point: before the VM starts undo, after admission finish. */
export const endAtSafePointSignal = defineSignal<[{ readonly reason: string }]>('endAtSafePoint');
/** In phase needsOperator: try the stuck undo again, or give it up. Refused in other phases. */
export const retryUpdate = defineUpdate<void, []>('retry');
export const skipUpdate = defineUpdate<void, []>('skip');

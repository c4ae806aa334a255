/**
 * What a service knows: one plain, versioned JSON value, carried whole to the next run, and the pure steps on it that
 * need no activity. service.ts does the rest.
 */
import type { Reservation } from '../model/activities.ts';
import type { FailedScaleOuts, ServiceState as PolicyState } from '../model/decision.ts';
import type { Replica } from '../model/replica.ts';
import type { ServiceSpec } from '../model/spec.ts';
import type { OperationReport, ScaleRequest, ServiceDescription } from './messages.ts';

/** Request ids that are remembered: a repeat later than this many requests is a new request. */
const REQUESTS_KEPT = 100;
const RECENT_KEPT = 20;

export interface OperationInFlight {
  readonly operationId: string;
  readonly runId: string;
  readonly kind: 'scaleOut' | 'scaleIn';
  /** When it was last known to exist. */
  readonly seenAt: string;
}

export interface ServiceState {
  readonly version: 1;
  /** null until the first `apply`. */
  spec: ServiceSpec | null;
  generation: number;
  /** Why; null: not paused. */
  paused: string | null;
  deleting: boolean;
  replicas: Replica[];
  /** By replica id, of those that we made. */
  reservations: Record<string, Reservation>;
  operation: OperationInFlight | null;
  nextOperation: number;
  nextDecision: number;
  requests: { requestId: string; operationId: string }[];
  lastScaleOutAt: string | null;
  lastScaleInAt: string | null;
  /** Missing in what an older version carried. */
  failedScaleOuts?: FailedScaleOuts | null;
  /** Replicas of an earlier generation, which `--replace` rolls over one by one. */
  rollOver: { readonly replicaId: string; made: boolean; removed: boolean }[];
  /** What the service began by itself was refused or failed: it is not begun again until an operator changes something. */
  stalled: boolean;
  /** Until when the VM whose pressure was accepted last is not reported again. */
  quietUntil: string | null;
  recent: { at: string; message: string }[];
}

export function initialServiceState(): ServiceState {
  return {
    version: 1,
    spec: null,
    generation: 0,
    paused: null,
    deleting: false,
    replicas: [],
    reservations: {},
    operation: null,
    nextOperation: 1,
    nextDecision: 1,
    requests: [],
    lastScaleOutAt: null,
    lastScaleInAt: null,
    rollOver: [],
    stalled: false,
    quietUntil: null,
    recent: [],
  };
}

export function note(state: ServiceState, at: string, message: string): void {
  if (state.recent[0]?.message === message) return;
  state.recent = [{ at, message }, ...state.recent].slice(0, RECENT_KEPT);
}

export function rememberRequest(state: ServiceState, requestId: string, operationId: string): void {
  state.requests = [...state.requests, { requestId, operationId }].slice(-REQUESTS_KEPT);
}
export function operationOf(state: ServiceState, requestId: string): string | null {
  return state.requests.find((request) => request.requestId === requestId)?.operationId ?? null;
}

/** What an operation made or removed. Cooldowns begin when something has succeeded, not when it was wished for. */
export function applyReport(state: ServiceState, report: OperationReport, at: string): void {
  const { kind, outcome, gone, replicas, reservations, message } = report;
  const reported = new Set([...gone, ...replicas.map(({ replicaId }) => replicaId)]);
  state.replicas = [...state.replicas.filter(({ replicaId }) => !reported.has(replicaId)), ...replicas];
  for (const replicaId of gone) delete state.reservations[replicaId];
  for (const reservation of reservations) state.reservations[reservation.replicaId] = reservation;
  advanceRollOver(state, report);
  state.stalled = outcome !== 'completed';
  if (kind === 'scaleOut' && replicas.some(({ state: of }) => of === 'serving')) state.lastScaleOutAt = at;
  if (kind === 'scaleOut') noteFailure(state, report, at);
  if (kind === 'scaleIn' && gone.length > 0) state.lastScaleInAt = at;
  state.operation = null;
  note(state, at, `${report.operationId} ${outcome}: ${message}`);
}

/** A VM that came to serve has shown that it can be done; any other end of a scale-out counts. */
function noteFailure(state: ServiceState, { outcome, replicas, message }: OperationReport, at: string): void {
  if (outcome === 'completed' || replicas.some(({ state: of }) => of === 'serving')) state.failedScaleOuts = null;
  else state.failedScaleOuts = { count: (state.failedScaleOuts?.count ?? 0) + 1, at, message };
}

function advanceRollOver(state: ServiceState, { kind, outcome, gone }: OperationReport): void {
  const [first] = state.rollOver;
  if (kind === 'scaleOut' && outcome === 'completed' && first !== undefined) first.made = true;
  for (const entry of state.rollOver) entry.removed ||= gone.includes(entry.replicaId);
  state.rollOver = state.rollOver.filter(({ made, removed }) => !made || !removed);
}

export function policyState(state: ServiceState): PolicyState {
  return {
    paused: state.paused !== null,
    deleting: state.deleting,
    operationInFlight: state.operation?.operationId ?? null,
    replicas: state.replicas,
    lastScaleOutAt: state.lastScaleOutAt,
    lastScaleInAt: state.lastScaleInAt,
    failedScaleOuts: state.failedScaleOuts ?? null,
  };
}

/** Those that Ciel may remove: made by it, and known well enough to be removed. */
export function removable(state: ServiceState): Replica[] {
  return state.replicas.filter(({ kind, replicaId }) => kind === 'made' && state.reservations[replicaId] !== undefined);
}
export function working(state: ServiceState): number {
  return state.replicas.filter((replica) => replica.state !== 'failed').length;
}

export interface SpecChanges {
  readonly changes: readonly string[];
  /** Of those: what made replicas were built from, so that they have to be replaced. */
  readonly replacing: readonly string[];
  /** Whether LVS has to change. */
  readonly lvs: boolean;
}
export function changesOf(before: ServiceSpec | null, after: ServiceSpec): SpecChanges {
  if (before === null) return { changes: ['created'], replacing: [], lvs: true };
  const keys = (Object.keys(after) as (keyof ServiceSpec)[]).filter((key) => !same(before[key], after[key]));
  const replacing = keys.filter((key) => ['image', 'run', 'network', 'template'].includes(key));
  return {
    changes: keys.map((key) => `${key}: ${brief(before[key])} -> ${brief(after[key])}`),
    replacing: sameVirtualAddress(before, after) ? replacing : [...replacing, 'virtual'],
    lvs: keys.some((key) => key === 'virtual' || key === 'replicas'),
  };
}
export function sameVirtualAddress(a: ServiceSpec, b: ServiceSpec): boolean {
  const key = ({ virtual: { director, protocol, address, port } }: ServiceSpec) =>
    `${director} ${protocol} ${address}:${port}`;
  return key(a) === key(b);
}
function same(a: unknown, b: unknown): boolean {
  return canonical(a) === canonical(b);
}
/** Key order is no difference. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, part: unknown) =>
    part !== null && typeof part === 'object' && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  );
}
function brief(value: unknown): string {
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

/** How many replicas a request means; or why it is refused. The rest is the policy's. */
export function plannedCount(
  state: ServiceState,
  spec: ServiceSpec,
  { direction, target }: Pick<ScaleRequest, 'direction' | 'target'>,
): { readonly count: number } | { readonly reason: string; readonly explanation: string } {
  const have = direction === 'out' ? state.replicas.length : working(state);
  const failed = state.replicas.length - working(state);
  const refuse = (reason: string, explanation: string) => ({ reason, explanation: `${spec.name}: ${explanation}` });
  const wanted = target ?? (direction === 'out' ? have + 1 : failed > 0 ? have : have - 1);
  if (!Number.isInteger(wanted) || wanted < 0) return refuse('InvalidSpec', `${wanted} is no number of replicas`);
  if (wanted > spec.max) return refuse('AtMax', `has ${have} replicas that are not gone, and max is ${spec.max}`);
  if (wanted < spec.min) return refuse('AtMin', `has ${have} replicas, and min is ${spec.min}`);
  const count = direction === 'out' ? wanted - have : have - wanted + failed;
  if (count <= 0) return refuse('AlreadyThere', `has ${have} replicas, and ${wanted} are asked for`);
  if (direction === 'in' && removable(state).length === 0) {
    return refuse('AtMin', 'every replica is adopted, and Ciel removes only what it made');
  }
  return { count };
}

export function describeService(service: string, state: ServiceState): ServiceDescription {
  if (state.spec === null) throw new Error(`service ${service} has no specification yet`);
  return {
    service,
    generation: state.generation,
    spec: state.spec,
    paused: state.paused,
    deleting: state.deleting,
    operationInFlight: state.operation?.operationId ?? null,
    replicas: state.replicas,
    quietUntil: state.quietUntil,
    recent: state.recent,
  };
}

export function serviceDetails(service: string, state: ServiceState): string {
  const { spec } = state;
  if (spec === null) return `### Service ${service}\n\nWaits for its first specification.`;
  const mode = state.deleting ? 'being deleted' : state.paused !== null ? `paused (${state.paused})` : 'active';
  return [
    `### Service ${service}, generation ${state.generation}: ${mode}`,
    '',
    `${spec.virtual.address}:${spec.virtual.port}, ${state.replicas.length} replicas (${spec.min} to ${spec.max}), in flight: ${state.operation?.operationId ?? 'nothing'}`,
    '',
    ...state.replicas.map(({ vmName, address, kind, state: of }) => `- **${vmName}** ${address}, ${kind}, ${of}`),
    '',
    ...state.recent.map(({ at, message }) => `- ${at} ${message.replace(/[\r\n]+/g, ' ')}`),
  ].join('\n');
}

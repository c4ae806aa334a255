/**
 * Activity names and payloads: the interface between workflows and the processes that act. One interface a system
 * outside; activities/ implements them. It is kept one release back, because workflows and host processes are not
 * updated at the same instant.
 *
 * Each activity looks first, acts on the difference, and checks: running it again, or beside its own zombie, changes
 * nothing more. Those that act irrevocably re-read that their operation is still open (Superseded otherwise). Failures
 * are model/failures.ts.
 */
import type { Decision, DecisionInput, DecisionKind, Pressure, ReplicaUsage, VmSize } from './decision.ts';
import type { Replica } from './replica.ts';
import type { ServiceSpec } from './spec.ts';

/** Who asks. Rows and marks bear it. */
export interface OperationRef {
  readonly installationId: string;
  readonly service: string;
  /** The operation's workflow id. */
  readonly operationId: string;
  /** The first run id of its chain. */
  readonly runId: string;
}

/** Everything that is made for a replica, held by reservation rows until the thing is gone. */
export interface Reservation {
  readonly replicaId: string;
  readonly host: string;
  readonly vmName: string;
  readonly vmUuid: string;
  readonly mac: string;
  readonly diskFileName: string;
  readonly replicaAddress: string;
  /** Of the VM's own interface, from which it fetches the image. */
  readonly vmAddress: string;
  readonly subnet: string;
  readonly gateway: string | null;
  readonly size: VmSize;
  readonly template: string;
}

/** Queue `ciel`: policy and the store. */
export interface ControlActivities {
  /** Runs the policy on its input and records input, outcome and policy version; the id makes a repeat find the row. */
  decide<K extends DecisionKind>(request: {
    readonly workflowId: string;
    /** The first run id of its chain: a service that is made anew counts its decisions anew. */
    readonly runId: string;
    readonly number: number;
    readonly subject: string;
    readonly input: Extract<DecisionInput, { kind: K }>;
  }): Promise<Decision<K>>;
  /** Chooses host and addresses under the hosts' row locks. Final: HostFull, AddressesExhausted, TemplateMissing. */
  reserve(request: {
    readonly operation: OperationRef;
    readonly spec: ServiceSpec;
    /** Differs for every reservation of an operation, so that a second try on another host shares no name with the first. */
    readonly ordinal: number;
    readonly size: VmSize;
    /** Hosts whose process did not answer. */
    readonly avoidHosts: readonly string[];
  }): Promise<Reservation>;
  /** Gives everything back; addresses rest in quarantine first. Idempotent. */
  release(request: { readonly operation: OperationRef; readonly replicaId: string }): Promise<void>;
  /** Opens or closes the row that irrevocable steps check. */
  openOperation(request: {
    readonly operation: OperationRef;
    readonly kind: string;
    readonly summary: string;
  }): Promise<void>;
  closeOperation(request: {
    readonly operation: OperationRef;
    readonly outcome: 'completed' | 'undone' | 'failed';
    readonly message: string;
  }): Promise<void>;
  /** One row a finished or started step: what `ciel status` and `ciel explain` show beside Temporal's history. */
  recordStep(request: {
    readonly operation: OperationRef;
    readonly step: string;
    readonly state: 'started' | 'done' | 'undone' | 'failed';
    readonly message: string;
  }): Promise<void>;
  /** Writes desired LVS rows; nothing changes on the director until it converges. */
  setVirtualServer(request: { readonly service: ServiceSpec }): Promise<void>;
  setRealServer(request: {
    readonly service: string;
    readonly replicaId: string;
    readonly address: string;
    readonly port: number;
    readonly weight: number;
  }): Promise<void>;
  removeRealServer(request: { readonly service: string; readonly replicaId: string }): Promise<void>;
  /** Removes the desired rows of a service that has no replica left. */
  removeVirtualServer(request: { readonly service: string }): Promise<void>;
  /** The replicas of a service as rows: what matching containers to services and `ciel status` read. */
  saveReplicas(request: { readonly service: string; readonly replicas: readonly Replica[] }): Promise<void>;
  /** The durable wish that a VM be watched, read by watchHost within a tick or two. */
  setWatch(request: {
    readonly vmUuid: string;
    readonly vmName: string;
    readonly host: string;
    /** Wall clock, ISO 8601: a VM that is still hot then is reported again; null: report at once when hot. */
    readonly quietUntil: string | null;
  }): Promise<void>;
  clearWatch(request: { readonly vmUuid: string }): Promise<void>;
  /** Offers pressure to service/<name> by update and returns its answer. */
  offerPressure(request: {
    readonly service: string;
    readonly pressure: Pressure;
    readonly updateId: string;
  }): Promise<PressureAnswer>;
  replicaUsage(request: { readonly service: string; readonly now: string }): Promise<readonly ReplicaUsage[]>;
  /** An empty VM's own needs, by the template's manifest. */
  templateBase(request: { readonly template: string }): Promise<{ readonly baseMemoryBytes: number }>;
  /** Which host has this VM, by name or UUID, by the hosts' latest counters; null when none does. */
  locateVm(request: { readonly vm: string }): Promise<VmLocation | null>;
}

export interface VmLocation {
  readonly vmUuid: string;
  readonly vmName: string;
  readonly host: string;
  readonly vcpus: number;
  readonly memoryBytes: number;
}

export type PressureAnswer =
  | { readonly accepted: true; readonly operationId: string; readonly quietUntil: string }
  | {
      readonly accepted: false;
      readonly reason: string;
      readonly explanation: string;
      readonly retryAt: string | null;
    };

/** Queue `ciel.watch.<host>`: endless, heartbeating. */
export interface WatchActivities {
  /** Watches every VM of the host; delivers crossings to monitor/<uuid> by signal-with-start. Never returns. */
  watchHost(request: { readonly host: string }): Promise<never>;
}

export interface DiskWeight {
  readonly virtualBytes: number;
  readonly allocatedBytes: number;
}

/** Queue `ciel.host.<host>`: libvirt, disks and guest agents of one host. */
export interface HostActivities {
  cloneDisk(request: { readonly operation: OperationRef; readonly reservation: Reservation }): Promise<DiskWeight>;
  removeDisk(request: { readonly operation: OperationRef; readonly reservation: Reservation }): Promise<void>;
  /** Rewrites the template's XML, defines and starts. */
  startVm(request: { readonly operation: OperationRef; readonly reservation: Reservation }): Promise<void>;
  /** Destroys and undefines the domain if it bears our mark. Idempotent. */
  removeVm(request: { readonly operation: OperationRef; readonly reservation: Reservation }): Promise<void>;
  /** Agent answers, host name and address are set, the container runtime answers. */
  prepareGuest(request: { readonly operation: OperationRef; readonly reservation: Reservation }): Promise<void>;
  /** Final: ImageMissing. */
  installImage(request: {
    readonly operation: OperationRef;
    readonly reservation: Reservation;
    readonly image: string;
  }): Promise<{ readonly imageId: string }>;
  /** The one container, on its own address, with the virtual address on its lo. Final: ContainerExited. */
  startContainer(request: {
    readonly operation: OperationRef;
    readonly reservation: Reservation;
    readonly spec: ServiceSpec;
  }): Promise<{ readonly containerId: string }>;
  stopContainer(request: {
    readonly operation: OperationRef;
    readonly reservation: Reservation;
    readonly spec: ServiceSpec;
  }): Promise<void>;
}

/** Queue `ciel.director.<name>`: LVS, and probes from the director's segment. */
export interface DirectorActivities {
  /** Answers on its own address. Final after spec.health.withinMs: UnhealthyReplica. */
  probeReplica(request: {
    readonly spec: ServiceSpec;
    readonly address: string;
  }): Promise<{ readonly latencyMs: number }>;
  /** Brings one virtual service on the director to its desired rows, under a lock, and reads back. */
  convergeVirtualServer(request: {
    readonly director: string;
    readonly service: string;
  }): Promise<{ readonly changes: readonly string[] }>;
  /** Until no active connection is left on that real server, or the deadline. */
  waitDrained(request: {
    readonly director: string;
    readonly service: string;
    readonly address: string;
    readonly port: number;
    readonly deadlineMs: number;
  }): Promise<{ readonly activeConnections: number }>;
  /** Probes every real server; takes dead ones out at once, never the last; signals service/<name>. Never returns. */
  watchDirector(request: { readonly director: string }): Promise<never>;
}

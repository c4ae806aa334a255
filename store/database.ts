/**
 * The store: what must outlive processes and be shared between them, in PostgreSQL by pg and kysely. Temporal holds what
 * happens next; here lie the rows that constraints and locks act on (reservations), that several processes read
 * (configuration, watches, desired LVS entries, latest figures), and that are kept to explain (decisions, rollups).
 *
 * This file: the tables as types, and the connection. One file a subject beside it, each exporting functions over a
 * `Store`. The schema is in migrations/. Nothing newer than PostgreSQL 15 is used.
 *
 * Guests choose names and paths that end up here. PostgreSQL refuses NUL in text, and NUL and lone surrogates in jsonb;
 * `jsonbOf` and `textOf` replace them, so that no guest can make a row unwritable (invariant 9).
 */
import {
  CamelCasePlugin,
  type ColumnType,
  type Generated,
  Kysely,
  PostgresDialect,
  type RawBuilder,
  sql,
} from 'kysely';
import pg from 'pg';
import type { DecisionInput, DecisionKind, DecisionOutcome } from '../model/decision.ts';
import { CielFailure } from '../model/failures.ts';
import type { Replica, ReplicaState } from '../model/replica.ts';
import type { DirectorSpec, HostSpec, NetworkSpec, ServiceSpec, TemplateSpec } from '../model/spec.ts';
import type { ContainerRuntime, VmState } from '../model/usage.ts';

/** Read as Date, written as Date or ISO 8601. */
type Instant = ColumnType<Date, Date | string, Date | string>;
type OptionalInstant = ColumnType<Date | null, Date | string | null | undefined, Date | string | null>;
/** Written by `jsonbOf` only. */
type Jsonb<T> = ColumnType<T, RawBuilder<T>, RawBuilder<T>>;

/** One random UUID, made with the schema: what marks and replica ids are derived from. */
export interface InstallationTable {
  id: string;
  createdAt: Instant;
}

interface ConfigurationTable<Spec> {
  name: string;
  spec: Jsonb<Spec>;
  /** Counts the changes of this entry. */
  generation: number;
  appliedAt: Generated<Date>;
}
export type HostTable = ConfigurationTable<HostSpec>;
export type DirectorTable = ConfigurationTable<DirectorSpec>;
export type NetworkTable = ConfigurationTable<NetworkSpec>;
export type TemplateTable = ConfigurationTable<TemplateSpec>;
/** Written by the service's workflow, never by `ciel apply` itself: what the workflow refused does not appear here. */
export type ServiceTable = ConfigurationTable<ServiceSpec>;

/** The one host process of a host: refreshed while it runs. */
export interface HostProcessTable {
  host: string;
  machineId: string;
  /** Of the process's start: tells it from its successor. */
  processId: string;
  startedAt: Instant;
  seenAt: Instant;
}

/** The durable wish that a VM be watched. */
export interface WatchTable {
  vmUuid: string;
  vmName: string;
  host: string;
  quietUntil: OptionalInstant;
  createdAt: Generated<Date>;
}

/** The latest figures of every VM of every host, watched or not. */
export interface VmTable {
  vmUuid: string;
  vmName: string;
  host: string;
  state: VmState;
  vcpus: number;
  memoryBytes: number;
  /** null: no rate yet, or not running. */
  cpuCores: number | null;
  /** Why containers cannot be read; null when they can, or when nobody asked. */
  unreadable: string | null;
  guestBoot: string | null;
  kernelRelease: string | null;
  at: Instant;
}

/** The containers seen last in a watched VM. */
export interface ContainerTable {
  vmUuid: string;
  containerId: string;
  runtime: ContainerRuntime;
  cgroupPath: string;
  /** null while the virtual disk has not told it yet. */
  name: string | null;
  image: string | null;
  labels: Jsonb<Readonly<Record<string, string>>>;
  addresses: Jsonb<Readonly<Record<string, string>>>;
  /** By the matching rule; null: unmanaged. */
  service: string | null;
  replicaId: string | null;
  cpuCores: number | null;
  memoryBytes: number | null;
  ioBytesPerSecond: number | null;
  cpuLimitCores: number | null;
  memoryLimitBytes: number | null;
  unavailable: string | null;
  at: Instant;
}

/** Ten-second means; containerId '' is the VM itself, because a primary key holds no null. */
export interface RollupTable {
  vmUuid: string;
  containerId: string;
  startsAt: Instant;
  samples: number;
  cpuCores: number | null;
  cpuCoresMax: number | null;
  memoryBytes: number | null;
  ioBytesPerSecond: number | null;
  unavailable: string | null;
}

export interface DecisionTable {
  decisionId: Generated<number>;
  workflowId: string;
  runId: string;
  number: number;
  kind: DecisionKind;
  /** The VM or service that it is about. */
  subject: string;
  input: Jsonb<DecisionInput>;
  outcome: Jsonb<DecisionOutcome<DecisionKind>>;
  act: boolean;
  policyVersion: string;
  at: Generated<Date>;
}

export const OPERATION_STATES = ['open', 'completed', 'undone', 'failed'] as const;
export type OperationState = (typeof OPERATION_STATES)[number];

/** An id may come again when a service is deleted and made anew; the run id does not. */
export interface OperationTable {
  runId: string;
  operationId: string;
  service: string;
  kind: string;
  summary: string;
  state: OperationState;
  message: string;
  openedAt: Generated<Date>;
  closedAt: OptionalInstant;
}
export interface OperationStepTable {
  runId: string;
  step: string;
  state: 'started' | 'done' | 'undone' | 'failed';
  message: string;
  startedAt: Generated<Date>;
  endedAt: OptionalInstant;
}

/** Holds names and capacity until the thing is gone. */
export interface ReservationTable {
  replicaId: string;
  service: string;
  operationId: string;
  runId: string;
  host: string;
  vmName: string;
  vmUuid: string;
  mac: string;
  diskFileName: string;
  replicaAddress: string;
  vmAddress: string;
  subnet: string;
  gateway: string | null;
  vcpus: number;
  memoryBytes: number;
  sizeReasons: Jsonb<readonly string[]>;
  template: string;
  reservedAt: Generated<Date>;
}
/** What was given back once is never reserved again, not even by an attempt that comes late. */
export interface ReleasedReplicaTable {
  replicaId: string;
  releasedAt: Generated<Date>;
}
/** An address that is held (by a reservation), or rests until somebody may have it again. */
export interface AddressTable {
  address: string;
  network: string;
  replicaId: string | null;
  restsUntil: OptionalInstant;
  /** Why it rests: released, or answered to ARP though nobody holds it. */
  note: string;
}

export interface ReplicaTable {
  replicaId: string;
  service: string;
  kind: Replica['kind'];
  state: ReplicaState;
  vmName: string;
  vmUuid: string | null;
  host: string | null;
  address: string;
  vcpus: number | null;
  memoryBytes: number | null;
  servingSince: OptionalInstant;
}

/** A desired virtual service. LVS entries carry no mark: `ownedAt` is our claim, written before `ipvsadm -A`. */
export interface VirtualServerTable {
  service: string;
  director: string;
  protocol: ServiceSpec['virtual']['protocol'];
  address: string;
  port: number;
  scheduler: ServiceSpec['virtual']['scheduler'];
  adopt: boolean;
  health: Jsonb<ServiceSpec['health']>;
  wanted: boolean;
  ownedAt: OptionalInstant;
}
export interface RealServerTable {
  service: string;
  replicaId: string;
  address: string;
  port: number;
  weight: number;
  /** false: to be taken out; the row goes once it is out. */
  wanted: boolean;
  ownedAt: OptionalInstant;
  /** By the director's probes; null: not probed yet. */
  healthy: boolean | null;
  healthMessage: string;
}

export interface Database {
  installation: InstallationTable;
  host: HostTable;
  director: DirectorTable;
  network: NetworkTable;
  template: TemplateTable;
  service: ServiceTable;
  hostProcess: HostProcessTable;
  watch: WatchTable;
  vm: VmTable;
  container: ContainerTable;
  rollup: RollupTable;
  decision: DecisionTable;
  operation: OperationTable;
  operationStep: OperationStepTable;
  reservation: ReservationTable;
  releasedReplica: ReleasedReplicaTable;
  address: AddressTable;
  replica: ReplicaTable;
  virtualServer: VirtualServerTable;
  realServer: RealServerTable;
}
/** The whole store or one transaction of it. */
export type Store = Kysely<Database>;

const INT8 = 20;

/** int8 comes as text: a number where it is exact. What Ciel keeps in int8 are byte counts and row numbers. */
function parseInt8(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value)) throw new RangeError(`int8 ${text} from the store is beyond 2^53`);
  return value;
}

export interface ConnectOptions {
  readonly maxConnections?: number;
  /** For people who wait at a terminal: gives up on a server that stopped answering; default: waits. */
  readonly queryTimeoutMs?: number;
  /** Shown by pg_stat_activity. */
  readonly applicationName?: string;
}

/** Connects lazily: the first query fails when the database is down. `store.destroy()` ends it. */
export function connectStore(databaseUrl: string, options: ConnectOptions = {}): Store {
  const types: pg.CustomTypesConfig = {
    getTypeParser: (id, format) => (id === INT8 ? parseInt8 : pg.types.getTypeParser(id, format)),
  };
  const pool = new pg.Pool({
    connectionString: databaseUrl,
    max: options.maxConnections ?? 8,
    connectionTimeoutMillis: 5_000,
    ...(options.queryTimeoutMs === undefined ? {} : { query_timeout: options.queryTimeoutMs }),
    application_name: options.applicationName ?? 'ciel',
    types,
  });
  // An idle connection that the server ends (a restart) is replaced at the next use; without a listener it is fatal.
  pool.on('error', () => {});
  return new Kysely<Database>({
    dialect: new PostgresDialect({ pool }),
    plugins: [new CamelCasePlugin({ maintainNestedObjectKeys: true })],
  });
}

const UNREACHABLE_CODES = new Set(['ECONNREFUSED', 'ECONNRESET', 'ENOENT', 'EPIPE', 'ETIMEDOUT', 'EAI_AGAIN']);
/** SQLSTATE classes 08 (connection), 53 (no resources), 57P (being shut down or not up yet). */
const UNREACHABLE_STATES = /^(08|53|57P)/;

/** Whether an error says that the database cannot be reached now, rather than that a statement is wrong. */
export function isUnreachable(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const code = 'code' in error && typeof error.code === 'string' ? error.code : '';
  return (
    UNREACHABLE_CODES.has(code) ||
    UNREACHABLE_STATES.test(code) ||
    /Connection terminated|timeout exceeded when trying to connect|Client has encountered a connection error/.test(
      error.message,
    )
  );
}

/** SQLSTATE class 28 (not let in), and 3D000 (no such database): it answered, and will say the same until somebody acts. */
const REFUSED_STATES = /^(28|3D000)/;

export function isRefused(error: unknown): boolean {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' && REFUSED_STATES.test(error.code);
}

/** Runs `work` and names a database that is away: StoreUnreachable, which is retried. Other errors pass unchanged. */
export async function reaching<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!isUnreachable(error)) throw error;
    const found = error instanceof Error ? error.message : String(error);
    throw new CielFailure(
      'StoreUnreachable',
      `asked the database and could not reach it: ${found}. It is tried again; check that PostgreSQL runs and DATABASE_URL names it.`,
      { cause: error },
    );
  }
}

/** JSON with what jsonb refuses (NUL, lone surrogates, which JSON.stringify writes as escapes) replaced by U+FFFD. */
export function jsonText(value: unknown): string {
  return JSON.stringify(value).replace(/\\(?:\\|u0000|ud[89a-f][0-9a-f]{2})/g, (sequence) =>
    sequence === '\\\\' ? sequence : '\\ufffd',
  );
}
export function jsonbOf<T>(value: T): RawBuilder<T> {
  return sql<T>`${jsonText(value)}::jsonb`;
}
/** A column of bytes that a guest chose, in a statement: null when it is no number of bytes, as one row refuses all. */
export function guestBytes(column: 'memoryBytes' | 'memoryLimitBytes') {
  return sql.raw(`case when "${column}" between 0 and 1e18 then round("${column}")::bigint end`);
}
export function textOf(guestText: string): string {
  return guestText.replaceAll('\0', '\ufffd');
}

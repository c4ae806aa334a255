/**
 * The director role: brings LVS to the desired rows, one virtual server at a time under its lock, and watches from its own
 * segment that every real server answers.
 *
 * Whoever changes rows asks for convergeVirtualServer. watchDirector does the same when a probe found news, and every
 * DRIFT_INTERVAL_MS, so that a director that was restarted with an empty table serves again by itself. Taking dead real
 * servers out is safety: no operation, pause or missing workflow holds it up.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { activityInfo, cancellationSignal, heartbeat, log } from '@temporalio/activity';
import type { DirectorActivities } from '../model/activities.ts';
import { CielFailure } from '../model/failures.ts';
import type { DirectorSpec } from '../model/spec.ts';
import type { Store } from '../store/database.ts';
import {
  claimRealServer,
  claimVirtualServer,
  type DesiredRealServer,
  type DesiredVirtualServer,
  forgetRealServer,
  forgetVirtualServer,
  listVirtualServers,
  setRealServerHealth,
  withVirtualServerLock,
} from '../store/virtual-servers.ts';
import type { ReplicaHealth } from '../workflows/messages.ts';
import type { DirectorReach } from './director-reach.ts';
import { probe } from './health.ts';
import { Ipvsadm } from './ipvsadm.ts';
import { type LvsStep, type LvsTable, stepsFor } from './lvs-table.ts';

const FIRST_ANSWER_POLL_MS = 300;
const DRAIN_POLL_MS = 1_000;
const WATCH_TICK_MS = 250;
const ROWS_FRESH_MS = 1_000;
const DRIFT_INTERVAL_MS = 10_000;
/** One lost probe may be the network's; two in a row are the replica's. The same to come back. */
const PROBES_UNTIL_NEWS = 2;

/** The desired rows, as store/virtual-servers.ts keeps them. */
export interface VirtualServerRows {
  list(filter: { readonly director?: string; readonly service?: string }): Promise<readonly DesiredVirtualServer[]>;
  claimVirtualServer(service: string): Promise<void>;
  claimRealServer(service: string, replicaId: string): Promise<void>;
  forgetVirtualServer(service: string): Promise<void>;
  forgetRealServer(service: string, replicaId: string): Promise<void>;
  /** @returns whether it is news. */
  setHealth(service: string, replicaId: string, healthy: boolean, message: string): Promise<boolean>;
  withLock<T>(service: string, work: () => Promise<T>): Promise<T>;
}

export interface DirectorDependencies {
  readonly director: DirectorSpec;
  readonly reach: DirectorReach;
  readonly rows: VirtualServerRows;
  /** Signals service/<service>; may fail, and is then tried again. */
  readonly reportHealth: (service: string, health: ReplicaHealth) => Promise<void>;
}

export function storedVirtualServers(store: Store): VirtualServerRows {
  return {
    list: (filter) => listVirtualServers(store, filter),
    claimVirtualServer: (service) => claimVirtualServer(store, service),
    claimRealServer: (service, replicaId) => claimRealServer(store, service, replicaId),
    forgetVirtualServer: (service) => forgetVirtualServer(store, service),
    forgetRealServer: (service, replicaId) => forgetRealServer(store, service, replicaId),
    setHealth: (service, replicaId, healthy, message) =>
      setRealServerHealth(store, service, replicaId, healthy, message),
    withLock: (service, work) => withVirtualServerLock(store, service, work),
  };
}

export function createDirectorActivities(dependencies: DirectorDependencies): DirectorActivities {
  const { director, reach, rows, reportHealth } = dependencies;
  const ipvsadm = new Ipvsadm(reach);
  const converge = (service: string) => convergeVirtualServer(ipvsadm, rows, service);

  return {
    async probeReplica({ spec, address }) {
      const { path, timeoutMs, withinMs } = spec.health;
      const signal = cancellationSignal();
      // Counted from when it was first asked for, so that a restarted worker does not begin anew.
      const until = activityInfo().scheduledTimestampMs + withinMs;
      for (;;) {
        const result = await probe({ address, port: spec.virtual.port, path, timeoutMs }, signal);
        signal.throwIfAborted();
        if (result.healthy) return { latencyMs: result.latencyMs };
        if (Date.now() > until) {
          throw new CielFailure(
            'UnhealthyReplica',
            `asked the new replica of service "${spec.name}" for ${withinMs} ms whether it answers: ${result.message}. ` +
              'Correct its image, its "health" in ciel.yaml, or give it more time by "health.within".',
          );
        }
        await pause(FIRST_ANSWER_POLL_MS, undefined, { signal });
      }
    },

    async convergeVirtualServer({ service }) {
      return { changes: await converge(service) };
    },

    async waitDrained({ service, address, port, deadlineMs }) {
      const signal = cancellationSignal();
      const until = activityInfo().scheduledTimestampMs + deadlineMs;
      const [row] = await rows.list({ service });
      if (row === undefined) return { activeConnections: 0 };
      for (;;) {
        const activeConnections = (await ipvsadm.activeConnections(row, `${address}:${port}`)) ?? 0;
        if (activeConnections === 0 || Date.now() > until) return { activeConnections };
        await pause(DRAIN_POLL_MS, undefined, { signal });
      }
    },

    async watchDirector() {
      const watch = new DirectorWatch(director.name, ipvsadm, rows, converge, reportHealth);
      return watch.run(cancellationSignal());
    },
  };
}

/** @returns what changed in LVS, one line each. Failures: NotOurs, NoIpvs, InvalidSpec, DirectorUnreachable. */
export async function convergeVirtualServer(
  ipvsadm: Ipvsadm,
  rows: VirtualServerRows,
  service: string,
): Promise<readonly string[]> {
  return rows.withLock(service, async () => {
    const [row] = await rows.list({ service });
    if (row === undefined) return [];
    if (neverThere(row)) {
      // A director that cannot be reached need not be asked.
      await rows.forgetVirtualServer(service);
      return [];
    }
    const changes: string[] = [];
    const table = await ipvsadm.table();
    const steps = stepsFor(row, table);
    // Clients come only when the address is there, and go before what answers them does.
    if (!row.wanted && (await removeAddress(ipvsadm, row, table))) changes.push(`ip address del ${row.address}`);
    await claim(rows, service, steps);
    const lines = steps.flatMap(({ line }) => line ?? []);
    await ipvsadm.apply(lines);
    if (lines.length > 0) await requireTaken(ipvsadm, row);
    if (row.wanted) {
      const near = row.realServers[0]?.address ?? null;
      const device = await ipvsadm.addVirtualAddress(row.address, near);
      if (device !== null) changes.push(`ip address add ${row.address} dev ${device}`);
    }
    await forget(rows, service, steps);
    return [...lines, ...changes];
  });
}

/** Wanted no longer, and nothing of it was ever claimed, which comes before it is made. */
function neverThere({ wanted, ownedAt, realServers }: DesiredVirtualServer): boolean {
  return !wanted && ownedAt === null && realServers.every((real) => real.ownedAt === null);
}

async function claim(rows: VirtualServerRows, service: string, steps: readonly LvsStep[]): Promise<void> {
  for (const step of steps) {
    if (step.claimVirtualServer === true) await rows.claimVirtualServer(service);
    if (step.claimRealServer !== undefined) await rows.claimRealServer(service, step.claimRealServer);
  }
}

async function forget(rows: VirtualServerRows, service: string, steps: readonly LvsStep[]): Promise<void> {
  for (const step of steps) {
    if (step.forgetRealServer !== undefined) await rows.forgetRealServer(service, step.forgetRealServer);
    if (step.forgetVirtualServer === true) await rows.forgetVirtualServer(service);
  }
}

/** Reads back: what was to be changed must need no change any more. */
async function requireTaken(ipvsadm: Ipvsadm, row: DesiredVirtualServer): Promise<void> {
  const owned = { ...row, ownedAt: row.ownedAt ?? new Date() };
  const left = stepsFor(owned, await ipvsadm.table()).flatMap(({ line }) => line ?? []);
  if (left.length === 0) return;
  throw new CielFailure(
    'DirectorUnreachable',
    `changed virtual server ${row.address}:${row.port} on the director, ${ipvsadm.where}, and read back: it still lacks ` +
      `${left.join('; ')}. Does something else write to LVS there? It is tried again.`,
  );
}

/** The address stays while another virtual server, of whomever, has it. */
async function removeAddress(ipvsadm: Ipvsadm, row: DesiredVirtualServer, table: LvsTable): Promise<boolean> {
  const shared = [...table.keys()].some(
    (key) => key !== `-t ${row.address}:${row.port}` && key.split(' ')[1]?.startsWith(`${row.address}:`),
  );
  return row.ownedAt !== null && !shared && (await ipvsadm.removeVirtualAddress(row.address));
}

interface Watched {
  readonly service: string;
  readonly replicaId: string;
  nextProbeMs: number;
  probing: boolean;
  /** How often in a row the probe contradicted what the row says. */
  contradictions: number;
}

/** The endless part: probes, news, drift. */
class DirectorWatch {
  readonly #director: string;
  readonly #ipvsadm: Ipvsadm;
  readonly #rows: VirtualServerRows;
  readonly #converge: (service: string) => Promise<readonly string[]>;
  readonly #reportHealth: DirectorDependencies['reportHealth'];
  readonly #watched = new Map<string, Watched>();
  /** To converge, because of news or drift; kept until it succeeded. */
  readonly #dirty = new Set<string>();
  /** Not delivered yet. */
  readonly #reports = new Map<string, { readonly service: string; readonly health: ReplicaHealth }>();
  readonly #problems = new Map<string, string>();
  #servers: readonly DesiredVirtualServer[] = [];
  #rowsReadMs = Number.NEGATIVE_INFINITY;
  #driftLookedMs = Number.NEGATIVE_INFINITY;

  constructor(
    director: string,
    ipvsadm: Ipvsadm,
    rows: VirtualServerRows,
    converge: (service: string) => Promise<readonly string[]>,
    reportHealth: DirectorDependencies['reportHealth'],
  ) {
    this.#director = director;
    this.#ipvsadm = ipvsadm;
    this.#rows = rows;
    this.#converge = converge;
    this.#reportHealth = reportHealth;
  }

  async run(signal: AbortSignal): Promise<never> {
    await this.#attempt('read the desired rows', () => this.#readRows());
    // Those that were taken out before: the news may have been lost with the process that had it.
    for (const server of this.#servers) {
      for (const { replicaId, healthy, healthMessage } of server.realServers) {
        if (healthy === false) this.#report(server.service, { replicaId, healthy, message: healthMessage });
      }
    }
    for (;;) {
      signal.throwIfAborted();
      heartbeat({ probed: this.#watched.size, problems: [...this.#problems.values()] });
      const now = performance.now();
      if (now - this.#rowsReadMs > ROWS_FRESH_MS) await this.#attempt('read the desired rows', () => this.#readRows());
      this.#probeDue(now, signal);
      if (now - this.#driftLookedMs > DRIFT_INTERVAL_MS)
        await this.#attempt('look for drift', () => this.#lookForDrift());
      for (const service of [...this.#dirty]) {
        await this.#attempt(`converge ${service}`, async () => {
          await this.#converge(service);
          this.#dirty.delete(service);
        });
      }
      for (const [key, { service, health }] of [...this.#reports]) {
        await this.#attempt(`report to ${service}`, async () => {
          await this.#reportHealth(service, health);
          this.#reports.delete(key);
        });
      }
      await pause(WATCH_TICK_MS, undefined, { signal });
    }
  }

  /** A part that fails is tried again in its turn; the rest goes on. */
  async #attempt(what: string, act: () => Promise<void>): Promise<void> {
    try {
      await act();
      this.#problems.delete(what);
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      if (this.#problems.get(what) !== message) log.warn(`could not ${what}`, { director: this.#director, message });
      this.#problems.set(what, message);
    }
  }

  async #readRows(): Promise<void> {
    this.#servers = await this.#rows.list({ director: this.#director });
    this.#rowsReadMs = performance.now();
    const keys = new Set<string>();
    for (const { service, realServers } of this.#servers) {
      for (const { replicaId, wanted } of realServers) {
        const key = `${service}/${replicaId}`;
        if (!wanted) continue;
        keys.add(key);
        if (!this.#watched.has(key)) {
          this.#watched.set(key, { service, replicaId, nextProbeMs: 0, probing: false, contradictions: 0 });
        }
      }
    }
    for (const key of this.#watched.keys()) if (!keys.has(key)) this.#watched.delete(key);
  }

  #probeDue(now: number, signal: AbortSignal): void {
    for (const server of this.#servers) {
      for (const real of server.realServers) {
        const watched = this.#watched.get(`${server.service}/${real.replicaId}`);
        if (watched === undefined || watched.probing || watched.nextProbeMs > now) continue;
        watched.probing = true;
        watched.nextProbeMs = now + server.health.intervalMs;
        const { path, timeoutMs } = server.health;
        probe({ address: real.address, port: real.port, path, timeoutMs }, signal)
          .then(async (result) => {
            if (signal.aborted) return;
            const message = result.healthy ? `${real.address}:${real.port} answers` : result.message;
            await this.#judge(watched, real, result.healthy, message);
          })
          .finally(() => {
            watched.probing = false;
          });
      }
    }
  }

  async #judge(watched: Watched, real: DesiredRealServer, healthy: boolean, message: string): Promise<void> {
    // Nothing is known yet: it was admitted because it answered, so an answer confirms and is no news.
    const known = real.healthy ?? true;
    if (healthy === known) {
      watched.contradictions = 0;
      return;
    }
    watched.contradictions++;
    if (watched.contradictions < PROBES_UNTIL_NEWS) return;
    await this.#attempt(`note the health of ${real.address}:${real.port}`, async () => {
      const news = await this.#rows.setHealth(real.service, real.replicaId, healthy, message);
      watched.contradictions = 0;
      this.#rowsReadMs = Number.NEGATIVE_INFINITY;
      if (!news) return;
      this.#dirty.add(real.service);
      this.#report(real.service, { replicaId: real.replicaId, healthy, message });
    });
  }

  #report(service: string, health: ReplicaHealth): void {
    this.#reports.set(`${service}/${health.replicaId}`, { service, health });
  }

  async #lookForDrift(): Promise<void> {
    this.#driftLookedMs = performance.now();
    if (this.#servers.length === 0) return;
    const table = await this.#ipvsadm.table();
    for (const server of this.#servers) {
      // What was never brought into LVS is still its workflow's to bring there.
      if (neverThere(server) || (server.ownedAt !== null && stepsFor(server, table).length > 0)) {
        this.#dirty.add(server.service);
      }
    }
  }
}

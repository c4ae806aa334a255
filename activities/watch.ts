/**
 * Watching: one endless activity a host reads all its VMs, and reports only what crosses a threshold. A quiet VM costs no
 * event in Temporal however long it is watched.
 *
 *   every second   one bulk reading of all VMs (state, CPU) ── rates ── votes ──▶ crossings, by signal-with-start
 *                  a look into the memory of watched VMs: lively ones every second, quiet ones every fifth
 *   in between     what is wished (watches, replicas) is read from the store; ten-second rollups and the latest figures
 *                  are written to it; names of new containers are looked up on virtual disks
 *
 * A tick waits for nothing but the bulk reading, and for that only so long: a slow store, guest or Temporal costs its own
 * figures and nobody else's. What could not be read is missing, not zero.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Context } from '@temporalio/activity';
import type { Logger } from 'pino';
import type { WatchActivities } from '../model/activities.ts';
import type { Crossing } from '../model/evidence.ts';
import { unavailable } from '../model/reading.ts';
import type { ServiceSpec } from '../model/spec.ts';
import type { Rollup, VmCounters } from '../model/usage.ts';
import { readConfiguration } from '../store/configuration.ts';
import type { Store } from '../store/database.ts';
import { forgetOtherVms, saveContainers, saveVms } from '../store/observations.ts';
import { listReplicas } from '../store/replicas.ts';
import { pruneRollups, ROLLUP_SECONDS, saveRollups } from '../store/rollups.ts';
import { listWatches, takeOverWatches } from '../store/watches.ts';
import { ContainerNames } from './container-names.ts';
import type { CounterSource } from './counters.ts';
import { matchContainer, ReplicasByVm } from './matching.ts';
import { type ContainerFacts, type Instant, type Target, WatchedVm } from './watched-vm.ts';

const TICK_MS = 1_000;
const BULK_READING_WITHIN_MS = 3_000;
/** A quiet VM is introspected in one tick of so many, and all its figures are published with it. */
const QUIET_EVERY_TICKS = 5;
const READ_WATCHES_EVERY_TICKS = 2;
const READ_REPLICAS_EVERY_TICKS = 6;
const HEARTBEAT_EVERY_TICKS = 5;
const PRUNE_EVERY_TICKS = 600;
/** While the store is away, rollups of five minutes wait; older ones are missing then, and missing data never scales in. */
const MOST_WAITING_ROLLUPS = 300 / ROLLUP_SECONDS;
/** After a crossing could not be delivered. */
const DELIVER_AGAIN_MS = 2_000;

const UNKNOWN_CONTAINER: ContainerFacts = { identity: null, match: null };

/** Time as watching sees it, so that tests need not wait. */
export interface Clock {
  now(): Instant;
  /** Resolves at the next tick, or rejects when the signal aborts. */
  tick(signal: AbortSignal): Promise<void>;
}

export interface WatchDependencies {
  readonly source: CounterSource;
  readonly store: Store;
  /** Signals monitor/<vm uuid>, which it starts when it is not there. */
  readonly deliver: (crossing: Crossing) => Promise<void>;
  readonly log: Pick<Logger, 'info' | 'warn'>;
  readonly clock?: Clock;
}

/** CLOCK_BOOTTIME, which Node does not offer, in the kernel's own words: hundredths of a second are enough for ages. */
function bootMs(): number {
  return Number(readFileSync('/proc/uptime', 'utf8').split(' ')[0]) * 1_000;
}

function systemClock(): Clock {
  let nextTickMs = performance.now();
  return {
    now: () => ({ bootMs: bootMs(), wallMs: Date.now() }),
    async tick(signal) {
      // Ticks that were missed (a busy machine, a suspended one) are not made up for.
      nextTickMs = Math.max(nextTickMs + TICK_MS, performance.now());
      await sleep(nextTickMs - performance.now(), undefined, { signal });
    },
  };
}

export function createWatchActivities(host: string, dependencies: WatchDependencies): WatchActivities {
  // What was learnt of the VMs outlives an attempt: a retry in the same process goes on where the last one was.
  const watching = new HostWatch(host, dependencies);
  let previous: { readonly abort: AbortController; readonly ended: Promise<unknown> } | null = null;
  return {
    async watchHost({ host: wanted }) {
      if (wanted !== host) throw new Error(`asked to watch host "${wanted}", but this process runs host "${host}"`);
      const { cancellationSignal, heartbeat } = Context.current();
      // A timed-out attempt may run still, because its server was away: there is one loop at a time.
      previous?.abort.abort();
      await previous?.ended;
      const abort = new AbortController();
      const ended = watching.run(AbortSignal.any([abort.signal, cancellationSignal]), (details) => heartbeat(details));
      previous = { abort, ended: ended.catch(() => {}) };
      return ended;
    },
  };
}

export class HostWatch {
  readonly #host: string;
  readonly #source: CounterSource;
  readonly #store: Store;
  readonly #deliver: WatchDependencies['deliver'];
  readonly #log: WatchDependencies['log'];
  readonly #clock: Clock;
  readonly #names: ContainerNames;
  readonly #vms = new Map<string, WatchedVm>();
  #ticks = 0;

  /** By VM: quietUntil by CLOCK_BOOTTIME, so that a jump of the wall clock neither wakes nor silences anybody. */
  #watches = new Map<string, { readonly quietUntil: number | null; readonly quietUntilBootMs: number | null }>();
  /** null: not read yet. Nothing is reported before, because every container would look unmanaged. */
  #replicas: ReplicasByVm | null = null;
  #bulkReading: Promise<readonly VmCounters[]> | null = null;
  readonly #beingRead = new Set<string>();
  readonly #beingDelivered = new Set<string>();
  #deliverAgainAtMs = 0;
  readonly #sequences = new Map<string, number>();
  /** The running ten seconds; `whole`: they were watched from their start. */
  #window: { readonly from: string; readonly whole: boolean } | null = null;
  readonly #waitingRollups: (readonly Rollup[])[] = [];
  /** Background work of which one at a time runs, by name. */
  readonly #running = new Map<string, Promise<void>>();
  /** What is wrong now, by name, so that it is said once and not every second. */
  readonly #troubles = new Map<string, string>();

  constructor(host: string, { source, store, deliver, log, clock = systemClock() }: WatchDependencies) {
    this.#host = host;
    this.#source = source;
    this.#store = store;
    this.#deliver = deliver;
    this.#log = log;
    this.#clock = clock;
    this.#names = new ContainerNames(
      (vmUuid) => source.identities(vmUuid),
      (vmUuid, message) => this.#log.info({ vm: this.#vms.get(vmUuid)?.name ?? vmUuid }, message),
    );
  }

  /** Until the signal aborts: rejects then. @param heartbeat called every few ticks */
  async run(signal: AbortSignal, heartbeat: (details: unknown) => void): Promise<never> {
    for (;;) {
      if (this.#ticks % HEARTBEAT_EVERY_TICKS === 0) {
        heartbeat({ vms: this.#vms.size, watched: this.#watches.size, troubles: Object.fromEntries(this.#troubles) });
      }
      await this.tick();
      await this.#clock.tick(signal);
    }
  }

  /** One second's work. */
  async tick(): Promise<void> {
    const tick = this.#ticks++;
    if (tick === 0) await this.#readWishes(true);
    else if (tick % READ_WATCHES_EVERY_TICKS === 0) void this.#readWishes(tick % READ_REPLICAS_EVERY_TICKS === 0);

    const readings = await this.#readAll();
    const now = this.#clock.now();
    if (readings !== null) this.#observe(readings);
    this.#introspect(tick, now);
    for (const [vmUuid, { quietUntilBootMs }] of this.#watches) this.#report(vmUuid, now, quietUntilBootMs);
    this.#rollUp(now);
    if (readings !== null) this.#publish(tick, now);
    if (tick % PRUNE_EVERY_TICKS === PRUNE_EVERY_TICKS - 1) {
      void this.#inBackground('prune rollups', async () => {
        await pruneRollups(this.#store);
      });
    }
  }

  /** Everything that was begun in the background has ended. For orderly shutdown, and for tests. */
  async settled(): Promise<void> {
    await Promise.all(this.#running.values());
  }

  /** The bulk reading, or null when it fails or takes too long; a late one is waited for, not asked for again. */
  async #readAll(): Promise<readonly VmCounters[] | null> {
    const reading =
      this.#bulkReading ??
      this.#source.vms().finally(() => {
        this.#bulkReading = null;
      });
    this.#bulkReading = reading;
    const deadline = new AbortController();
    try {
      const readings = await Promise.race([
        reading,
        sleep(BULK_READING_WITHIN_MS, undefined, { signal: deadline.signal, ref: false }).then(() => {
          throw new Error(`no answer within ${BULK_READING_WITHIN_MS / 1_000} s`);
        }),
      ]);
      this.#wellAgain('hypervisor');
      return readings;
    } catch (error) {
      this.#trouble('hypervisor', `read the VMs of host ${this.#host} and got none: ${messageOf(error)}`);
      return null;
    } finally {
      deadline.abort();
    }
  }

  #observe(readings: readonly VmCounters[]): void {
    const present = new Set<string>();
    for (const counters of readings) {
      present.add(counters.uuid);
      this.#vm(counters.uuid).observe(counters);
    }
    for (const vmUuid of this.#watches.keys()) if (!present.has(vmUuid)) this.#vm(vmUuid).observeMissing();
    for (const vmUuid of this.#vms.keys()) {
      if (present.has(vmUuid) || this.#watches.has(vmUuid)) continue;
      this.#vms.delete(vmUuid);
      this.#sequences.delete(vmUuid);
      this.#names.forget(vmUuid);
    }
  }

  #vm(vmUuid: string): WatchedVm {
    const known = this.#vms.get(vmUuid);
    if (known !== undefined) return known;
    const vm = new WatchedVm(this.#host, vmUuid);
    this.#vms.set(vmUuid, vm);
    return vm;
  }

  /** Begins this tick's look into memory; those whose last look has not ended are left out. */
  #introspect(tick: number, now: Instant): void {
    const wanted: string[] = [];
    let order = 0;
    for (const vmUuid of this.#watches.keys()) {
      order += 1; // spreads quiet VMs over the ticks
      const vm = this.#vms.get(vmUuid);
      if (vm === undefined || this.#beingRead.has(vmUuid)) continue;
      // Not looked into, and said so: what was read before must not look like new.
      if (vm.stopped !== null) vm.observeContainers(vm.stopped, now, () => UNKNOWN_CONTAINER);
      if (!vm.running) continue;
      if (vm.lively || (tick + order) % QUIET_EVERY_TICKS === 0) wanted.push(vmUuid);
    }
    if (wanted.length === 0) return;
    for (const vmUuid of wanted) this.#beingRead.add(vmUuid);
    const looking = this.#look(wanted).finally(() => {
      for (const vmUuid of wanted) this.#beingRead.delete(vmUuid);
      if (this.#running.get('introspection') === looking) this.#running.delete('introspection');
    });
    this.#running.set('introspection', looking);
  }

  async #look(vmUuids: readonly string[]): Promise<void> {
    let readings: Awaited<ReturnType<CounterSource['introspect']>>;
    try {
      readings = await this.#source.introspect(vmUuids);
      this.#wellAgain('introspection');
    } catch (error) {
      this.#trouble('introspection', `looked into ${vmUuids.length} VMs and failed: ${messageOf(error)}`);
      readings = new Map();
    }
    const now = this.#clock.now();
    for (const vmUuid of vmUuids) {
      const vm = this.#vms.get(vmUuid);
      // The wish may have ended, or the VM gone, while it was read.
      if (vm === undefined || !this.#watches.has(vmUuid)) continue;
      const reading = readings.get(vmUuid) ?? unavailable('ReaderDown', 'introspection gave no answer for this VM');
      if (reading.available) this.#names.running(vmUuid, reading.value.containers, now.bootMs);
      const candidates = this.#replicas?.in(vm) ?? [];
      const services = this.#replicas?.services ?? new Map<string, ServiceSpec>();
      vm.setTarget(strictestTarget(candidates.map(({ service }) => services.get(service))));
      vm.observeContainers(reading, now, (container) => {
        const identity = this.#names.identity(vmUuid, container);
        return { identity, match: matchContainer(container, identity, candidates, services) };
      });
    }
  }

  /** Delivers what is due. Until that has succeeded it stays due, with the evidence of then. */
  #report(vmUuid: string, now: Instant, quietUntilBootMs: number | null): void {
    const vm = this.#vms.get(vmUuid);
    if (
      vm === undefined ||
      this.#replicas === null ||
      this.#beingDelivered.has(vmUuid) ||
      now.bootMs < this.#deliverAgainAtMs
    )
      return;
    const due = vm.due(now, quietUntilBootMs);
    if (due === null) return;
    // Of CLOCK_BOOTTIME, so that it grows over restarts of this process; a reboot of the host makes another boot.
    const sequence = Math.max((this.#sequences.get(vmUuid) ?? 0) + 1, Math.floor(now.bootMs));
    this.#sequences.set(vmUuid, sequence);
    const { boot, name } = vm;
    const at = new Date(now.wallMs).toISOString();
    const crossing: Crossing = { ...due, vmUuid, vmName: name, host: this.#host, boot, sequence, at };
    this.#beingDelivered.add(vmUuid);
    const delivering = this.#deliver(crossing)
      .then(() => {
        vm.reported(due.kind, now);
        this.#wellAgain('delivery');
        this.#log.info({ vm: name, crossing: due.kind, sequence }, due.message);
      })
      .catch((error: unknown) => {
        this.#deliverAgainAtMs = this.#clock.now().bootMs + DELIVER_AGAIN_MS;
        this.#trouble('delivery', `reported "${due.kind}" of VM ${name} to Temporal and failed: ${messageOf(error)}`);
      })
      .finally(() => {
        this.#beingDelivered.delete(vmUuid);
        this.#running.delete(`deliver ${vmUuid}`);
      });
    this.#running.set(`deliver ${vmUuid}`, delivering);
  }

  /** At the end of ten seconds of the wall clock, one row for each VM and container that is watched. */
  #rollUp(now: Instant): void {
    const windowMs = ROLLUP_SECONDS * 1_000;
    const from = new Date(Math.floor(now.wallMs / windowMs) * windowMs).toISOString();
    const ended = this.#window;
    if (ended?.from === from) return;
    this.#window = { from, whole: ended !== null };
    if (ended === null) return;
    const rollups: Rollup[] = [];
    for (const [vmUuid, vm] of this.#vms) {
      const taken = vm.takeRollups(ended.from);
      if (ended.whole && this.#watches.has(vmUuid)) rollups.push(...taken);
    }
    if (rollups.length > 0) this.#waitingRollups.push(rollups);
    if (this.#waitingRollups.length > MOST_WAITING_ROLLUPS) this.#waitingRollups.shift();
    void this.#inBackground('write rollups', async () => {
      for (;;) {
        const [oldest] = this.#waitingRollups;
        if (oldest === undefined) return;
        await saveRollups(this.#store, oldest);
        if (this.#waitingRollups[0] === oldest) this.#waitingRollups.shift();
      }
    });
  }

  /** The latest figures: of lively VMs every tick, of all every few. */
  #publish(tick: number, { wallMs }: Instant): void {
    const all = tick % QUIET_EVERY_TICKS === 0;
    const shown = all ? [...this.#vms.values()] : [...this.#vms.values()].filter((vm) => vm.lively);
    if (shown.length === 0 && !all) return;
    const at = new Date(wallMs).toISOString();
    void this.#inBackground('publish', async () => {
      const observations = shown.map((vm) => vm.latest(at)).filter((observation) => observation !== null);
      await saveVms(this.#store, this.#host, observations);
      if (all) {
        await forgetOtherVms(
          this.#store,
          this.#host,
          observations.map(({ vmUuid }) => vmUuid),
        );
      }
      const read = shown.filter(({ uuid }) => this.#watches.has(uuid));
      await saveContainers(
        this.#store,
        read.map(({ uuid }) => uuid),
        read.flatMap((vm) => vm.latestContainers(at)),
      );
    });
  }

  #readWishes(withReplicas: boolean): Promise<void> {
    return this.#inBackground('read what is wished', async () => {
      if (withReplicas) {
        const running = [...this.#vms.values()].filter((vm) => vm.running).map(({ uuid }) => uuid);
        if (running.length > 0) await takeOverWatches(this.#store, this.#host, running);
      }
      const watches = await listWatches(this.#store, this.#host);
      const now = this.#clock.now();
      const before = this.#watches;
      this.#watches = new Map(
        watches.map(({ vmUuid, quietUntil }) => {
          const wallMs = quietUntil?.getTime() ?? null;
          const known = before.get(vmUuid);
          if (known !== undefined && known.quietUntil === wallMs) return [vmUuid, known];
          const quietUntilBootMs = wallMs === null ? null : now.bootMs + (wallMs - now.wallMs);
          return [vmUuid, { quietUntil: wallMs, quietUntilBootMs }];
        }),
      );
      const ended = [...before.keys()].filter((vmUuid) => !this.#watches.has(vmUuid));
      for (const vmUuid of ended) {
        this.#vms.get(vmUuid)?.forgetContainers();
        this.#names.forget(vmUuid);
      }
      if (ended.length > 0) this.#source.forget(ended);
      if (!withReplicas && this.#replicas !== null) return;
      const [replicas, { services }] = await Promise.all([listReplicas(this.#store), readConfiguration(this.#store)]);
      this.#replicas = new ReplicasByVm(
        replicas,
        services.map(({ spec }) => spec),
      );
    });
  }

  /** One at a time of a name: what is still running is not begun again. Failures are said, and tried again in time. */
  #inBackground(name: string, work: () => Promise<void>): Promise<void> {
    const running = this.#running.get(name);
    if (running !== undefined) return running;
    const begun = work()
      .then(
        () => this.#wellAgain(name),
        (error: unknown) => this.#trouble(name, `${name}: the store answered ${messageOf(error)}`),
      )
      .finally(() => this.#running.delete(name));
    this.#running.set(name, begun);
    return begun;
  }

  #trouble(what: string, message: string): void {
    if (!this.#troubles.has(what)) this.#log.warn({ host: this.#host }, message);
    this.#troubles.set(what, message);
  }
  #wellAgain(what: string): void {
    if (this.#troubles.delete(what)) this.#log.info({ host: this.#host }, `${what} works again`);
  }
}

/** A VM may hold replicas of several services: it is hot for all of them when it is for the one that wants most room. */
function strictestTarget(specs: readonly (ServiceSpec | undefined)[]): Target | null {
  const targets = specs.flatMap((spec) => (spec === undefined ? [] : [spec.targets]));
  if (targets.length === 0) return null;
  return {
    cpu: Math.min(...targets.map(({ cpu }) => cpu)),
    memory: Math.min(...targets.map(({ memory }) => memory)),
  };
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/**
 * What watching knows of one VM: from its counters to rates, from rates to votes (policy/hot.ts), rollups and the next
 * crossing that is due. No I/O and no clock of its own.
 *
 * Crossings are level-triggered and re-armed:
 *
 *   hot         above its target, or a replica at its own limit, and containers were read since the rise (or cannot be).
 *               Again while that lasts, at quietUntil, and not more often than every 30 s
 *   low         was reported hot, and is far below the target now
 *   gone        not there, or shut off, in two readings in a row: once, until it is back
 *   rebooted    another libvirt id or another boot of the guest: what was learnt is forgotten
 *   unreadable  its containers could not be read for 30 s: once, until they can
 *
 * A figure that could not be read is no sample: it is no vote for hot, and none for low (invariant 5).
 */
import type { CrossingKind, HotCause, VmEvidence } from '../model/evidence.ts';
import { mapReading, type Reading, type Unavailable, unavailable } from '../model/reading.ts';
import type {
  ContainerCounters,
  ContainerIdentity,
  ContainerRuntime,
  Rollup,
  VmCounters,
  VmIntrospection,
} from '../model/usage.ts';
import { type Sample, vmEvidence } from '../policy/evidence-windows.ts';
import { type HotState, type HotVerdict, initialHotState, observeHot } from '../policy/hot.ts';
import type { ContainerObservation, VmObservation } from '../store/observations.ts';
import type { Match } from './matching.ts';
import { RollupWindow } from './rollup-window.ts';

/** Reported again while it stays hot. */
export const HOT_AGAIN_MS = 30_000;
const UNREADABLE_AFTER_MS = 30_000;
const GONE_AFTER_READINGS = 2;
/** Counters further apart say too little about any instant between them. */
const MAX_RATE_GAP_MS = 30_000;
/** Readings of containers since the rise, before a hot VM is reported: what its cause is told from. */
const READINGS_FOR_EVIDENCE = 3;
/** After this long it is reported with what there is. */
const EVIDENCE_WAIT_MS = 5_000;
/** Without its name a container belongs to no service; a look-up on the virtual disk takes seconds at the worst. */
const NAMES_WAIT_MS = 10_000;
/** Before the rise, evidence wants a minute; a quiet VM's containers are read every 5 s. */
const KEEP_SAMPLES_MS = 150_000;
const KEEP_BEFORE_ONSET_MS = 60_000;
const MOST_SAMPLES = 1_200;
/** Near its target a VM is introspected every second. */
const LIVELY_RATIO = 0.75;
/** A guest makes its cgroups: those beyond are not kept. */
const MOST_CONTAINERS = 500;

const DEFAULT_TARGET = { cpu: 0.8, memory: 0.9 } as const;
export interface Target {
  readonly cpu: number;
  readonly memory: number;
}

/** What is known of a container besides its counters. */
export interface ContainerFacts {
  readonly identity: ContainerIdentity | null;
  readonly match: Match | null;
}

/** One instant by both clocks: ages by the host's CLOCK_BOOTTIME, what people read by the wall clock. */
export interface Instant {
  readonly bootMs: number;
  readonly wallMs: number;
}

interface WatchedContainer {
  readonly id: string;
  readonly runtime: ContainerRuntime;
  counters: ContainerCounters;
  atMs: number;
  facts: ContainerFacts;
  readonly cpuCores: Sample[];
  readonly memoryBytes: Sample[];
  readonly ioBytesPerSecond: Sample[];
  unavailable: string | null;
  cpuVerdict: HotVerdict | null;
  memoryVerdict: HotVerdict | null;
  readonly rollup: RollupWindow;
}

/** Of a crossing, what the VM itself knows. */
export interface DueCrossing {
  readonly kind: CrossingKind;
  readonly evidence: VmEvidence | null;
  readonly message: string;
}

const toMs = (nanoseconds: bigint) => Number(nanoseconds) / 1e6;

/** Per second; null when either is missing, when time or counter ran backwards, or when they are too far apart. */
function rate(before: bigint | null, after: bigint | null, elapsedMs: number): number | null {
  if (before === null || after === null || after < before || !(elapsedMs > 0) || elapsedMs > MAX_RATE_GAP_MS)
    return null;
  return Number(after - before) / (elapsedMs / 1_000);
}
const orNull = <T>(reading: Reading<T>): T | null => (reading.available ? reading.value : null);

export class WatchedVm {
  readonly uuid: string;
  readonly #host: string;
  #counters: VmCounters | null = null;
  #cpuCores: number | null = null;
  #cpuSamples: Sample[] = [];
  #cpuState: HotState = initialHotState();
  #cpuVerdict: HotVerdict | null = null;
  #memoryState: HotState = initialHotState();
  #memoryVerdict: HotVerdict | null = null;
  readonly #rollup = new RollupWindow();
  readonly #containers = new Map<string, WatchedContainer>();
  #target: Target = DEFAULT_TARGET;
  #guestBoot: string | null = null;
  #kernelRelease: string | null = null;
  /** Of the last introspection; null when it could be read, or none was made yet. */
  #unreadable: string | null = null;
  #introspected = false;
  /** Instants of the last introspections that could be read. */
  #readAtMs: number[] = [];

  #missing = 0;
  #goneReported = false;
  #rebooted: string | null = null;
  #hotSinceMs: number | null = null;
  #hotReportedAtMs: number | null = null;
  #lowOwed = false;
  #unreadableSinceMs: number | null = null;
  #unreadableReported = false;

  constructor(host: string, uuid: string) {
    this.#host = host;
    this.uuid = uuid;
  }

  get name(): string {
    return this.#counters?.name ?? this.uuid;
  }
  /** Names this boot of the VM, for telling a second delivery from a new one. */
  get boot(): string {
    return `${this.#host}/${this.#counters?.libvirtId ?? '-'}/${this.#guestBoot ?? '-'}`;
  }
  get running(): boolean {
    return this.#missing === 0 && isRunning(this.#counters);
  }
  /** Why there is nothing to look into, by libvirt's state of it; null while it runs, or is not there. */
  get stopped(): Unavailable | null {
    const state = this.#counters?.state;
    if (state === 'paused' || state === 'suspended') return unavailable('GuestPaused', `it is ${state}`);
    if (state === 'shutoff' || state === 'shutdown' || state === 'crashed') {
      return unavailable('GuestOff', `it is ${state}`);
    }
    return null;
  }
  /** Hot, rising, or near a target: worth a look into its memory every second. */
  get lively(): boolean {
    if (isNear(this.#cpuVerdict) || isNear(this.#memoryVerdict)) return true;
    for (const { facts, cpuVerdict, memoryVerdict } of this.#containers.values()) {
      if (facts.match !== null && (isNear(cpuVerdict) || isNear(memoryVerdict))) return true;
    }
    return false;
  }

  setTarget(target: Target | null): void {
    this.#target = target ?? DEFAULT_TARGET;
  }

  /** The VM in this tick's bulk reading. */
  observe(counters: VmCounters): void {
    const before = this.#counters;
    const atMs = toMs(counters.atNanoseconds);
    if (before !== null && isAnotherBoot(before.libvirtId, counters.libvirtId)) {
      this.#forgetBoot(`it was started again (libvirt id ${before.libvirtId}, now ${counters.libvirtId})`);
    }
    this.#counters = counters;
    if (isRunning(counters)) {
      this.#missing = 0;
      this.#goneReported = false;
    } else if (counters.state === 'shutoff' || counters.state === 'crashed') this.#missing += 1;

    const perSecond =
      before === null || !isRunning(counters) || !isRunning(before)
        ? null
        : rate(before.cpuNanoseconds, counters.cpuNanoseconds, atMs - toMs(before.atNanoseconds));
    this.#cpuCores = perSecond === null ? null : perSecond / 1e9;
    this.#cpuVerdict = observeHot(
      this.#cpuState,
      { atMs, use: this.#cpuCores, capacity: counters.vcpus },
      this.#target.cpu,
    );
    this.#cpuState = this.#cpuVerdict.state;
    push(this.#cpuSamples, { atMs, value: this.#cpuCores }, this.#keepFromMs(atMs));
    this.#rollup.add({
      cpuCores: this.#cpuCores,
      memoryBytes: null, // what libvirt tells is what it was given, not what it uses
      ioBytesPerSecond: null,
      unavailable: this.#cpuCores === null ? (isRunning(counters) ? 'no rate yet' : counters.state) : null,
    });
    if (this.#cause() === null) this.#hotSinceMs = null;
    else this.#hotSinceMs ??= atMs;
  }

  /** The bulk reading had no such VM. */
  observeMissing(): void {
    this.#missing += 1;
    this.#cpuCores = null;
    // No verdict stands on what is not there.
    this.#cpuVerdict = null;
    this.#rollup.add({ cpuCores: null, memoryBytes: null, ioBytesPerSecond: null, unavailable: 'the VM is not there' });
  }

  /** One look into its memory. @param factsOf what is known of a container */
  observeContainers(
    reading: Reading<VmIntrospection>,
    now: Instant,
    factsOf: (container: ContainerCounters) => ContainerFacts,
  ): void {
    this.#introspected = true;
    if (!reading.available) {
      this.#unreadable = `${reading.reason}: ${reading.message}`;
      this.#unreadableSinceMs ??= now.bootMs;
      this.#memoryVerdict = null;
      // They ended with the VM.
      if (reading.reason === 'GuestOff') this.#containers.clear();
      for (const container of this.#containers.values()) {
        this.#observeContainer(container, null, now.bootMs, `${reading.reason}: ${reading.message}`);
      }
      return;
    }
    const { value } = reading;
    const atMs = toMs(value.atNanoseconds);
    if (this.#guestBoot !== null && this.#guestBoot !== value.guestBoot) {
      this.#forgetBoot('its guest booted again');
    }
    this.#guestBoot = value.guestBoot;
    this.#kernelRelease = value.kernelRelease;
    this.#unreadable = null;
    this.#unreadableSinceMs = null;
    this.#unreadableReported = false;
    this.#readAtMs = [...this.#readAtMs, atMs].slice(-READINGS_FOR_EVIDENCE);

    const seen = new Set<string>();
    for (const counters of outermostById(value.containers.slice(0, MOST_CONTAINERS))) {
      seen.add(counters.id);
      const facts = factsOf(counters);
      const known = this.#containers.get(counters.id);
      if (known === undefined || known.counters.cgroupPath !== counters.cgroupPath) {
        this.#containers.set(counters.id, newContainer(counters, atMs, facts));
        continue;
      }
      known.facts = facts;
      this.#observeContainer(known, counters, atMs, null);
    }
    for (const id of this.#containers.keys()) if (!seen.has(id)) this.#containers.delete(id);
    this.#observeMemory(value.containers, atMs);
  }

  /** What containers hold and cannot give back; page cache can be. */
  #observeMemory(containers: readonly ContainerCounters[], atMs: number): void {
    let use: number | null = 0;
    for (const { memoryAnonBytes } of containers) {
      const anon = orNull(memoryAnonBytes);
      use = use === null || anon === null ? null : use + anon;
    }
    const capacity = this.#counters?.memoryBytes ?? 0;
    this.#memoryVerdict = observeHot(this.#memoryState, { atMs, use, capacity }, this.#target.memory);
    this.#memoryState = this.#memoryVerdict.state;
  }

  #observeContainer(
    container: WatchedContainer,
    counters: ContainerCounters | null,
    atMs: number,
    unavailable: string | null,
  ): void {
    const elapsedMs = atMs - container.atMs;
    // Of another run nothing is known yet but where it stands.
    const before = counters?.run === container.counters.run ? container.counters : null;
    const since = (read: (of: ContainerCounters) => Reading<bigint>) =>
      counters === null || before === null ? null : rate(orNull(read(before)), orNull(read(counters)), elapsedMs);
    const cpu = since((of) => of.cpuNanoseconds);
    const cpuCores = cpu === null ? null : cpu / 1e9;
    const reads = since((of) => of.ioReadBytes);
    const writes = since((of) => of.ioWriteBytes);
    const ioBytesPerSecond = reads === null || writes === null ? null : reads + writes;
    const memoryBytes = counters === null ? null : orNull(counters.memoryBytes);
    const anonBytes = counters === null ? null : orNull(counters.memoryAnonBytes);
    container.unavailable =
      unavailable ?? (before === null ? 'no rate yet: it was started anew' : whyMissing(counters));

    const from = this.#keepFromMs(atMs);
    push(container.cpuCores, { atMs, value: cpuCores }, from);
    push(container.memoryBytes, { atMs, value: memoryBytes }, from);
    push(container.ioBytesPerSecond, { atMs, value: ioBytesPerSecond }, from);
    container.rollup.add({ cpuCores, memoryBytes, ioBytesPerSecond, unavailable: container.unavailable });

    const { cpuLimitCores, memoryLimitBytes } = limitsOf(container);
    container.cpuVerdict =
      cpuLimitCores === null
        ? null
        : observeHot(
            container.cpuVerdict?.state ?? initialHotState(),
            { atMs, use: cpuCores, capacity: cpuLimitCores },
            this.#target.cpu,
          );
    container.memoryVerdict =
      memoryLimitBytes === null
        ? null
        : observeHot(
            container.memoryVerdict?.state ?? initialHotState(),
            { atMs, use: anonBytes, capacity: memoryLimitBytes },
            this.#target.memory,
          );
    if (counters !== null) {
      container.counters = counters;
      container.atMs = atMs;
    }
  }

  /** What is to be reported now, if anything. The caller says with `reported` that it was delivered. */
  due(now: Instant, quietUntilBootMs: number | null): DueCrossing | null {
    if (this.#missing >= GONE_AFTER_READINGS) {
      if (this.#goneReported) return null;
      const found = this.#counters === null || isRunning(this.#counters) ? 'no such VM' : `it ${this.#counters.state}`;
      return { kind: 'gone', evidence: null, message: `looked for the VM on host ${this.#host} and found ${found}` };
    }
    if (this.#missing > 0) return null;
    if (this.#rebooted !== null) return { kind: 'rebooted', evidence: null, message: this.#rebooted };

    const cause = this.#cause();
    if (cause !== null && this.#mayReportHot(now, quietUntilBootMs, cause)) {
      return { kind: 'hot', evidence: this.#evidence(cause, now), message: this.#hotMessage(cause) };
    }
    if (
      this.#unreadable !== null &&
      this.#unreadableSinceMs !== null &&
      !this.#unreadableReported &&
      now.bootMs - this.#unreadableSinceMs >= UNREADABLE_AFTER_MS
    ) {
      return { kind: 'unreadable', evidence: null, message: `its containers cannot be read: ${this.#unreadable}` };
    }
    if (this.#lowOwed && cause === null && this.#cpuVerdict?.low === true) {
      return { kind: 'low', evidence: null, message: `its CPU is far below its target, ${this.#cpuText()}` };
    }
    return null;
  }

  /** Delivered: it is not due again until its level is re-armed. */
  reported(kind: CrossingKind, now: Instant): void {
    switch (kind) {
      case 'hot':
        this.#hotReportedAtMs = now.bootMs;
        this.#lowOwed = true;
        break;
      case 'low':
        this.#lowOwed = false;
        break;
      case 'gone':
        this.#goneReported = true;
        break;
      case 'rebooted':
        this.#rebooted = null;
        break;
      case 'unreadable':
        this.#unreadableReported = true;
        break;
    }
  }

  #mayReportHot(now: Instant, quietUntilBootMs: number | null, cause: HotCause): boolean {
    if (quietUntilBootMs !== null && now.bootMs < quietUntilBootMs) return false;
    if (this.#hotReportedAtMs !== null && now.bootMs - this.#hotReportedAtMs < HOT_AGAIN_MS) return false;
    if (this.#introspected && this.#unreadable !== null) return true;
    const waitedMs = now.bootMs - (this.#hotSinceMs ?? now.bootMs);
    const named = [...this.#containers.values()].every(
      ({ runtime, facts }) => runtime === 'systemd' || facts.identity !== null,
    );
    if (!named && waitedMs < NAMES_WAIT_MS) return false;
    const since = this.#onsetMs(cause) ?? this.#hotSinceMs ?? now.bootMs;
    const readings = this.#readAtMs.filter((atMs) => atMs >= since).length;
    return readings >= READINGS_FOR_EVIDENCE || waitedMs >= EVIDENCE_WAIT_MS;
  }

  #cause(): HotCause | null {
    if (this.#cpuVerdict?.hot) return 'vmCpu';
    if (this.#memoryVerdict?.hot) return 'vmMemory';
    for (const { facts, cpuVerdict, memoryVerdict } of this.#containers.values()) {
      if (facts.match === null) continue;
      if (cpuVerdict?.hot) return 'replicaCpuLimit';
      if (memoryVerdict?.hot) return 'replicaMemoryLimit';
    }
    return null;
  }

  #onsetMs(cause: HotCause): number | null {
    if (cause === 'vmCpu') return this.#cpuVerdict?.onsetMs ?? null;
    if (cause === 'vmMemory') return this.#memoryVerdict?.onsetMs ?? null;
    const hot = [...this.#containers.values()].find(({ facts, cpuVerdict, memoryVerdict }) =>
      facts.match === null ? false : cause === 'replicaCpuLimit' ? cpuVerdict?.hot : memoryVerdict?.hot,
    );
    const verdict = cause === 'replicaCpuLimit' ? hot?.cpuVerdict : hot?.memoryVerdict;
    return verdict?.onsetMs ?? null;
  }

  #evidence(cause: HotCause, now: Instant): VmEvidence {
    const onsetMs = this.#onsetMs(cause);
    return vmEvidence({
      vmUuid: this.uuid,
      vmName: this.name,
      host: this.#host,
      vcpus: this.#counters?.vcpus ?? 0,
      memoryBytes: this.#counters?.memoryBytes ?? 0,
      target: this.#target,
      cause,
      onset: onsetMs === null ? null : new Date(now.wallMs - (now.bootMs - onsetMs)).toISOString(),
      split: { onsetMs, nowMs: now.bootMs },
      cpuCores: this.#cpuSamples,
      containers: [...this.#containers.values()].map((container) => ({
        containerId: container.id,
        runtime: container.runtime,
        name: container.facts.identity?.name ?? null,
        service: container.facts.match?.service ?? null,
        cpuCores: container.cpuCores,
        memoryBytes: container.memoryBytes,
        ioBytesPerSecond: container.ioBytesPerSecond,
        unavailable: container.unavailable,
        ...limitsOf(container),
      })),
      unreadable: this.#introspected ? this.#unreadable : 'its containers were not read yet',
    });
  }

  #cpuText(): string {
    return `${this.#cpuCores?.toFixed(2) ?? 'an unknown part'} of ${this.#counters?.vcpus ?? 0} vCPUs`;
  }
  #hotMessage(cause: HotCause): string {
    const percent = (share: number) => `${Math.round(share * 100)} %`;
    if (cause === 'vmCpu') return `its CPU is over the target of ${percent(this.#target.cpu)}: ${this.#cpuText()}`;
    if (cause === 'vmMemory') return `its containers hold more than ${percent(this.#target.memory)} of its memory`;
    const [what, target] = cause === 'replicaCpuLimit' ? ['CPU', this.#target.cpu] : ['memory', this.#target.memory];
    return `a replica in it uses more than ${percent(target)} of its own ${what} limit`;
  }

  latest(at: string): VmObservation | null {
    const counters = this.#counters;
    if (counters === null || (this.#missing > 0 && isRunning(counters))) return null;
    return {
      vmUuid: this.uuid,
      vmName: counters.name,
      state: counters.state,
      vcpus: counters.vcpus,
      memoryBytes: counters.memoryBytes,
      cpuCores: this.#cpuCores,
      unreadable: this.#unreadable,
      guestBoot: this.#guestBoot,
      kernelRelease: this.#kernelRelease,
      at,
    };
  }

  latestContainers(at: string): ContainerObservation[] {
    return [...this.#containers.values()].map((container) => ({
      vmUuid: this.uuid,
      containerId: container.id,
      runtime: container.runtime,
      cgroupPath: container.counters.cgroupPath,
      name: container.facts.identity?.name ?? null,
      image: container.facts.identity?.image ?? null,
      labels: container.facts.identity?.labels ?? {},
      addresses: container.facts.identity?.addresses ?? {},
      service: container.facts.match?.service ?? null,
      replicaId: container.facts.match?.replicaId ?? null,
      cpuCores: container.cpuCores.at(-1)?.value ?? null,
      memoryBytes: container.memoryBytes.at(-1)?.value ?? null,
      ioBytesPerSecond: container.ioBytesPerSecond.at(-1)?.value ?? null,
      ...limitsOf(container),
      unavailable: container.unavailable,
      at,
    }));
  }

  /** Ends the current ten seconds. */
  takeRollups(from: string): Rollup[] {
    const rollups = [this.#rollup.take(this.uuid, null, from)];
    for (const container of this.#containers.values())
      rollups.push(container.rollup.take(this.uuid, container.id, from));
    return rollups.filter((rollup) => rollup !== null);
  }

  /** It is no longer introspected: what was read of its containers must not look like new. */
  forgetContainers(): void {
    this.#containers.clear();
    this.#readAtMs = [];
    this.#introspected = false;
    this.#unreadable = null;
    this.#unreadableSinceMs = null;
    this.#memoryState = initialHotState();
    this.#memoryVerdict = null;
  }

  #forgetBoot(message: string): void {
    this.#rebooted = message;
    this.#guestBoot = null;
    this.#cpuState = initialHotState();
    this.#cpuVerdict = null;
    this.#cpuSamples = [];
    this.#hotSinceMs = null;
    this.#lowOwed = false;
    this.forgetContainers();
  }

  #keepFromMs(nowMs: number): number {
    const onsetMs = this.#cpuVerdict?.onsetMs ?? null;
    const recent = nowMs - KEEP_SAMPLES_MS;
    return onsetMs === null ? recent : Math.min(recent, onsetMs - KEEP_BEFORE_ONSET_MS);
  }
}

function isRunning(counters: VmCounters | null): boolean {
  return counters !== null && (counters.state === 'running' || counters.state === 'blocked');
}
function isAnotherBoot(before: number | null, after: number | null): boolean {
  return before !== null && after !== null && before !== after;
}
function isNear(verdict: HotVerdict | null): boolean {
  return verdict !== null && (verdict.hot || verdict.onsetMs !== null || (verdict.ratio ?? 0) >= LIVELY_RATIO);
}
function limitsOf({ facts, counters }: WatchedContainer): {
  readonly cpuLimitCores: number | null;
  readonly memoryLimitBytes: number | null;
} {
  return {
    cpuLimitCores: facts.identity?.cpuLimitCores ?? null,
    memoryLimitBytes: orNull(counters.memoryLimitBytes) ?? facts.identity?.memoryLimitBytes ?? null,
  };
}
function whyMissing(counters: ContainerCounters | null): string | null {
  if (counters === null) return null;
  const missing = [counters.cpuNanoseconds, counters.memoryBytes, mapReading(counters.ioReadBytes, () => 0)].find(
    (reading) => !reading.available,
  );
  return missing === undefined || missing.available ? null : `${missing.reason}: ${missing.message}`;
}
/**
 * A container is known by its id everywhere behind this. When a VM shows an id twice, the one in fewer containers has it:
 * whoever is root in a container may make a cgroup of any name below its own.
 */
function outermostById(containers: readonly ContainerCounters[]): Iterable<ContainerCounters> {
  const depth = ({ cgroupPath }: ContainerCounters) => cgroupPath.split('/').length;
  const found = new Map<string, ContainerCounters>();
  for (const container of containers) {
    const other = found.get(container.id);
    if (other === undefined || depth(container) < depth(other)) found.set(container.id, container);
  }
  return found.values();
}
function newContainer(counters: ContainerCounters, atMs: number, facts: ContainerFacts): WatchedContainer {
  return {
    id: counters.id,
    runtime: counters.runtime,
    counters,
    atMs,
    facts,
    cpuCores: [],
    memoryBytes: [{ atMs, value: orNull(counters.memoryBytes) }],
    ioBytesPerSecond: [],
    unavailable: whyMissing(counters),
    cpuVerdict: null,
    memoryVerdict: null,
    rollup: new RollupWindow(),
  };
}
function push(samples: Sample[], sample: Sample, fromMs: number): void {
  samples.push(sample);
  let old = 0;
  while (old < samples.length && ((samples[old]?.atMs ?? 0) < fromMs || samples.length - old > MOST_SAMPLES)) old += 1;
  if (old > 0) samples.splice(0, old);
}

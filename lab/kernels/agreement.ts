/**
 * Whether what is seen from outside is what the guest says, while containers come and go (churn.ts): rounds of looks, each
 * judged by two readings of the guest's own files, the last one before it and the first one after it.
 *
 *   ── T ── look … look ── step of the churn ── look ── T ── look ── T ── look ── T ──▶
 *           \____________ loose ________________/           \ tight /
 *
 * Loose looks are up to a second from the readings, so nothing has been flushed for them by a reader; they are what a
 * monitor's samples are. Tight ones are a few milliseconds from them. Every few rounds all containers are stopped for long
 * enough that the kernel has worked off everything it does late: then all gauges must be exact.
 *
 * A look is one call for a host's guests, as the sampler makes it; here they are the same guest, read in several ways.
 */

import type { ContainerCounters } from '../../model/usage.ts';
import { type Guest, Host, slotName } from '../../native/mapper.ts';
import { decodeSample, readBoardRow, type SampleWork } from '../../native/sample-decoding.ts';
import { Churn, type ChurnContainer, isCalm, Random } from './churn.ts';
import type { KernelGuest } from './guest.ts';
import {
  detail,
  FIGURES,
  type Figure,
  field,
  judge,
  MICROSECOND,
  readTruth,
  saidOf,
  say,
  sayingOf,
  type Truth,
  whole,
} from './truth.ts';

/** Limits are changed by the churn; the support table has no rows for these. */
const LIMITS: readonly Figure[] = [
  {
    name: 'CPU quota',
    seen: detail((details) => details.cpuQuotaNanoseconds),
    kind: 'gauge',
    v2: say('cpu', 'cpu.max', (text) =>
      text.startsWith('max') ? null : BigInt(text.split(' ')[0] as string) * MICROSECOND,
    ),
    v1: say('cpu', 'cpu.cfs_quota_us', (text) => (text.startsWith('-') ? null : BigInt(text.trim()) * MICROSECOND)),
  },
  {
    name: 'CPU periods',
    seen: detail((details) => details.cpuPeriods),
    kind: 'counter',
    v2: say('cpu', 'cpu.stat', field('nr_periods')),
    v1: say('cpu', 'cpu.stat', field('nr_periods')),
  },
  {
    name: 'task limit',
    seen: detail((details) => details.pidsLimit),
    kind: 'gauge',
    v2: say('pids', 'pids.max', whole),
    v1: say('pids', 'pids.max', whole),
  },
];
const ALL_FIGURES = [...FIGURES, ...LIMITS];
/** They only change when the churn does something, or only grow. */
const STEADY = new Set(['memory limit', 'memory, peak', 'CPU shares', 'CPU quota', 'task limit']);

const BUFFER_BYTES = 8 << 20;
const LOOK_LIMIT_MS = 5000;
const TIGHT_LOOKS = 2;
const LOOSE_LOOKS = 4;
const LONGEST_WAIT_MS = 250;
const DURING_STEP_MS = 15;
const STOPPED_EVERY = 8;
/** The kernel flushes every two seconds; seen: up to four after what there is to flush, on a guest without KVM. */
const LATE_MS = 4600;
const CPU_TIME = FIGURES[0] as Figure;
const SPLIT = new Set(['CPU time, user', 'CPU time, system']);
/** What a removed child has transferred since the last flush: many kernels do not hand it up to its parent. */
const LOST_WITH_CHILDREN = new Set(['bytes read', 'bytes written', 'reads', 'writes']);
/** As long as the mapper waits before it believes that a counter has gone back (figures.h). */
const MAX_HELD_LOOKS = 16;
const KEPT_DISAGREEMENTS = 40;

type Bracket = 'loose' | 'tight' | 'stopped';

export interface FigureAgreement {
  /** Looks that were judged, by how near the guest's own readings were. */
  loose: number;
  tight: number;
  stopped: number;
  /** Of those: the guest said the same before and after, so that the figure had to be exact. */
  exact: number;
  /** Gauges that moved between the two readings: nothing can be said. */
  moved: number;
  /** Counters that stand where they were while the guest's own has gone back: kernels lose counts, of removed children. */
  held: number;
  wrong: number;
  /** Could not be read this time, by reason. */
  unavailable: Record<string, number>;
  /** How far a figure was from what the guest said before and after, at most; in the figure's unit. */
  furthest: number;
  /** Where the kernel estimates, or is late: how far it may be. */
  mayBeOff: boolean;
}

export interface Disagreement {
  readonly round: number;
  readonly reader: string;
  readonly bracket: Bracket;
  readonly what: string;
  readonly container?: ChurnContainer;
  readonly seen?: string;
  readonly before?: string;
  readonly after?: string;
  readonly work?: SampleWork | undefined;
  readonly steps: readonly string[];
}

export interface AgreementReport {
  readonly rounds: number;
  readonly looks: number;
  readonly judged: number;
  readonly wrong: number;
  readonly failedLooks: Readonly<Record<string, number>>;
  readonly viewsRun: number;
  readonly viewsRepeated: number;
  /** Recordings that were made anew and came out otherwise although what they check had held, by reader. */
  readonly corrections: Readonly<Record<string, number>>;
  readonly containersMade: number;
  readonly figures: Readonly<Record<string, FigureAgreement>>;
  readonly disagreements: readonly Disagreement[];
}

interface Look {
  readonly reader: string;
  readonly containers: ReadonlyMap<string, ContainerCounters>;
  readonly work: SampleWork;
}

export interface Reader {
  readonly name: string;
  readonly guest: Guest;
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

export class Agreement {
  readonly #guest: KernelGuest;
  readonly #readers: readonly Reader[];
  readonly #host: Host;
  readonly #churn: Churn;
  readonly #random: Random;
  readonly #buffer = Buffer.alloc(BUFFER_BYTES);
  readonly #figures = new Map<string, FigureAgreement>();
  readonly #disagreements: Disagreement[] = [];
  readonly #failedLooks: Record<string, number> = {};
  readonly #corrections: Record<string, number> = {};
  /** What a container's counters were last, by reader, incarnation and figure. */
  readonly #last = new Map<string, { readonly seen: bigint; readonly looks: number }>();
  /** Since when a container has been what it is, by incarnation and kind. */
  readonly #since = new Map<string, number>();
  readonly #saidBy = new WeakMap<Truth, Map<string, bigint | null | undefined>>();
  #truth: Truth = new Map();
  #truthOf: readonly ChurnContainer[] = [];
  #round = 0;
  #looks = 0;
  #viewsRun = 0;
  #viewsRepeated = 0;
  #wrong = 0;
  #steps: string[] = [];
  #containersMade = 0;

  constructor(guest: KernelGuest, readers: readonly Reader[], seed: number) {
    this.#guest = guest;
    this.#readers = readers;
    this.#host = new Host();
    this.#churn = new Churn(guest, seed);
    this.#random = new Random(~seed);
    for (const { name, slack, isLate } of ALL_FIGURES)
      this.#figures.set(name, {
        ...{ loose: 0, tight: 0, stopped: 0, exact: 0, moved: 0, held: 0, wrong: 0, unavailable: {}, furthest: 0 },
        mayBeOff: slack !== undefined || isLate === true,
      });
  }

  async start(): Promise<void> {
    await this.#churn.start();
    await this.#readTruth();
  }

  async round(): Promise<void> {
    this.#round++;
    const loose: Look[][] = [];
    for (let i = 0; i < LOOSE_LOOKS; i++) {
      await pause(this.#random.below(LONGEST_WAIT_MS));
      loose.push(this.#look());
    }
    const before = this.#truthOf;
    const { touched, during } = await this.#step();
    const first = this.#look();
    this.#expectExactly(first, 'loose');
    const earlier = this.#truth;
    await this.#readTruth();
    for (const look of first)
      for (const container of this.#truthOf.filter(({ name }) => touched.has(name))) this.#follow(look, container);
    for (const looks of [...loose, ...during, first])
      for (const look of looks) {
        const untouched = before.filter(({ name }) => !touched.has(name));
        this.#expectAll(look, untouched);
        for (const container of untouched) this.#judge(look, container, 'loose', earlier, this.#truth);
      }
    for (let i = 0; i < TIGHT_LOOKS; i++) await this.#lookTightly('tight');
    if (this.#round % STOPPED_EVERY === 0) await this.#lookAtStopped();
  }

  report(): AgreementReport {
    const figures = Object.fromEntries(this.#figures);
    return {
      rounds: this.#round,
      looks: this.#looks,
      judged: Object.values(figures).reduce((sum, { loose, tight, stopped }) => sum + loose + tight + stopped, 0),
      wrong: this.#wrong,
      failedLooks: this.#failedLooks,
      viewsRun: this.#viewsRun,
      viewsRepeated: this.#viewsRepeated,
      corrections: this.#corrections,
      containersMade: this.#containersMade,
      figures,
      disagreements: this.#disagreements,
    };
  }

  /** Looks while the containers change. */
  async #step() {
    let isDone = false;
    const during: Look[][] = [];
    const step = this.#churn.step().finally(() => {
      isDone = true;
    });
    while (!isDone) {
      during.push(this.#look());
      await Promise.race([pause(DURING_STEP_MS), step.catch(() => undefined)]);
    }
    const { touched, what } = await step;
    this.#steps.push(what.join(', '));
    if (this.#steps.length > 4) this.#steps.shift();
    return { touched, during };
  }

  async #readTruth(): Promise<void> {
    const containers = this.#churn.containers;
    this.#truth = await readTruth(this.#guest, containers, ALL_FIGURES);
    this.#truthOf = containers;
    for (const { incarnation, kind } of containers) {
      const key = `${incarnation} ${kind}`;
      if (!this.#since.has(key)) this.#since.set(key, performance.now());
      this.#containersMade = Math.max(this.#containersMade, incarnation + 1);
    }
  }

  async #lookTightly(bracket: 'tight' | 'stopped'): Promise<void> {
    const before = this.#truth;
    const looks = this.#look();
    await this.#readTruth();
    this.#expectExactly(looks, bracket);
    for (const look of looks)
      for (const container of this.#truthOf) this.#judge(look, container, bracket, before, this.#truth);
  }

  async #lookAtStopped(): Promise<void> {
    await this.#churn.stop(true);
    // What the kernel does late it does not do at all while its only CPU sleeps.
    await this.#guest.run(`i=0; while [ $i -lt ${LATE_MS / 100} ]; do i=$((i+1)); sleep 0.1; done`);
    await this.#readTruth();
    for (let i = 0; i < TIGHT_LOOKS; i++) await this.#lookTightly('stopped');
    await this.#churn.stop(false);
    await this.#readTruth();
  }

  #look(): Look[] {
    this.#host.sample(
      this.#readers.map(({ guest }) => guest),
      this.#looks,
      this.#buffer,
      LOOK_LIMIT_MS,
    );
    const looks: Look[] = [];
    for (const [row, { name }] of this.#readers.entries()) {
      this.#looks++;
      const found = readBoardRow(this.#buffer, row);
      if (found.kind !== 'sample') {
        const reason = found.kind === 'error' ? `${found.reason}: ${found.message}` : 'nothing';
        this.#failedLooks[reason] = (this.#failedLooks[reason] ?? 0) + 1;
        continue;
      }
      const { introspection, work } = decodeSample(found.sample, slotName);
      this.#viewsRun += work.viewsRun;
      this.#viewsRepeated += work.viewsRepeated;
      this.#corrections[name] = work.corrections;
      const containers = new Map(introspection.containers.map((container) => [container.cgroupPath, container]));
      looks.push({ reader: name, containers, work });
    }
    return looks;
  }

  /** Those that there are now, and no others. */
  #expectExactly(looks: readonly Look[], bracket: Bracket): void {
    const expected = this.#churn.containers;
    for (const look of looks) {
      this.#expectAll(look, expected);
      for (const cgroupPath of look.containers.keys())
        if (!Churn.isOfStorm(cgroupPath) && !expected.some((container) => container.cgroupPath === cgroupPath))
          this.#disagree(look, bracket, `${cgroupPath} is seen, and has been removed`);
    }
  }

  #expectAll(look: Look, containers: readonly ChurnContainer[]): void {
    for (const container of containers) {
      const seen = look.containers.get(container.cgroupPath);
      if (seen === undefined) this.#disagree(look, 'loose', 'it is not seen', { container });
      else if (seen.id !== container.id || seen.runtime !== container.runtime)
        this.#disagree(look, 'loose', `it is seen as ${seen.runtime} ${seen.id}`, { container });
    }
  }

  #judge(look: Look, container: ChurnContainer, bracket: Bracket, truthBefore: Truth, truthAfter: Truth): void {
    const counters = look.containers.get(container.cgroupPath);
    if (!counters) return;
    for (const figure of ALL_FIGURES) {
      const tally = this.#figures.get(figure.name) as FigureAgreement;
      const before = this.#said(truthBefore, container, figure);
      const after = this.#said(truthAfter, container, figure);
      if (before === undefined || after === undefined) continue;
      const reading = figure.seen(counters);
      if (!reading?.available) {
        const reason = reading?.reason ?? 'not asked';
        tally.unavailable[reason] = (tally.unavailable[reason] ?? 0) + 1;
        continue;
      }
      const seen = reading.value === null ? null : BigInt(reading.value);
      const heldLooks =
        figure.kind === 'counter' ? this.#expectGrowth(look, container, figure, seen ?? 0n, bracket) : 0;
      if (figure.kind === 'gauge' && !this.#isExpectedExact(figure, container, bracket)) {
        tally.moved++;
        continue;
      }
      const verdict = judge(
        this.#guest,
        this.#loosened(figure, container, truthBefore, truthAfter),
        seen,
        before,
        after,
      );
      if (verdict === 'not comparable') {
        tally.moved++;
        continue;
      }
      if (
        verdict === 'wrong' &&
        heldLooks > 0 &&
        heldLooks <= MAX_HELD_LOOKS &&
        after !== null &&
        (seen ?? 0n) > after
      ) {
        tally.held++;
        continue;
      }
      tally[bracket]++;
      if (before === after) tally.exact++;
      tally.furthest = Math.max(tally.furthest, this.#distance(figure, seen, before, after));
      if (verdict === 'right') continue;
      tally.wrong++;
      const values = { seen: String(seen), before: String(before), after: String(after) };
      this.#disagree(look, bracket, figure.name, { container, ...values });
    }
  }

  /** How the time splits that was used between two readings is settled by a reading only. */
  #loosened(figure: Figure, container: ChurnContainer, truthBefore: Truth, truthAfter: Truth): Figure {
    if (!SPLIT.has(figure.name)) return figure;
    const [before, after] = [truthBefore, truthAfter].map((truth) => this.#said(truth, container, CPU_TIME) ?? 0n);
    return { ...figure, slack: (figure.slack ?? 0n) + (after as bigint) - (before as bigint) };
  }

  /** Each file is judged by many times. */
  #said(truth: Truth, container: ChurnContainer, figure: Figure): bigint | null | undefined {
    const known = this.#saidBy.get(truth) ?? new Map<string, bigint | null | undefined>();
    this.#saidBy.set(truth, known);
    const key = `${container.cgroupPath} ${figure.name}`;
    if (!known.has(key)) known.set(key, saidOf(this.#guest, truth, container, figure));
    return known.get(key);
  }

  /** A gauge that goes up and down may do so between two readings that are the same. */
  #isExpectedExact(figure: Figure, container: ChurnContainer, bracket: Bracket): boolean {
    if (STEADY.has(figure.name) || bracket === 'stopped') return true;
    if (!isCalm(container) || container.name === 'outer') return false;
    if (!figure.isLate) return true;
    const since = this.#since.get(`${container.incarnation} ${container.kind}`);
    return container.kind === 'idle' && since !== undefined && performance.now() - since > LATE_MS;
  }

  #distance(figure: Figure, seen: bigint | null, before: bigint | null, after: bigint | null): number {
    if (seen === null || before === null || after === null) return 0;
    const step = figure.kind === 'counter' ? (sayingOf(this.#guest, figure)?.step ?? 1n) : 1n;
    const below = Number(before - seen);
    const above = Number(seen - (after + step - 1n));
    return Math.max(0, below, above);
  }

  /** What cannot be judged, as the guest's readings before it are of another time. */
  #follow(look: Look, container: ChurnContainer): void {
    const counters = look.containers.get(container.cgroupPath);
    for (const figure of counters ? ALL_FIGURES : []) {
      const reading = figure.seen(counters as ContainerCounters);
      if (figure.kind === 'counter' && reading?.available)
        this.#expectGrowth(look, container, figure, BigInt(reading.value ?? 0), 'loose');
    }
  }

  /** For how many looks it has stood still. */
  #expectGrowth(look: Look, container: ChurnContainer, figure: Figure, seen: bigint, bracket: Bracket): number {
    const key = `${look.reader} ${container.incarnation} ${figure.name}`;
    const last = this.#last.get(key);
    const looks = last?.seen === seen ? last.looks + 1 : 0;
    this.#last.set(key, { seen, looks });
    const isLost = LOST_WITH_CHILDREN.has(figure.name) && container.name === 'outer';
    const mayGoBack = figure.slack !== undefined || isLost;
    if (last !== undefined && seen < last.seen && !mayGoBack)
      this.#disagree(look, bracket, `${figure.name} went back`, {
        container,
        seen: String(seen),
        before: String(last.seen),
      });
    return looks;
  }

  #disagree(
    look: Look,
    bracket: Bracket,
    what: string,
    more: Partial<Pick<Disagreement, 'container' | 'seen' | 'before' | 'after'>> = {},
  ): void {
    this.#wrong++;
    const { reader, work } = look;
    if (this.#disagreements.length < KEPT_DISAGREEMENTS)
      this.#disagreements.push({ round: this.#round, reader, bracket, what, ...more, work, steps: [...this.#steps] });
  }
}

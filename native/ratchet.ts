/**
 * Counters only grow, in what users see: within one boot of a guest and one run of a container in it, none is ever lower
 * than in a sample before. One VM's samples pass through here in the order in which they are shown.
 *
 *   a boot   is another one when the kernel's identity changes, when the guest's clock has gone back (it was restored), and
 *            when a boot returns that was over. No name is given twice
 *   a run    is another one when the cgroup is (a container that was started anew has a new one, numbered by the kernel), when
 *            it was not in the sample before though its number had been reached, and when its counters have gone back
 *
 * A counter that comes out lower has been read askew, for a moment (a value read on one CPU, then moved on from another). Or
 * what was shown is no longer true: the guest was restored, and has run for longer since than it was set back by; the figure
 * was too high; the kernel has lost counts (older ones drop what a removed child has read and written since the last flush).
 * Time tells which: it is shown as it was for LIFTED_NS, and if it is lower still, as another run, just as it is read.
 */
import {
  CONTAINER,
  DEVICE,
  FIGURE,
  type FigureNumber,
  figureWord,
  HEADER,
  INTERFACE,
  type PlainSample,
  placesIn,
  textOf,
  uuidOf,
} from './sample-layout.ts';

/** Longer than any reading is askew, and less than the pause between two samples of a quiet VM. */
const LIFTED_NS = 3_000_000_000n;
/** Boots of one VM whose names are known to be taken; those after them all get names that tell when they were first seen. */
const MOST_BOOTS = 64;
/** Devices and interfaces of one run; a guest that goes on making others begins another run. */
const MOST_PARTS = 1024;

const COUNTERS: readonly FigureNumber[] = [
  ...[FIGURE.cpu, FIGURE.cpuUser, FIGURE.cpuSystem, FIGURE.cpuPeriods, FIGURE.cpuThrottledPeriods, FIGURE.cpuThrottled],
  ...[FIGURE.oomKills, FIGURE.ioRead, FIGURE.ioWrite, FIGURE.ioReads, FIGURE.ioWrites],
  ...[FIGURE.cpuSome, FIGURE.cpuFull, FIGURE.memorySome, FIGURE.memoryFull, FIGURE.ioSome, FIGURE.ioFull],
];
/** Each half of it. */
const NO_CPU = 0xffff_ffff;

/** What a sample is shown under. */
export interface SampleNames {
  readonly guestBoot: string;
  /** In the order of the sample's containers. */
  readonly runs: readonly string[];
}

/** The highest values shown, each in two halves of 32 bits: numbers make no objects on their way. */
type Highest = Uint32Array;

interface Run {
  readonly name: string;
  readonly serial: bigint;
  readonly figures: Highest;
  cpus: Highest;
  /** Of devices and interfaces. */
  readonly parts: Map<string, Highest>;
  /** Since when something is shown higher than it is read; null: nothing is. */
  liftedSince: bigint | null;
}

export class Ratchet {
  #boot = '';
  #bootName = '';
  #jiffies = 0n;
  readonly #boots = new Set<string>();
  /** By path, of the containers in the last sample. */
  #runs = new Map<string, Run>();
  #highestSerial = -1n;

  /** Lifts, in place, what is only for a moment lower than before. */
  advance(sample: PlainSample): SampleNames {
    const { bytes, records } = sample;
    const at = bytes.readBigUInt64LE(HEADER.atNs);
    const guestBoot = this.#nameOfBoot(bytes, at);
    const runs = new Map<string, Run>();
    let highest = this.#highestSerial;
    const names = records.map((record) => {
      const { path: pathStart, end } = placesIn(sample, record);
      const path = bytes.toString('latin1', pathStart, end);
      const serial = bytes.readBigUInt64LE(record + CONTAINER.serial);
      if (serial > highest) highest = serial;
      const run = this.#runOf(sample, record, this.#runs.get(path) ?? null, serial, at);
      runs.set(path, run);
      return run.name;
    });
    this.#runs = runs;
    this.#highestSerial = highest;
    return { guestBoot, runs: names };
  }

  #nameOfBoot(bytes: Buffer, at: bigint): string {
    const boot = uuidOf(bytes.subarray(HEADER.bootId, HEADER.bootId + 16));
    const jiffies = bytes.readBigUInt64LE(HEADER.jiffies);
    if (boot !== this.#boot || jiffies < this.#jiffies) {
      const isNew = !this.#boots.has(boot) && this.#boots.size < MOST_BOOTS;
      if (isNew) this.#boots.add(boot);
      this.#boot = boot;
      this.#bootName = isNew ? boot : `${boot}+${at}`;
      this.#runs.clear();
      this.#highestSerial = -1n;
    }
    this.#jiffies = jiffies;
    return this.#bootName;
  }

  #runOf(sample: PlainSample, record: number, known: Run | null, serial: bigint, at: bigint): Run {
    if (known === null || known.serial !== serial) {
      const isNew = serial > this.#highestSerial;
      return begin(sample, record, serial, isNew ? `${serial}` : `${serial}+${at}`);
    }
    if (someCounter(sample, record, known, raise)) known.liftedSince ??= at;
    else known.liftedSince = null;
    const isTrue = known.liftedSince !== null && at - known.liftedSince >= LIFTED_NS;
    if (isTrue || known.parts.size > MOST_PARTS) return begin(sample, record, serial, `${serial}+${at}`);
    if (known.liftedSince !== null) someCounter(sample, record, known, lift);
    return known;
  }
}

function begin(sample: PlainSample, record: number, serial: bigint, name: string): Run {
  const figures = new Uint32Array(COUNTERS.length * 2);
  const run: Run = { name, serial, figures, cpus: new Uint32Array(0), parts: new Map(), liftedSince: null };
  someCounter(sample, record, run, raise);
  return run;
}

/** Of the i-th counter of a part: its halves are at `half` and behind it. */
type Visit = (of32: Uint32Array, half: number, highest: Highest, i: number) => boolean;

/** Remembers the highest; whether this is lower. */
const raise: Visit = (of32, half, highest, i) => {
  const low = of32[half] as number;
  const high = of32[half + 1] as number;
  const highestHigh = highest[i * 2 + 1] as number;
  if (high < highestHigh || (high === highestHigh && low < (highest[i * 2] as number))) return true;
  highest[i * 2] = low;
  highest[i * 2 + 1] = high;
  return false;
};

/** Shows the highest instead of what is lower. */
const lift: Visit = (of32, half, highest, i) => {
  if (raise(of32, half, highest, i)) {
    of32[half] = highest[i * 2] as number;
    of32[half + 1] = highest[i * 2 + 1] as number;
  }
  return false;
};

/** Visits all counters that could be read, until one is what is looked for. Runs for each container of each sample. */
function someCounter(sample: PlainSample, record: number, run: Run, visit: Visit): boolean {
  const { bytes, cpuCount } = sample;
  const { of32 } = sample.words;
  const at = placesIn(sample, record);
  for (let i = 0; i < COUNTERS.length; i++) {
    const half = figureWord(record, COUNTERS[i] as FigureNumber) * 2;
    if (of32[half + 2] === 0 && visit(of32, half, run.figures, i)) return true;
  }
  if (of32[figureWord(record, FIGURE.perCpu) * 2 + 2] === 0) {
    if (run.cpus.length !== cpuCount * 2) run.cpus = new Uint32Array(cpuCount * 2);
    for (let i = 0, half = at.perCpu / 4; i < cpuCount; i++, half += 2) {
      const isPossible = of32[half] !== NO_CPU || of32[half + 1] !== NO_CPU;
      if (isPossible && visit(of32, half, run.cpus, i)) return true;
    }
  }
  for (let device = at.devices; device < at.interfaces; device += DEVICE.bytes) {
    const key = `${of32[(device + DEVICE.major) / 4]}:${of32[(device + DEVICE.minor) / 4]}`;
    if (someOfPart(of32, device, DEVICE.counters, partOf(run, key, DEVICE.counters), visit)) return true;
  }
  for (let one = at.interfaces; one < at.path; one += INTERFACE.bytes) {
    if (of32[(one + INTERFACE.status) / 4] !== 0) continue;
    const name = textOf(bytes, one + INTERFACE.name, INTERFACE.nameBytes);
    const part = partOf(run, `${of32[(one + INTERFACE.index) / 4]} ${name}`, INTERFACE.counters);
    if (someOfPart(of32, one, INTERFACE.counters, part, visit)) return true;
  }
  return false;
}

function partOf({ parts }: Run, key: string, counters: number): Highest {
  let part = parts.get(key);
  if (part === undefined) {
    part = new Uint32Array(counters * 2);
    parts.set(key, part);
  }
  return part;
}

function someOfPart(of32: Uint32Array, start: number, counters: number, part: Highest, visit: Visit): boolean {
  for (let i = 0; i < counters; i++) if (visit(of32, start / 4 + i * 2, part, i)) return true;
  return false;
}

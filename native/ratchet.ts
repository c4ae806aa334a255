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

interface Run {
  readonly name: string;
  readonly serial: bigint;
  /** By part: the highest value shown of each of its counters, in two halves. Numbers make no objects on their way. */
  readonly highest: Map<string, number[]>;
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
    const parts = partsOf(sample, record);
    if (parts.every((part) => !isLower(sample, part, known))) known.liftedSince = null;
    else known.liftedSince ??= at;
    const isTrue = known.liftedSince !== null && at - known.liftedSince >= LIFTED_NS;
    if (isTrue || known.highest.size > MOST_PARTS) return begin(sample, record, serial, `${serial}+${at}`);
    for (const part of parts) lift(sample, part, known);
    return known;
  }
}

function begin(sample: PlainSample, record: number, serial: bigint, name: string): Run {
  const run: Run = { name, serial, highest: new Map(), liftedSince: null };
  for (const part of partsOf(sample, record)) lift(sample, part, run);
  return run;
}

function isLower({ words: { of32 } }: PlainSample, { key, words }: Part, { highest }: Run): boolean {
  const known = highest.get(key);
  return known !== undefined && words.some((word, i) => word !== ABSENT && isBelow(of32, word, known, i));
}

/** Whether the 64 bits at a word are less than the i-th of those remembered. */
function isBelow(of32: Uint32Array, word: number, known: readonly number[], i: number): boolean {
  const high = of32[word * 2 + 1] as number;
  const knownHigh = known[i * 2 + 1] ?? 0;
  return high < knownHigh || (high === knownHigh && (of32[word * 2] as number) < (known[i * 2] ?? 0));
}

/** Shows the highest that is known, and remembers what is higher. */
function lift({ words: { of32 } }: PlainSample, { key, words }: Part, { highest }: Run): void {
  let known = highest.get(key);
  if (known === undefined) {
    known = Array(words.length * 2).fill(0) as number[];
    highest.set(key, known);
  }
  for (const [i, word] of words.entries()) {
    if (word === ABSENT) continue;
    if (isBelow(of32, word, known, i)) {
      of32[word * 2] = known[i * 2] as number;
      of32[word * 2 + 1] = known[i * 2 + 1] as number;
    } else {
      known[i * 2] = of32[word * 2] as number;
      known[i * 2 + 1] = of32[word * 2 + 1] as number;
    }
  }
}

/** What has counters of its own, in words of 64 bits; those that could not be read are absent. */
interface Part {
  readonly key: string;
  readonly words: readonly number[];
}
const ABSENT = -1;

function partsOf(sample: PlainSample, record: number): Part[] {
  const { bytes, cpuCount } = sample;
  const { of32 } = sample.words;
  const at = placesIn(sample, record);
  const isRead = (figure: FigureNumber) => of32[figureWord(record, figure) * 2 + 2] === 0;
  const parts: Part[] = [
    { key: 'figures', words: COUNTERS.map((figure) => (isRead(figure) ? figureWord(record, figure) : ABSENT)) },
  ];
  if (isRead(FIGURE.perCpu)) {
    const isPossible = (word: number) => of32[word * 2] !== NO_CPU || of32[word * 2 + 1] !== NO_CPU;
    const words = wordsFrom(at.perCpu, cpuCount).map((word) => (isPossible(word) ? word : ABSENT));
    parts.push({ key: `${cpuCount} CPUs`, words });
  }
  for (let device = at.devices; device < at.interfaces; device += DEVICE.bytes) {
    const number = `${bytes.readUInt32LE(device + DEVICE.major)}:${bytes.readUInt32LE(device + DEVICE.minor)}`;
    parts.push({ key: number, words: wordsFrom(device, DEVICE.counters) });
  }
  for (let one = at.interfaces; one < at.path; one += INTERFACE.bytes) {
    if (bytes.readInt32LE(one + INTERFACE.status) !== 0) continue;
    const name = textOf(bytes, one + INTERFACE.name, INTERFACE.nameBytes);
    const key = `${bytes.readUInt32LE(one + INTERFACE.index)} ${name}`;
    parts.push({ key, words: wordsFrom(one, INTERFACE.counters) });
  }
  return parts;
}

function wordsFrom(start: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => start / 8 + i);
}

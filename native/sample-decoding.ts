/**
 * The flat buffer of ciel_sample() as model types. Its layout is in sample-layout.ts.
 *
 * Every figure arrives with a status of its own: a value, or the reason why there is none. Names and paths are the
 * guest's bytes, decoded as UTF-8 with replacement characters: whoever shows them escapes them.
 *
 * A sample is checked and copied when it arrives, and its containers become objects when somebody asks for them: of a
 * thousand VMs that are sampled each second most are only looked at now and then.
 */
import { available, mapReading, type Reading, type UnavailableReason, unavailable } from '../model/reading.ts';
import type {
  ContainerCounters,
  ContainerDetails,
  ContainerRuntime,
  DeviceCounters,
  InterfaceCounters,
  PressureCounters,
  VmIntrospection,
} from '../model/usage.ts';
import type { Ratchet } from './ratchet.ts';
import {
  ABI,
  CONTAINER,
  DEVICE,
  FIGURE,
  FIGURE_BYTES,
  FIGURE_COUNT,
  type FigureNumber,
  figureWord,
  HEADER,
  IFF_LOOPBACK,
  INTERFACE,
  isOfPressure,
  NAME_BYTES,
  type PlainSample,
  placesIn,
  textOf,
  uuidOf,
  type Words,
} from './sample-layout.ts';

/** No such CPU, and no limit. */
const NONE = 0xffff_ffff_ffff_ffffn;

/** enum ciel_status, by number. */
const REASONS: readonly UnavailableReason[] = [
  'Malformed', // 0 is no failure; never used
  'NoVmcoreinfo',
  'NoSymbols',
  'NoTypes',
  'NoField',
  'Faulted',
  'Exhausted',
  'Torn',
  'Malformed',
  'Stale',
  'PermissionDenied',
  'ProcessGone',
  'Unsupported',
  'Exhausted', // this process is out of memory
  'Malformed', // a mistake of the caller
  'NoField', // the controller is not enabled for the cgroup
  'NotFound', // not asked for
  'Unsupported', // kept by a driver
  'NotFound', // nobody's
];
const STATUS = { noField: 4, notAccounted: 15, notAsked: 16, private: 17, empty: 18 } as const;

export function reasonOfStatus(status: number): UnavailableReason {
  return REASONS[status] ?? 'Malformed';
}

/** enum ciel_runtime, by number. */
const RUNTIMES: readonly (ContainerRuntime | null)[] = [
  null,
  'docker',
  'podman',
  'containerd',
  'lxc',
  'crio',
  'nspawn',
  'systemd',
];

export interface DecodedSample {
  readonly introspection: VmIntrospection;
  readonly elapsedNanoseconds: bigint;
  readonly work: SampleWork;
}

/** How a sample came about. */
export interface SampleWork {
  /** Views that walked the guest's structures. */
  readonly viewsRun: number;
  /** Views that were repeated from what an earlier walk recorded. */
  readonly viewsRepeated: number;
  /** Since the attach: recordings whose checks held and which another walk did not bear out. */
  readonly corrections: number;
}

/** struct ciel_board_header and ciel_board_row */
const BOARD = { headerBytes: 40, count: 4, tag: 8, reading: 24, lanes: 3 } as const;
const ROW = { bytes: 24, status: 0, length: 4, at: 8, elapsedNs: 16 } as const;
const ERROR_MESSAGE = 4;

/** What a row of a board has: a sample, what the mapper answered instead, or nothing. */
export type BoardRow =
  | { readonly kind: 'sample'; readonly sample: Buffer }
  | {
      readonly kind: 'error';
      readonly reason: UnavailableReason;
      readonly message: string;
      /** To the end. Otherwise its time was over. */
      readonly wasRead: boolean;
    }
  | { readonly kind: 'nothing' };

/** The sample is where it is, on the board. */
export function readBoardRow(board: Buffer, row: number): BoardRow {
  const start = BOARD.headerBytes + row * ROW.bytes;
  const status = board.readInt32LE(start + ROW.status);
  const length = board.readUInt32LE(start + ROW.length);
  const at = Number(board.readBigUInt64LE(start + ROW.at));
  if (status === 0)
    return length === 0 ? { kind: 'nothing' } : { kind: 'sample', sample: board.subarray(at, at + length) };
  const end = board.indexOf(0, at + ERROR_MESSAGE);
  const message = length === 0 ? 'the board of samples is full' : board.toString('utf8', at + ERROR_MESSAGE, end);
  const wasRead = board.readBigUInt64LE(start + ROW.elapsedNs) !== 0n;
  return { kind: 'error', reason: reasonOfStatus(status), message, wasRead };
}

/** Whose the board is, and its rows that were being read when somebody last wrote to it. */
export function readPostMortem(board: Buffer): { readonly tag: number; readonly rows: readonly number[] } {
  const lanes = Array.from({ length: BOARD.lanes }, (_, lane) => board.readUInt32LE(BOARD.reading + lane * 4));
  return { tag: Number(board.readBigUInt64LE(BOARD.tag)), rows: lanes.filter((row) => row > 0).map((row) => row - 1) };
}

/** What tells whether the kernel that was sampled still runs. */
export interface SampleClock {
  readonly atNanoseconds: bigint;
  readonly jiffies: bigint;
  readonly guestBoot: string;
  readonly kernelRelease: string;
}

export function readClock(sample: Buffer): SampleClock {
  return {
    atNanoseconds: sample.readBigUInt64LE(HEADER.atNs),
    jiffies: sample.readBigUInt64LE(HEADER.jiffies),
    guestBoot: uuidOf(sample.subarray(HEADER.bootId, HEADER.bootId + 16)),
    kernelRelease: textOf(sample, HEADER.release, NAME_BYTES),
  };
}

/**
 * `slotName` says what a slot number asked of the kernel, for messages. The buffer may be written to again afterwards.
 * @param ratchet that the samples of this VM pass through; null: figures just as they were read
 */
export function decodeSample(buffer: Buffer, slotName: SlotName, ratchet: Ratchet | null = null): DecodedSample {
  const sample = copyOf(buffer);
  const { bytes } = sample;
  const clock = readClock(bytes);
  const names = ratchet?.advance(sample) ?? { guestBoot: clock.guestBoot, runs: null };
  let containers: readonly ContainerCounters[] | null = null;
  return {
    introspection: {
      ...clock,
      guestBoot: names.guestBoot,
      nodename: textOf(bytes, HEADER.nodename, NAME_BYTES),
      possibleCpus: bytes.readUInt32LE(HEADER.possibleCpus),
      get containers() {
        containers ??= decodeContainers(sample, names.runs, slotName);
        return containers;
      },
    },
    elapsedNanoseconds: bytes.readBigUInt64LE(HEADER.elapsedNs),
    work: {
      viewsRun: bytes.readUInt32LE(HEADER.viewsRun),
      viewsRepeated: bytes.readUInt32LE(HEADER.viewsRepeated),
      corrections: bytes.readUInt32LE(HEADER.corrections),
    },
  };
}

/** In memory of its own, so that its words are aligned. */
function copyOf(buffer: Buffer): PlainSample {
  const abi = buffer.readUInt32LE(HEADER.abi);
  if (abi !== ABI) throw new Error(`a sample of ABI ${abi}, this build reads ${ABI}`);
  const length = buffer.readUInt32LE(HEADER.bytes);
  if (length > buffer.length || length % 8 !== 0)
    throw new Error(`a sample of ${length} bytes, of which ${buffer.length} are there`);
  const bytes = Buffer.allocUnsafeSlow(length);
  buffer.copy(bytes, 0, 0, length);
  const fixedBytes = bytes.readUInt32LE(HEADER.containerBytes);
  const cpuCount = bytes.readUInt32LE(HEADER.cpuCount);
  const words: Words = { of32: new Uint32Array(bytes.buffer), of64: new BigUint64Array(bytes.buffer) };
  return { bytes, words, cpuCount, fixedBytes, records: recordsIn(bytes, fixedBytes, cpuCount) };
}

/**
 * Where the containers' records are. Each lies within the sample, and its parts within it, so that decoding it later reads
 * nothing else.
 */
function recordsIn(sample: Buffer, fixedBytes: number, cpuCount: number): readonly number[] {
  const count = sample.readUInt32LE(HEADER.containerCount);
  if (fixedBytes < CONTAINER.figures + FIGURE_COUNT * FIGURE_BYTES || fixedBytes % 8 !== 0)
    throw new Error(`a container's record of ${fixedBytes} bytes`);
  const behindFigures = fixedBytes + cpuCount * 8;
  const records: number[] = [];
  let at = sample.readUInt32LE(HEADER.headerBytes);
  while (records.length < count) {
    const bytes = sample.readUInt32LE(at + CONTAINER.bytes);
    const pathLength = sample.readUInt32LE(at + CONTAINER.pathLength);
    const needed =
      behindFigures +
      sample.readUInt32LE(at + CONTAINER.deviceCount) * DEVICE.bytes +
      sample.readUInt32LE(at + CONTAINER.interfaceCount) * INTERFACE.bytes +
      pathLength;
    const idEnd = sample.readUInt32LE(at + CONTAINER.idOffset) + sample.readUInt32LE(at + CONTAINER.idLength);
    if (needed > bytes || bytes > sample.length - at || idEnd > pathLength || at % 8 !== 0)
      throw new Error(`container ${records.length} of ${count} is not within its record of ${bytes} bytes`);
    runtimeAt(sample, at);
    records.push(at);
    at += bytes;
  }
  return records;
}

function runtimeAt(sample: Buffer, record: number): ContainerRuntime {
  const number = sample.readUInt32LE(record + CONTAINER.runtime);
  const runtime = RUNTIMES[number];
  if (!runtime) throw new Error(`a container of runtime ${number}`);
  return runtime;
}

type SlotName = (slot: number) => string;

/** Why a figure of this status is missing. */
function missing(status: number, slot: number, what: string, slotName: SlotName): Reading<never> {
  return unavailable(reasonOfStatus(status), messageOf(status, slot, what, slotName));
}

function messageOf(status: number, slot: number, what: string, slotName: SlotName): string {
  switch (status) {
    case STATUS.noField:
      return `the guest's kernel has no ${slotName(slot)}`;
    case STATUS.notAccounted:
      return what === 'pressure'
        ? 'pressure stall information is switched off in the guest; on its kernel command line psi=1 switches it on, without cgroup_disable=pressure'
        : 'the controller is not enabled for this cgroup';
    case STATUS.notAsked:
      return 'it was not asked for';
    case STATUS.private:
      return "the interface's driver counts in records of its own, which are not known here";
    case STATUS.empty:
      return 'no process is in the cgroup';
    default:
      return `reading the cgroup failed (${reasonOfStatus(status)})`;
  }
}

/** Where a JavaScript number ends to be exact: 8 PiB. A guest may claim more of anything; nobody downstream need believe it. */
const MAX_HIGH_WORD = 2 ** 21 - 1;

interface ContainerRecord {
  readonly words: Words;
  readonly start: number;
  readonly slotName: SlotName;
}

const word32 = ({ of32 }: Words, index: number): number => of32[index] as number;
const word64 = ({ of64 }: Words, index: number): bigint => of64[index] as bigint;

function counterOf(record: ContainerRecord, figure: FigureNumber): Reading<bigint> {
  const at = figureWord(record.start, figure);
  return missingAt(record, at, figure) ?? available(word64(record.words, at));
}

function limitOf(record: ContainerRecord, figure: FigureNumber): Reading<bigint | null> {
  const counter = counterOf(record, figure);
  return counter.available && counter.value === NONE ? available(null) : counter;
}

function numberOf(record: ContainerRecord, figure: FigureNumber): Reading<number> {
  const at = figureWord(record.start, figure);
  const missing = missingAt(record, at, figure);
  if (missing) return missing;
  const value = exactAt(record.words, at);
  if (value !== null) return available(value);
  return unavailable('Malformed', `the guest says ${word64(record.words, at)}, which no machine has`);
}

/** A limit that no machine has is none. */
function numberLimitOf(record: ContainerRecord, figure: FigureNumber): Reading<number | null> {
  const at = figureWord(record.start, figure);
  return missingAt(record, at, figure) ?? available(exactAt(record.words, at));
}

function exactAt(words: Words, at: number): number | null {
  const high = word32(words, at * 2 + 1);
  return high > MAX_HIGH_WORD ? null : high * 2 ** 32 + word32(words, at * 2);
}

function statusAt({ words }: ContainerRecord, at: number): number {
  return word32(words, at * 2 + 2);
}

function missingAt(record: ContainerRecord, at: number, figure: FigureNumber): Reading<never> | null {
  const status = statusAt(record, at);
  if (status === 0) return null;
  const what = isOfPressure(figure) ? 'pressure' : 'figure';
  return missing(status, word32(record.words, at * 2 + 3), what, record.slotName);
}

/** A machine's name within that of its unit: what units must not have, "-" too, is \\x2d there (systemd.unit(5)). */
const unescapeUnitName = (name: string): string =>
  name.replace(/\\x([0-9a-f]{2})/g, (_, hex) => String.fromCharCode(Number.parseInt(hex, 16)));

function decodeContainers(
  sample: PlainSample,
  runs: readonly string[] | null,
  slotName: SlotName,
): ContainerCounters[] {
  const { bytes, words, cpuCount, records } = sample;
  return records.map((start, index): ContainerCounters => {
    const record: ContainerRecord = { words, start, slotName };
    const word = (offset: number): number => word32(words, (start + offset) / 4);
    const at = placesIn(sample, start);
    const idStart = at.path + word(CONTAINER.idOffset);
    const isDetailed = statusAt(record, figureWord(start, FIGURE.pids)) !== STATUS.notAsked;
    const runtime = runtimeAt(bytes, start);
    const id = bytes.toString('utf8', idStart, idStart + word(CONTAINER.idLength));
    return {
      id: runtime === 'nspawn' ? unescapeUnitName(id) : id,
      runtime,
      cgroupPath: bytes.toString('utf8', at.path, at.end),
      run: runs?.[index] ?? `${bytes.readBigUInt64LE(start + CONTAINER.serial)}`,
      cpuNanoseconds: counterOf(record, FIGURE.cpu),
      cpuUserNanoseconds: counterOf(record, FIGURE.cpuUser),
      cpuSystemNanoseconds: counterOf(record, FIGURE.cpuSystem),
      perCpuNanoseconds:
        missingAt(record, figureWord(record.start, FIGURE.perCpu), FIGURE.perCpu) ??
        available(decodePerCpu(words, at.perCpu / 8, cpuCount)),
      memoryBytes: numberOf(record, FIGURE.memory),
      memoryAnonBytes: numberOf(record, FIGURE.memoryAnon),
      memoryFileBytes: numberOf(record, FIGURE.memoryFile),
      memorySwapCacheBytes: numberOf(record, FIGURE.memorySwapCache),
      memoryLimitBytes: numberLimitOf(record, FIGURE.memoryLimit),
      ioReadBytes: counterOf(record, FIGURE.ioRead),
      ioWriteBytes: counterOf(record, FIGURE.ioWrite),
      details: isDetailed
        ? decodeDetails(
            record,
            bytes.subarray(at.devices, at.interfaces),
            bytes.subarray(at.interfaces, at.path),
            word(CONTAINER.isHostNetwork) !== 0,
          )
        : null,
    };
  });
}

function decodePerCpu(words: Words, first: number, cpuCount: number): (bigint | null)[] {
  const times: (bigint | null)[] = [];
  for (let cpu = 0; cpu < cpuCount; cpu++) {
    const value = word64(words, first + cpu);
    times.push(value === NONE ? null : value);
  }
  return times;
}

function decodeDetails(
  record: ContainerRecord,
  devices: Buffer,
  interfaces: Buffer,
  isHost: boolean,
): ContainerDetails {
  const pressure = (some: FigureNumber, full: FigureNumber): PressureCounters => ({
    someNanoseconds: counterOf(record, some),
    fullNanoseconds: counterOf(record, full),
  });
  return {
    cpuQuotaNanoseconds: limitOf(record, FIGURE.cpuQuota),
    cpuPeriodNanoseconds: counterOf(record, FIGURE.cpuPeriod),
    cpuPeriods: counterOf(record, FIGURE.cpuPeriods),
    cpuThrottledPeriods: counterOf(record, FIGURE.cpuThrottledPeriods),
    cpuThrottledNanoseconds: counterOf(record, FIGURE.cpuThrottled),
    cpuShares: numberOf(record, FIGURE.cpuShares),
    memoryPeakBytes: numberOf(record, FIGURE.memoryPeak),
    memorySwapBytes: numberOf(record, FIGURE.memorySwap),
    memoryInactiveFileBytes: numberOf(record, FIGURE.memoryInactiveFile),
    memoryMappedBytes: numberOf(record, FIGURE.memoryMapped),
    memoryKernelBytes: numberOf(record, FIGURE.memoryKernel),
    oomKills: counterOf(record, FIGURE.oomKills),
    ioReads: counterOf(record, FIGURE.ioReads),
    ioWrites: counterOf(record, FIGURE.ioWrites),
    ioDevices:
      missingAt(record, figureWord(record.start, FIGURE.ioRead), FIGURE.ioRead) ??
      available(recordsOf(devices, DEVICE.bytes).map(decodeDevice)),
    pids: numberOf(record, FIGURE.pids),
    pidsLimit: numberLimitOf(record, FIGURE.pidsLimit),
    pressure: {
      cpu: pressure(FIGURE.cpuSome, FIGURE.cpuFull),
      memory: pressure(FIGURE.memorySome, FIGURE.memoryFull),
      io: pressure(FIGURE.ioSome, FIGURE.ioFull),
    },
    network: mapReading(counterOf(record, FIGURE.network), (namespace) => ({
      namespace: Number(namespace),
      isHost,
      interfaces: recordsOf(interfaces, INTERFACE.bytes).map((one) => decodeInterface(one, record.slotName)),
    })),
  };
}

function recordsOf(records: Buffer, bytes: number): Buffer[] {
  return Array.from({ length: records.length / bytes }, (_, index) =>
    records.subarray(index * bytes, (index + 1) * bytes),
  );
}

function decodeDevice(record: Buffer): DeviceCounters {
  return {
    major: record.readUInt32LE(DEVICE.major),
    minor: record.readUInt32LE(DEVICE.minor),
    name: textOf(record, DEVICE.name, DEVICE.nameBytes) || null,
    readBytes: record.readBigUInt64LE(0),
    writeBytes: record.readBigUInt64LE(8),
    reads: record.readBigUInt64LE(16),
    writes: record.readBigUInt64LE(24),
  };
}

function decodeInterface(record: Buffer, slotName: SlotName): InterfaceCounters {
  const status = record.readInt32LE(INTERFACE.status);
  return {
    name: textOf(record, INTERFACE.name, INTERFACE.nameBytes),
    kind: textOf(record, INTERFACE.kind, INTERFACE.nameBytes) || null,
    index: record.readUInt32LE(INTERFACE.index),
    isLoopback: (record.readUInt32LE(INTERFACE.flags) & IFF_LOOPBACK) !== 0,
    counts:
      status === 0
        ? available({
            receivedBytes: record.readBigUInt64LE(0),
            receivedPackets: record.readBigUInt64LE(8),
            receiveErrors: record.readBigUInt64LE(16),
            receiveDropped: record.readBigUInt64LE(24),
            sentBytes: record.readBigUInt64LE(32),
            sentPackets: record.readBigUInt64LE(40),
            sendErrors: record.readBigUInt64LE(48),
            sendDropped: record.readBigUInt64LE(56),
          })
        : missing(status, record.readUInt32LE(INTERFACE.detail), 'interface', slotName),
  };
}

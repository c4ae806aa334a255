/**
 * The flat buffer of ciel_sample() as model types. Its layout is mapper/mapper.h's; the ABI number is checked at load.
 *
 * Every figure arrives with a status of its own: a value, or the reason why there is none. Names and paths are the
 * guest's bytes, decoded as UTF-8 with replacement characters: whoever shows them escapes them.
 */
import { available, type Reading, type UnavailableReason, unavailable } from '../model/reading.ts';
import type {
  ContainerCounters,
  ContainerDetails,
  ContainerRuntime,
  DeviceCounters,
  InterfaceCounters,
  PressureCounters,
  VmIntrospection,
} from '../model/usage.ts';

export const ABI = 4;

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

/** enum ciel_figure_name, by number. */
const FIGURES = [
  'cpu',
  'cpuUser',
  'cpuSystem',
  'perCpu',
  'cpuQuota',
  'cpuPeriod',
  'cpuPeriods',
  'cpuThrottledPeriods',
  'cpuThrottled',
  'cpuShares',
  'memory',
  'memoryPeak',
  'memoryLimit',
  'memorySwap',
  'oomKills',
  'memoryAnon',
  'memoryFile',
  'memorySwapCache',
  'memoryInactiveFile',
  'memoryMapped',
  'memoryKernel',
  'ioRead',
  'ioWrite',
  'ioReads',
  'ioWrites',
  'pids',
  'pidsLimit',
  'cpuSome',
  'cpuFull',
  'memorySome',
  'memoryFull',
  'ioSome',
  'ioFull',
  'network',
] as const;
type FigureName = (typeof FIGURES)[number];
const FIGURE_NUMBERS = Object.fromEntries(FIGURES.map((name, number) => [name, number])) as Record<FigureName, number>;

const HEADER = {
  abi: 0,
  headerBytes: 4,
  containerBytes: 8,
  containerCount: 12,
  cpuCount: 16,
  possibleCpus: 20,
  bytes: 24,
  atNs: 32,
  elapsedNs: 40,
  jiffies: 48,
  bootId: 56,
  release: 72,
  nodename: 144,
  viewsRun: 216,
  viewsRepeated: 220,
  corrections: 224,
} as const;
const NAME_BYTES = 72;
const CONTAINER = {
  bytes: 0,
  runtime: 4,
  pathLength: 8,
  idOffset: 12,
  idLength: 16,
  deviceCount: 20,
  interfaceCount: 24,
  isHostNetwork: 28,
  figures: 32,
} as const;
const FIGURE_BYTES = 16;
const DEVICE = { bytes: 72, major: 32, minor: 36, name: 40, nameBytes: 32 } as const;
const INTERFACE = {
  bytes: 112,
  status: 64,
  detail: 68,
  index: 72,
  flags: 76,
  name: 80,
  kind: 96,
  nameBytes: 16,
} as const;
const IFF_LOOPBACK = 8;
const NO_CPU = 0xffff_ffff_ffff_ffffn;
const UNLIMITED = NO_CPU;

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
    kernelRelease: textOf(sample, HEADER.release),
  };
}

/** `slotName` says what a slot number asked of the kernel, for messages. */
export function decodeSample(buffer: Buffer, slotName: (slot: number) => string): DecodedSample {
  const abi = buffer.readUInt32LE(HEADER.abi);
  if (abi !== ABI) throw new Error(`a sample of ABI ${abi}, this build reads ${ABI}`);
  const cpuCount = buffer.readUInt32LE(HEADER.cpuCount);
  const fixedBytes = buffer.readUInt32LE(HEADER.containerBytes);
  const containers: ContainerCounters[] = [];
  let at = buffer.readUInt32LE(HEADER.headerBytes);
  for (let i = buffer.readUInt32LE(HEADER.containerCount); i > 0; i--) {
    const record = buffer.subarray(at, at + buffer.readUInt32LE(at + CONTAINER.bytes));
    containers.push(decodeContainer(record, fixedBytes, cpuCount, slotName));
    at += record.length;
  }
  return {
    introspection: {
      ...readClock(buffer),
      nodename: textOf(buffer, HEADER.nodename),
      possibleCpus: buffer.readUInt32LE(HEADER.possibleCpus),
      containers,
    },
    elapsedNanoseconds: buffer.readBigUInt64LE(HEADER.elapsedNs),
    work: {
      viewsRun: buffer.readUInt32LE(HEADER.viewsRun),
      viewsRepeated: buffer.readUInt32LE(HEADER.viewsRepeated),
      corrections: buffer.readUInt32LE(HEADER.corrections),
    },
  };
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
        ? 'pressure stall information is switched off in the guest: psi=1 on its kernel command line switches it on'
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

type FigureReader = <T>(name: FigureName, decode: (value: bigint) => T) => Reading<T>;

/** Where a JavaScript number ends to be exact: 8 PiB. A guest may claim more of anything; nobody downstream need believe it. */
const MAX_NUMBER = 2n ** 53n - 1n;

const asIs = (value: bigint): bigint => value;
const limited = (value: bigint): bigint | null => (value === UNLIMITED ? null : value);
/** A limit that no machine has is none. */
const limitedNumber = (value: bigint): number | null => (value > MAX_NUMBER ? null : Number(value));

function decodeContainer(record: Buffer, fixedBytes: number, cpuCount: number, slotName: SlotName): ContainerCounters {
  const devicesStart = fixedBytes + cpuCount * 8;
  const interfacesStart = devicesStart + record.readUInt32LE(CONTAINER.deviceCount) * DEVICE.bytes;
  const pathStart = interfacesStart + record.readUInt32LE(CONTAINER.interfaceCount) * INTERFACE.bytes;
  const pathEnd = pathStart + record.readUInt32LE(CONTAINER.pathLength);
  const idStart = pathStart + record.readUInt32LE(CONTAINER.idOffset);
  const idEnd = idStart + record.readUInt32LE(CONTAINER.idLength);
  const runtime = RUNTIMES[record.readUInt32LE(CONTAINER.runtime)];
  if (!runtime) throw new Error(`a container of runtime ${record.readUInt32LE(CONTAINER.runtime)}`);

  const figure: FigureReader = (name, decode) => {
    const start = CONTAINER.figures + FIGURE_NUMBERS[name] * FIGURE_BYTES;
    const status = record.readInt32LE(start + 8);
    if (status === 0) {
      const value = record.readBigUInt64LE(start);
      if ((decode as unknown) === Number && value > MAX_NUMBER)
        return unavailable('Malformed', `the guest says ${value}, which no machine has`);
      return available(decode(value));
    }
    const what = /(Some|Full)$/.test(name) ? 'pressure' : name;
    return missing(status, record.readUInt32LE(start + 12), what, slotName);
  };
  const perCpu = (): (bigint | null)[] =>
    Array.from({ length: cpuCount }, (_, cpu) => {
      const value = record.readBigUInt64LE(fixedBytes + cpu * 8);
      return value === NO_CPU ? null : value;
    });
  const isDetailed = record.readInt32LE(CONTAINER.figures + FIGURE_NUMBERS.pids * FIGURE_BYTES + 8) !== STATUS.notAsked;
  return {
    id: record.toString('utf8', idStart, idEnd),
    runtime,
    cgroupPath: record.toString('utf8', pathStart, pathEnd),
    cpuNanoseconds: figure('cpu', asIs),
    cpuUserNanoseconds: figure('cpuUser', asIs),
    cpuSystemNanoseconds: figure('cpuSystem', asIs),
    perCpuNanoseconds: figure('perCpu', perCpu),
    memoryBytes: figure('memory', Number),
    memoryAnonBytes: figure('memoryAnon', Number),
    memoryFileBytes: figure('memoryFile', Number),
    memorySwapCacheBytes: figure('memorySwapCache', Number),
    memoryLimitBytes: figure('memoryLimit', limitedNumber),
    ioReadBytes: figure('ioRead', asIs),
    ioWriteBytes: figure('ioWrite', asIs),
    details: isDetailed
      ? decodeDetails(
          figure,
          record.subarray(devicesStart, interfacesStart),
          record.subarray(interfacesStart, pathStart),
          record.readUInt32LE(CONTAINER.isHostNetwork) !== 0,
          slotName,
        )
      : null,
  };
}

function decodeDetails(
  figure: FigureReader,
  devices: Buffer,
  interfaces: Buffer,
  isHost: boolean,
  slotName: SlotName,
): ContainerDetails {
  const pressure = (some: FigureName, full: FigureName): PressureCounters => ({
    someNanoseconds: figure(some, asIs),
    fullNanoseconds: figure(full, asIs),
  });
  return {
    cpuQuotaNanoseconds: figure('cpuQuota', limited),
    cpuPeriodNanoseconds: figure('cpuPeriod', asIs),
    cpuPeriods: figure('cpuPeriods', asIs),
    cpuThrottledPeriods: figure('cpuThrottledPeriods', asIs),
    cpuThrottledNanoseconds: figure('cpuThrottled', asIs),
    cpuShares: figure('cpuShares', Number),
    memoryPeakBytes: figure('memoryPeak', Number),
    memorySwapBytes: figure('memorySwap', Number),
    memoryInactiveFileBytes: figure('memoryInactiveFile', Number),
    memoryMappedBytes: figure('memoryMapped', Number),
    memoryKernelBytes: figure('memoryKernel', Number),
    oomKills: figure('oomKills', asIs),
    ioReads: figure('ioReads', asIs),
    ioWrites: figure('ioWrites', asIs),
    ioDevices: figure('ioRead', () => recordsOf(devices, DEVICE.bytes).map(decodeDevice)),
    pids: figure('pids', Number),
    pidsLimit: figure('pidsLimit', limitedNumber),
    pressure: {
      cpu: pressure('cpuSome', 'cpuFull'),
      memory: pressure('memorySome', 'memoryFull'),
      io: pressure('ioSome', 'ioFull'),
    },
    network: figure('network', (namespace) => ({
      namespace: Number(namespace),
      isHost,
      interfaces: recordsOf(interfaces, INTERFACE.bytes).map((record) => decodeInterface(record, slotName)),
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

function textOf(buffer: Buffer, start: number, bytes: number = NAME_BYTES): string {
  const end = buffer.indexOf(0, start);
  return buffer.toString('utf8', start, end < 0 || end > start + bytes ? start + bytes : end);
}

/** 16 bytes in a UUID's notation. */
export function uuidOf(bytes: Buffer): string {
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

/**
 * The flat buffer of ciel_sample() as model types. Its layout is mapper/mapper.h's; the ABI number is checked at load.
 *
 * Every figure arrives with a status of its own: a value, or the reason why there is none. Names and paths are the
 * guest's bytes, decoded as UTF-8 with replacement characters: whoever shows them escapes them.
 */
import { available, type Reading, type UnavailableReason, unavailable } from '../model/reading.ts';
import type { ContainerCounters, ContainerRuntime, VmIntrospection } from '../model/usage.ts';

export const ABI = 1;

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
];
const STATUS_NO_FIELD = 4;
const STATUS_NOT_ACCOUNTED = 15;

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
const FIGURE = {
  cpu: 0,
  cpuUser: 1,
  cpuSystem: 2,
  perCpu: 3,
  memory: 4,
  memoryAnon: 5,
  memoryFile: 6,
  memorySwapCache: 7,
  memoryLimit: 8,
  ioRead: 9,
  ioWrite: 10,
} as const;

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
const CONTAINER = { bytes: 0, runtime: 4, pathLength: 8, idOffset: 12, idLength: 16, figures: 24 } as const;
const FIGURE_BYTES = 16;
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
      atNanoseconds: buffer.readBigUInt64LE(HEADER.atNs),
      guestBoot: uuidOf(buffer.subarray(HEADER.bootId, HEADER.bootId + 16)),
      kernelRelease: textOf(buffer, HEADER.release),
      nodename: textOf(buffer, HEADER.nodename),
      possibleCpus: buffer.readUInt32LE(HEADER.possibleCpus),
      jiffies: buffer.readBigUInt64LE(HEADER.jiffies),
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

function decodeContainer(
  record: Buffer,
  fixedBytes: number,
  cpuCount: number,
  slotName: (slot: number) => string,
): ContainerCounters {
  const pathStart = fixedBytes + cpuCount * 8;
  const pathEnd = pathStart + record.readUInt32LE(CONTAINER.pathLength);
  const idStart = pathStart + record.readUInt32LE(CONTAINER.idOffset);
  const idEnd = idStart + record.readUInt32LE(CONTAINER.idLength);
  const runtime = RUNTIMES[record.readUInt32LE(CONTAINER.runtime)];
  if (!runtime) throw new Error(`a container of runtime ${record.readUInt32LE(CONTAINER.runtime)}`);

  const figure = <T>(number: number, decode: (value: bigint) => T): Reading<T> => {
    const start = CONTAINER.figures + number * FIGURE_BYTES;
    const status = record.readInt32LE(start + 8);
    if (status !== 0) return unavailable(reasonOfStatus(status), messageOf(status, record.readUInt32LE(start + 12)));
    return available(decode(record.readBigUInt64LE(start)));
  };
  const messageOf = (status: number, slot: number): string => {
    if (status === STATUS_NO_FIELD) return `the guest's kernel has no ${slotName(slot)}`;
    if (status === STATUS_NOT_ACCOUNTED) return 'the controller is not enabled for this cgroup';
    return `reading the cgroup failed (${reasonOfStatus(status)})`;
  };
  const perCpu = (): (bigint | null)[] =>
    Array.from({ length: cpuCount }, (_, cpu) => {
      const value = record.readBigUInt64LE(fixedBytes + cpu * 8);
      return value === NO_CPU ? null : value;
    });
  return {
    id: record.toString('utf8', idStart, idEnd),
    runtime,
    cgroupPath: record.toString('utf8', pathStart, pathEnd),
    cpuNanoseconds: figure(FIGURE.cpu, (value) => value),
    cpuUserNanoseconds: figure(FIGURE.cpuUser, (value) => value),
    cpuSystemNanoseconds: figure(FIGURE.cpuSystem, (value) => value),
    perCpuNanoseconds: figure(FIGURE.perCpu, perCpu),
    memoryBytes: figure(FIGURE.memory, Number),
    memoryAnonBytes: figure(FIGURE.memoryAnon, Number),
    memoryFileBytes: figure(FIGURE.memoryFile, Number),
    memorySwapCacheBytes: figure(FIGURE.memorySwapCache, Number),
    memoryLimitBytes: figure(FIGURE.memoryLimit, (value) => (value === UNLIMITED ? null : Number(value))),
    ioReadBytes: figure(FIGURE.ioRead, (value) => value),
    ioWriteBytes: figure(FIGURE.ioWrite, (value) => value),
  };
}

function textOf(buffer: Buffer, start: number): string {
  const end = buffer.indexOf(0, start);
  return buffer.toString('utf8', start, end < 0 || end > start + NAME_BYTES ? start + NAME_BYTES : end);
}

/** 16 bytes in a UUID's notation. */
export function uuidOf(bytes: Buffer): string {
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

/**
 * What a sample looks like in memory: mapper/mapper.h's structs, by offset. The ABI number is checked at load.
 */
export const ABI = 5;

/** enum ciel_figure_name */
export const FIGURE = {
  cpu: 0,
  cpuUser: 1,
  cpuSystem: 2,
  perCpu: 3,
  cpuQuota: 4,
  cpuPeriod: 5,
  cpuPeriods: 6,
  cpuThrottledPeriods: 7,
  cpuThrottled: 8,
  cpuShares: 9,
  memory: 10,
  memoryPeak: 11,
  memoryLimit: 12,
  memorySwap: 13,
  oomKills: 14,
  memoryAnon: 15,
  memoryFile: 16,
  memorySwapCache: 17,
  memoryInactiveFile: 18,
  memoryMapped: 19,
  memoryKernel: 20,
  ioRead: 21,
  ioWrite: 22,
  ioReads: 23,
  ioWrites: 24,
  pids: 25,
  pidsLimit: 26,
  cpuSome: 27,
  cpuFull: 28,
  memorySome: 29,
  memoryFull: 30,
  ioSome: 31,
  ioFull: 32,
  network: 33,
} as const;
export type FigureNumber = (typeof FIGURE)[keyof typeof FIGURE];
export const FIGURE_COUNT = Object.keys(FIGURE).length;
/** Of pressure, whose absence has reasons of its own. */
export const isOfPressure = (figure: FigureNumber): boolean => figure >= FIGURE.cpuSome && figure <= FIGURE.ioFull;

export const HEADER = {
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
export const NAME_BYTES = 72;
export const CONTAINER = {
  bytes: 0,
  runtime: 4,
  pathLength: 8,
  idOffset: 12,
  idLength: 16,
  deviceCount: 20,
  interfaceCount: 24,
  isHostNetwork: 28,
  serial: 32,
  figures: 40,
} as const;
export const FIGURE_BYTES = 16;
export const DEVICE = { bytes: 72, counters: 4, major: 32, minor: 36, name: 40, nameBytes: 32 } as const;
export const INTERFACE = {
  bytes: 112,
  counters: 8,
  status: 64,
  detail: 68,
  index: 72,
  flags: 76,
  name: 80,
  kind: 96,
  nameBytes: 16,
} as const;
export const IFF_LOOPBACK = 8;

/** A sample as words, as records begin at multiples of 8: loads of typed arrays make no objects on their way. */
export interface Words {
  readonly of32: Uint32Array;
  readonly of64: BigUint64Array;
}

/** A sample in memory of its own, which has been checked: every record lies within it, and its parts within the record. */
export interface PlainSample {
  readonly bytes: Buffer;
  readonly words: Words;
  readonly cpuCount: number;
  /** Bytes of a container's record that are the same in each. */
  readonly fixedBytes: number;
  /** Where the containers' records are. */
  readonly records: readonly number[];
}

/** Where the parts of a container's record begin; the path ends it. */
export function placesIn({ words: { of32 }, cpuCount, fixedBytes }: PlainSample, record: number) {
  const first = record / 4;
  const perCpu = record + fixedBytes;
  const devices = perCpu + cpuCount * 8;
  const interfaces = devices + (of32[first + CONTAINER.deviceCount / 4] as number) * DEVICE.bytes;
  const path = interfaces + (of32[first + CONTAINER.interfaceCount / 4] as number) * INTERFACE.bytes;
  return { perCpu, devices, interfaces, path, end: path + (of32[first + CONTAINER.pathLength / 4] as number) };
}

/** The word of 64 bits in which the figure's value is; its status and detail are the next two of 32. */
export function figureWord(record: number, figure: FigureNumber): number {
  return (record + CONTAINER.figures + figure * FIGURE_BYTES) / 8;
}

export function textOf(buffer: Buffer, start: number, bytes: number): string {
  const end = buffer.indexOf(0, start);
  return buffer.toString('utf8', start, end < 0 || end > start + bytes ? start + bytes : end);
}

/** 16 bytes in a UUID's notation. */
export function uuidOf(bytes: Buffer): string {
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

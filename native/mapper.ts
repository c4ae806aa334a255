/**
 * The border to libcielmapper.so: every call and struct of mapper/mapper.h, and nothing else. This file and libvirt's know
 * koffi; no other does. Calls block (an attach for tenths of a second), so only the sampler's process makes them.
 *
 * A guest handle is a pointer: used after detach() it would crash the process, so it is kept private here.
 */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import koffi from 'koffi';
import type { UnavailableReason } from '../model/reading.ts';
import type { VmIntrospection } from '../model/usage.ts';
import { decodeSample, reasonOfStatus, type SampleWork } from './sample-decoding.ts';
import { ABI, uuidOf } from './sample-layout.ts';

/** enum ciel_machine */
const MACHINES = { i440fx: 1, q35: 2 } as const;
export type Machine = keyof typeof MACHINES;
/** enum ciel_source_choice */
const SOURCES = { auto: 0, mapped: 1, process: 2, file: 3, dump: 4 } as const;
type Source = keyof typeof SOURCES;
export type SourceChoice = Exclude<Source, 'dump'>;

const ERROR = { bytes: 512, status: 0, message: 4 } as const;
const REQUEST = {
  bytes: 672,
  cachePath: 40,
  cachePathBytes: 244,
  cacheOnly: 284,
  btfDirectory: 288,
  btfBytes: 248,
  nodeCount: 536,
  nodeBytes: 544,
  maxNodes: 16,
} as const;
const REPORT = {
  bytes: 168,
  source: 0,
  fromCache: 4,
  candidates: 8,
  levels: 12,
  scanNs: 16,
  symbolsNs: 24,
  typesNs: 32,
  totalNs: 40,
  btfHash: 48,
  bootId: 80,
  release: 96,
} as const;

const FIRST_SAMPLE_BYTES = 64 * 1024;
const MAX_SAMPLE_BYTES = 16 * 1024 * 1024;

/** The RAM of a QEMU process, by what its command line says. */
export interface GuestRam {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat: a pid alone may be somebody else's by now. */
  readonly startTime: bigint;
  readonly machine: Machine;
  readonly ramBytes: number;
  /** Where each NUMA node has a RAM block of its own: their sizes, in the nodes' order. */
  readonly numaNodeBytes: readonly number[];
  /** QEMU's machine option; null when it was not given. */
  readonly maxRamBelow4gBytes: number | null;
}

export interface AttachRequest extends GuestRam {
  readonly source: SourceChoice;
  /** Systemd services are sampled like containers. */
  readonly withServices: boolean;
  /** With the figures that are read on demand. */
  readonly withDetails: boolean;
  /** Attached from and saved to; null: neither. */
  readonly cachePath: string | null;
  /** Of detached BTF files, for kernels that carry no types of their own; default: none. */
  readonly btfDirectory?: string | null;
  /** Fails as Stale instead of an attach that takes long. */
  readonly cacheOnly?: boolean;
}

export interface AttachReport {
  readonly source: Exclude<Source, 'auto'>;
  readonly fromCache: boolean;
  /** VMCOREINFO copies in the RAM that differ: more than one after a warm reboot. */
  readonly candidates: number;
  readonly pageTableLevels: number;
  readonly scanMs: number;
  readonly symbolsMs: number;
  readonly typesMs: number;
  readonly totalMs: number;
  readonly btfSha256: string;
  readonly guestBoot: string;
  readonly kernelRelease: string;
}

/** What the mapper answered instead of a result. */
export class MapperError extends Error {
  readonly reason: UnavailableReason;
  constructor(reason: UnavailableReason, message: string) {
    super(message);
    this.name = 'MapperError';
    this.reason = reason;
  }
}

function bind(path: string) {
  const library = koffi.load(path);
  return {
    abi: library.func('uint32_t ciel_abi()') as () => number,
    attach: library.func(
      'int32_t ciel_attach(const uint8_t *request, _Out_ void **ret, _Out_ uint8_t *report, _Out_ uint8_t *error)',
    ) as (request: Buffer, ret: [unknown], report: Buffer, error: Buffer) => number,
    attachDump: library.func(
      'int32_t ciel_attach_dump(const char *path, const char *btf, _Out_ void **ret, _Out_ uint8_t *report, _Out_ uint8_t *format, _Out_ uint8_t *error)',
    ) as (path: string, btf: string | null, ret: [unknown], report: Buffer, format: Buffer, error: Buffer) => number,
    sample: library.func(
      'int32_t ciel_sample(void *guest, _Out_ uint8_t *buffer, uint64_t capacity, _Out_ uint8_t *error)',
    ) as (guest: unknown, buffer: Buffer, capacity: number, error: Buffer) => number,
    detach: library.func('void ciel_detach(void *guest)') as (guest: unknown) => void,
    hostOpen: library.func('int32_t ciel_host_open(_Out_ void **ret, _Out_ uint8_t *error)') as (
      ret: [unknown],
      error: Buffer,
    ) => number,
    hostSample: library.func(
      'int32_t ciel_host_sample(void *host, const uint64_t *guests, uint32_t count, uint64_t tag, uint8_t *buffer, uint64_t capacity, uint64_t limit_ns, _Out_ uint8_t *error)',
    ) as (
      host: unknown,
      guests: BigUint64Array,
      count: number,
      tag: number,
      buffer: Buffer,
      capacity: number,
      limitNs: number,
      error: Buffer,
    ) => number,
    hostDetach: library.func('void ciel_host_detach(void *host, void *guest)') as (
      host: unknown,
      guest: unknown,
    ) => void,
    boardCreate: library.func('int32_t ciel_board_create(uint64_t bytes, _Out_ uint8_t *error)') as (
      bytes: number,
      error: Buffer,
    ) => number,
    boardMap: library.func(
      'void *ciel_board_map(int32_t file, uint64_t bytes, int32_t is_writable, _Out_ uint8_t *error)',
    ) as (file: number, bytes: number, isWritable: number, error: Buffer) => unknown,
    slotName: library.func('const char *ciel_slot_name(uint32_t slot)') as (slot: number) => string,
  };
}
type Calls = ReturnType<typeof bind>;

let loaded: Calls | null = null;
function calls(): Calls {
  if (loaded) return loaded;
  const path = libraryPath();
  const bound = bind(path);
  if (bound.abi() !== ABI)
    throw new Error(`${path} has ABI ${bound.abi()}, this build needs ${ABI}: run \`npm run build:native\``);
  loaded = bound;
  return bound;
}

/** Loads the library now instead of with the first attach. @throws with what to do when it is missing or of another build */
export function loadMapper(): void {
  calls();
}

/** Beside the package: this file is native/mapper.ts, or dist/native/mapper.js when compiled. */
function libraryPath(): string {
  const candidates = ['../build/native/libcielmapper.so', '../../build/native/libcielmapper.so'].map((relative) =>
    fileURLToPath(new URL(relative, import.meta.url)),
  );
  const found = candidates.find((path) => existsSync(path));
  if (!found) throw new Error(`libcielmapper.so is not at ${candidates.join(' or ')}: run \`npm run build:native\``);
  return found;
}

function errorOf(error: Buffer): MapperError {
  const end = error.indexOf(0, ERROR.message);
  const message = error.toString('utf8', ERROR.message, end < 0 ? ERROR.bytes : end);
  return new MapperError(reasonOfStatus(error.readInt32LE(ERROR.status)), message);
}

function encodeRequest(request: AttachRequest): Buffer {
  const bytes = Buffer.alloc(REQUEST.bytes);
  bytes.writeUInt32LE(request.pid, 0);
  bytes.writeUInt32LE(MACHINES[request.machine], 4);
  bytes.writeBigUInt64LE(request.startTime, 8);
  bytes.writeBigUInt64LE(BigInt(request.ramBytes), 16);
  bytes.writeBigUInt64LE(BigInt(request.maxRamBelow4gBytes ?? 0), 24);
  bytes.writeUInt32LE(SOURCES[request.source], 32);
  bytes.writeUInt16LE(request.withServices ? 1 : 0, 36);
  bytes.writeUInt16LE(request.withDetails ? 1 : 0, 38);
  const putPath = (path: string | null, at: number, room: number): void => {
    const text = Buffer.from(path ?? '', 'utf8');
    if (text.length >= room) throw new Error(`the path ${path} is longer than ${room - 1} bytes`);
    text.copy(bytes, at);
  };
  putPath(request.cachePath, REQUEST.cachePath, REQUEST.cachePathBytes);
  putPath(request.btfDirectory ?? null, REQUEST.btfDirectory, REQUEST.btfBytes);
  bytes.writeUInt32LE(request.cacheOnly ? 1 : 0, REQUEST.cacheOnly);
  bytes.writeUInt32LE(request.numaNodeBytes.length, REQUEST.nodeCount);
  for (const [index, size] of request.numaNodeBytes.slice(0, REQUEST.maxNodes).entries()) {
    bytes.writeBigUInt64LE(BigInt(size), REQUEST.nodeBytes + 8 * index);
  }
  return bytes;
}

function sourceOf(number: number): AttachReport['source'] {
  const found = (['mapped', 'process', 'file', 'dump'] as const).find((name) => SOURCES[name] === number);
  if (found === undefined) throw new Error(`an attach by source ${number}`);
  return found;
}

function decodeReport(report: Buffer): AttachReport {
  const ms = (at: number): number => Number(report.readBigUInt64LE(at)) / 1e6;
  return {
    source: sourceOf(report.readUInt32LE(REPORT.source)),
    fromCache: report.readUInt32LE(REPORT.fromCache) !== 0,
    candidates: report.readUInt32LE(REPORT.candidates),
    pageTableLevels: report.readUInt32LE(REPORT.levels),
    scanMs: ms(REPORT.scanNs),
    symbolsMs: ms(REPORT.symbolsNs),
    typesMs: ms(REPORT.typesNs),
    totalMs: ms(REPORT.totalNs),
    btfSha256: report.toString('hex', REPORT.btfHash, REPORT.btfHash + 32),
    guestBoot: uuidOf(report.subarray(REPORT.bootId, REPORT.bootId + 16)),
    kernelRelease: report.toString('utf8', REPORT.release, report.indexOf(0, REPORT.release)),
  };
}

let handleOf: (guest: Guest) => unknown;

/** A guest that has been attached to. detach() gives its RAM's mapping back. */
export class Guest {
  static {
    handleOf = (guest) => guest.#handle;
  }
  readonly report: AttachReport;
  readonly #calls: Calls;
  readonly #error = Buffer.alloc(ERROR.bytes);
  #handle: unknown;
  #buffer = Buffer.alloc(FIRST_SAMPLE_BYTES);
  #lastElapsedNanoseconds = 0n;
  #lastWork: SampleWork = { viewsRun: 0, viewsRepeated: 0, corrections: 0 };

  constructor(bound: Calls, handle: unknown, report: AttachReport) {
    this.#calls = bound;
    this.#handle = handle;
    this.report = report;
  }

  /** How long the last sample took inside the mapper. */
  get lastElapsedNanoseconds(): bigint {
    return this.#lastElapsedNanoseconds;
  }

  /** How the last sample came about. */
  get lastWork(): SampleWork {
    return this.#lastWork;
  }

  /** Reads the containers. Throws MapperError; Stale: attach again. */
  sample(): VmIntrospection {
    this.sampleRaw();
    const decoded = decodeSample(this.#buffer, (slot) => this.#calls.slotName(slot));
    this.#lastElapsedNanoseconds = decoded.elapsedNanoseconds;
    this.#lastWork = decoded.work;
    return decoded.introspection;
  }

  /** The sample without its decoding: what benches time. The buffer grows when it is too small for the containers. */
  sampleRaw(): void {
    if (this.#handle === null) throw new Error('sample() after detach()');
    while (this.#calls.sample(this.#handle, this.#buffer, this.#buffer.length, this.#error) !== 0) {
      const error = errorOf(this.#error);
      if (!error.message.startsWith("the sample's buffer") || this.#buffer.length >= MAX_SAMPLE_BYTES) throw error;
      this.#buffer = Buffer.alloc(this.#buffer.length * 4);
    }
  }

  /** `host`: whose samples this guest has been part of. */
  detach(host: Host | null = null): void {
    if (this.#handle === null) return;
    if (host) host.detach(this.#handle);
    else this.#calls.detach(this.#handle);
    this.#handle = null;
  }
}

/** All guests of a host, sampled in one call. */
export class Host {
  readonly #calls = calls();
  readonly #error = Buffer.alloc(ERROR.bytes);
  readonly #handle: unknown;
  #guests = new BigUint64Array(0);

  /** Starts its threads. They end with the process. */
  constructor() {
    const handle: [unknown] = [null];
    if (this.#calls.hostOpen(handle, this.#error) !== 0) throw errorOf(this.#error);
    this.#handle = handle[0];
  }

  /** Writes a row for each guest, and samples, to the buffer. null: a row without anything. `tag` says whose they are. */
  sample(guests: readonly (Guest | null)[], tag: number, buffer: Buffer, limitMs: number): void {
    if (this.#guests.length < guests.length) this.#guests = new BigUint64Array(guests.length * 2);
    for (const [row, guest] of guests.entries()) {
      const handle = guest === null ? null : handleOf(guest);
      this.#guests[row] = handle === null ? 0n : koffi.address(handle);
    }
    const { length } = buffer;
    const limitNs = Math.round(limitMs * 1e6);
    const { hostSample } = this.#calls;
    if (hostSample(this.#handle, this.#guests, guests.length, tag, buffer, length, limitNs, this.#error) !== 0)
      throw errorOf(this.#error);
  }

  detach(handle: unknown): void {
    this.#calls.hostDetach(this.#handle, handle);
  }
}

/** Memory that the sampler's process and its parent share: the file descriptor, to be handed to the other one. */
export function createBoard(bytes: number): number {
  const error = Buffer.alloc(ERROR.bytes);
  const file = calls().boardCreate(bytes, error);
  if (file < 0) throw errorOf(error);
  return file;
}

/** Maps it for as long as this process lives. */
export function mapBoard(file: number, bytes: number, access: 'read' | 'write'): Buffer {
  const error = Buffer.alloc(ERROR.bytes);
  const mapped = calls().boardMap(file, bytes, access === 'write' ? 1 : 0, error);
  if (mapped === null) throw errorOf(error);
  return Buffer.from(koffi.view(mapped, bytes));
}

/** What a slot number in a sample asked of the guest's kernel, for messages. */
export function slotName(slot: number): string {
  return calls().slotName(slot);
}

/** Finds the kernel in a QEMU process's RAM. Throws MapperError with the reason. */
export function attach(request: AttachRequest): Guest {
  const bound = calls();
  const handle: [unknown] = [null];
  const report = Buffer.alloc(REPORT.bytes);
  const error = Buffer.alloc(ERROR.bytes);
  if (bound.attach(encodeRequest(request), handle, report, error) !== 0) throw errorOf(error);
  return new Guest(bound, handle[0], decodeReport(report));
}

const DUMP_FORMAT_BYTES = 64;

/** The same in a dump, whose format is recognised by its content. Throws MapperError with the reason. */
export function attachDump(
  path: string,
  btfDirectory: string | null,
): { readonly guest: Guest; readonly format: string } {
  const bound = calls();
  const handle: [unknown] = [null];
  const report = Buffer.alloc(REPORT.bytes);
  const format = Buffer.alloc(DUMP_FORMAT_BYTES);
  const error = Buffer.alloc(ERROR.bytes);
  if (bound.attachDump(path, btfDirectory, handle, report, format, error) !== 0) throw errorOf(error);
  return {
    guest: new Guest(bound, handle[0], decodeReport(report)),
    format: format.toString('utf8', 0, format.indexOf(0)),
  };
}

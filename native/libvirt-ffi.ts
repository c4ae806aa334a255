/**
 * The C side of libvirt by koffi: every prototype, in one file, because a wrong one is a crash. Loaded in worker threads
 * only; calls are synchronous there, since libvirt keeps its last error per thread.
 *
 * Pointers are bigint. A call that fails is followed at once, on the same thread, by `lastError`.
 */
import koffi from 'koffi';
import { LIBVIRT_ERRORS, LIBVIRT_RPC, LibvirtError } from './libvirt-errors.ts';

export type ConnectionPointer = bigint;
export type DomainPointer = bigint;
/** A C function pointer that calls JavaScript on the thread that made it. */
export type Callback = bigint;

const libvirt = koffi.load('libvirt.so.0');
const qemu = koffi.load('libvirt-qemu.so.0');
const libc = koffi.load('libc.so.6');

/** A string of the caller's: copied, then freed. */
const OwnedString = koffi.disposable('OwnedString', 'char *', libc.func('void free(void *memory)'));
const VirError = koffi.struct('virError', {
  code: 'int',
  domain: 'int',
  message: 'char *',
  level: 'int',
  conn: 'void *',
  dom: 'void *',
  str1: 'char *',
  str2: 'char *',
  str3: 'char *',
  int1: 'int',
  int2: 'int',
  net: 'void *',
});
export const C = {
  open: libvirt.func('void *virConnectOpen(const char *uri)') as (uri: string) => ConnectionPointer | null,
  close: libvirt.func('int virConnectClose(void *connection)') as (connection: ConnectionPointer) => number,
  isAlive: libvirt.func('int virConnectIsAlive(void *connection)') as (connection: ConnectionPointer) => number,
  setKeepAlive: libvirt.func('int virConnectSetKeepAlive(void *connection, int interval, unsigned int count)') as (
    connection: ConnectionPointer,
    intervalSeconds: number,
    count: number,
  ) => number,
  getLastError: libvirt.func('void *virGetLastError()') as () => bigint | null,
  setErrorFunc: libvirt.func('void virSetErrorFunc(void *data, void *handler)') as (
    data: null,
    handler: unknown,
  ) => void,

  define: libvirt.func('void *virDomainDefineXMLFlags(void *connection, const char *xml, unsigned int flags)') as (
    connection: ConnectionPointer,
    xml: string,
    flags: number,
  ) => DomainPointer | null,
  byUuid: libvirt.func('void *virDomainLookupByUUIDString(void *connection, const char *uuid)') as (
    connection: ConnectionPointer,
    uuid: string,
  ) => DomainPointer | null,
  byName: libvirt.func('void *virDomainLookupByName(void *connection, const char *name)') as (
    connection: ConnectionPointer,
    name: string,
  ) => DomainPointer | null,
  free: libvirt.func('int virDomainFree(void *domain)') as (domain: DomainPointer) => number,
  name: libvirt.func('const char *virDomainGetName(void *domain)') as (domain: DomainPointer) => string,
  id: libvirt.func('unsigned int virDomainGetID(void *domain)') as (domain: DomainPointer) => number,
  uuid: libvirt.func('int virDomainGetUUIDString(void *domain, _Out_ uint8_t *text)') as (
    domain: DomainPointer,
    text: Buffer,
  ) => number,
  info: libvirt.func('int virDomainGetInfo(void *domain, _Out_ uint8_t *info)') as (
    domain: DomainPointer,
    info: Buffer,
  ) => number,
  isPersistent: libvirt.func('int virDomainIsPersistent(void *domain)') as (domain: DomainPointer) => number,
  create: libvirt.func('int virDomainCreateWithFlags(void *domain, unsigned int flags)') as DomainFlagsCall,
  destroy: libvirt.func('int virDomainDestroyFlags(void *domain, unsigned int flags)') as DomainFlagsCall,
  shutdown: libvirt.func('int virDomainShutdownFlags(void *domain, unsigned int flags)') as DomainFlagsCall,
  undefine: libvirt.func('int virDomainUndefineFlags(void *domain, unsigned int flags)') as DomainFlagsCall,
  xml: libvirt.func('virDomainGetXMLDesc', OwnedString, ['void *', 'uint']) as (
    domain: DomainPointer,
    flags: number,
  ) => string | null,
  metadata: libvirt.func('virDomainGetMetadata', OwnedString, ['void *', 'int', 'const char *', 'uint']) as (
    domain: DomainPointer,
    type: number,
    namespace: string,
    flags: number,
  ) => string | null,
  setMetadata: libvirt.func(
    'int virDomainSetMetadata(void *domain, int type, const char *xml, const char *prefix, const char *uri, unsigned int flags)',
  ) as (
    domain: DomainPointer,
    type: number,
    xml: string | null,
    prefix: string | null,
    uri: string,
    flags: number,
  ) => number,
  listAll: libvirt.func('int virConnectListAllDomains(void *connection, _Out_ void **domains, unsigned int flags)') as (
    connection: ConnectionPointer,
    domains: (bigint | null)[],
    flags: number,
  ) => number,
  agentCommand: qemu.func('virDomainQemuAgentCommand', OwnedString, ['void *', 'const char *', 'int', 'uint']) as (
    domain: DomainPointer,
    command: string,
    timeoutSeconds: number,
    flags: number,
  ) => string | null,
  monitorCommand: qemu.func(
    'int virDomainQemuMonitorCommand(void *domain, const char *command, _Out_ void **result, unsigned int flags)',
  ) as (domain: DomainPointer, command: string, result: (bigint | null)[], flags: number) => number,

  registerEventLoop: libvirt.func('int virEventRegisterDefaultImpl()') as () => number,
  runEventLoop: libvirt.func('int virEventRunDefaultImpl()') as () => number,
  addTimeout: libvirt.func('int virEventAddTimeout(int milliseconds, void *callback, void *data, void *free)') as (
    milliseconds: number,
    callback: unknown,
    data: null,
    free: null,
  ) => number,
  removeTimeout: libvirt.func('int virEventRemoveTimeout(int timer)') as (timer: number) => number,
  registerDomainEvent: libvirt.func(
    'int virConnectDomainEventRegisterAny(void *connection, void *domain, int event, void *callback, void *data, void *free)',
  ) as (
    connection: ConnectionPointer,
    domain: null,
    event: number,
    callback: unknown,
    data: null,
    free: null,
  ) => number,
  deregisterDomainEvent: libvirt.func('int virConnectDomainEventDeregisterAny(void *connection, int callback)') as (
    connection: ConnectionPointer,
    callback: number,
  ) => number,

  freeMemory: libc.func('void free(void *memory)') as (memory: bigint) => void,
  clockGettime: libc.func('int clock_gettime(int clock, _Out_ int64_t *timespec)') as (
    clock: number,
    timespec: BigInt64Array,
  ) => number,
};
type DomainFlagsCall = (domain: DomainPointer, flags: number) => number;

// A struct of another size means another libvirt: better no start than wrong reads.
if (koffi.sizeof(VirError) !== 80) throw new Error(`virError has ${koffi.sizeof(VirError)} bytes here, not 80`);

// Without a handler libvirt prints every error on stderr. The handler is the process's and is called on any thread, so it
// must not be JavaScript of one of them, which may be busy or gone: free(NULL) does nothing.
C.setErrorFunc(null, libc.symbol('free'));

/** Of the call that has just failed on this thread. */
export function lastError(connection: ConnectionPointer | null): LibvirtError {
  const pointer = C.getLastError();
  if (pointer === null) {
    return new LibvirtError({
      message: 'libvirt failed without giving an error',
      code: LIBVIRT_ERRORS.internalError,
      domain: 0,
      connectionLost: false,
    });
  }
  const { code, domain, message } = koffi.decode(pointer, VirError) as {
    code: number;
    domain: number;
    message: string | null;
  };
  return new LibvirtError({
    message: message ?? `libvirt error ${code}`,
    code,
    domain,
    connectionLost: connection === null || domain === LIBVIRT_RPC || C.isAlive(connection) !== 1,
  });
}

const CLOCK_BOOTTIME = 7;
/** Nanoseconds of CLOCK_BOOTTIME. Node's own hrtime is CLOCK_MONOTONIC, which stands still while the host sleeps. */
export function bootTimeNanoseconds(): bigint {
  const timespec = new BigInt64Array(2);
  if (C.clockGettime(CLOCK_BOOTTIME, timespec) !== 0) throw new Error('clock_gettime(CLOCK_BOOTTIME) failed');
  return (timespec[0] as bigint) * 1_000_000_000n + (timespec[1] as bigint);
}

export function domainUuid(domain: DomainPointer): string {
  const text = Buffer.alloc(37);
  if (C.uuid(domain, text) !== 0) throw lastError(null);
  return text.toString('latin1', 0, 36);
}

/** null for a domain that is not active. */
export function domainId(domain: DomainPointer): number | null {
  const id = C.id(domain);
  return id === 0xffff_ffff ? null : id;
}

export interface DomainInfo {
  /** virDomainState */
  readonly state: number;
  readonly memoryBytes: number;
  readonly vcpus: number;
  readonly cpuNanoseconds: bigint;
}
/**
 * virDomainInfo: uchar state; ulong maxMem, memory (KiB); ushort nrVirtCpu; ullong cpuTime. libvirt asks no QEMU for it.
 * null: the call failed.
 */
export function domainInfo(domain: DomainPointer): DomainInfo | null {
  const info = Buffer.alloc(40);
  if (C.info(domain, info) !== 0) return null;
  return {
    state: info.readUInt8(0),
    memoryBytes: Number(info.readBigUInt64LE(16)) * 1024,
    vcpus: info.readUInt16LE(24),
    cpuNanoseconds: info.readBigUInt64LE(32),
  };
}

export function takeString(pointer: bigint): string {
  try {
    return koffi.decode(pointer, 'char', -1) as string;
  } finally {
    C.freeMemory(pointer);
  }
}

/** All domains, active or not, in one call. They are freed when `read` returns: copy nothing out but values. */
export function withAllDomains<T>(connection: ConnectionPointer, read: (domains: readonly DomainPointer[]) => T): T {
  const out: (bigint | null)[] = [null];
  const count = C.listAll(connection, out, 0);
  const list = out[0];
  if (count < 0 || list === null || list === undefined) throw lastError(connection);
  const domains = count === 0 ? [] : Array.from(new BigUint64Array(koffi.view(list, count * 8)));
  try {
    return read(domains);
  } finally {
    for (const domain of domains) C.free(domain);
    C.freeMemory(list);
  }
}

const prototypes = new Map<string, ReturnType<typeof koffi.pointer>>();

/** A JavaScript function as a C callback, to be called on this thread only. */
export function callback(prototype: string, implementation: (...values: never[]) => unknown): Callback {
  // koffi refuses to define a name twice.
  const type = prototypes.get(prototype) ?? koffi.pointer(koffi.proto(prototype));
  prototypes.set(prototype, type);
  return koffi.register(implementation as (...values: unknown[]) => unknown, type);
}
/** When C can no longer call it: the number of callbacks is bounded. */
export function releaseCallback(registered: Callback): void {
  koffi.unregister(registered);
}

/**
 * What a libvirt worker thread can be asked, as plain functions over a connection: each a few C calls, synchronous.
 * libvirt.ts takes the types of its messages from here, and never loads this file.
 */
import type { VmCounters, VmState } from '../model/usage.ts';
import { LIBVIRT_ERRORS } from './libvirt-errors.ts';
import {
  bootTimeNanoseconds,
  C,
  type ConnectionPointer,
  type DomainInfo,
  type DomainPointer,
  domainId,
  domainInfo,
  domainUuid,
  lastError,
  takeString,
  withAllDomains,
} from './libvirt-ffi.ts';

export interface DomainDescription {
  readonly uuid: string;
  readonly name: string;
  readonly libvirtId: number | null;
  readonly state: VmState;
  readonly persistent: boolean;
}

/** virDomainState. */
const STATES: readonly VmState[] = [
  'unknown',
  'running',
  'blocked',
  'paused',
  'shutdown',
  'shutoff',
  'crashed',
  'suspended',
];
const DEFINE_VALIDATE = 1;
const UNDEFINE_MANAGED_SAVE = 1;
const UNDEFINE_SNAPSHOTS_METADATA = 2;
const UNDEFINE_NVRAM = 4;
const UNDEFINE_CHECKPOINTS_METADATA = 16;
const METADATA_ELEMENT = 2;
const AFFECT_CURRENT = 0;
const AFFECT_LIVE = 1;
const AFFECT_CONFIG = 2;
const XML_INACTIVE = 2;
const KEEPALIVE_SECONDS = 5;
const KEEPALIVE_COUNT = 3;

/** Of domains that are off: what they will have. It changes only by redefinition, and costs a call for each domain. */
const SIZE_FRESH_NANOSECONDS = 30_000_000_000n;
interface KnownInfo extends DomainInfo {
  readonly atNanoseconds: bigint;
}
const known = new Map<string, KnownInfo>();

export function openConnection(uri: string): ConnectionPointer {
  const connection = C.open(uri);
  if (connection === null) throw lastError(null);
  // Ends calls that wait for a libvirtd that hangs: within 20 s they fail, and the connection counts as lost.
  C.setKeepAlive(connection, KEEPALIVE_SECONDS, KEEPALIVE_COUNT);
  return connection;
}

export const calls = {
  /**
   * Every domain in one call, then state and CPU time of the active ones, each by a call that reads /proc.
   *
   * libvirt's bulk statistics would be one call, but ask QEMU for CPU figures (since QEMU 7.1), and a QEMU that hangs then
   * holds up all: VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT skips a job that waits, not a monitor that does not answer.
   */
  allStats(connection: ConnectionPointer): VmCounters[] {
    return withAllDomains(connection, (domains) => {
      const seen = new Set<string>();
      const vms = domains.flatMap((domain): VmCounters[] => {
        const uuid = domainUuid(domain);
        const libvirtId = domainId(domain);
        if (libvirtId !== null) known.delete(uuid);
        const info = libvirtId === null ? infoOfInactive(domain, uuid) : infoNow(domain);
        // Gone between the two calls, so not part of the answer.
        if (info === null) return [];
        seen.add(uuid);
        return [
          {
            uuid,
            name: C.name(domain),
            libvirtId,
            state: STATES[info.state] ?? 'unknown',
            atNanoseconds: info.atNanoseconds,
            // Without cgroups, libvirt gives its own CPU time for a domain that is off.
            cpuNanoseconds: libvirtId === null ? null : info.cpuNanoseconds,
            vcpus: info.vcpus,
            memoryBytes: info.memoryBytes,
          },
        ];
      });
      for (const uuid of known.keys()) if (!seen.has(uuid)) known.delete(uuid);
      return vms;
    });
  },

  /** By UUID or by name; null when there is none. */
  lookup(connection: ConnectionPointer, uuidOrName: string): DomainDescription | null {
    const isUuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(uuidOrName);
    const domain = (isUuid ? C.byUuid : C.byName)(connection, uuidOrName);
    if (domain === null) {
      const error = lastError(connection);
      if (error.code === LIBVIRT_ERRORS.noDomain) return null;
      throw error;
    }
    return freeing(domain, () => describe(connection, domain));
  },

  /** Defines, or redefines what has the same UUID. Elements outside libvirt's schema are an error, not dropped. */
  defineXml(connection: ConnectionPointer, xml: string): DomainDescription {
    const domain = C.define(connection, xml, DEFINE_VALIDATE);
    if (domain === null) throw lastError(connection);
    return freeing(domain, () => describe(connection, domain));
  },

  create(connection: ConnectionPointer, uuid: string): void {
    withDomain(connection, uuid, (domain) => succeed(connection, C.create(domain, 0)));
  },
  destroy(connection: ConnectionPointer, uuid: string): void {
    withDomain(connection, uuid, (domain) => succeed(connection, C.destroy(domain, 0)));
  },
  /** Asks the guest; returns at once. */
  shutdown(connection: ConnectionPointer, uuid: string): void {
    withDomain(connection, uuid, (domain) => succeed(connection, C.shutdown(domain, 0)));
  },
  undefine(connection: ConnectionPointer, uuid: string): void {
    const everything =
      UNDEFINE_MANAGED_SAVE | UNDEFINE_SNAPSHOTS_METADATA | UNDEFINE_NVRAM | UNDEFINE_CHECKPOINTS_METADATA;
    withDomain(connection, uuid, (domain) => succeed(connection, C.undefine(domain, everything)));
  },

  xml(connection: ConnectionPointer, uuid: string, options: { readonly inactive?: boolean } = {}): string {
    return withDomain(connection, uuid, (domain) => {
      const xml = C.xml(domain, options.inactive === true ? XML_INACTIVE : 0);
      if (xml === null) throw lastError(connection);
      return xml;
    });
  },

  /** The element of that namespace; null when the domain has none. */
  metadata(connection: ConnectionPointer, uuid: string, namespace: string): string | null {
    return withDomain(connection, uuid, (domain) => {
      const xml = C.metadata(domain, METADATA_ELEMENT, namespace, AFFECT_CURRENT);
      if (xml !== null) return xml;
      const error = lastError(connection);
      if (error.code === LIBVIRT_ERRORS.noDomainMetadata) return null;
      throw error;
    });
  },

  /** Replaces the element of that namespace, running and persistent; null removes it. */
  setMetadata(
    connection: ConnectionPointer,
    uuid: string,
    namespace: string,
    element: { readonly prefix: string; readonly xml: string } | null,
  ): void {
    withDomain(connection, uuid, (domain) => {
      const flags = (domainId(domain) === null ? 0 : AFFECT_LIVE) | (C.isPersistent(domain) === 1 ? AFFECT_CONFIG : 0);
      const set = C.setMetadata(
        domain,
        METADATA_ELEMENT,
        element?.xml ?? null,
        element?.prefix ?? null,
        namespace,
        flags,
      );
      succeed(connection, set);
    });
  },

  /** The guest agent's whole answer, unchecked: the guest may answer anything. */
  agentCommand(connection: ConnectionPointer, uuid: string, command: object, timeoutSeconds: number): unknown {
    return withDomain(connection, uuid, (domain) => {
      const answer = C.agentCommand(domain, JSON.stringify(command), timeoutSeconds, 0);
      if (answer === null) throw lastError(connection);
      return JSON.parse(answer) as unknown;
    });
  },

  /** QEMU's whole answer: {return: …} or {error: …}. */
  monitorCommand(connection: ConnectionPointer, uuid: string, command: object): unknown {
    return withDomain(connection, uuid, (domain) => {
      const out: (bigint | null)[] = [null];
      succeed(connection, C.monitorCommand(domain, JSON.stringify(command), out, 0));
      if (out[0] === null || out[0] === undefined) throw new Error('QEMU answered nothing to a monitor command');
      return JSON.parse(takeString(out[0])) as unknown;
    });
  },
};

function describe(connection: ConnectionPointer, domain: DomainPointer): DomainDescription {
  const info = domainInfo(domain);
  if (info === null) throw lastError(connection);
  return {
    uuid: domainUuid(domain),
    name: C.name(domain),
    libvirtId: domainId(domain),
    state: STATES[info.state] ?? 'unknown',
    persistent: C.isPersistent(domain) === 1,
  };
}

function infoNow(domain: DomainPointer): KnownInfo | null {
  const before = bootTimeNanoseconds();
  const info = domainInfo(domain);
  if (info === null) return null;
  return { ...info, atNanoseconds: before + (bootTimeNanoseconds() - before) / 2n };
}

function infoOfInactive(domain: DomainPointer, uuid: string): KnownInfo | null {
  const now = bootTimeNanoseconds();
  const before = known.get(uuid);
  if (before !== undefined && now - before.atNanoseconds < SIZE_FRESH_NANOSECONDS) {
    return { ...before, atNanoseconds: now };
  }
  const info = infoNow(domain);
  if (info !== null) known.set(uuid, info);
  return info;
}

function withDomain<T>(connection: ConnectionPointer, uuid: string, act: (domain: DomainPointer) => T): T {
  const domain = C.byUuid(connection, uuid);
  if (domain === null) throw lastError(connection);
  return freeing(domain, () => act(domain));
}

function freeing<T>(domain: DomainPointer, act: () => T): T {
  try {
    return act();
  } finally {
    C.free(domain);
  }
}

function succeed(connection: ConnectionPointer, result: number): void {
  if (result < 0) throw lastError(connection);
}

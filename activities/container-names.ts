/**
 * Who the containers of watched VMs are, from their virtual disks. A look-up costs tenths of a second and goes through
 * QEMU, so it is made when an id appears that is not known, one at a time for the whole host, each VM in its turn; in
 * vain, it is repeated less and less often. A guest that invents ids gets one look-up each RETRY_MS at the most.
 */
import { NamesOfContainers } from '../guest-disk/matching-names.ts';
import type { ContainerCounters, ContainerIdentity } from '../model/usage.ts';
import type { CounterSource } from './counters.ts';

/** A name is on the disk when its container runs: of two that start one after the other, neither waits longer than this. */
const RETRY_MS = 2_000;
const MOST_RETRY_MS = 600_000;
/** A container may be renamed; nothing tells. */
const REFRESH_MS = 600_000;

interface KnownVm {
  described: readonly ContainerIdentity[];
  shown: readonly ContainerCounters[];
  names: NamesOfContainers;
  /** Cgroups that a look-up was made for. */
  askedFor: ReadonlySet<string>;
  lookedUpAtMs: number;
  retryMs: number;
}

export class ContainerNames {
  readonly #identities: CounterSource['identities'];
  readonly #report: (vmUuid: string, message: string) => void;
  readonly #vms = new Map<string, KnownVm>();
  /** VMs that wait for a look-up, in order. */
  readonly #waiting = new Set<string>();
  #looking = false;

  constructor(identities: CounterSource['identities'], report: (vmUuid: string, message: string) => void) {
    this.#identities = identities;
    this.#report = report;
  }

  /** @param container one of those that were last said to run */
  identity(vmUuid: string, container: ContainerCounters): ContainerIdentity | null {
    return this.#vms.get(vmUuid)?.names.of(container) ?? null;
  }

  /** These run in the VM now: looks up those that are not known yet. */
  running(vmUuid: string, containers: readonly ContainerCounters[], nowMs: number): void {
    const shown = containers.filter(({ runtime }) => runtime !== 'systemd');
    if (shown.length === 0) return;
    const known: KnownVm = this.#vms.get(vmUuid) ?? {
      described: [],
      shown,
      names: new NamesOfContainers([], []),
      askedFor: new Set(),
      lookedUpAtMs: Number.NEGATIVE_INFINITY,
      retryMs: RETRY_MS,
    };
    this.#vms.set(vmUuid, known);
    known.shown = shown;
    known.names = new NamesOfContainers(shown, known.described);
    const unknown = shown.filter((container) => known.names.of(container) === null);
    const isNew = unknown.some(({ cgroupPath }) => !known.askedFor.has(cgroupPath));
    const wait = isNew ? RETRY_MS : unknown.length > 0 ? known.retryMs : REFRESH_MS;
    if (nowMs - known.lookedUpAtMs < wait) return;
    known.retryMs = isNew ? RETRY_MS : Math.min(2 * known.retryMs, MOST_RETRY_MS);
    known.askedFor = new Set(shown.map(({ cgroupPath }) => cgroupPath));
    known.lookedUpAtMs = nowMs;
    this.#waiting.add(vmUuid);
    void this.#lookUp();
  }

  forget(vmUuid: string): void {
    this.#vms.delete(vmUuid);
    this.#waiting.delete(vmUuid);
  }

  async #lookUp(): Promise<void> {
    const [vmUuid] = this.#waiting;
    const known = vmUuid === undefined ? undefined : this.#vms.get(vmUuid);
    if (this.#looking || vmUuid === undefined || known === undefined) return;
    this.#looking = true;
    this.#waiting.delete(vmUuid);
    const reading = await this.#identities(vmUuid).catch((error: unknown) => {
      this.#report(vmUuid, `looking up its containers' names failed: ${String(error)}`);
      return null;
    });
    if (reading?.available === true) {
      known.described = reading.value;
      known.names = new NamesOfContainers(known.shown, known.described);
    } else if (reading !== null) {
      this.#report(vmUuid, `its containers' names cannot be read: ${reading.reason}: ${reading.message}`);
    }
    this.#looking = false;
    void this.#lookUp();
  }
}

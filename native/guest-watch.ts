/**
 * One VM inside the sampler's process: attached when it can be, attached again when its kernel is no longer the one in the
 * RAM. The samples themselves are taken for all VMs at once (sampler.ts); this judges them.
 *
 *   no handle ──ready──▶ attached ──judge: good──▶ attached
 *       ▲  ▲                │  Stale, or failing again and again ─▶ detach; again: ready, without the cache
 *       │  └──── ProcessGone┘
 *       └ a failed attach is repeated after a pause that doubles
 *
 * What an earlier attach has left in the cache is taken up here, in a millisecond. Everything else about attaching is done
 * by another process (attach-pool.ts), and leaves such a cache.
 *
 * A dead kernel's memory reads perfectly well. So when its clock stands still between two samples while QEMU burns CPU, the
 * RAM is searched again: another boot is adopted, and if there is none the reading is Stale, never a figure. A clock that
 * stands still without that is a paused guest's, or one's that was replaced by another kernel (kexec, a reboot) which has
 * nothing to do any more: there is a search for it now and then, ever more seldom, and meanwhile the figures stand.
 */
import { existsSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Reading, unavailable } from '../model/reading.ts';
import type { AttachPool } from './attach-pool.ts';
import { type AttachRequest, attach, type Guest, type Host, MapperError, type SourceChoice } from './mapper.ts';
import { findQemu, processAgeMs, processCpuNanoseconds, type QemuProcess, ramOf, readQemu } from './qemu-process.ts';
import type { BoardRow, SampleClock } from './sample-decoding.ts';

export interface WatchedVm {
  readonly uuid: string;
  /** null: looked for by UUID. */
  readonly pid: number | null;
  readonly source: SourceChoice;
  /** Systemd services are sampled like containers. */
  readonly withServices: boolean;
  /** With the figures that are read on demand (ContainerDetails). */
  readonly withDetails: boolean;
}

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 3_000;
/** A QEMU younger than this without a kernel in its RAM is booting; older, it runs something else. */
const BOOT_MS = 90_000;
/** Samples of an attached guest that failed one after the other, until its kernel is looked for anew. */
const DISTRUSTED_AFTER = 3;
/** A guest that takes longer than its budget for this long is looked into anew; then twice as long, as it may just be large. */
const OVERRUN_MS = 10_000;
/** Attachers that a guest may end, one after the other. */
const CRASHES = 2;
/** The clock is judged over at least this long: an idle guest ticks seldom. */
const STANDSTILL_NS = 1_500_000_000n;
/** QEMU itself uses a little CPU for a guest that does nothing. */
const BURNING_RATIO = 0.2;
/** A clock that stands still for this long is not that of an idle guest. */
const QUIET_STANDSTILL_NS = 10_000_000_000n;
/** Boots of a VM that are remembered as replaced. */
const MOST_REPLACED = 16;

/** The guest's clock, since when it stands still, and what its QEMU had used by then; null: it was moving. */
interface Clock {
  readonly jiffies: bigint;
  readonly standing: {
    readonly sinceNanoseconds: bigint;
    readonly cpuNanoseconds: bigint;
    /** When another kernel is looked for, though QEMU is quiet. */
    readonly searchAfterNanoseconds: bigint;
  } | null;
}

/** What is to be done with a sample. */
export type Verdict =
  | { readonly kind: 'good' }
  | { readonly kind: 'unread'; readonly reading: Reading<never> }
  /** Its kernel must be looked for: null when another one was found, and is to be sampled. */
  | { readonly kind: 'suspect'; readonly settle: () => Promise<Reading<never> | null> };

export class GuestWatch {
  readonly #vm: WatchedVm;
  readonly #cacheDirectory: string;
  readonly #btfDirectory: string | null;
  readonly #pool: AttachPool;
  readonly #host: Host;
  #process: QemuProcess | null = null;
  #guest: Guest | null = null;
  #isClosed = false;
  #attaching: Promise<Reading<never> | null> | null = null;
  #clock: Clock | null = null;
  /** A kernel that was found dead: as long as its memory reads like this, it is dead still. */
  #dead: { readonly guestBoot: string; readonly jiffies: bigint } | null = null;
  /** The boot that runs, and those that it has replaced: their kernels may still be in the RAM, and prove themselves. */
  #boot: string | null = null;
  readonly #replaced = new Set<string>();
  /** A replaced one that was found again: only a clock that moves says that the guest was restored to it. */
  #returning: Pick<SampleClock, 'guestBoot' | 'jiffies'> | null = null;
  #failuresInARow = 0;
  /** Since when no sample of it came to an end, and for how long that is borne. */
  #overrun: { readonly sinceMs: number; readonly patienceMs: number } | null = null;
  /** Attached by a cache file, which may describe a dead kernel, and not one good sample yet. */
  #isUnproven = false;
  #crashesInARow = 0;
  #failure: { reading: Reading<never>; retryAtMs: number; pauseMs: number } | null = null;

  /** @param btfDirectory of detached BTF files, for kernels that carry no types; null: none */
  constructor(vm: WatchedVm, cacheDirectory: string, btfDirectory: string | null, pool: AttachPool, host: Host) {
    this.#vm = vm;
    this.#cacheDirectory = cacheDirectory;
    this.#btfDirectory = btfDirectory;
    this.#pool = pool;
    this.#host = host;
  }

  /** Whether this is how that VM is to be read; a restarted VM has another pid. */
  isFor(vm: WatchedVm): boolean {
    return (
      vm.uuid === this.#vm.uuid &&
      vm.pid === this.#vm.pid &&
      vm.source === this.#vm.source &&
      vm.withServices === this.#vm.withServices &&
      vm.withDetails === this.#vm.withDetails
    );
  }

  /** null: ready() first. */
  get guest(): Guest | null {
    return this.#guest;
  }

  close(): void {
    this.#isClosed = true;
    this.#detach();
  }

  /** null: attached. Otherwise the reason why not; what failed is tried again only after a pause. */
  async ready(): Promise<Reading<never> | null> {
    if (this.#guest) return null;
    if (this.#failure && performance.now() < this.#failure.retryAtMs) return this.#failure.reading;
    // What the cache file describes may be the dead kernel, whose memory proves itself to this day.
    return this.#attachOnce(this.#dead || this.#failuresInARow > 0 ? 'fresh' : 'cached');
  }

  #attachOnce(how: 'cached' | 'fresh'): Promise<Reading<never> | null> {
    this.#attaching ??= this.#attach(how).finally(() => {
      this.#attaching = null;
    });
    return this.#attaching;
  }

  /** A sample that was taken. */
  async judge(sample: SampleClock): Promise<Verdict> {
    this.#failuresInARow = 0;
    this.#overrun = null;
    this.#isUnproven = false;
    if (this.#dead?.guestBoot === sample.guestBoot && this.#dead.jiffies === sample.jiffies) {
      this.#detach();
      const message = `${sample.kernelRelease} has stopped running and is still the kernel in RAM`;
      return { kind: 'unread', reading: this.#fail(unavailable('Stale', message)) };
    }
    this.#dead = null;
    if (!this.#runs(sample)) {
      const message = `${sample.kernelRelease} was replaced by another kernel and is still in the RAM; the one that runs is looked for`;
      const reading = unavailable('Stale', message);
      return { kind: 'unread', reading: this.#dead === null ? reading : this.#fail(reading) };
    }
    if (this.#clock?.jiffies !== sample.jiffies) {
      this.#clock = { jiffies: sample.jiffies, standing: null };
      return { kind: 'good' };
    }
    const cpuNanoseconds = (await processCpuNanoseconds(this.#process?.pid ?? 0)) ?? 0n;
    const since = this.#clock.standing;
    if (since === null) {
      const sinceNanoseconds = sample.atNanoseconds;
      const standing = { sinceNanoseconds, cpuNanoseconds, searchAfterNanoseconds: QUIET_STANDSTILL_NS };
      this.#clock = { jiffies: sample.jiffies, standing };
      return { kind: 'good' };
    }
    const passed = sample.atNanoseconds - since.sinceNanoseconds;
    const burnt = cpuNanoseconds - since.cpuNanoseconds;
    if (passed >= STANDSTILL_NS && Number(burnt) >= Number(passed) * BURNING_RATIO)
      return { kind: 'suspect', settle: () => this.#lookForAnother(sample, passed) };
    // Standing still without using CPU is a paused VM, or an idle moment: its counters are what they are.
    if (passed >= since.searchAfterNanoseconds) {
      this.#clock = {
        jiffies: sample.jiffies,
        standing: { ...since, searchAfterNanoseconds: since.searchAfterNanoseconds * 2n },
      };
      void this.#searchBeside().catch(() => {});
    }
    return { kind: 'good' };
  }

  /** Whether this boot may be the one that runs. One that was replaced is given up when it is seen twice without a tick. */
  #runs({ guestBoot, jiffies }: SampleClock): boolean {
    if (guestBoot === this.#boot) return true;
    const returning = this.#returning?.guestBoot === guestBoot ? this.#returning : null;
    if (this.#replaced.has(guestBoot) && (returning === null || returning.jiffies === jiffies)) {
      this.#returning = { guestBoot, jiffies };
      if (returning) {
        this.#detach();
        this.#dead = { guestBoot, jiffies };
      }
      return false;
    }
    this.#replaced.delete(guestBoot);
    if (this.#boot !== null) this.#replaced.add(this.#boot);
    const [oldest] = this.#replaced;
    if (oldest !== undefined && this.#replaced.size > MOST_REPLACED) this.#replaced.delete(oldest);
    this.#boot = guestBoot;
    this.#returning = null;
    return true;
  }

  /** A sample that failed. */
  judgeFailure({ reason, message, wasRead }: Extract<BoardRow, { kind: 'error' }>): Verdict {
    const reading = unavailable(reason, message);
    const settle = async (): Promise<Reading<never> | null> => {
      this.#detach();
      return this.#attachOnce('fresh');
    };
    if (!wasRead) {
      // It may be read still, and mostly nothing that could be done makes that faster. But the memory that is walked may
      // be another kernel's by now.
      const nowMs = performance.now();
      this.#overrun ??= { sinceMs: nowMs, patienceMs: OVERRUN_MS };
      const { sinceMs, patienceMs } = this.#overrun;
      if (nowMs - sinceMs < patienceMs) return { kind: 'unread', reading };
      this.#overrun = { sinceMs: nowMs, patienceMs: patienceMs * 2 };
      return { kind: 'suspect', settle };
    }
    if (reason === 'ProcessGone') {
      this.#detach();
      this.#process = null;
      return { kind: 'unread', reading };
    }
    // A tree that changed under the walk reads well the next time; one whose memory another kernel has taken does not.
    const isTrusted = reason !== 'Stale' && !this.#isUnproven;
    if (isTrusted && ++this.#failuresInARow < DISTRUSTED_AFTER) return { kind: 'unread', reading };
    return { kind: 'suspect', settle };
  }

  /** Its clock stands still: another kernel may run in this RAM by now. */
  async #lookForAnother(sample: SampleClock, passed: bigint): Promise<Reading<never> | null> {
    this.#detach();
    const failure = await this.#attachOnce('fresh');
    const found = this.#guest as Guest | null;
    if (!failure && found && found.report.guestBoot !== sample.guestBoot) return null;
    this.#detach();
    this.#dead = { guestBoot: sample.guestBoot, jiffies: sample.jiffies };
    const message = `the clock of ${sample.kernelRelease} has stood still for ${Number(passed / 1_000_000n)} ms while its VM used CPU, and its RAM holds no other running kernel`;
    return this.#fail(unavailable('Stale', message));
  }

  /** Whether another kernel runs in this RAM, while samples go on from the one that is known. */
  async #searchBeside(): Promise<void> {
    const known = this.#guest;
    await this.#attachOnce('fresh');
    if (this.#isClosed || this.#guest === null) return;
    if (this.#guest === known) {
      // Several kernels and no clock that ticks, say: nothing speaks against the one that is known.
      this.#failure = null;
      return;
    }
    known?.detach(this.#host);
    if (this.#guest.report.guestBoot !== known?.report.guestBoot) this.#clock = null;
  }

  #detach(): void {
    this.#guest?.detach(this.#host);
    this.#guest = null;
    this.#clock = null;
  }

  /** null: attached. */
  async #attach(how: 'cached' | 'fresh'): Promise<Reading<never> | null> {
    const process = await this.#findProcess();
    if (!process) return this.#fail(unavailable('GuestOff', `no QEMU process on this host has UUID ${this.#vm.uuid}`));
    if (process.isConfidential)
      return this.#fail(unavailable('GuestEncrypted', `the RAM of process ${process.pid} is encrypted for its guest`));
    const ram = ramOf(process);
    if (ram === null)
      return this.#fail(
        unavailable('Unsupported', `the command line of process ${process.pid} names no machine type that is known`),
      );
    const cachePath = join(this.#cacheDirectory, `${this.#vm.uuid}.attach`);
    const request: AttachRequest = {
      ...ram,
      source: this.#vm.source,
      withServices: this.#vm.withServices,
      withDetails: this.#vm.withDetails,
      cachePath,
      btfDirectory: this.#btfDirectory,
    };
    try {
      if (how === 'fresh') await rm(cachePath, { force: true });
      this.#isUnproven = how === 'cached' && this.#takeUp(request);
      if (!this.#isUnproven) {
        await mkdir(this.#cacheDirectory, { recursive: true, mode: 0o700 });
        await this.#pool.attach(request);
        // A cache that cannot be written, on a full disk, costs the others the time of an attach, not this VM its figures.
        const isLeft = existsSync(cachePath);
        if (!this.#takeUp(isLeft ? request : { ...request, cacheOnly: false }))
          throw new MapperError('Torn', 'its kernel changed just after it was found');
      }
      this.#failure = null;
      this.#crashesInARow = 0;
      return null;
    } catch (error) {
      if (!(error instanceof MapperError)) throw error;
      if (error.reason === 'ReaderDown' && ++this.#crashesInARow >= CRASHES) {
        const message = `looking for the kernel of VM ${this.#vm.uuid} ended the attacher ${CRASHES} times; stop and start its monitoring to try again`;
        return this.#fail(unavailable('Quarantined', message), Number.POSITIVE_INFINITY);
      }
      const isBooting = error.reason === 'NoVmcoreinfo' && (await processAgeMs(process)) < BOOT_MS;
      return this.#fail(unavailable(isBooting ? 'GuestBooting' : error.reason, error.message));
    }
  }

  /** Attaches by the cache file, when that is right. */
  #takeUp(request: AttachRequest): boolean {
    try {
      const guest = attach({ cacheOnly: true, ...request });
      if (this.#isClosed) guest.detach();
      else this.#guest = guest;
      return true;
    } catch (error) {
      if (error instanceof MapperError && error.reason !== 'ProcessGone') return false;
      throw error;
    }
  }

  #fail(reading: Reading<never>, forMs: number | null = null): Reading<never> {
    const pauseMs = forMs ?? (this.#failure ? Math.min(this.#failure.pauseMs * 2, LONGEST_PAUSE_MS) : FIRST_PAUSE_MS);
    this.#failure = { reading, retryAtMs: performance.now() + pauseMs, pauseMs };
    return reading;
  }

  async #findProcess(): Promise<QemuProcess | null> {
    const known = this.#process?.pid ?? this.#vm.pid;
    const qemu = known === null ? null : await readQemu(known);
    // A pid that the caller named is believed; one that was found is checked, as it may have been reused.
    const isIt = qemu !== null && (known === this.#vm.pid || qemu.uuid === this.#vm.uuid.toLowerCase());
    this.#process = isIt ? qemu : this.#vm.pid === null ? await findQemu(this.#vm.uuid) : null;
    return this.#process;
  }
}

/**
 * One VM inside the sampler's process: attached when it can be, sampled when asked, attached again when its kernel is no
 * longer the one in the RAM.
 *
 *   no handle ──attach──▶ attached ──sample──▶ attached
 *       ▲  ▲                │  Stale, or failing again and again ─▶ detach, attach at once without the cache
 *       │  └──── ProcessGone┘
 *       └ a failed attach is repeated after a pause that doubles
 *
 * A dead kernel's memory reads perfectly well. So when its clock stands still between two samples while QEMU burns CPU, the
 * RAM is searched again: another boot is adopted, and if there is none the reading is Stale, never a figure.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { available, type Reading, unavailable } from '../model/reading.ts';
import type { VmIntrospection } from '../model/usage.ts';
import { attach, type Guest, MapperError, type SourceChoice } from './mapper.ts';
import { keepMonotonic } from './monotonic.ts';
import { findQemu, processAgeMs, processCpuNanoseconds, type QemuProcess, readQemu } from './qemu-process.ts';

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
/** The clock is judged over at least this long: an idle guest ticks seldom. */
const STANDSTILL_NS = 1_500_000_000n;
/** QEMU itself uses a little CPU for a guest that does nothing. */
const BURNING_RATIO = 0.2;

interface Clock {
  readonly jiffies: bigint;
  readonly atNanoseconds: bigint;
  readonly cpuNanoseconds: bigint;
}

export class GuestWatch {
  readonly #vm: WatchedVm;
  readonly #cacheDirectory: string | null;
  #process: QemuProcess | null = null;
  #guest: Guest | null = null;
  #previous: VmIntrospection | null = null;
  /** When the guest's clock was last seen to move. */
  #clock: Clock | null = null;
  /** A kernel that was found dead: as long as its memory reads like this, it is dead still. */
  #dead: { readonly guestBoot: string; readonly jiffies: bigint } | null = null;
  #failuresInARow = 0;
  #failure: { reading: Reading<never>; retryAtMs: number; pauseMs: number } | null = null;

  constructor(vm: WatchedVm, cacheDirectory: string | null) {
    this.#vm = vm;
    this.#cacheDirectory = cacheDirectory;
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

  close(): void {
    this.#guest?.detach();
    this.#guest = null;
    this.#previous = null;
    this.#clock = null;
  }

  async sample(): Promise<Reading<VmIntrospection>> {
    if (!this.#guest) {
      if (this.#failure && performance.now() < this.#failure.retryAtMs) return this.#failure.reading;
      // What the cache file describes may be the dead kernel, whose memory proves itself to this day.
      const failure = await this.#attach(this.#dead || this.#failuresInARow > 0 ? 'fresh' : 'cached');
      if (failure) return failure;
    }
    return this.#sampleAttached('may attach again');
  }

  async #sampleAttached(how: 'may attach again' | 'has attached again'): Promise<Reading<VmIntrospection>> {
    try {
      return await this.#judge(this.#read());
    } catch (error) {
      if (!(error instanceof MapperError)) throw error;
      if (error.reason === 'ProcessGone') {
        this.close();
        this.#process = null;
        return unavailable('ProcessGone', error.message);
      }
      // A tree that changed under the walk reads well the next time; one whose memory another kernel has taken does not.
      if (error.reason !== 'Stale' && ++this.#failuresInARow < DISTRUSTED_AFTER)
        return unavailable(error.reason, error.message);
      this.close();
      if (how === 'has attached again') return this.#fail(unavailable(error.reason, error.message));
      return (await this.#attach('fresh')) ?? (await this.#sampleAttached('has attached again'));
    }
  }

  #read(): VmIntrospection {
    if (!this.#guest) throw new Error('not attached');
    const sample = keepMonotonic(this.#previous, this.#guest.sample());
    this.#previous = sample;
    this.#failuresInARow = 0;
    return sample;
  }

  /** Whether the kernel that was read still runs. */
  async #judge(sample: VmIntrospection): Promise<Reading<VmIntrospection>> {
    const cpuNanoseconds = (await processCpuNanoseconds(this.#process?.pid ?? 0)) ?? 0n;
    if (this.#dead?.guestBoot === sample.guestBoot && this.#dead.jiffies === sample.jiffies) {
      this.close();
      return this.#fail(
        unavailable('Stale', `${sample.kernelRelease} has stopped running and is still the kernel in RAM`),
      );
    }
    this.#dead = null;
    const before = this.#clock;
    if (!before || before.jiffies !== sample.jiffies) {
      this.#clock = { jiffies: sample.jiffies, atNanoseconds: sample.atNanoseconds, cpuNanoseconds };
      return available(sample);
    }
    const passed = sample.atNanoseconds - before.atNanoseconds;
    const burnt = cpuNanoseconds - before.cpuNanoseconds;
    // Standing still without using CPU is a paused VM, or an idle moment: its counters are what they are.
    if (passed < STANDSTILL_NS || Number(burnt) < Number(passed) * BURNING_RATIO) return available(sample);

    const oldBoot = sample.guestBoot;
    this.close();
    const failure = await this.#attach('fresh');
    if (!failure && (this.#guest as Guest | null)?.report.guestBoot !== oldBoot)
      return this.#sampleAttached('has attached again');
    this.close();
    this.#dead = { guestBoot: oldBoot, jiffies: sample.jiffies };
    const message = `the clock of ${sample.kernelRelease} has stood still for ${Number(passed / 1_000_000n)} ms while its VM used CPU, and its RAM holds no other running kernel`;
    return this.#fail(unavailable('Stale', message));
  }

  /** null: attached. */
  async #attach(how: 'cached' | 'fresh'): Promise<Reading<never> | null> {
    const process = await this.#findProcess();
    if (!process) return this.#fail(unavailable('GuestOff', `no QEMU process on this host has UUID ${this.#vm.uuid}`));
    if (process.isConfidential)
      return this.#fail(unavailable('GuestEncrypted', `the RAM of process ${process.pid} is encrypted for its guest`));
    if (process.machine === null || process.ramBytes === null)
      return this.#fail(
        unavailable('Unsupported', `the command line of process ${process.pid} names no machine type that is known`),
      );
    const cachePath = this.#cachePath();
    if (how === 'fresh' && cachePath) await rm(cachePath, { force: true });
    try {
      this.#guest = attach({
        pid: process.pid,
        startTime: process.startTime,
        machine: process.machine,
        ramBytes: process.ramBytes,
        maxRamBelow4gBytes: process.maxRamBelow4gBytes,
        source: this.#vm.source,
        withServices: this.#vm.withServices,
        withDetails: this.#vm.withDetails,
        cachePath,
      });
      this.#failure = null;
      return null;
    } catch (error) {
      if (!(error instanceof MapperError)) throw error;
      const isBooting = error.reason === 'NoVmcoreinfo' && (await processAgeMs(process)) < BOOT_MS;
      return this.#fail(unavailable(isBooting ? 'GuestBooting' : error.reason, error.message));
    }
  }

  #cachePath(): string | null {
    return this.#cacheDirectory === null ? null : join(this.#cacheDirectory, `${this.#vm.uuid}.attach`);
  }

  #fail(reading: Reading<never>): Reading<never> {
    const pauseMs = this.#failure ? Math.min(this.#failure.pauseMs * 2, LONGEST_PAUSE_MS) : FIRST_PAUSE_MS;
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

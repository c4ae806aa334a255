/**
 * The types that cross rooms, with their schemas. This room imports nothing of the rest.
 *
 * A reading is a value, or the reason why there is none. The type makes every caller choose: nothing that could not be
 * read is ever counted as zero (invariant 5).
 */

/** Why a figure, a container or a whole VM cannot be read. Stable words: log fields, metric labels and tests use them. */
export const UNAVAILABLE_REASONS = [
  'NoVmcoreinfo', // no Linux kernel found in the RAM: another system, or the guest is still booting
  'NoTypes', // the kernel carries no BTF
  'NoSymbols', // kallsyms could not be located or decoded
  'NoField', // this kernel keeps no such figure
  'GuestEncrypted',
  'GuestPaused',
  'GuestOff',
  'GuestBooting',
  'GuestRebooted',
  'Attaching', // its kernel is being looked for, apart from the sampling
  'Stale', // the kernel in this RAM no longer runs: its clock stands still while the VM uses CPU
  'Faulted', // an address in the guest does not translate, or is not backed by RAM
  'Exhausted', // the walk used up its fuel, time or size bound
  'PermissionDenied',
  'ProcessGone',
  'Quarantined', // reading this VM ended the reader twice
  'ReaderDown', // the reader is being restarted
  'NbdBusy', // somebody else uses QEMU's NBD server
  'NoFileSystem',
  'Torn', // changed while it was read, more often than is retried
  'NotFound',
  'Malformed',
  'Unsupported',
  'Unreachable',
] as const;
export type UnavailableReason = (typeof UNAVAILABLE_REASONS)[number];

export interface Unavailable {
  readonly available: false;
  readonly reason: UnavailableReason;
  /** What was tried, on what, what was found. For people. */
  readonly message: string;
}
export interface Available<T> {
  readonly available: true;
  readonly value: T;
}
export type Reading<T> = Available<T> | Unavailable;

export function available<T>(value: T): Available<T> {
  return { available: true, value };
}
export function unavailable(reason: UnavailableReason, message: string): Unavailable {
  return { available: false, reason, message };
}
export function mapReading<A, B>(reading: Reading<A>, change: (value: A) => B): Reading<B> {
  return reading.available ? available(change(reading.value)) : reading;
}

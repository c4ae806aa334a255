/** Who the containers are, from the virtual disk: how old that is, where it was read, and what could not be. */
import type { ContainersOnDisk } from '../guest-disk/look-up.ts';
import type { Reading } from '../model/reading.ts';
import type { ContainerIdentity } from '../model/usage.ts';
import { printable } from './escape.ts';
import { durationText } from './units.ts';

export type NamesOnDisk = Omit<ContainersOnDisk, 'containers'> & { readonly containers: readonly ContainerIdentity[] };

export interface NamesLook {
  readonly available: boolean;
  readonly reason: string | null;
  readonly message: string | null;
  /** What the guest had committed to its disk by then is known; by the host's clock. */
  readonly asOf: string | null;
  readonly ageMs: number | null;
  readonly fileSystems: readonly {
    readonly format: string;
    readonly place: string;
    readonly runtimes: readonly string[];
    /** The newest change that had been committed, by the guest's clock; null where the format does not tell. */
    readonly committedAt: string | null;
    /** The guest has written newer changes as fast commits of ext4, which show with the next full commit. */
    readonly hasNewer: boolean;
  }[];
  /** Containers, runtimes or disks that are there and cannot be read. */
  readonly unreadable: readonly { readonly what: string; readonly reason: string; readonly message: string }[];
}

export function namesLook(names: Reading<NamesOnDisk>, nowUnixMs: number): NamesLook {
  const found = names.available ? names.value : null;
  return {
    available: names.available,
    reason: names.available ? null : names.reason,
    message: names.available ? null : names.message,
    asOf: found === null ? null : new Date(found.asOfUnixMs).toISOString(),
    ageMs: found === null ? null : Math.max(0, nowUnixMs - found.asOfUnixMs),
    fileSystems: (found?.fileSystems ?? []).map(({ format, place, runtimes, committedAtUnixMs, hasNewer }) => ({
      format,
      place,
      runtimes,
      committedAt: committedAtUnixMs === null ? null : timeText(committedAtUnixMs),
      hasNewer,
    })),
    unreadable: [
      ...(found?.failures ?? []).map(({ runtime, place, reason, message }) => ({
        what: runtime === null ? 'another disk' : `${runtime} on ${place}`,
        reason,
        message,
      })),
      ...(found?.unreadable ?? []).map(({ id, reason, message }) => ({ what: `container ${id}`, reason, message })),
    ],
  };
}

/** A guest may set its clock, and so these, to anything. */
function timeText(unixMs: number): string | null {
  const time = new Date(unixMs);
  return Number.isNaN(time.getTime()) ? null : time.toISOString();
}

/** "names 0.4 s old, from ext4 (docker) and xfs on data/containerd (containerd)" */
export function namesAgeText({ ageMs, fileSystems }: NamesLook): string | null {
  if (ageMs === null || fileSystems.length === 0) return null;
  const places = fileSystems.map(({ format, place, runtimes }) => {
    const where = place === 'disk' ? '' : ` on ${printable(place)}`;
    return `${format}${where} (${runtimes.join(', ')})`;
  });
  const newer = fileSystems.some(({ hasNewer }) => hasNewer)
    ? ' There are newer fast commits, which are not read.'
    : '';
  return `Names ${durationText(ageMs)} old, from ${places.join(' and ')}.${newer}`;
}

const MOST_NOTES = 5;

export function namesNotes({ available, reason, message, unreadable }: NamesLook): string[] {
  if (!available) return [`names unavailable: ${reason}: ${printable(message ?? '')}`];
  const notes = unreadable
    .slice(0, MOST_NOTES)
    .map((one) => `names of ${printable(one.what)} unavailable: ${one.reason}: ${printable(one.message)}`);
  const more = unreadable.length - notes.length;
  return more > 0 ? [...notes, `… and ${more} more names unavailable`] : notes;
}

/**
 * What to do: pure functions of (spec, state, evidence, now). No clock, no randomness, no I/O: an activity runs them once
 * and records input and outcome, a simulator runs them again over what was recorded.
 *
 * This file: how policies treat figures that may be missing, broken or chosen by a guest.
 */

/** A figure that can be calculated with; null for missing, NaN, infinite and negative ones. Unknown is never zero. */
export function figure(value: number | null | undefined): number | null {
  return value !== null && value !== undefined && Number.isFinite(value) && value >= 0 ? value : null;
}

/** Milliseconds since the epoch; null for what is no instant. */
export function instant(iso: string | null): number | null {
  if (iso === null) return null;
  const ms = Date.parse(iso);
  return Number.isFinite(ms) ? ms : null;
}

const LAST_INSTANT_MS = 8.64e15;
export function isoInstant(ms: number): string {
  return new Date(Math.min(LAST_INSTANT_MS, Math.max(-LAST_INSTANT_MS, ms))).toISOString();
}

const MAX_QUOTED = 64;
/** A name that a guest chose, fit for a log, a terminal or Markdown: printable ASCII, quoted, bounded. */
export function quoted(name: string): string {
  const printable = name.slice(0, MAX_QUOTED).replace(/[^\x20-\x7e]|["`|\\<>]/g, '?');
  return `"${printable}${name.length > MAX_QUOTED ? '...' : ''}"`;
}

export function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}
export function cores(value: number): string {
  return `${value.toFixed(2)} cores`;
}
export function virtualCpus(count: number): string {
  return count === 1 ? '1 vCPU' : `${count} vCPUs`;
}
export function mebibytes(bytes: number): string {
  return `${Math.round(bytes / 2 ** 20)} MiB`;
}

/** What the parts of `introspect` share. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Reading } from '../../model/reading.ts';
import type { Spread } from '../measure.ts';

/** Samples that are not counted: recordings are being made. */
export const WARM_UP_SAMPLES = 20;

export function valueIn<T>(reading: Reading<T>): T {
  if (!reading.available) throw new Error(`${reading.reason}: ${reading.message}`);
  return reading.value;
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

export async function inDirectory<T>(work: (directory: string) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), 'ciel-bench-'));
  try {
    return await work(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

export const shown = ({ median, p95 }: Spread): string => `${median.toFixed(1)} (p95 ${p95.toFixed(1)})`;
export const percent = (ratio: number): string => `${(ratio * 100).toFixed(2)} %`;

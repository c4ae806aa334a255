/** Statistics of repeated measurements, and the one form in which results are written. */
import { mkdir, writeFile } from 'node:fs/promises';
import { cpus, totalmem } from 'node:os';
import { join } from 'node:path';

export interface Spread {
  readonly runs: number;
  readonly min: number;
  readonly median: number;
  readonly p95: number;
  readonly max: number;
}

/** @throws when there is nothing to summarise: a bench without a measurement has failed. */
export function spread(values: readonly number[]): Spread {
  if (values.length === 0) throw new Error('nothing was measured');
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] as number;
  return { runs: sorted.length, min: at(0), median: at(0.5), p95: at(0.95), max: sorted[sorted.length - 1] as number };
}

/** Writes bench/results/NAME.json: the figures, the machine they were measured on, and when. */
export async function writeResults(name: string, figures: Readonly<Record<string, unknown>>): Promise<string> {
  const directory = join(import.meta.dirname, 'results');
  await mkdir(directory, { recursive: true });
  const file = join(directory, `${name}.json`);
  const machine = {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    node: process.version,
  };
  const json = JSON.stringify({ bench: name, at: new Date().toISOString(), machine, ...figures }, null, 2);
  await writeFile(file, `${json}\n`);
  return file;
}

/**
 * From samples to evidence: two windows, W0 the 60 s before the rise and W1 since it, each as a few statistics. A host
 * keeps the samples of the last minutes and calls this when a VM has become hot.
 */
import {
  type ContainerEvidence,
  MAX_EVIDENCE_CONTAINERS,
  type VmEvidence,
  type WindowStatistics,
  type Windows,
} from '../model/evidence.ts';
import { figure } from './figures.ts';

const BEFORE_MS = 60_000;
/** Without a step, the last ten seconds are compared with the minute before them. */
const RECENT_MS = 10_000;
/** A guest chooses its names. */
const MAX_NAME = 100;
/** Of all containers together, so that the evidence as a whole stays within 16 KiB. */
const MAX_CONTAINERS_JSON = 15_000;
const DIGITS = 6;

export interface Sample {
  /** The host's CLOCK_BOOTTIME, in milliseconds. */
  readonly atMs: number;
  /** null: could not be read. */
  readonly value: number | null;
}

/** null for an empty window. Figures that are no figures are left out, and counted as not read. */
export function windowStatistics(values: readonly (number | null)[]): WindowStatistics | null {
  const read = values.flatMap((value) => figure(value) ?? []).sort((a, b) => a - b);
  const max = read.at(-1);
  if (max === undefined) return null;
  const mean = read.reduce((sum, value) => sum + value / read.length, 0);
  const variance = read.reduce((sum, value) => sum + (value - mean) ** 2 / read.length, 0);
  return {
    samples: read.length,
    mean: rounded(Math.min(mean, max)),
    deviation: rounded(Math.sqrt(variance)),
    p90: rounded(read[Math.ceil(read.length * 0.9) - 1] ?? max),
    max: rounded(max),
  };
}
function rounded(value: number): number {
  return Number(value.toPrecision(DIGITS));
}

export interface Split {
  readonly onsetMs: number | null;
  readonly nowMs: number;
}

export function windows(samples: readonly Sample[], { onsetMs, nowMs }: Split, why: string | null = null): Windows {
  const start = onsetMs ?? nowMs - RECENT_MS;
  const between = (from: number, to: number) =>
    windowStatistics(samples.filter(({ atMs }) => atMs >= from && atMs < to).map(({ value }) => value));
  const before = between(start - BEFORE_MS, start);
  const since = between(start, nowMs + 1);
  const missing = before === null || since === null;
  return { before, since, unavailable: missing ? (why ?? 'no sample in this window') : null };
}

export interface ContainerSamples extends Omit<ContainerEvidence, 'cpuCores' | 'memoryBytes' | 'ioBytesPerSecond'> {
  readonly cpuCores: readonly Sample[];
  readonly memoryBytes: readonly Sample[];
  readonly ioBytesPerSecond: readonly Sample[];
  /** Why samples are missing, when they are. */
  readonly unavailable: string | null;
}
export interface VmSamples
  extends Pick<VmEvidence, 'vmUuid' | 'vmName' | 'host' | 'vcpus' | 'memoryBytes' | 'target' | 'cause' | 'unreadable'> {
  readonly cpuCores: readonly Sample[];
  readonly containers: readonly ContainerSamples[];
  readonly split: Split;
  /** Wall clock of `split.onsetMs`, ISO 8601; null exactly when that is. */
  readonly onset: string | null;
}

/** The containers that matter most by change and level, and the rest as one. */
export function vmEvidence(samples: VmSamples): VmEvidence {
  const { split, containers, cpuCores, ...same } = samples;
  const ranked = containers
    .map((container) => ({ container, cpu: windows(container.cpuCores, split, container.unavailable) }))
    .sort((a, b) => weight(b.cpu) - weight(a.cpu));
  const kept: ContainerEvidence[] = [];
  let size = 0;
  for (const { container, cpu } of ranked.slice(0, MAX_EVIDENCE_CONTAINERS)) {
    const evidence = containerEvidence(container, cpu, split);
    size += JSON.stringify(evidence).length;
    if (size > MAX_CONTAINERS_JSON) break;
    kept.push(evidence);
  }
  const rest = ranked.slice(kept.length).map(({ container }) => container.cpuCores);
  return {
    ...same,
    cpuCores: windows(cpuCores, split),
    containers: kept,
    others: { count: rest.length, cpuCores: windows(summed(rest), split) },
  };
}

function containerEvidence(container: ContainerSamples, cpuCores: Windows, split: Split): ContainerEvidence {
  const { unavailable, memoryBytes, ioBytesPerSecond, ...same } = container;
  return {
    ...same,
    containerId: container.containerId.slice(0, MAX_NAME),
    name: container.name?.slice(0, MAX_NAME) ?? null,
    cpuCores,
    memoryBytes: windows(memoryBytes, split, unavailable),
    ioBytesPerSecond: windows(ioBytesPerSecond, split, unavailable),
  };
}

function weight({ before, since }: Windows): number {
  const level = since?.mean ?? 0;
  return level + Math.max(0, level - (before?.mean ?? level));
}

/** Sample by sample. An instant that one of them lacks is missing in the sum: a part is not the whole. */
function summed(series: readonly (readonly Sample[])[]): Sample[] {
  const sums = new Map<number, { total: number; parts: number }>();
  for (const { atMs, value } of series.flat()) {
    const read = figure(value);
    if (read === null) continue;
    const sum = sums.get(atMs) ?? { total: 0, parts: 0 };
    sums.set(atMs, { total: sum.total + read, parts: sum.parts + 1 });
  }
  return [...sums].map(([atMs, { total, parts }]) => ({ atMs, value: parts === series.length ? total : null }));
}

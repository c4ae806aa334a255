/**
 * A VM just large enough for one replica.
 *
 *   CPU     the container's limit when it has one (it cannot use more, and a runtime refuses a limit above what the VM
 *           has); else 1.15 x what one of n + 1 replicas will use of the load measured since the rise, / target
 *   memory  the container's limit when it has one, else 1.15 x the most that it was seen to use; plus what an empty VM
 *           of the template needs for itself
 *
 * Both within the bounds of the specification. Each bound or measurement that shaped the size leaves a reason.
 */
import type { Pressure, VmSize } from '../model/decision.ts';
import type { ServiceSpec } from '../model/spec.ts';
import { cores, figure, mebibytes } from './figures.ts';

const MARGIN = 1.15;
const MEMORY_STEP = 64 * 2 ** 20;

export type SizeResult =
  | { readonly fits: true; readonly size: VmSize }
  | { readonly fits: false; readonly why: string };

export interface SizeInput {
  readonly spec: ServiceSpec;
  /** What was measured, when pressure asked; null when an operator did. */
  readonly pressure: Pressure | null;
  /** How many replicas share the load now. */
  readonly servingReplicas: number;
  readonly templateBaseMemoryBytes: number;
}

export function sizeFor(input: SizeInput): SizeResult {
  const { spec, templateBaseMemoryBytes } = input;
  const base = figure(templateBaseMemoryBytes);
  if (base === null)
    return { fits: false, why: 'what an empty VM of the template needs is not known: verify the template' };
  const { size, run } = spec;
  const cpu = vcpus(input);
  const memory = containerMemory(input);

  if (run.cpuLimitCores !== null && run.cpuLimitCores > size.maxVcpus) {
    return {
      fits: false,
      why: `the container may use ${cores(run.cpuLimitCores)}, but size.vcpus.max is ${size.maxVcpus}: raise it or lower run.cpus`,
    };
  }
  if (memory.least + base > size.maxMemoryBytes) {
    return {
      fits: false,
      why: `the container needs ${mebibytes(memory.least)} (${memory.reason}) and an empty VM ${mebibytes(base)}, but size.memory.max is ${mebibytes(size.maxMemoryBytes)}: raise it`,
    };
  }
  const reasons = [cpu.reason, `${memory.reason}, and ${mebibytes(base)} for the empty VM`];
  return {
    fits: true,
    size: {
      vcpus: bounded(Math.ceil(cpu.wanted), size.minVcpus, size.maxVcpus, 'size.vcpus', String, reasons),
      memoryBytes: bounded(
        Math.ceil((memory.wanted + base) / MEMORY_STEP) * MEMORY_STEP,
        size.minMemoryBytes,
        size.maxMemoryBytes,
        'size.memory',
        mebibytes,
        reasons,
      ),
      reasons,
    },
  };
}

function vcpus({ spec, pressure, servingReplicas }: SizeInput): { wanted: number; reason: string } {
  const limit = spec.run.cpuLimitCores;
  if (limit !== null) return { wanted: limit, reason: `the container's CPU limit of ${cores(limit)}` };
  const used = figure(measured(pressure)?.cpuCores.since?.p90);
  if (used === null) return { wanted: 0, reason: 'no CPU use measured' };
  const replicas = Math.max(1, servingReplicas);
  const wanted = (MARGIN * used * (replicas / (replicas + 1))) / spec.targets.cpu;
  return {
    wanted,
    reason: `${cores(used)} measured (P90 since the rise), shared by one replica more, ${MARGIN} x, at a target of ${spec.targets.cpu}`,
  };
}

function containerMemory({ spec, pressure }: SizeInput): { wanted: number; least: number; reason: string } {
  const limit = spec.run.memoryLimitBytes;
  if (limit !== null)
    return { wanted: limit, least: limit, reason: `the container's memory limit of ${mebibytes(limit)}` };
  const seen = measured(pressure)?.memoryBytes;
  const most = Math.max(figure(seen?.since?.max) ?? -1, figure(seen?.before?.max) ?? -1);
  if (most < 0) return { wanted: 0, least: 0, reason: 'no memory use measured' };
  return { wanted: MARGIN * most, least: most, reason: `${MARGIN} x ${mebibytes(most)} of memory measured (most)` };
}

function measured(pressure: Pressure | null) {
  return pressure?.evidence.containers.find(({ containerId }) => containerId === pressure.candidate.containerId);
}

function bounded(
  wanted: number,
  min: number,
  max: number,
  name: string,
  text: (value: number) => string,
  reasons: string[],
): number {
  if (wanted < min) {
    reasons.push(`${name}.min: ${text(min)}`);
    return min;
  }
  if (wanted > max) {
    reasons.push(`${name}.max: ${text(max)} instead of ${text(wanted)}`);
    return max;
  }
  return wanted;
}

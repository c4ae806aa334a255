/** Evidence as a host would gather it, for tests that need a hot VM. */
import type { Pressure } from '../../model/decision.ts';
import type { ContainerEvidence, Crossing, VmEvidence, Windows } from '../../model/evidence.ts';

export function steady(before: number, since: number): Windows {
  const window = (mean: number) => ({ samples: 30, mean, deviation: 0.01 * mean, p90: mean, max: mean });
  return { before: window(before), since: window(since), unavailable: null };
}
export function container(name: string, service: string | null, before: number, since: number): ContainerEvidence {
  return {
    containerId: name.padEnd(64, '0'),
    runtime: 'docker',
    name,
    service,
    cpuCores: steady(before, since),
    memoryBytes: steady(100e6, 100e6),
    ioBytesPerSecond: steady(0, 0),
    cpuLimitCores: null,
    memoryLimitBytes: null,
  };
}
export function vmEvidence(containers: readonly ContainerEvidence[], changes: Partial<VmEvidence> = {}): VmEvidence {
  const sum = (window: 'before' | 'since') =>
    containers.reduce((total, { cpuCores }) => total + (cpuCores[window]?.mean ?? 0), 0.02);
  return {
    vmUuid: 'a0000000-0000-4000-8000-000000000001',
    vmName: 'shop-1',
    host: 'h1',
    vcpus: 1,
    memoryBytes: 2 ** 30,
    target: { cpu: 0.8, memory: 0.9 },
    cause: 'vmCpu',
    onset: '2026-01-01T00:00:00.000Z',
    cpuCores: steady(sum('before'), sum('since')),
    containers,
    others: { count: 0, cpuCores: { before: null, since: null, unavailable: 'none' } },
    unreadable: null,
    ...changes,
  };
}
export function pressureOn(service: string, decisionId: string): Pressure {
  const evidence = vmEvidence([container(service, service, 0.1, 0.8), container('other', null, 0.05, 0.05)]);
  return {
    evidence,
    decisionId,
    candidate: {
      containerId: evidence.containers[0]?.containerId ?? '',
      name: service,
      service,
      by: 'level',
      share: 0.94,
      explanation: `container "${service}" uses 94 % of what the containers use`,
    },
  };
}
export function crossing(vmUuid: string, sequence: number, changes: Partial<Crossing> = {}): Crossing {
  return {
    kind: 'hot',
    vmUuid,
    vmName: 'shop-1',
    host: 'h1',
    boot: 'boot-1',
    sequence,
    at: '2026-01-01T00:00:10.000Z',
    evidence: null,
    message: 'CPU at 95 % for 3 s',
    ...changes,
  };
}

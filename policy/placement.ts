/**
 * Which host gets a new VM: the one with the largest free share left afterwards, by its scarcer resource. The caller
 * holds the rows of the hosts locked, so that what is free here is free still when the reservation is written.
 */
import type { VmSize } from '../model/decision.ts';
import { figure, mebibytes, virtualCpus } from './figures.ts';

export interface HostCapacity {
  readonly host: string;
  readonly vcpus: number;
  readonly memoryBytes: number;
  readonly reservedVcpus: number;
  readonly reservedMemoryBytes: number;
}
export type Placement =
  | { readonly act: true; readonly host: string; readonly explanation: string }
  | { readonly act: false; readonly reason: 'HostFull'; readonly explanation: string };

export function placeVm(
  hosts: readonly HostCapacity[],
  size: Pick<VmSize, 'vcpus' | 'memoryBytes'>,
  avoidHosts: readonly string[],
): Placement {
  const fitting = hosts
    .filter(({ host }) => !avoidHosts.includes(host))
    .map((host) => ({ host: host.host, left: shareLeft(host, size) }))
    .filter((entry): entry is { host: string; left: number } => entry.left !== null)
    .sort((a, b) => b.left - a.left || (a.host < b.host ? -1 : 1));
  const [best] = fitting;
  if (best !== undefined) {
    return {
      act: true,
      host: best.host,
      explanation: `${best.host} keeps the largest free share, ${Math.round(best.left * 100)} %, of ${fitting.length} hosts that have room`,
    };
  }
  const each = hosts.map((host) =>
    avoidHosts.includes(host.host)
      ? `${host.host}: its host process does not answer`
      : `${host.host}: ${host.vcpus - host.reservedVcpus} of ${host.vcpus} vCPUs and ${mebibytes(host.memoryBytes - host.reservedMemoryBytes)} of ${mebibytes(host.memoryBytes)} free`,
  );
  return {
    act: false,
    reason: 'HostFull',
    explanation: `no host has room for ${virtualCpus(size.vcpus)} and ${mebibytes(size.memoryBytes)} (${each.join('; ') || 'no hosts'}): free some, or raise a host's capacity in ciel.yaml`,
  };
}

/** Of the scarcer resource, 0..1; null when it does not fit. */
function shareLeft(host: HostCapacity, size: Pick<VmSize, 'vcpus' | 'memoryBytes'>): number | null {
  const left = (total: number, reserved: number, wanted: number): number | null => {
    const [all, used, more] = [figure(total), figure(reserved), figure(wanted)];
    if (all === null || used === null || more === null || all === 0 || used + more > all) return null;
    return (all - used - more) / all;
  };
  const cpu = left(host.vcpus, host.reservedVcpus, size.vcpus);
  const memory = left(host.memoryBytes, host.reservedMemoryBytes, size.memoryBytes);
  return cpu === null || memory === null ? null : Math.min(cpu, memory);
}

/**
 * Where watching gets its counters: an interface, so that a thousand recorded VMs can stand in for real ones, and the
 * real one over libvirt, introspection and the virtual disk.
 */
import type { Reading } from '../model/reading.ts';
import type { ContainerIdentity, VmCounters, VmIntrospection } from '../model/usage.ts';

export interface CounterSource {
  /** All VMs of the host in one bulk call that waits for no guest. Rejects when the hypervisor does not answer. */
  vms(): Promise<readonly VmCounters[]>;
  /** One look into each of these VMs' memory. Every VM gets an answer; one that cannot be read costs the others nothing. */
  introspect(vmUuids: readonly string[]): Promise<ReadonlyMap<string, Reading<VmIntrospection>>>;
  /** Who the containers of a VM are, by its virtual disk. Slow, one at a time. */
  identities(vmUuid: string): Promise<Reading<readonly ContainerIdentity[]>>;
  /** These are introspected no longer. */
  forget(vmUuids: readonly string[]): void;
}

/**
 * Counters of real VMs: state and CPU by libvirt, containers by introspection, their names from the virtual disk through
 * QEMU's own view of it.
 */
import { dirname } from 'node:path';
import type { Logger } from 'pino';
import { z } from 'zod';
import type { ContainersOnDisk } from '../guest-disk/look-up.ts';
import { GuestDiskReader } from '../guest-disk/reader.ts';
import { listContainersOfVm } from '../guest-disk/vm-containers.ts';
import { available, mapReading, type Reading, unavailable } from '../model/reading.ts';
import type { ContainerIdentity, VmCounters, VmIntrospection } from '../model/usage.ts';
import { Introspection, type IntrospectionOptions } from '../native/introspection.ts';
import { type Libvirt, LibvirtError } from '../native/libvirt.ts';
import { findQemu } from '../native/qemu-process.ts';
import type { CounterSource } from './counters.ts';

const chardevsSchema = z.object({ return: z.array(z.object({ label: z.string(), filename: z.string() })) });

/**
 * Where QEMU may make sockets: the domain's own directory, in which libvirt keeps its monitor.
 * @returns it as QEMU names it, and as this process reaches it: QEMU may live in another mount namespace.
 */
async function domainDirectory(
  libvirt: Libvirt,
  vmUuid: string,
): Promise<Reading<{ directory: string; seenAs: string }>> {
  const qemu = await findQemu(vmUuid);
  if (qemu === null) return unavailable('ProcessGone', `no QEMU process on this machine runs VM ${vmUuid}`);
  const answer = chardevsSchema.safeParse(await libvirt.monitorCommand(vmUuid, { execute: 'query-chardev' }));
  const monitor = answer.success ? answer.data.return.find(({ label }) => label === 'charmonitor') : undefined;
  const path = /^(?:disconnected:)?unix:(\/[^,]+)/.exec(monitor?.filename ?? '')?.[1];
  if (path === undefined) {
    return unavailable('Unsupported', `QEMU of VM ${vmUuid} has no monitor socket of libvirt's: ${monitor?.filename}`);
  }
  const directory = dirname(path);
  return available({ directory, seenAs: `/proc/${qemu.pid}/root${directory}` });
}

/** For one look into all VMs that are asked for. */
const LOOK_WITHIN_MS = 5_000;
/** The first attach to a guest takes tenths of a second, or seconds: the others are not kept waiting for it. */
const ATTACH_PATIENCE_MS = 100;

/** What a running VM's virtual disks say of its containers, whatever watches it. */
export async function containersOnDiskOf(
  libvirt: Libvirt,
  disks: GuestDiskReader,
  vmUuid: string,
): Promise<Reading<ContainersOnDisk>> {
  try {
    const directory = await domainDirectory(libvirt, vmUuid);
    if (!directory.available) return directory;
    const monitor = (command: object) => libvirt.monitorCommand(vmUuid, command);
    return await listContainersOfVm(disks, monitor, { uuid: vmUuid, ...directory.value });
  } catch (error) {
    if (!(error instanceof LibvirtError)) throw error;
    return unavailable('Unreachable', `QEMU's monitor of VM ${vmUuid}: ${error.message}`);
  }
}

export class HostCounters implements CounterSource {
  readonly #libvirt: Libvirt;
  readonly #introspection: Introspection;
  readonly #disks = new GuestDiskReader();

  private constructor(libvirt: Libvirt, introspection: Introspection) {
    this.#libvirt = libvirt;
    this.#introspection = introspection;
  }

  /** @param directories of attaches, private to the host role; and of detached BTF files. */
  static async start(
    libvirt: Libvirt,
    directories: Pick<IntrospectionOptions, 'cacheDirectory' | 'btfDirectory'>,
    log: Pick<Logger, 'warn'>,
  ): Promise<HostCounters> {
    const introspection = new Introspection({ ...directories, onTrouble: (message) => log.warn(message) });
    await introspection.start();
    return new HostCounters(libvirt, introspection);
  }

  vms(): Promise<readonly VmCounters[]> {
    return this.#libvirt.allStats();
  }

  async introspect(vmUuids: readonly string[]): Promise<ReadonlyMap<string, Reading<VmIntrospection>>> {
    for (const uuid of vmUuids) this.#introspection.watch({ uuid });
    return this.#introspection.sample(vmUuids, LOOK_WITHIN_MS, ATTACH_PATIENCE_MS);
  }

  async identities(vmUuid: string): Promise<Reading<readonly ContainerIdentity[]>> {
    return mapReading(await containersOnDiskOf(this.#libvirt, this.#disks, vmUuid), ({ containers }) => containers);
  }

  forget(vmUuids: readonly string[]): void {
    for (const uuid of vmUuids) this.#introspection.forget(uuid);
  }

  async close(): Promise<void> {
    await Promise.all([this.#introspection.close(), this.#disks.close()]);
  }
}

/**
 * A lab: a segment with a registry, a libvirtd of its own, a director VM with the real IP_VS, and tenants' VMs. Its name
 * makes namespace, directory and sockets its own, so that several run side by side; `down` leaves nothing but the
 * directory's parent. What it makes are a tenant's and an operator's things: Ciel adopts them, and never changes them.
 */
import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { v5 as uuidV5 } from 'uuid';
import { GuestAgent } from '../activities/agent.ts';
import { rewriteDomainXml } from '../activities/domain-xml.ts';
import { workingAccelerator } from '../native/accelerator.ts';
import { Libvirt } from '../native/libvirt.ts';
import { cacheDirectory } from '../template/cache.ts';
import { DOMAIN_XML } from '../template/manifest.ts';
import { cloneTo } from './disk-copy.ts';
import type { LabImages } from './images/images.ts';
import { type Libvirtd, startLibvirtd, stopLibvirtd } from './libvirtd.ts';
import { type Registry, startRegistry } from './registry.ts';
import { createSegment, removeSegment, type Segment, segmentNamed } from './segment.ts';

/** Namespace of the UUIDs that a lab gives to its guests: the same guest of the same lab is the same VM. */
const LAB_NAMESPACE = '3c2b6f5e-6a0e-5d5c-9c53-6f3e0a6b1d11';
const GUEST_READY_WITHIN_MS = 180_000;

export interface GuestSettings {
  readonly name: string;
  readonly address: string;
  /** A directory with domain.xml. */
  readonly template: string;
  /** Copied sparsely before it is used. */
  readonly disk: string;
  readonly vcpus: number;
  readonly memoryBytes: number;
}
export interface LabGuest {
  readonly name: string;
  readonly uuid: string;
  readonly address: string;
  readonly diskFile: string;
}

export class Lab {
  readonly name: string;
  readonly directory: string;
  readonly segment: Segment;
  readonly libvirtd: Libvirtd;
  readonly libvirt: Libvirt;
  readonly agent: GuestAgent;
  readonly registry: Registry;

  private constructor(parts: Omit<Lab, 'startGuest' | 'removeGuest' | 'run' | 'down'>) {
    this.name = parts.name;
    this.directory = parts.directory;
    this.segment = parts.segment;
    this.libvirtd = parts.libvirtd;
    this.libvirt = parts.libvirt;
    this.agent = parts.agent;
    this.registry = parts.registry;
  }

  /** Removes what a former lab of that name left, then brings segment, libvirtd and registry up. */
  static async up(name: string, images: LabImages): Promise<Lab> {
    await removeLab(name);
    const directory = labDirectory(name);
    const segment = segmentNamed(name);
    await mkdir(join(directory, 'disks'), { recursive: true });
    await createSegment(segment);
    const libvirtd = await startLibvirtd({
      directory: libvirtdDirectory(name),
      namespace: segment.namespace,
      cache: join(cacheDirectory(), 'libvirt'),
    });
    const registry = await startRegistry(segment, images.registry.directory, directory);
    const libvirt = await Libvirt.connect(libvirtd.uri);
    return new Lab({ name, directory, segment, libvirtd, libvirt, agent: new GuestAgent(libvirt), registry });
  }

  /** Starts a VM as its owner would: no mark on it. Returns once its agent has set its address. */
  async startGuest(settings: GuestSettings): Promise<LabGuest> {
    const uuid = uuidV5(`${this.name}/${settings.name}`, LAB_NAMESPACE);
    const mac = `52:54:00:${uuid.slice(0, 2)}:${uuid.slice(2, 4)}:${uuid.slice(4, 6)}`;
    const diskFile = join(this.directory, 'disks', `${settings.name}.raw`);
    await cloneTo(settings.disk, diskFile);
    const file = join(settings.template, DOMAIN_XML);
    const xml = rewriteDomainXml(
      { file, directory: settings.template, text: await readFile(file, 'utf8') },
      {
        name: settings.name,
        uuid,
        mac,
        diskFile,
        bridge: this.segment.bridge,
        vcpus: settings.vcpus,
        memoryBytes: settings.memoryBytes,
        serialLog: join(this.directory, `${settings.name}.log`),
        accelerator: await workingAccelerator(),
        mark: null,
      },
    );
    await this.libvirt.defineXml(xml);
    await this.libvirt.create(uuid);
    const deadline = performance.now() + GUEST_READY_WITHIN_MS;
    for (;;) {
      try {
        await this.agent.ping(uuid);
        break;
      } catch (error) {
        if (performance.now() > deadline) throw error;
        await pause(200);
      }
    }
    await this.run(uuid, SET_ADDRESS, [mac, `${settings.address}/24`, settings.name]);
    return { name: settings.name, uuid, address: settings.address, diskFile };
  }

  async removeGuest({ uuid, diskFile }: LabGuest): Promise<void> {
    await this.libvirt.destroy(uuid);
    await this.libvirt.undefine(uuid);
    await rm(diskFile);
  }

  /** Runs a script in a guest as its owner would by ssh; its arguments are $1, $2, … @returns standard output. */
  async run(uuid: string, script: string, args: readonly string[] = [], withinMs = 180_000): Promise<string> {
    const result = await this.agent.run(uuid, {
      command: 'sh',
      args: ['-c', script, 'sh', ...args],
      withinMs,
      signal: AbortSignal.timeout(withinMs),
    });
    if (result.exitCode !== 0) {
      throw new Error(`in guest ${uuid}: exit ${result.exitCode}: ${result.stderr || result.stdout}\n${script}`);
    }
    return result.stdout;
  }

  async down(): Promise<void> {
    await this.libvirt.close();
    await removeLab(this.name);
  }
}

/** Short, because sockets lie below it. */
export function labDirectory(name: string): string {
  return join('/var/lib/ciel-lab', name);
}

function libvirtdDirectory(name: string): string {
  return join(labDirectory(name), 'v');
}

/** Ends every process, guest and mount of a lab, and removes its namespace and directory. No error when there is none. */
export async function removeLab(name: string): Promise<void> {
  await stopLibvirtd(libvirtdDirectory(name));
  await removeSegment(segmentNamed(name));
  await rm(labDirectory(name), { recursive: true, force: true });
}

const SET_ADDRESS = `set -e
for link in /sys/class/net/*; do
  if [ "$(cat "$link/address")" = "$1" ]; then nic=\${link##*/}; fi
done
ip link set "$nic" up
ip addr replace "$2" dev "$nic"
hostname "$3"`;

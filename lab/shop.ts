/**
 * The scene of the demo, the end-to-end test and the benches: a director with IP_VS, and a tenant's VM `shop-1` in which
 * mosaic, nginx and a JVM run, each with an address of its own; and the ciel.yaml that an operator would write for it.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { stringify } from 'yaml';
import type { SpecInput } from '../model/spec.ts';
import type { LabImages } from './images/images.ts';
import { SERVICE_NAMES, type ServiceName } from './images/services.ts';
import type { Lab, LabGuest } from './lab.ts';
import { DOCKER_READY, startTenant, type TenantContainer } from './tenant.ts';

const MEBIBYTE = 2 ** 20;
export const SHOP_VM = 'shop-1';
export const DIRECTOR_VM = 'director';

interface Place {
  readonly address: string;
  readonly virtualAddress: string;
  readonly memory: string;
  readonly healthPath: string;
}
const PLACES: Readonly<Record<ServiceName, Place>> = {
  // A small picture: its answer says that Apache and the program behind it are warm, before clients come.
  mosaic: { address: '10.77.0.21', virtualAddress: '10.77.0.11', memory: '192MiB', healthPath: '/?side=8' },
  nginx: { address: '10.77.0.22', virtualAddress: '10.77.0.12', memory: '64MiB', healthPath: '/healthz' },
  jvm: { address: '10.77.0.23', virtualAddress: '10.77.0.13', memory: '320MiB', healthPath: '/healthz' },
};

export interface Shop {
  readonly director: LabGuest;
  readonly vm: LabGuest;
  readonly specFile: string;
}

export function virtualUrl(service: ServiceName, path = '/'): string {
  return `http://${PLACES[service].virtualAddress}${path}`;
}

export async function bootGuests(lab: Lab, images: LabImages): Promise<{ director: LabGuest; vm: LabGuest }> {
  const [director, vm] = await Promise.all([
    lab.startGuest({
      name: DIRECTOR_VM,
      address: '10.77.0.2',
      template: images.director,
      disk: join(images.director, 'disk.raw'),
      vcpus: 1,
      memoryBytes: 256 * MEBIBYTE,
    }),
    lab.startGuest({
      name: SHOP_VM,
      address: '10.77.0.20',
      template: images.template.directory,
      disk: images.tenantDisk,
      vcpus: 1,
      memoryBytes: 1024 * MEBIBYTE,
    }),
  ]);
  return { director, vm };
}

export async function startContainers(lab: Lab, vm: LabGuest, images: LabImages): Promise<void> {
  await startTenant(lab, vm, tenantContainers(images));
}

function tenantContainers(images: LabImages): TenantContainer[] {
  return SERVICE_NAMES.map((name) => {
    const { address, virtualAddress, healthPath } = PLACES[name];
    return { name, image: images.registry.images[name], address, virtualAddress, healthPath };
  });
}

/** @param storage where Ciel may put disks. */
export async function writeSpec(lab: Lab, images: LabImages, storage: string): Promise<string> {
  const spec: SpecInput = {
    version: 1,
    hosts: [
      {
        name: 'lab',
        libvirt: lab.libvirtd.uri,
        storage,
        bridge: lab.segment.bridge,
        capacity: { vcpus: 4, memory: '6GiB' },
      },
    ],
    directors: [{ name: 'lvs', reach: { kind: 'agent', host: 'lab', vm: DIRECTOR_VM } }],
    networks: [{ name: 'lan', subnet: lab.segment.subnet, addresses: ['10.77.0.100-10.77.0.119'] }],
    templates: [{ name: 'minimal', directory: images.template.directory }],
    services: SERVICE_NAMES.map((name) => ({
      name,
      image: `${lab.registry.endpoint}/${images.registry.images[name]}`,
      run: { memory: PLACES[name].memory },
      virtual: { director: 'lvs', address: PLACES[name].virtualAddress, port: 80 },
      network: 'lan',
      template: 'minimal',
      max: name === 'mosaic' ? 2 : 1,
      // A hot replica answers late; that is no reason to take it out.
      health: { path: PLACES[name].healthPath, timeout: '15s' },
      replicas: [{ vm: SHOP_VM, container: name, address: PLACES[name].address }],
    })),
  };
  await mkdir(storage, { recursive: true });
  const file = join(lab.directory, 'ciel.yaml');
  await writeFile(file, stringify(spec));
  return file;
}

/**
 * What a VM-level autoscaler does: the disk copied whole, booted, and all three services answering, each on an address that is
 * free. @returns milliseconds; the copy is removed.
 */
export async function copyOfShop(lab: Lab, images: LabImages, vm: LabGuest): Promise<number> {
  const startedAt = performance.now();
  const copy = await lab.startGuest({
    name: `${SHOP_VM}-copy`,
    address: '10.77.0.30',
    template: images.template.directory,
    disk: vm.diskFile,
    vcpus: 1,
    memoryBytes: 1024 * MEBIBYTE,
  });
  // The running disk was copied with its containers, whose names and addresses belong to the original.
  await lab.run(
    copy.uuid,
    `${DOCKER_READY}; docker ps --all --quiet | xargs -r docker rm --force >/dev/null; docker network rm lan >/dev/null`,
  );
  await startTenant(
    lab,
    copy,
    tenantContainers(images).map((container) => ({
      ...container,
      address: container.address.replace(/2(\d)$/, '3$1'),
    })),
  );
  const tookMs = performance.now() - startedAt;
  await lab.removeGuest(copy);
  return tookMs;
}

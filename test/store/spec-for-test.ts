/** A small valid specification, with what a test wants different. */
import { type ServiceSpec, type Spec, type SpecInput, specSchema } from '../../model/spec.ts';

export function specForTest(change: Partial<SpecInput> = {}): Spec {
  return specSchema.parse({
    version: 1,
    hosts: [
      {
        name: 'kvm-1',
        libvirt: 'qemu:///system',
        storage: '/var/lib/ciel/disks',
        bridge: 'br0',
        capacity: { vcpus: 8, memory: '8GiB' },
      },
    ],
    directors: [{ name: 'lvs', reach: { kind: 'local' } }],
    networks: [{ name: 'lan', subnet: '10.0.0.0/24', gateway: '10.0.0.1', addresses: ['10.0.0.100-10.0.0.199'] }],
    templates: [{ name: 'docker', directory: '/var/lib/ciel/templates/docker' }],
    services: [serviceInput('mosaic', '10.0.0.10')],
    ...change,
  } satisfies SpecInput);
}

export function serviceInput(name: string, address: string): NonNullable<SpecInput['services']>[number] {
  return {
    name,
    image: `registry:5000/${name}:1`,
    virtual: { director: 'lvs', address, port: 80 },
    network: 'lan',
    template: 'docker',
    max: 3,
    replicas: [{ vm: 'shop-1', container: name, address: `10.0.0.2${address.slice(-1)}` }],
  };
}

export function serviceForTest(name = 'mosaic', address = '10.0.0.10'): ServiceSpec {
  const [service] = specForTest({ services: [serviceInput(name, address)] }).services;
  if (service === undefined) throw new Error('the specification has no service');
  return service;
}

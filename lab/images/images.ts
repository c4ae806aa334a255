/**
 * The lab's guest images: everything that real VMs on a development machine are started from. The template that Ciel
 * clones, the director's image, the services' container images in a registry's storage, and the tenant's disk, on which
 * those are installed. Each is built once and found in the user's cache afterwards, by what it was made from.
 */
import { type BuiltTemplate, buildTemplate } from '../../template/build.ts';
import type { Progress } from '../../template/cache.ts';
import { segmentNamed } from '../segment.ts';
import { directorImage } from './director.ts';
import { type RegistryStorage, registryStorage } from './services.ts';
import { tenantDisk } from './tenant-disk.ts';

export interface LabImages {
  readonly template: BuiltTemplate;
  /** A directory with domain.xml, disk.raw, vmlinuz and initrd. */
  readonly director: string;
  readonly registry: RegistryStorage;
  /** Raw, sparse; not to be written to: the lab's VM runs on a clone. */
  readonly tenantDisk: string;
}

export async function buildImages(progress: Progress): Promise<LabImages> {
  const { bridge, subnet } = segmentNamed('images');
  const template = await buildTemplate({ bridge, insecureRegistries: [subnet] }, progress);
  const director = await directorImage({ bridge }, progress);
  const registry = await registryStorage(progress);
  return { template, director, registry, tenantDisk: await tenantDisk(template, registry, progress) };
}

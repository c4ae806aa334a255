/**
 * The director's image: a small VM with the real IP_VS. Nothing in it but the kernel's module, ipvsadm and the guest agent,
 * by which it gets its address and its table.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Accelerator, workingAccelerator } from '../../native/accelerator.ts';
import { buildOnce, contentHash, type Progress } from '../../template/cache.ts';
import { RELEASE } from '../../template/debian.ts';
import { domainXml } from '../../template/domain-xml.ts';
import { type GuestImage, guestImageSources, makeGuestImage } from '../../template/guest-image.ts';
import { DOMAIN_XML } from '../../template/manifest.ts';

/** As ipvsadm names them: what ciel.yaml allows. */
const SCHEDULERS = ['rr', 'wrr', 'lc', 'wlc', 'sh', 'sed', 'nq'];

const DIRECTOR: GuestImage = {
  packages: ['ipvsadm', 'util-linux'],
  modules: ['ip_vs', ...SCHEDULERS.map((scheduler) => `ip_vs_${scheduler}`)],
  modulesOnDemand: [],
  settings: { 'net/ipv4/ip_forward': '1' },
  services: {},
  files: {},
  diskBytes: 2e9,
};
const MEMORY_MIB = 256;

/** A directory as a template's: domain.xml, disk.raw, vmlinuz and initrd. */
export async function directorImage(options: { readonly bridge: string }, progress: Progress): Promise<string> {
  const accelerator: Accelerator = await workingAccelerator();
  const sources = await guestImageSources();
  const hash = contentHash({
    ...options,
    accelerator,
    image: { ...DIRECTOR },
    memory: MEMORY_MIB,
    release: RELEASE,
    sources,
  });
  const directory = await buildOnce({ name: 'director', hash }, async (work, final) => {
    await makeGuestImage(work, DIRECTOR, (step, detail) => progress(`director: ${step}`, detail));
    const xml = domainXml({
      name: 'director',
      directory: final,
      ...options,
      accelerator,
      vcpus: 1,
      memoryMiB: MEMORY_MIB,
    });
    await writeFile(join(work, DOMAIN_XML), xml);
  });
  progress('director', directory);
  return directory;
}

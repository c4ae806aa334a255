/**
 * The disk of the tenant's VM: a clone of the template's, booted once beside a registry at the address that the lab's will
 * have, to pull the three services' images. So the lab comes up without waiting for that, and image references in the
 * guest are the ones that ciel.yaml names.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { workingAccelerator } from '../../native/accelerator.ts';
import { type BuiltTemplate, DOCKER_READY } from '../../template/build.ts';
import { buildOnce, contentHash, type Progress } from '../../template/cache.ts';
import { kernelCommandLine, TEMPLATE_FILES } from '../../template/domain-xml.ts';
import { Trial } from '../../template/trial.ts';
import { cloneTo } from '../disk-copy.ts';
import { REGISTRY_PORT, startRegistry } from '../registry.ts';
import { createSegment, inSegment, removeSegment, segmentNamed } from '../segment.ts';
import type { RegistryStorage } from './services.ts';

const TAP = 'tap0';
const GUEST_ADDRESS = '10.77.0.9/24';
const MEMORY_MIB = 1024;
const BOOT_LIMIT_MS = 240_000;
const PULL_LIMIT_MS = 300_000;
const POWER_OFF_LIMIT_MS = 60_000;

/** @returns the disk, raw and sparse. */
export async function tenantDisk(
  template: BuiltTemplate,
  registry: RegistryStorage,
  progress: Progress,
): Promise<string> {
  const segment = segmentNamed(`images-${process.pid}`);
  const references = Object.values(registry.images).map((image) => `${segment.address}:${REGISTRY_PORT}/${image}`);
  const hash = contentHash({ template: template.manifest.contentHash, registry: registry.directory, references });
  const directory = await buildOnce({ name: 'tenant-disk', hash }, async (work) => {
    const disk = join(work, TEMPLATE_FILES.disk);
    await cloneTo(join(template.directory, TEMPLATE_FILES.disk), disk);
    await createSegment(segment);
    const state = join(work, 'registry');
    await mkdir(state);
    try {
      await startRegistry(segment, registry.directory, state);
      await execa('ip', ['-n', segment.namespace, 'tuntap', 'add', TAP, 'mode', 'tap']);
      await execa('ip', ['-n', segment.namespace, 'link', 'set', TAP, 'master', segment.bridge, 'up']);
      await pullInto(disk, template, references, inSegment(segment, 'env', []).flat(), progress);
    } finally {
      await removeSegment(segment);
    }
    await execa('rm', ['-r', state]);
  });
  progress('tenant disk', directory);
  return join(directory, TEMPLATE_FILES.disk);
}

async function pullInto(
  disk: string,
  template: BuiltTemplate,
  references: readonly string[],
  wrapper: readonly string[],
  progress: Progress,
): Promise<void> {
  const accelerator = await workingAccelerator();
  progress('tenant disk', `booting a clone of the template to pull ${references.length} images`);
  const trial = await Trial.start({
    kernel: join(template.directory, TEMPLATE_FILES.kernel),
    initrd: join(template.directory, TEMPLATE_FILES.initrd),
    commandLine: kernelCommandLine(accelerator),
    disk,
    keepWrites: true,
    accelerator,
    memoryMiB: MEMORY_MIB,
    wrapper,
    network: `tap,ifname=${TAP},script=no,downscript=no`,
  });
  try {
    await trial.agentAnswers(BOOT_LIMIT_MS);
    await trial.succeed(['/usr/sbin/ip', 'address', 'add', GUEST_ADDRESS, 'dev', 'eth0']);
    await trial.succeed(['/usr/sbin/ip', 'link', 'set', 'eth0', 'up']);
    await trial.consoleShows(DOCKER_READY, BOOT_LIMIT_MS);
    for (const reference of references) {
      const startedAt = performance.now();
      await trial.succeed(['/usr/bin/docker', 'pull', '--quiet', reference], PULL_LIMIT_MS);
      progress('tenant disk', `${reference} pulled in ${((performance.now() - startedAt) / 1000).toFixed(1)} s`);
    }
    await trial.powerOff(POWER_OFF_LIMIT_MS);
  } finally {
    await trial.stop();
  }
}

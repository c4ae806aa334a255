/**
 * What the template is measured against: Debian with systemd and Docker as their packages set them up. Kernel, Docker and
 * guest agent come from the same sources; it is booted as directly, from the initrd that Debian makes. Added is only what
 * tells on the console that Docker is ready, in the moment in which the template's init tells it.
 */
import { copyFile, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { buildOnce, contentHash, type Progress } from '../../template/cache.ts';
import { kernelRelease, makeDebianTree, RELEASE, writeFiles } from '../../template/debian.ts';
import { type DiskWeight, diskWeight, makeDisk } from '../../template/disk.ts';
import { TEMPLATE_FILES } from '../../template/domain-xml.ts';
import { sourceTexts } from '../../template/sources.ts';

export interface FullDebian {
  /** With kernel, initrd and disk, named as a template's. */
  readonly directory: string;
  readonly disk: DiskWeight;
  readonly packages: number;
}

/** To add to the template's kernel command line: Debian's initrd is told the root. */
export const FULL_DEBIAN_ARGUMENTS = 'root=/dev/vda rw';
/** Not at the start of a line: there the login prompt may stand. */
export const FULL_DEBIAN_READY = /docker is ready/;

const PACKAGES = [
  ...['apt', 'cron', 'dbus', 'fdisk', 'ifupdown', 'init', 'iproute2', 'kmod', 'logrotate', 'netbase', 'procps', 'udev'],
  ...[
    'systemd-timesyncd',
    'initramfs-tools',
    'linux-image-cloud-amd64',
    'ca-certificates',
    'docker.io',
    'qemu-guest-agent',
  ],
];
const FILES = {
  '/etc/systemd/system/docker.service.d/report.conf':
    '[Service]\nExecStartPost=/bin/sh -c \'echo "docker is ready" >/dev/ttyS0\'\n',
  // Given, or each measured boot would be a first boot, on which systemd sets all units up.
  '/etc/machine-id': '0123456789abcdef0123456789abcdef\n',
  '/etc/hostname': 'debian\n',
};
const DISK_BYTES = 50e9;
const PACKAGE_COUNT = 'packages';

export async function fullDebian(progress: Progress): Promise<FullDebian> {
  const sources = await sourceTexts(['lab/images/full-debian.ts', 'template/debian.ts', 'template/disk.ts']);
  const hash = contentHash({ release: RELEASE, sources });
  const directory = await buildOnce({ name: 'full-debian', hash }, async (work) => {
    progress('full Debian', `installing ${PACKAGES.join(', ')}`);
    const tree = join(work, 'tree');
    const packages = await makeDebianTree(tree, { packages: PACKAGES });
    const kernel = await kernelRelease(tree);
    await copyFile(join(tree, 'boot', `vmlinuz-${kernel}`), join(work, TEMPLATE_FILES.kernel));
    await copyFile(join(tree, 'boot', `initrd.img-${kernel}`), join(work, TEMPLATE_FILES.initrd));
    await writeFiles(tree, FILES);
    await makeDisk(join(work, TEMPLATE_FILES.disk), tree, DISK_BYTES);
    await writeFile(join(work, PACKAGE_COUNT), String(Object.keys(packages).length));
    await rm(tree, { recursive: true });
  });
  const packages = Number(await readFile(join(directory, PACKAGE_COUNT), 'utf8'));
  return { directory, disk: await diskWeight(join(directory, TEMPLATE_FILES.disk)), packages };
}

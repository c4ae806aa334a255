/**
 * The small guests' image: kernel, initrd and system disk from a Debian tree, with the init of guest/init.c in place of
 * systemd. The template and the lab's director are two of these.
 */
import { copyFile, mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { execa } from 'execa';
import type { Progress } from './cache.ts';
import { kernelRelease, linkBusybox, makeDebianTree, prune, pruneModules, writeFiles } from './debian.ts';
import { type DiskWeight, makeDisk } from './disk.ts';
import { TEMPLATE_FILES } from './domain-xml.ts';
import { sourceFile, sourceTexts } from './sources.ts';

export interface GuestImage {
  readonly packages: readonly string[];
  /** Loaded at boot, before anything is started. */
  readonly modules: readonly string[];
  /** Kept on the disk for the kernel to load when it needs them. */
  readonly modulesOnDemand: readonly string[];
  /** Below /proc/sys. */
  readonly settings: Readonly<Record<string, string>>;
  /** Started together after the guest agent, in this order; stopped in the opposite order. */
  readonly services: Readonly<Record<string, readonly string[]>>;
  /** Further files, by their paths in the guest. */
  readonly files: Readonly<Record<string, string>>;
  readonly diskBytes: number;
}

export interface BuiltImage {
  readonly packages: Readonly<Record<string, string>>;
  readonly kernel: string;
  readonly disk: DiskWeight;
}

/** What an image is made by, for hashes: also what is written here decides what is in it. */
const MADE_BY = ['guest-image.ts', 'debian.ts', 'disk.ts', 'guest/init.c', 'guest/initrd.c', 'guest/unpack-kernel.sh'];

export const guestImageSources = () => sourceTexts(MADE_BY.map((path) => `template/${path}`));

/** What init.c and Debian's small guests need in any case: `ip`, module loading, and busybox for the rest. */
const BASE_PACKAGES = ['busybox-static', 'iproute2', 'kmod', 'qemu-guest-agent'];
const BASE_MODULES = ['virtio_console', 'virtio_net', 'virtio_rng', 'button', 'evdev'];
/** Loaded by the initrd. */
const DISK_MODULES = ['virtio_pci', 'virtio_blk'];
const AGENT = ['/usr/sbin/qemu-ga', '-m', 'virtio-serial', '-p', '/dev/virtio-ports/org.qemu.guest_agent.0'];

/** Fills `work` with the disk, the kernel and the initrd (TEMPLATE_FILES). */
export async function makeGuestImage(work: string, image: GuestImage, progress: Progress): Promise<BuiltImage> {
  const tree = join(work, 'tree');
  const names = [...BASE_PACKAGES, ...image.packages];
  progress('packages', `installing ${names.join(', ')} and the cloud kernel`);
  const packages = await makeDebianTree(tree, { packages: names, kernel: true });
  progress('pruning', 'modules, caches, boot files');
  const modules = [...BASE_MODULES, ...image.modules];
  const loadOrder = await pruneModules(tree, [...modules, ...DISK_MODULES, ...image.modulesOnDemand]);
  const kernel = await kernelRelease(tree);
  await copyFile(join(tree, 'boot', `vmlinuz-${kernel}`), join(work, TEMPLATE_FILES.kernel));
  await makeInitrd(work, tree, loadOrder(DISK_MODULES));
  await rm(join(tree, 'boot'), { recursive: true });
  await mkdir(join(tree, 'boot'));
  await prune(tree);
  await linkBusybox(tree);
  await installInit(tree);
  const services = { 'qemu-ga': AGENT, ...image.services };
  await writeFiles(tree, {
    '/etc/init/modules': lines(loadOrder(modules)),
    '/etc/init/settings': lines(Object.entries(image.settings).map((setting) => setting.join(' '))),
    '/etc/init/services': lines(Object.entries(services).map(([name, command]) => [name, ...command].join(' '))),
    '/etc/hosts': '127.0.0.1 localhost\n::1 localhost\n',
    '/etc/resolv.conf': '',
    ...image.files,
  });
  progress('disk', `${Math.round(image.diskBytes / 1e9)} GB, sparse`);
  const disk = await makeDisk(join(work, TEMPLATE_FILES.disk), tree, image.diskBytes);
  await rm(tree, { recursive: true });
  return { packages, kernel, disk };
}

const lines = (items: readonly string[]) => items.map((item) => `${item}\n`).join('');

async function installInit(tree: string): Promise<void> {
  await compile('template/guest/init.c', join(tree, 'usr/sbin/init'));
  for (const name of ['shutdown', 'poweroff', 'halt', 'reboot']) {
    await rm(join(tree, 'usr/bin', name), { force: true });
    await symlink('init', join(tree, 'usr/sbin', name));
  }
}

/** An archive of one program and the modules it loads. */
async function makeInitrd(work: string, tree: string, modules: readonly string[]): Promise<void> {
  const initrd = join(work, 'initrd-tree');
  for (const directory of ['dev', 'root', 'modules']) await mkdir(join(initrd, directory), { recursive: true });
  await compile('template/guest/initrd.c', join(initrd, 'init'));
  for (const module of modules) await copyFile(join(tree, module), join(initrd, 'modules', basename(module)));
  await writeFile(join(initrd, 'modules/list'), lines(modules.map((module) => `/modules/${basename(module)}`)));
  const files = [
    '.',
    'dev',
    'root',
    'modules',
    'init',
    'modules/list',
    ...modules.map((module) => `modules/${basename(module)}`),
  ];
  await execa('cpio', ['--create', '--format=newc', '--quiet', '--reproducible', '--owner=0:0'], {
    cwd: initrd,
    input: lines(files),
    stdout: { file: join(work, TEMPLATE_FILES.initrd) },
  });
  await rm(initrd, { recursive: true });
}

async function compile(source: string, program: string): Promise<void> {
  await execa('gcc', ['-Wall', '-Wextra', '-Werror', '-O2', '-static', '-s', '-o', program, sourceFile(source)]);
}

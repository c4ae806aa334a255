/**
 * The kernel matrix: real guests of Debian's own kernels, from 5.10 to the newest in sid, with cgroup v2, v1 and hybrid,
 * that introspection is compared with. This folder builds them (here), boots them and speaks with them (guest.ts), and
 * makes containers in them as runtimes name them (containers.ts).
 *
 * An image is a kernel and an initramfs with one static program, busybox and the modules that a guest needs, made from
 * Debian's packages: no root disk, no systemd, no Docker, so a guest answers as soon as its kernel is up. Packages come
 * from the archives that apt on this machine uses, under an apt configuration of their own, so that nothing of another
 * release gets near the machine. Built once, then found in the user's cache: the newest kernel there is at that time.
 *
 * Beside them, more kernels (MORE_KERNELS): what Debian's backports have between two releases, and Ubuntu's. Those without
 * types of their own get them from their sources (detached-types.ts).
 */
import { chmod, copyFile, cp, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { execa } from 'execa';
import { buildOnce, contentHash, type Progress } from '../../template/cache.ts';
import { moduleOrder } from '../../template/debian.ts';
import { sourceFile, sourceTexts } from '../../template/sources.ts';
import { aptOf } from './archives.ts';
import { detachedTypes } from './detached-types.ts';

/** By the release that brings them; `newest` is what sid has. */
const RELEASES = { '5.10': 'bullseye', '6.1': 'bookworm', '6.12': 'trixie', newest: 'sid' } as const;
export const KERNEL_NAMES = Object.keys(RELEASES) as (keyof typeof RELEASES)[];

const META_PACKAGES = {
  cloud: 'linux-image-cloud-amd64',
  generic: 'linux-image-amd64',
  rt: 'linux-image-rt-amd64',
} as const;
export const KERNEL_FLAVOURS = Object.keys(META_PACKAGES) as (keyof typeof META_PACKAGES)[];

interface Origin {
  readonly distribution: 'debian' | 'ubuntu';
  readonly release: string;
  /** A package, or the beginning and end of the names of several, of which the newest counts. */
  readonly image: string | { readonly begins: string; readonly ends: string };
  /** It has none of its own. */
  readonly needsTypes?: boolean;
}
const backports = (version: string): Readonly<Record<string, Origin>> => ({
  cloud: {
    distribution: 'debian',
    release: 'trixie-backports',
    image: { begins: `linux-image-${version}.`, ends: '+deb13-cloud-amd64' },
  },
});
const ubuntuImage = (release: string, image: Origin['image']): Origin => ({ distribution: 'ubuntu', release, image });
const newestGeneric = (version: string): Origin['image'] => ({ begins: `linux-image-${version}-`, ends: '-generic' });
const withoutTypes = (release: string, version: string): Readonly<Record<string, Origin>> => ({
  generic: { ...ubuntuImage(release, newestGeneric(version)), needsTypes: true },
});
const ubuntu = (release: string, images: Readonly<Record<string, string>>): Readonly<Record<string, Origin>> =>
  Object.fromEntries(Object.entries(images).map(([flavour, image]) => [flavour, ubuntuImage(release, image)]));

/** Ubuntu's "virtual" packages are its generic kernel without the modules of hardware. */
export const MORE_KERNELS: Readonly<Record<string, Readonly<Record<string, Origin>>>> = {
  'Ubuntu 4.4': { generic: { ...ubuntuImage('xenial', 'linux-image-virtual'), needsTypes: true } },
  'Ubuntu 4.15': { generic: { ...ubuntuImage('bionic', 'linux-image-virtual'), needsTypes: true } },
  'Ubuntu 4.18': withoutTypes('bionic', '4.18.0'),
  'Ubuntu 5.0': withoutTypes('bionic', '5.0.0'),
  'Ubuntu 5.3': withoutTypes('bionic', '5.3.0'),
  'Ubuntu 5.4': { generic: { ...ubuntuImage('focal', 'linux-image-virtual'), needsTypes: true } },
  'Ubuntu 5.11': { generic: ubuntuImage('focal', newestGeneric('5.11.0')) },
  'Ubuntu 5.13': { generic: ubuntuImage('focal', newestGeneric('5.13.0')) },
  'Ubuntu 5.15': ubuntu('jammy', { generic: 'linux-image-virtual', kvm: 'linux-image-kvm' }),
  'Ubuntu 6.8': ubuntu('noble', { generic: 'linux-image-virtual' }),
  'Ubuntu 6.11': ubuntu('noble', { generic: 'linux-image-virtual-6.11' }),
  'Ubuntu 6.14': ubuntu('noble', { generic: 'linux-image-virtual-6.14' }),
  'Debian 6.16': backports('6.16'),
  'Debian 6.17': backports('6.17'),
  'Ubuntu 6.17': ubuntu('noble', { generic: 'linux-image-virtual-6.17' }),
  'Debian 6.18': backports('6.18'),
  'Ubuntu 7.0': ubuntu('noble', { generic: 'linux-image-virtual-7.0', aws: 'linux-image-aws-7.0' }),
  'Debian 7.3': backports('7.3'),
};
/** A release of Debian's, or one of MORE_KERNELS. */
export type KernelName = keyof typeof RELEASES | `${'Debian' | 'Ubuntu'} ${string}`;
export type KernelFlavour = keyof typeof META_PACKAGES | 'kvm' | 'aws';

function originOf(name: KernelName, flavour: KernelFlavour): Origin {
  const release = (RELEASES as Readonly<Record<string, string>>)[name];
  const image = (META_PACKAGES as Readonly<Record<string, string>>)[flavour];
  const origin =
    release === undefined || image === undefined
      ? MORE_KERNELS[name]?.[flavour]
      : ({ distribution: 'debian', release, image } as const);
  if (origin === undefined) throw new Error(`the kernel matrix has no ${flavour} flavour of ${name}`);
  return origin;
}

export interface KernelImage {
  readonly directory: string;
  readonly kernel: string;
  readonly initramfs: string;
  /** As uname -r says it. */
  readonly release: string;
  /** For a kernel without types of its own: a directory that has them. */
  readonly types: string | null;
}

/** What a guest needs, and what tests make in it. A name that a kernel does not have as a module is built in, or absent. */
const MODULES = [
  ...['virtio_pci', 'virtio_blk', 'virtio_console', 'virtio_balloon', 'virtio_mem', 'virtio_net'],
  ...['veth', 'macvlan', 'ipvlan', 'dummy', 'zram'],
];
const BUSYBOX: Origin = { distribution: 'debian', release: 'bookworm', image: 'busybox-static' };
const RELEASE_FILE = 'release';
const MODULE_LIST = 'module-list';

export async function kernelImage(
  name: KernelName,
  flavour: KernelFlavour,
  progress: Progress = () => undefined,
): Promise<KernelImage> {
  const packages = await unpackedPackages(name, flavour, progress);
  const sources = await sourceTexts(['lab/kernels/guest/init.c']);
  const build = { name: 'kernel-initramfs', hash: contentHash({ packages: basename(packages), sources }) };
  const directory = await buildOnce(build, async (work) => makeInitramfs(work, packages));
  const release = await readFile(join(packages, RELEASE_FILE), 'utf8');
  const origin = originOf(name, flavour);
  return {
    directory,
    kernel: join(packages, 'vmlinuz'),
    initramfs: join(directory, 'initramfs'),
    release,
    types: origin.needsTypes ? await detachedTypes(release, origin.release) : null,
  };
}

/** A directory of its own, so that another init does not fetch the packages again: vmlinuz, busybox, modules. */
async function unpackedPackages(name: KernelName, flavour: KernelFlavour, progress: Progress): Promise<string> {
  const origin = originOf(name, flavour);
  const { release, image } = origin;
  const inputs = {
    release,
    package: typeof image === 'string' ? image : { ...image },
    modules: MODULES,
    busybox: BUSYBOX.release,
  };
  return buildOnce({ name: 'kernel-packages', hash: contentHash(inputs) }, async (work) => {
    const unpacked = join(work, 'unpacked');
    progress(`kernel ${name} ${flavour}`, `fetching it from ${release}`);
    const kernelPackages = await fetchPackages(join(work, 'apt'), origin);
    const busybox = await fetchPackages(join(work, 'apt-busybox'), BUSYBOX);
    for (const file of [...kernelPackages, ...busybox]) await execa('nice', ['dpkg-deb', '--extract', file, unpacked]);
    const found = await unpackedKernel(unpacked);
    await copyFile(found.kernel, join(work, 'vmlinuz'));
    await copyFile(join(unpacked, 'bin/busybox'), join(work, 'busybox'));
    await mkdir(join(work, 'modules'));
    const modules = await requiredModules(found.modules);
    for (const module of modules) await copyModule(module, join(work, 'modules'));
    await writeFile(join(work, MODULE_LIST), modules.map((module) => `${plainName(module)}\n`).join(''));
    await writeFile(join(work, RELEASE_FILE), found.release);
    for (const path of [unpacked, join(work, 'apt'), join(work, 'apt-busybox')]) await rm(path, { recursive: true });
  });
}

interface UnpackedKernel {
  readonly release: string;
  readonly kernel: string;
  readonly modules: string;
}

/** Older packages have /boot and /lib/modules, newer ones /usr/lib/modules with the kernel in it. */
async function unpackedKernel(unpacked: string): Promise<UnpackedKernel> {
  for (const base of ['usr/lib/modules', 'lib/modules']) {
    const [release] = await readdir(join(unpacked, base)).catch(() => []);
    if (release === undefined) continue;
    const modules = join(unpacked, base, release);
    const inside = join(modules, 'vmlinuz');
    const hasInside = (await readdir(modules)).includes('vmlinuz');
    return { release, kernel: hasInside ? inside : join(unpacked, 'boot', `vmlinuz-${release}`), modules };
  }
  throw new Error(`the kernel's packages have no modules in ${unpacked}`);
}

/** Fetches an image's package and those that it stands for (linux-image-amd64 is an empty one). @returns the files. */
async function fetchPackages(directory: string, origin: Origin): Promise<string[]> {
  const apt = await aptOf(directory, origin.distribution, origin.release);
  const name = typeof origin.image === 'string' ? origin.image : await apt.newest(origin.image);
  const wanted = new Set([name]);
  for (const known of wanted)
    for (const needed of await apt.depends(known))
      if (/^linux-(?:image|binary|modules)-/.test(needed)) wanted.add(needed);
  // One that stands for others is empty itself.
  if (wanted.size > 1 && typeof origin.image === 'string') wanted.delete(name);
  return apt.download([...wanted]);
}

async function makeInitramfs(work: string, packages: string): Promise<void> {
  const tree = join(work, 'tree');
  for (const directory of ['bin', 'dev', 'proc', 'sys', 'tmp']) await mkdir(join(tree, directory), { recursive: true });
  const source = sourceFile('lab/kernels/guest/init.c');
  await execa('gcc', ['-Wall', '-Wextra', '-Werror', '-O2', '-static', '-s', '-o', join(tree, 'init'), source]);
  for (const name of ['load', 'kexec']) await symlink('init', join(tree, name));
  await copyFile(join(packages, 'busybox'), join(tree, 'bin/busybox'));
  await chmod(join(tree, 'bin/busybox'), 0o755);
  const { stdout } = await execa(join(tree, 'bin/busybox'), ['--list']);
  for (const command of stdout.split('\n'))
    if (command !== 'busybox') await symlink('busybox', join(tree, 'bin', command));
  await cp(join(packages, 'modules'), join(tree, 'modules'), { recursive: true });
  const modules = (await readFile(join(packages, MODULE_LIST), 'utf8')).trim().split('\n');
  await writeFile(join(tree, 'modules/list'), modules.map((module) => `/modules/${module}\n`).join(''));
  const files = (await readdir(tree, { recursive: true })).sort();
  await execa('cpio', ['--create', '--format=newc', '--quiet', '--reproducible', '--owner=0:0'], {
    cwd: tree,
    input: `.\n${files.join('\n')}\n`,
    stdout: { file: join(work, 'initramfs') },
  });
  await rm(tree, { recursive: true });
}

/** Paths of the modules that are there, each after what it needs. */
async function requiredModules(base: string): Promise<string[]> {
  // depmod looks below lib/modules of a directory.
  await execa('depmod', ['--basedir', join(base, '../../..'), basename(base)]);
  const paths = await readFile(join(base, 'modules.dep'), 'utf8');
  const [, packing = ''] = /\.ko(\.xz|\.zst)?:/.exec(paths) ?? [];
  // Packed modules are listed as such: what is named here are the plain ones.
  const order = moduleOrder(paths.replaceAll(`.ko${packing}`, '.ko'));
  const present = MODULES.filter((name) => new RegExp(`/${name.replaceAll('_', '[-_]')}\\.ko`, 'm').test(paths));
  return order(present).map((path) => join(base, `${path}${packing}`));
}

const plainName = (module: string): string => basename(module).replace(/\.(?:xz|zst)$/, '');

async function copyModule(module: string, directory: string): Promise<void> {
  const stdout = { file: join(directory, plainName(module)) };
  if (module.endsWith('.xz')) await execa('xz', ['--decompress', '--stdout', module], { stdout });
  else if (module.endsWith('.zst')) await execa('zstd', ['--decompress', '--stdout', '--quiet', module], { stdout });
  else await copyFile(module, stdout.file);
}

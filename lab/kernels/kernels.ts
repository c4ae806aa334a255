/**
 * The kernel matrix: real guests of Debian's own kernels, from 5.10 to the newest in sid, with cgroup v2, v1 and hybrid,
 * that introspection is compared with. This folder builds them (here), boots them and speaks with them (guest.ts), and
 * makes containers in them as runtimes name them (containers.ts).
 *
 * An image is a kernel and an initramfs with one static program, busybox and the modules that a guest needs, made from
 * Debian's packages: no root disk, no systemd, no Docker, so a guest answers as soon as its kernel is up. Packages come
 * from the archives that apt on this machine uses, under an apt configuration of their own, so that nothing of another
 * release gets near the machine. Built once, then found in the user's cache: the newest kernel there is at that time.
 */
import { chmod, copyFile, cp, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { execa } from 'execa';
import { buildOnce, contentHash, type Progress } from '../../template/cache.ts';
import { machinesArchives, moduleOrder } from '../../template/debian.ts';
import { sourceFile, sourceTexts } from '../../template/sources.ts';

/** By the release that brings them; `newest` is what sid has. */
const RELEASES = { '5.10': 'bullseye', '6.1': 'bookworm', '6.12': 'trixie', newest: 'sid' } as const;
export type KernelName = keyof typeof RELEASES;
export const KERNEL_NAMES = Object.keys(RELEASES) as KernelName[];

const META_PACKAGES = {
  cloud: 'linux-image-cloud-amd64',
  generic: 'linux-image-amd64',
  rt: 'linux-image-rt-amd64',
} as const;
export type KernelFlavour = keyof typeof META_PACKAGES;
export const KERNEL_FLAVOURS = Object.keys(META_PACKAGES) as KernelFlavour[];

export interface KernelImage {
  readonly directory: string;
  readonly kernel: string;
  readonly initramfs: string;
  /** As uname -r says it. */
  readonly release: string;
}

/** What a guest needs, and what tests make in it. A name that a kernel does not have as a module is built in, or absent. */
const MODULES = [
  ...['virtio_pci', 'virtio_blk', 'virtio_console', 'virtio_balloon', 'virtio_mem', 'virtio_net'],
  ...['veth', 'macvlan', 'ipvlan', 'dummy', 'zram'],
];
const BUSYBOX_RELEASE = 'bookworm';
const ARCHIVE_KEYS = '/usr/share/keyrings/debian-archive-keyring.gpg';
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
  return {
    directory,
    kernel: join(packages, 'vmlinuz'),
    initramfs: join(directory, 'initramfs'),
    release: await readFile(join(packages, RELEASE_FILE), 'utf8'),
  };
}

/** A directory of its own, so that another init does not fetch the packages again: vmlinuz, busybox, modules. */
async function unpackedPackages(name: KernelName, flavour: KernelFlavour, progress: Progress): Promise<string> {
  const inputs = {
    release: RELEASES[name],
    package: META_PACKAGES[flavour],
    modules: MODULES,
    busybox: BUSYBOX_RELEASE,
  };
  return buildOnce({ name: 'kernel-packages', hash: contentHash(inputs) }, async (work) => {
    const unpacked = join(work, 'unpacked');
    progress(`kernel ${name} ${flavour}`, `fetching ${META_PACKAGES[flavour]} of ${RELEASES[name]}`);
    const kernelPackages = await fetchPackages(join(work, 'apt'), RELEASES[name], META_PACKAGES[flavour]);
    const busybox = await fetchPackages(join(work, 'apt-busybox'), BUSYBOX_RELEASE, 'busybox-static');
    for (const file of [...kernelPackages, ...busybox]) await execa('nice', ['dpkg-deb', '--extract', file, unpacked]);
    const { release, kernel, modules: moduleDirectory } = await unpackedKernel(unpacked);
    await copyFile(kernel, join(work, 'vmlinuz'));
    await copyFile(join(unpacked, 'bin/busybox'), join(work, 'busybox'));
    await mkdir(join(work, 'modules'));
    const modules = await requiredModules(moduleDirectory);
    for (const module of modules) await copyModule(module, join(work, 'modules'));
    await writeFile(join(work, MODULE_LIST), modules.map((module) => `${plainName(module)}\n`).join(''));
    await writeFile(join(work, RELEASE_FILE), release);
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

/** Fetches a package and those of the kernel that it stands for (linux-image-amd64 is an empty one). @returns the files. */
async function fetchPackages(directory: string, release: string, name: string): Promise<string[]> {
  for (const path of ['state/lists/partial', 'cache/archives/partial', 'package'])
    await mkdir(join(directory, path), { recursive: true });
  const { archive, security } = await machinesArchives();
  const trust = `[signed-by=${ARCHIVE_KEYS}]`;
  const lines = [`deb ${trust} ${archive} ${release} main`];
  if (release !== 'sid') lines.push(`deb ${trust} ${security} ${release}-security main`);
  await writeFile(join(directory, 'sources.list'), `${lines.join('\n')}\n`);
  await writeFile(join(directory, 'state/status'), '');
  const options = [
    ...['Dir::Etc::sourceparts=/dev/null', 'APT::Architecture=amd64', 'APT::Sandbox::User=root'],
    ...[`Dir::Etc::sourcelist=${join(directory, 'sources.list')}`, `Dir::State=${join(directory, 'state')}`],
    ...[`Dir::State::status=${join(directory, 'state/status')}`, `Dir::Cache=${join(directory, 'cache')}`],
    ...['Acquire::Languages=none', 'Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false'],
    // A mirror's sid may be older than its Release file allows.
    'Acquire::Check-Valid-Until=false',
  ].flatMap((option) => ['-o', option]);
  await execa('apt-get', [...options, 'update']);
  const wanted = new Set([name]);
  for (const known of wanted) {
    const { stdout } = await execa('apt-cache', [...options, 'depends', '--no-recommends', '--no-suggests', known]);
    for (const [, needed] of stdout.matchAll(/^ *Depends: (linux-(?:image|binary|modules)-\S+)$/gm))
      wanted.add(needed as string);
  }
  // One that stands for others is empty itself.
  if (wanted.size > 1) wanted.delete(name);
  const packages = join(directory, 'package');
  await execa('apt-get', [...options, 'download', ...wanted], { cwd: packages });
  return (await readdir(packages)).map((file) => join(packages, file));
}

async function makeInitramfs(work: string, packages: string): Promise<void> {
  const tree = join(work, 'tree');
  for (const directory of ['bin', 'dev', 'proc', 'sys', 'tmp']) await mkdir(join(tree, directory), { recursive: true });
  const source = sourceFile('lab/kernels/guest/init.c');
  await execa('gcc', ['-Wall', '-Wextra', '-Werror', '-O2', '-static', '-s', '-o', join(tree, 'init'), source]);
  await symlink('init', join(tree, 'load'));
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
  // Packed modules are listed as such: what is named here are the plain ones.
  const order = moduleOrder(paths.replaceAll('.ko.xz', '.ko'));
  const present = MODULES.filter((name) => new RegExp(`/${name.replaceAll('_', '[-_]')}\\.ko`, 'm').test(paths));
  const isPacked = paths.includes('.ko.xz:');
  return order(present).map((path) => join(base, isPacked ? `${path}.xz` : path));
}

const plainName = (module: string): string => basename(module).replace(/\.xz$/, '');

async function copyModule(module: string, directory: string): Promise<void> {
  const target = join(directory, plainName(module));
  if (module.endsWith('.xz')) await execa('xz', ['--decompress', '--stdout', module], { stdout: { file: target } });
  else await copyFile(module, target);
}

/**
 * Debian root trees, made by mmdebstrap from the machine's own package sources, and cut down.
 *
 * The sources are the ones that apt on this machine is configured with (a mirror, a snapshot, a proxy), of them only
 * Debian's own for the release that guests run.
 */
import { mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { execa } from 'execa';
import { sourceFile } from './sources.ts';

export const RELEASE = 'bookworm';
/** mmdebstrap's own: without the essential packages, nothing else makes /bin a link to /usr/bin. */
const MERGED_USR_HOOKS = '/usr/share/mmdebstrap/hooks/merged-usr';
const KERNEL_PACKAGE = 'linux-image-cloud-amd64';

/** Never installed: what no program in a guest reads. */
const EXCLUDED_PATHS = [
  '/usr/share/doc/*',
  '/usr/share/doc-base/*',
  '/usr/share/man/*',
  '/usr/share/info/*',
  '/usr/share/locale/*',
  '/usr/share/lintian/*',
  '/usr/share/bash-completion/*',
  '/usr/share/zsh/*',
  '/usr/share/fish/*',
  '/usr/share/bug/*',
  '/usr/share/common-licenses/*',
  '/usr/share/pixmaps/*',
];

/** What only installing needs, or leaves behind. */
const LEFTOVERS = [
  'usr/lib/x86_64-linux-gnu/gconv',
  'usr/lib/x86_64-linux-gnu/perl',
  'usr/lib/x86_64-linux-gnu/perl-base',
  'usr/share/perl',
  'usr/share/perl5',
  'usr/share/polkit-1',
  'var/cache',
  'var/lib/apt',
  'var/lib/dpkg/info',
  'var/lib/systemd',
  'var/log',
];

export interface DebianTree {
  readonly packages: readonly string[];
  /** Unpacks the cloud kernel without what it wants beside itself (initramfs-tools builds an initrd for minutes). */
  readonly kernel?: boolean;
  /** Only unpacks, without the essential packages and without running what packages run: for container images. */
  readonly unpackOnly?: boolean;
}

/** Makes the tree in `directory` and returns the versions of what is in it. */
export async function makeDebianTree(
  directory: string,
  { packages, kernel = false, unpackOnly = false }: DebianTree,
): Promise<Readonly<Record<string, string>>> {
  requireRoot('Installing Debian packages into a directory');
  const options = [
    '--mode=root',
    ...(unpackOnly ? ['--variant=extract', `--hook-dir=${MERGED_USR_HOOKS}`] : ['--variant=essential']),
    `--include=${packages.join(',')}`,
    '--aptopt=APT::Install-Recommends "false"',
    ...(await machinesAptOptions()).map((option) => `--aptopt=${option}`),
    ...EXCLUDED_PATHS.map((path) => `--dpkgopt=path-exclude=${path}`),
    ...(kernel ? [`--customize-hook=${sourceFile('template/guest/unpack-kernel.sh')}`] : []),
  ];
  try {
    await execa('nice', ['mmdebstrap', ...options, RELEASE, directory, ...(await machinesSources())], {
      env: { KERNEL_PACKAGE, TMPDIR: '/var/tmp' },
    });
  } catch (error) {
    const lines = String((error as { stderr?: string }).stderr ?? '').split('\n');
    throw new Error(`mmdebstrap could not install ${packages.join(', ')}:\n${lines.slice(-15).join('\n')}`);
  }
  return versions(directory);
}

/** Removes what only installing needed. The record of installed versions stays, for whoever scans images. */
export async function prune(directory: string): Promise<void> {
  for (const path of LEFTOVERS) await rm(join(directory, path), { recursive: true, force: true });
  for (const path of ['var/cache', 'var/log']) await mkdir(join(directory, path), { recursive: true });
}

/** Gives the tree every busybox command that it lacks (mount, modprobe's friends, vi): one binary instead of packages. */
export async function linkBusybox(directory: string): Promise<void> {
  const { stdout } = await execa('chroot', [directory, '/usr/bin/busybox', '--list']);
  const present = new Set<string>();
  for (const folder of ['usr/bin', 'usr/sbin'])
    for (const name of await readdir(join(directory, folder))) present.add(name);
  for (const command of stdout.split('\n'))
    if (!present.has(command)) await symlink('busybox', join(directory, 'usr/bin', command));
}

export async function kernelRelease(directory: string): Promise<string> {
  const [release, ...others] = await readdir(join(directory, 'usr/lib/modules'));
  if (release === undefined || others.length > 0)
    throw new Error(`expected one kernel in ${directory}/usr/lib/modules, found ${others.length + (release ? 1 : 0)}`);
  return release;
}

/**
 * Keeps the named modules with what they need and deletes the others.
 * @returns for a list of names, their paths in the guest in an order that satisfies their dependencies.
 */
export async function pruneModules(
  directory: string,
  keep: readonly string[],
): Promise<(names: readonly string[]) => readonly string[]> {
  const release = await kernelRelease(directory);
  const base = join(directory, 'usr/lib/modules', release);
  const depmod = () => execa('chroot', [directory, 'depmod', release]);
  await depmod();
  const loadOrder = moduleOrder(await readFile(join(base, 'modules.dep'), 'utf8'));
  const kept = new Set(loadOrder(keep));
  for (const entry of await readdir(base, { recursive: true }))
    if (entry.endsWith('.ko') && !kept.has(entry)) await rm(join(base, entry));
  await depmod();
  return (names) => loadOrder(names).map((path) => `/usr/lib/modules/${release}/${path}`);
}

/** Reads modules.dep ("path: dependencies, nearest first"). Modules built into the kernel are no files, and skipped. */
export function moduleOrder(modulesDep: string): (names: readonly string[]) => readonly string[] {
  const dependencies = new Map<string, readonly string[]>();
  const byName = new Map<string, string>();
  for (const line of modulesDep.split('\n')) {
    const [path, rest] = line.split(':');
    if (path === undefined || rest === undefined) continue;
    dependencies.set(path, rest.split(' ').filter(Boolean));
    byName.set(moduleName(path), path);
  }
  return (names) => {
    const order = new Set<string>();
    const add = (path: string): void => {
      for (const dependency of [...(dependencies.get(path) ?? [])].reverse()) add(dependency);
      order.add(path);
    };
    for (const name of names) {
      const path = byName.get(moduleName(name));
      if (path === undefined) throw new Error(`the kernel package has no module "${name}"`);
      add(path);
    }
    return [...order];
  };
}

function moduleName(path: string): string {
  return (path.split('/').at(-1) ?? path).replace(/\.ko$/, '').replaceAll('-', '_');
}

export function requireRoot(what: string): void {
  if (process.getuid?.() !== 0) throw new Error(`${what} needs root. Run the same command with sudo.`);
}

async function versions(directory: string): Promise<Readonly<Record<string, string>>> {
  const { stdout } = await execa('dpkg-query', [`--admindir=${join(directory, 'var/lib/dpkg')}`, '-W']);
  const found: Record<string, string> = {};
  for (const line of stdout.split('\n')) {
    const [name, version] = line.split('\t') as [string, string];
    found[name.replace(/:.*/, '')] = version;
  }
  const kernel = await readFile(join(directory, KERNEL_RECORD), 'utf8').catch(() => null);
  if (kernel !== null) {
    const [name, version] = kernel.trim().split(' ') as [string, string];
    found[name] = version;
  }
  return found;
}

/** Where unpack-kernel.sh notes the name and version of what it unpacked, since dpkg does not know it. */
const KERNEL_RECORD = 'usr/share/kernel-package';

/** One-line sources for mmdebstrap. */
async function machinesSources(): Promise<string[]> {
  return (await machinesIndexes()).map(({ uri, suite }) => `deb ${uri} ${suite} main`);
}

/** Where this machine's apt gets Debian from: the archives that have the other releases, too. */
export async function machinesArchives(): Promise<{ readonly archive: string; readonly security: string }> {
  const indexes = await machinesIndexes();
  const uriOf = (codename: string) => indexes.find((index) => index.codename === codename)?.uri;
  const archive = uriOf(RELEASE);
  if (archive === undefined)
    throw new Error(`apt on this machine has updates of Debian ${RELEASE}, but not ${RELEASE} itself`);
  return { archive, security: uriOf(`${RELEASE}-security`) ?? archive };
}

interface DebianIndex {
  readonly codename: string;
  readonly uri: string;
  readonly suite: string;
}

/** Debian's own, of the release that guests run. */
async function machinesIndexes(): Promise<DebianIndex[]> {
  const { stdout } = await execa('apt-get', [
    'indextargets',
    '--format',
    '$(CODENAME)|$(COMPONENT)|$(REPO_URI)|$(RELEASE)|$(ORIGIN)',
    'Created-By: Packages',
  ]);
  const indexes = stdout
    .split('\n')
    .map((line) => line.split('|'))
    .filter(
      ([codename = '', component, , , origin]) => isReleases(codename) && component === 'main' && origin === 'Debian',
    )
    .map(([codename = '', , uri = '', suite = '']) => ({ codename, uri, suite }));
  if (indexes.length === 0)
    throw new Error(
      `apt on this machine has no index of Debian ${RELEASE} main, which guests are made of. ` +
        'Add it to /etc/apt/sources.list.d (guests get no others of its sources) and run: apt-get update',
    );
  return indexes;
}

const isReleases = (codename: string) => codename === RELEASE || codename.startsWith(`${RELEASE}-`);

/** How to fetch (proxies, time-outs, an expired snapshot's dates): mmdebstrap's own apt does not read the machine's. */
export async function machinesAptOptions(): Promise<string[]> {
  const { stdout } = await execa('apt-config', ['dump', 'Acquire']);
  return stdout
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('Acquire::IndexTargets') && !line.endsWith(' "";'))
    .map((line) => line.replace(/;$/, ''));
}

/** Paths are of the guest. */
export async function writeFiles(directory: string, files: Readonly<Record<string, string>>): Promise<void> {
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(directory, path)), { recursive: true });
    await writeFile(join(directory, path), text);
  }
}

/**
 * Packages of another release than the machine's, or of Ubuntu: an apt with a configuration, lists and a cache of its own in
 * some directory. Nothing is installed. Debian's archive is the one that apt on this machine uses; Ubuntu's is its own.
 */
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { machinesArchives } from '../../template/debian.ts';

export type Distribution = 'debian' | 'ubuntu';

export interface Apt {
  /** What a package needs, by name; of alternatives the last one. */
  depends(name: string): Promise<string[]>;
  /** The newest of the packages whose names begin and end so. */
  newest(names: { readonly begins: string; readonly ends: string }): Promise<string>;
  /** @returns the files. */
  download(names: readonly string[]): Promise<string[]>;
}

const DEBIAN_KEYS = '/usr/share/keyrings/debian-archive-keyring.gpg';
const UBUNTU_ARCHIVE = process.env.CIEL_UBUNTU_ARCHIVE ?? 'http://archive.ubuntu.com/ubuntu';
/** Debian has no package of Ubuntu's keys: this one is known by its contents. */
const UBUNTU_KEYS = {
  path: 'pool/main/u/ubuntu-keyring/ubuntu-keyring_2021.03.26_all.deb',
  sha256: '0d0e7ed6b112f5d03eabf3c7eb01ebdacf9c57714b279e90495cfc58c8c4520f',
  file: 'usr/share/keyrings/ubuntu-archive-keyring.gpg',
};

export async function aptOf(directory: string, distribution: Distribution, release: string): Promise<Apt> {
  for (const path of ['state/lists/partial', 'cache/archives/partial', 'package'])
    await mkdir(join(directory, path), { recursive: true });
  const sources = await (distribution === 'debian' ? debianSources(release) : ubuntuSources(directory, release));
  await writeFile(join(directory, 'sources.list'), sources.map((line) => `${line}\n`).join(''));
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
  const packages = join(directory, 'package');
  return {
    depends: async (name) => {
      const { stdout } = await execa('apt-cache', [...options, 'depends', '--no-recommends', '--no-suggests', name]);
      return [...stdout.matchAll(/^ *Depends: (\S+)$/gm)].map(([, needed]) => needed as string);
    },
    newest: async ({ begins, ends }) => {
      const { stdout } = await execa('apt-cache', [...options, 'pkgnames', begins]);
      const names = stdout.split('\n').filter((name) => name.endsWith(ends));
      const newest = names.sort(new Intl.Collator('en', { numeric: true }).compare).at(-1);
      if (newest === undefined) throw new Error(`${release} has no package ${begins}*${ends}`);
      return newest;
    },
    download: async (names) => {
      await execa('apt-get', [...options, 'download', ...names], { cwd: packages });
      return (await readdir(packages)).map((file) => join(packages, file));
    },
  };
}

async function debianSources(release: string): Promise<string[]> {
  const { archive, security } = await machinesArchives();
  const trust = `[signed-by=${DEBIAN_KEYS}]`;
  const hasSecurity = release !== 'sid' && !release.endsWith('-backports');
  return [
    `deb ${trust} ${archive} ${release} main`,
    ...(hasSecurity ? [`deb ${trust} ${security} ${release}-security main`] : []),
  ];
}

async function ubuntuSources(directory: string, release: string): Promise<string[]> {
  const keyring = join(directory, 'keyring.deb');
  await execa('curl', [
    '--fail',
    '--silent',
    '--show-error',
    '--output',
    keyring,
    `${UBUNTU_ARCHIVE}/${UBUNTU_KEYS.path}`,
  ]);
  const sha256 = createHash('sha256')
    .update(await readFile(keyring))
    .digest('hex');
  if (sha256 !== UBUNTU_KEYS.sha256)
    throw new Error(`${UBUNTU_KEYS.path} of ${UBUNTU_ARCHIVE} is ${sha256}: not its keys`);
  await execa('dpkg-deb', ['--extract', keyring, join(directory, 'keyring')]);
  const trust = `[signed-by=${join(directory, 'keyring', UBUNTU_KEYS.file)}]`;
  return [release, `${release}-updates`].map((suite) => `deb ${trust} ${UBUNTU_ARCHIVE} ${suite} main`);
}

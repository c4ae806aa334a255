/**
 * The three services that share the tenant's VM, as container images: `mosaic`, which the paper scales (Apache and Bottle,
 * a picture pixelated a request), `nginx` (static files) and `jvm` (a catalogue held in memory). Each is a Debian tree
 * that was only unpacked, without shells, documentation and whatever its one program does not load.
 */
import { chmod, copyFile, mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { execa } from 'execa';
import { buildOnce, contentHash, type Progress } from '../../template/cache.ts';
import { makeDebianTree, RELEASE, writeFiles } from '../../template/debian.ts';
import { sourceFile } from '../../template/sources.ts';
import { type ImageSettings, packImage, storeImage } from './oci.ts';

export const SERVICE_NAMES = ['mosaic', 'nginx', 'jvm'] as const;
export type ServiceName = (typeof SERVICE_NAMES)[number];

export interface RegistryStorage {
  /** For docker-registry's filesystem driver. */
  readonly directory: string;
  /** References without a registry: repository:tag. */
  readonly images: Readonly<Record<ServiceName, string>>;
}

interface ServiceImage extends ImageSettings {
  readonly packages: readonly string[];
  /** Files of this folder, by their paths in the image. */
  readonly sources: Readonly<Record<string, string>>;
  readonly texts: Readonly<Record<string, string>>;
  /** Libraries that come with the packages and that the program never loads: beginnings of their files' names. */
  readonly unneeded: readonly string[];
  /** Last steps in the tree, such as compiling. */
  readonly finish?: (tree: string) => Promise<void>;
}

const TAG = '1';
const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
const JAVA_MODULES = 'java.base,jdk.httpserver';

const SERVICES: Readonly<Record<ServiceName, ServiceImage>> = {
  mosaic: {
    packages: ['apache2-bin', 'libapache2-mod-wsgi-py3', 'python3-bottle', 'python3-pil'],
    sources: { '/srv/mosaic/mosaic.py': 'mosaic/mosaic.py', '/etc/apache2/mosaic.conf': 'mosaic/apache.conf' },
    texts: { '/srv/mosaic/healthz': 'ok\n' },
    // What of Apache and of Pillow is not loaded by apache.conf and mosaic.py.
    unneeded: [
      'perl',
      'perl-base',
      'libperl',
      'libicu',
      'libxml2',
      'libcurl',
      'liblua',
      'libgnutls',
      'libcrypto',
      'libX11',
    ],
    finish: compilePython,
    command: ['/usr/sbin/apache2', '-f', '/etc/apache2/mosaic.conf', '-DFOREGROUND'],
    environment: { PATH, PYTHONDONTWRITEBYTECODE: '1' },
    port: 80,
  },
  nginx: {
    packages: ['nginx-light'],
    sources: { '/etc/nginx/nginx.conf': 'nginx/nginx.conf', '/srv/www/index.html': 'nginx/index.html' },
    texts: { '/srv/www/large.txt': 'The quick brown fox jumps over the lazy dog.\n'.repeat(2000) },
    unneeded: [],
    command: ['/usr/sbin/nginx'],
    environment: { PATH },
    port: 80,
  },
  jvm: {
    packages: ['libc6', 'libstdc++6', 'zlib1g'],
    sources: { '/srv/jvm/Catalogue.java': 'jvm/Catalogue.java' },
    texts: {},
    unneeded: [],
    finish: linkJava,
    // One compiler and one collector thread: a small VM has one processor.
    command: [
      '/opt/java/bin/java',
      '-XX:+UseSerialGC',
      '-XX:TieredStopAtLevel=1',
      '-Xms96m',
      '-Xmx128m',
      '-cp',
      '/srv/jvm',
      'Catalogue',
    ],
    environment: { PATH },
    port: 80,
  },
};

/** Never needed in an image of one program. */
const NO_IMAGE_NEEDS = [
  'boot',
  'usr/share/perl',
  'usr/share/perl5',
  'usr/share/icons',
  'usr/share/mime',
  'usr/include',
  'var/cache',
  'var/lib/apt',
  'var/lib/dpkg',
];
const LIBRARIES = 'usr/lib/x86_64-linux-gnu';

/** Builds what is missing, and puts the images into one registry's storage. */
export async function registryStorage(progress: Progress): Promise<RegistryStorage> {
  const built = new Map<ServiceName, string>();
  for (const name of SERVICE_NAMES) built.set(name, await serviceImage(name, progress));
  const hash = contentHash({ images: [...built.values()] });
  const directory = await buildOnce({ name: 'registry', hash }, async (work) => {
    for (const [name, image] of built) await storeImage(work, image, name, TAG);
  });
  progress('registry', `${SERVICE_NAMES.join(', ')} in ${directory}`);
  const images = Object.fromEntries(SERVICE_NAMES.map((name) => [name, `${name}:${TAG}`])) as Record<
    ServiceName,
    string
  >;
  return { directory, images };
}

async function serviceImage(name: ServiceName, progress: Progress): Promise<string> {
  const image = SERVICES[name];
  const { finish, ...inputs } = image;
  const paths = Object.values(image.sources);
  const texts = await Promise.all(paths.map((path) => readFile(sourceFile(join(FOLDER, path)), 'utf8')));
  const hash = contentHash({ ...inputs, texts, finish: String(finish), release: RELEASE });
  return buildOnce({ name: `image-${name}`, hash }, async (work) => {
    progress(`image ${name}`, `unpacking ${image.packages.join(', ')}`);
    const tree = join(work, 'tree');
    await makeDebianTree(tree, { packages: image.packages, unpackOnly: true });
    await writeFiles(tree, { ...ACCOUNTS, ...image.texts });
    for (const [to, from] of Object.entries(image.sources)) {
      await mkdir(dirname(join(tree, to)), { recursive: true });
      await copyFile(sourceFile(join(FOLDER, from)), join(tree, to));
    }
    await image.finish?.(tree);
    await removeUnneeded(tree, image.unneeded);
    await execa('ldconfig', ['-r', tree]);
    await packImage(work, tree, image);
    await rm(tree, { recursive: true });
  });
}

const FOLDER = 'lab/images';
const ACCOUNTS = {
  '/etc/passwd':
    'root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\nnobody:x:65534:65534::/:/bin/false\n',
  '/etc/group': 'root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n',
};

async function removeUnneeded(tree: string, libraries: readonly string[]): Promise<void> {
  for (const path of [...NO_IMAGE_NEEDS, `${LIBRARIES}/gconv`])
    await rm(join(tree, path), { recursive: true, force: true });
  for (const entry of await readdir(join(tree, LIBRARIES)))
    if (libraries.some((beginning) => entry.startsWith(beginning)))
      await rm(join(tree, LIBRARIES, entry), { recursive: true });
  for (const directory of ['run', 'tmp', 'proc', 'sys', 'root', 'var/log', 'var/lib/nginx', 'var/cache'])
    await mkdir(join(tree, directory), { recursive: true });
  await chmod(join(tree, 'tmp'), 0o1777);
}

/** Importing once leaves the compiled form of what is imported; compiling at each start takes seconds when emulated. */
async function compilePython(tree: string): Promise<void> {
  await execa('chroot', [tree, '/usr/bin/python3.11', '-c', 'import encodings.idna, mosaic'], {
    env: { PYTHONPATH: '/srv/mosaic' },
  });
  await rm(join(tree, 'srv/mosaic/__pycache__'), { recursive: true, force: true });
}

/** A Java runtime of the modules that are used, a fifth of the whole, with its classes dumped for a quick start. */
async function linkJava(tree: string): Promise<void> {
  const kit = `${tree}-jdk`;
  const java = '/usr/lib/jvm/java-17-openjdk-amd64/bin';
  await makeDebianTree(kit, { packages: ['openjdk-17-jdk-headless'], unpackOnly: true });
  await mkdir(join(kit, 'build'));
  await copyFile(join(tree, 'srv/jvm/Catalogue.java'), join(kit, 'build/Catalogue.java'));
  // Java finds its own libraries by /proc/self/exe.
  await mkdir(join(kit, 'proc'), { recursive: true });
  const inKit = (...command: string[]) =>
    execa('unshare', ['--pid', '--fork', `--root=${kit}`, '--mount-proc', ...command]);
  await inKit(`${java}/javac`, '-d', '/build', '/build/Catalogue.java');
  const small = ['--strip-java-debug-attributes', '--no-man-pages', '--no-header-files'];
  await inKit(`${java}/jlink`, '--add-modules', JAVA_MODULES, ...small, '--output', '/build/java');
  await inKit('/build/java/bin/java', '-Xshare:dump', '-XX:+UseSerialGC');
  await mkdir(join(tree, 'opt'), { recursive: true });
  await execa('cp', ['-a', join(kit, 'build/java'), join(tree, 'opt/java')]);
  for (const entry of await readdir(join(kit, 'build')))
    if (entry.endsWith('.class')) await copyFile(join(kit, 'build', entry), join(tree, 'srv/jvm', entry));
  await rm(kit, { recursive: true });
}

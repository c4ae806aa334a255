/**
 * The three services that share the tenant's VM, as container images: `mosaic`, which the paper scales (Apache and Bottle,
 * a picture pixelated a request), `nginx` (static files) and `jvm` (a catalogue held in memory). Each is a Debian tree
 * that was only unpacked, without shells, documentation and whatever its one program does not load.
 */
import { chmod, copyFile, mkdir, readdir, realpath, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { execa } from 'execa';
import { buildOnce, contentHash, type Progress } from '../../template/cache.ts';
import { makeDebianTree, RELEASE, writeFiles } from '../../template/debian.ts';
import { sourceFile, sourceTexts } from '../../template/sources.ts';
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
  /** What is executed or loaded by name; of programs and libraries, only these and what they link to are kept. */
  readonly programs: readonly string[];
  /** Must succeed in the finished tree. */
  readonly proof: readonly string[];
  /** Last steps in the tree, such as compiling. @returns further programs to keep. */
  readonly finish?: (tree: string) => Promise<readonly string[]>;
}

const TAG = '1';
const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
const JAVA_MODULES = 'java.base,jdk.httpserver';

const SERVICES: Readonly<Record<ServiceName, ServiceImage>> = {
  mosaic: {
    packages: ['apache2-bin', 'libapache2-mod-wsgi-py3', 'python3-bottle', 'python3-pil'],
    sources: { '/srv/mosaic/mosaic.py': 'mosaic/mosaic.py', '/etc/apache2/mosaic.conf': 'mosaic/apache.conf' },
    texts: { '/srv/mosaic/healthz': 'ok\n' },
    programs: [
      '/usr/sbin/apache2',
      ...['mpm_event', 'authz_core', 'alias', 'headers', 'wsgi'].map(
        (name) => `/usr/lib/apache2/modules/mod_${name}.so`,
      ),
    ],
    proof: ['/usr/sbin/apache2', '-f', '/etc/apache2/mosaic.conf', '-t'],
    finish: keepLoadedPython,
    command: ['/usr/sbin/apache2', '-f', '/etc/apache2/mosaic.conf', '-DFOREGROUND'],
    environment: { PATH, LANG: 'C.UTF-8', PYTHONDONTWRITEBYTECODE: '1' },
    port: 80,
  },
  nginx: {
    packages: ['nginx-light'],
    sources: { '/etc/nginx/nginx.conf': 'nginx/nginx.conf', '/srv/www/index.html': 'nginx/index.html' },
    texts: { '/srv/www/large.txt': 'The quick brown fox jumps over the lazy dog.\n'.repeat(2000) },
    programs: ['/usr/sbin/nginx'],
    proof: ['/usr/sbin/nginx', '-t'],
    command: ['/usr/sbin/nginx'],
    environment: { PATH },
    port: 80,
  },
  jvm: {
    packages: ['libc6', 'libstdc++6', 'zlib1g'],
    sources: { '/srv/jvm/Catalogue.java': 'jvm/Catalogue.java' },
    texts: {},
    programs: ['bin/java', 'lib/libjli.so', 'lib/server/libjvm.so'].map((path) => `/opt/java/${path}`),
    proof: ['/opt/java/bin/java', '-cp', '/srv/jvm', '--dry-run', 'Catalogue'],
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
const NO_IMAGE_NEEDS = ['boot', 'usr/share', 'usr/include', 'var/cache', 'var/lib/apt', 'var/lib/dpkg'];
/** Where only what is linked to is kept. */
const PROGRAM_FOLDERS = ['usr/bin', 'usr/sbin', 'usr/lib/apache2/modules', 'usr/lib/x86_64-linux-gnu'];
const LOADER = '/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2';

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
  const madeBy = [
    'template/debian.ts',
    ...['services.ts', 'oci.ts', ...Object.values(image.sources)].map((path) => join(FOLDER, path)),
  ];
  const hash = contentHash({ packages: image.packages, sources: await sourceTexts(madeBy), release: RELEASE });
  return buildOnce({ name: `image-${name}`, hash }, async (work) => {
    progress(`image ${name}`, `unpacking ${image.packages.join(', ')}`);
    const tree = join(work, 'tree');
    await makeDebianTree(tree, { packages: image.packages, unpackOnly: true });
    await writeFiles(tree, { ...ACCOUNTS, ...image.texts });
    for (const [to, from] of Object.entries(image.sources)) {
      await mkdir(dirname(join(tree, to)), { recursive: true });
      await copyFile(sourceFile(join(FOLDER, from)), join(tree, to));
    }
    const found = (await image.finish?.(tree)) ?? [];
    await keepPrograms(tree, [...image.programs, ...found]);
    await execa('ldconfig', ['-r', tree]);
    await inTree(tree, image.proof);
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

async function keepPrograms(tree: string, programs: readonly string[]): Promise<void> {
  const kept = new Set(await Promise.all([LOADER, ...programs].map((path) => insideTree(tree, path))));
  for (const program of programs) {
    const { stdout } = await execa('chroot', [tree, LOADER, '--list', program]);
    for (const [, library] of stdout.matchAll(/(\/\S+) \(0x/g)) kept.add(await insideTree(tree, library as string));
  }
  for (const path of NO_IMAGE_NEEDS) await rm(join(tree, path), { recursive: true, force: true });
  for (const folder of PROGRAM_FOLDERS)
    for (const entry of await readdir(join(tree, folder)).catch(() => []))
      if (!kept.has(await insideTree(tree, join('/', folder, entry)).catch(() => '')))
        await rm(join(tree, folder, entry), { recursive: true });
  for (const directory of ['run', 'tmp', 'proc', 'sys', 'root', 'var/log/nginx', 'var/lib/nginx', 'var/cache'])
    await mkdir(join(tree, directory), { recursive: true });
  await chmod(join(tree, 'tmp'), 0o1777);
}

/** Follows links; Debian's are relative, so that those of a tree stay in it. */
const insideTree = (tree: string, path: string) => realpath(join(tree, path));

/**
 * Serves one request while building and keeps of Python what that loaded, in its compiled form too: compiling at each
 * start takes seconds when emulated. @returns the native modules.
 */
async function keepLoadedPython(tree: string): Promise<readonly string[]> {
  const serveOnce = [
    'import sys, encodings.ascii, encodings.idna, encodings.latin_1, logging, traceback, wsgiref.util, mosaic',
    'environ = {}',
    'wsgiref.util.setup_testing_defaults(environ)',
    'assert next(iter(mosaic.application(environ, lambda *_: None)))[:4] == b"\\x89PNG"',
    'for module in list(sys.modules.values()):',
    '  for path in (getattr(module, "__file__", None), getattr(module, "__cached__", None)):',
    '    if path: print(path)',
  ].join('\n');
  const { stdout } = await execa('chroot', [tree, '/usr/bin/python3.11', '-c', serveOnce], {
    env: { PYTHONPATH: '/srv/mosaic', PYTHONDONTWRITEBYTECODE: '' },
  });
  await rm(join(tree, 'srv/mosaic/__pycache__'), { recursive: true, force: true });
  const loaded = new Set(stdout.split('\n'));
  for (const folder of ['usr/lib/python3.11', 'usr/lib/python3/dist-packages'])
    for (const entry of await readdir(join(tree, folder), { recursive: true, withFileTypes: true })) {
      const path = join(entry.parentPath, entry.name);
      if (!entry.isDirectory() && !loaded.has(path.slice(tree.length))) await rm(path);
    }
  return [...loaded].filter((path) => path.endsWith('.so'));
}

/** As root of the tree, with a /proc: Java finds its own libraries by it. */
async function inTree(tree: string, command: readonly string[]): Promise<void> {
  await mkdir(join(tree, 'proc'), { recursive: true });
  await execa('unshare', ['--pid', '--fork', `--root=${tree}`, '--mount-proc', ...command]);
}

/** A Java runtime of the modules that are used, a fifth of the whole, with its classes dumped for a quick start. */
async function linkJava(tree: string): Promise<readonly string[]> {
  const kit = `${tree}-jdk`;
  const java = '/usr/lib/jvm/java-17-openjdk-amd64/bin';
  await makeDebianTree(kit, { packages: ['openjdk-17-jdk-headless'], unpackOnly: true });
  await mkdir(join(kit, 'build'));
  await copyFile(join(tree, 'srv/jvm/Catalogue.java'), join(kit, 'build/Catalogue.java'));
  const inKit = (...command: string[]) => inTree(kit, command);
  await inKit(`${java}/javac`, '-d', '/build', '/build/Catalogue.java');
  const small = ['--strip-java-debug-attributes', '--no-man-pages', '--no-header-files'];
  await inKit(`${java}/jlink`, '--add-modules', JAVA_MODULES, ...small, '--output', '/build/java');
  await inKit('/build/java/bin/java', '-Xshare:dump', '-XX:+UseSerialGC');
  await mkdir(join(tree, 'opt'), { recursive: true });
  await execa('cp', ['-a', join(kit, 'build/java'), join(tree, 'opt/java')]);
  for (const entry of await readdir(join(kit, 'build')))
    if (entry.endsWith('.class')) await copyFile(join(kit, 'build', entry), join(tree, 'srv/jvm', entry));
  await rm(kit, { recursive: true });
  return [];
}

/**
 * Types (BTF) of a kernel that carries none, in a directory as `--btf` takes it: <release>.btf.
 *
 * Made from the distribution's own source and headers packages of that very kernel. The headers bring its configuration
 * and what was generated from it, so nothing is built: the few files that hold the records that views read are compiled,
 * with all types that they see, whether used or not, and pahole turns what they say into BTF. Today's compiler lays records
 * out as the kernel's did.
 */
import { mkdir, readdir, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { execa } from 'execa';
import { buildOnce, contentHash } from '../../template/cache.ts';
import { aptOf } from './archives.ts';

/** Where records that views read are defined, and what a kernel may keep elsewhere, or not have. */
const FILES = [
  ...['kernel/cgroup/cgroup.c', 'kernel/cgroup/pids.c', 'kernel/cgroup.c', 'kernel/cgroup_pids.c'],
  ...['kernel/sched/core.c', 'kernel/sched/cpuacct.c', 'mm/memcontrol.c', 'block/blk-cgroup.c', 'block/blk-throttle.c'],
  ...['net/core/dev.c', 'drivers/net/macvlan.c'],
];
/** What of the source tree these need. */
const NEEDED = ['include', 'arch/x86/include', 'kernel', 'mm', 'block', 'net/core', 'drivers/net/macvlan.c'];

const OPTIONS = [
  ...['-nostdinc', '-std=gnu89', '-O2', '-w', '-c', '-gdwarf-4', '-fno-eliminate-unused-debug-types'],
  ...['-m64', '-mcmodel=kernel', '-mno-red-zone', '-mno-sse', '-mno-mmx', '-mno-sse2', '-mno-3dnow', '-mno-avx'],
  ...['-mno-80387', '-mpreferred-stack-boundary=3', '-fno-PIE', '-fshort-wchar', '-fno-strict-aliasing', '-fno-common'],
  ...['-fno-delete-null-pointer-checks', '-fno-asynchronous-unwind-tables', '-fno-stack-protector'],
  // What the kernel's Makefile finds out about the compiler.
  ...['-D__KERNEL__', '-DCC_HAVE_ASM_GOTO', '-DCC_USING_FENTRY', '-DKBUILD_STR(s)=#s'],
  ...['-DKBUILD_BASENAME="types"', '-DKBUILD_MODNAME="types"'],
];

/**
 * @param kernel "5.4.0-216-generic"
 * @param release "focal"
 * @returns the directory.
 */
export async function detachedTypes(kernel: string, release: string): Promise<string> {
  const hash = contentHash({ kernel, release, files: FILES, needed: NEEDED, options: OPTIONS });
  return buildOnce({ name: 'kernel-types', hash }, async (work) => {
    const building = join(work, 'building');
    const objects = join(building, 'objects');
    await mkdir(objects, { recursive: true });
    const { source, headers } = await fetchSource(building, kernel, release);
    const include = await includeOptions(source, headers);
    for (const file of FILES.filter((name) => source.files.has(name))) {
      const object = join(objects, `${file.replaceAll('/', '-')}.o`);
      const here = `-I${join(source.tree, dirname(file))}`;
      await execa('nice', ['gcc', ...OPTIONS, ...include, here, '-o', object, join(source.tree, file)]);
    }
    const together = join(building, 'together.o');
    await execa('ld', ['-r', '-o', together, ...(await readdir(objects)).map((object) => join(objects, object))]);
    await execa('pahole', ['-J', `--btf_encode_detached=${join(work, `${kernel}.btf`)}`, together]);
    await rm(building, { recursive: true });
  });
}

interface Source {
  readonly tree: string;
  /** Those of FILES that it has. */
  readonly files: ReadonlySet<string>;
}

async function fetchSource(
  directory: string,
  kernel: string,
  release: string,
): Promise<{ readonly source: Source; readonly headers: string }> {
  const [, version, abi] = /^(\d+\.\d+\.\d+)-(\d+)-/.exec(kernel) ?? [];
  if (version === undefined) throw new Error(`${kernel} is no release of a kernel of Ubuntu's`);
  const apt = await aptOf(join(directory, 'apt'), 'ubuntu', release);
  const headersPackage = `linux-headers-${kernel}`;
  const common = (await apt.depends(headersPackage)).filter((name) => name.includes('headers-'));
  const packages = await apt.download([`linux-source-${version}`, headersPackage, ...common]);
  const sourcePackage = packages.find((file) => basename(file).startsWith('linux-source-'));
  if (!basename(sourcePackage ?? '').includes(`_${version}-${abi}.`))
    throw new Error(`the newest source of ${version} in ${release}, ${sourcePackage}, is not that of ${kernel}`);
  const unpacked = join(directory, 'unpacked');
  for (const file of packages) await execa('dpkg-deb', ['--extract', file, unpacked]);
  const tree = join(directory, 'tree');
  await mkdir(tree);
  const name = `linux-source-${version}`;
  const wanted = NEEDED.map((path) => `${name}/${path}`);
  await execa('nice', [
    ...['tar', '--extract', '--bzip2', '--directory', tree, '--strip-components=1'],
    ...['--file', join(unpacked, 'usr/src', name, `${name}.tar.bz2`), ...wanted],
  ]);
  const all = new Set(await readdir(tree, { recursive: true }));
  const headers = join(unpacked, 'usr/src', `linux-headers-${kernel}`);
  return { source: { tree, files: new Set(FILES.filter((file) => all.has(file))) }, headers };
}

/** As the kernel's Makefile has them; what is generated comes from the headers package. */
async function includeOptions({ tree }: Source, headers: string): Promise<string[]> {
  const { stdout: own } = await execa('gcc', ['-print-file-name=include']);
  const directories = ['arch/x86/include', 'arch/x86/include/generated', 'include'].flatMap((path) =>
    ['', 'uapi', 'generated/uapi'].flatMap((inner) => [join(tree, path, inner), join(headers, path, inner)]),
  );
  const first = ['kconfig.h', 'compiler_types.h'].map((name) => join(tree, 'include/linux', name));
  const present = await readdir(join(tree, 'include/linux'));
  return [
    ...['-isystem', own, ...directories.map((directory) => `-I${directory}`)],
    ...first.filter((file) => present.includes(basename(file))).flatMap((file) => ['-include', file]),
  ];
}

/**
 * `introspect attach`: the first attach to guests of 1 and of 16 GiB (sparse), by each way of reading, and from the cache;
 * and drgn on the same RAM, to the same answer: each container's cgroup and its CPU time.
 *
 * drgn reads no QEMU process, so both are given the ELF core that QEMU writes of the guest. And drgn needs the kernel's debug
 * information, 590 MB of DWARF that the operator of a host does not have of a guest; Ciel takes the guest's own BTF.
 */
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { requestOf } from '../../lab/attach-request.ts';
import { CONTAINERS, startContainers } from '../../lab/kernels/containers.ts';
import { bootKernelGuest, type KernelGuest } from '../../lab/kernels/guest.ts';
import { attach, attachDump } from '../../native/mapper.ts';
import { cacheDirectory } from '../../template/cache.ts';
import { connectQmp } from '../../test/guest-disk/qemu.ts';
import { spread } from '../measure.ts';
import { inDirectory, shown, valueIn } from './part.ts';

const GIBIBYTES = [1, 16];
const KERNEL = '6.1';
const ATTACHES = 7;
const DRGN = 'drgn==0.0.33';
const DRGN_RUNS = 3;
/** The guest's path of containers that drgn's side looks for, too. */
const IS_DOCKER = /\/docker\/[0-9a-f]{64}$/;

export async function attaches(): Promise<Record<string, unknown>> {
  const results: Record<string, unknown> = {};
  for (const gibibytes of GIBIBYTES) {
    const bySource: Record<string, unknown> = {};
    for (const memory of ['shared', 'private'] as const) {
      const guest = await bootKernelGuest({ kernel: KERNEL, memoryMiB: gibibytes * 1024, memory });
      try {
        await startContainers(
          guest,
          CONTAINERS.filter(({ runtime }) => runtime === 'docker'),
        );
        const name = memory === 'shared' ? 'mapped' : 'process';
        bySource[name] = await inDirectory((directory) => measureLive(`${gibibytes} GiB, ${name}`, guest, directory));
        if (memory === 'shared' && gibibytes === 1)
          bySource.core = await inDirectory((directory) => measureCore(guest, directory));
      } finally {
        await guest.stop();
      }
    }
    results[`${gibibytes} GiB`] = bySource;
  }
  return results;
}

async function measureLive(name: string, guest: KernelGuest, directory: string) {
  const request = await requestOf(guest.pid);
  const cachePath = join(directory, 'attach');
  const first = await totalsOf(() => attach(request));
  attach({ ...request, cachePath }).detach();
  const cached = await totalsOf(() => attach({ ...request, cachePath }));
  const result = { attachFirstMs: spread(first), attachFromCacheMs: spread(cached) };
  console.log(
    `${name}: first attach ${shown(result.attachFirstMs)} ms, from the cache ${shown(result.attachFromCacheMs)} ms`,
  );
  return result;
}

async function totalsOf(open: () => ReturnType<typeof attach>): Promise<number[]> {
  const totals: number[] = [];
  for (let i = 0; i < ATTACHES; i++) {
    const reader = open();
    totals.push(reader.report.totalMs);
    reader.detach();
  }
  return totals;
}

async function measureCore(guest: KernelGuest, directory: string) {
  const core = join(directory, 'core');
  const qmp = await connectQmp(guest.monitor);
  await qmp.monitor({ execute: 'dump-guest-memory', arguments: { paging: false, protocol: `file:${core}` } });
  qmp.close();
  const { size } = await stat(core);

  const own = { attachMs: [] as number[], walkMs: [] as number[] };
  let seen = new Map<string, string>();
  for (let i = 0; i < ATTACHES; i++) {
    const start = performance.now();
    const { guest: reader } = attachDump(core, null);
    own.attachMs.push(performance.now() - start);
    const { containers } = reader.sample();
    own.walkMs.push(performance.now() - start - (own.attachMs.at(-1) ?? 0));
    reader.detach();
    seen = new Map(
      containers
        .filter(({ cgroupPath }) => IS_DOCKER.test(cgroupPath))
        .map(({ cgroupPath, cpuNanoseconds }) => [cgroupPath, String(valueIn(cpuNanoseconds))]),
    );
  }

  const python = await drgnPython();
  const vmlinux = await debugKernel(guest.image.release);
  const peer = { attachMs: [] as number[], walkMs: [] as number[] };
  for (let i = 0; i < DRGN_RUNS; i++) {
    const { stdout } = await execa(python, [join(import.meta.dirname, 'drgn-containers.py'), core, vmlinux]);
    const answer = JSON.parse(stdout) as { attachMs: number; walkMs: number; cpuNanoseconds: Record<string, string> };
    peer.attachMs.push(answer.attachMs);
    peer.walkMs.push(answer.walkMs);
    const found = Object.entries(answer.cpuNanoseconds);
    if (found.length !== seen.size || found.some(([path, cpu]) => seen.get(path) !== cpu))
      throw new Error(`drgn says ${JSON.stringify(answer.cpuNanoseconds)}, Ciel ${JSON.stringify([...seen])}`);
  }
  const ciel = { attachMs: spread(own.attachMs), walkMs: spread(own.walkMs) };
  const drgn = { version: DRGN, attachMs: spread(peer.attachMs), walkMs: spread(peer.walkMs) };
  console.log(
    `an ELF core of ${Math.round(size / 2 ** 20)} MiB, ${seen.size} containers, the same answer: Ciel attach ${shown(ciel.attachMs)} ms, look ${shown(ciel.walkMs)} ms; drgn attach ${shown(drgn.attachMs)} ms, look ${shown(drgn.walkMs)} ms`,
  );
  return { coreBytes: size, containers: seen.size, ciel, drgn };
}

/** A Python that has drgn; set up once. */
async function drgnPython(): Promise<string> {
  const directory = join(cacheDirectory(), 'bench', DRGN);
  const python = join(directory, 'bin/python');
  if (await stat(python).catch(() => null)) return python;
  await execa('python3', ['-m', 'venv', `${directory}.new`]);
  await execa(join(`${directory}.new`, 'bin/pip'), ['install', '--quiet', DRGN]);
  await rename(`${directory}.new`, directory);
  return python;
}

/** The kernel with its debug information, from the archives that apt on this machine uses. */
async function debugKernel(release: string): Promise<string> {
  const directory = join(cacheDirectory(), 'bench', `debug-${release}`);
  const vmlinux = join(directory, 'vmlinux');
  if (await stat(vmlinux).catch(() => null)) return vmlinux;
  await mkdir(directory, { recursive: true });
  const options = ['-o', 'APT::Sandbox::User=root', 'download', `linux-image-${release}-dbg`];
  await execa('apt-get', options, { cwd: directory });
  const name = (await readdir(directory)).find((file) => file.endsWith('.deb'));
  if (name === undefined) throw new Error(`apt-get brought no package of ${release}'s debug information`);
  // Of 1.7 GB that are in it, one file.
  const member = `./usr/lib/debug/boot/vmlinux-${release}`;
  await execa('dpkg-deb', ['--fsys-tarfile', join(directory, name)], { encoding: 'buffer', buffer: false }).pipe(
    'tar',
    [...['-x', '-C', directory, '--strip-components=5', member]],
  );
  await rename(join(directory, `vmlinux-${release}`), vmlinux);
  await rm(join(directory, name));
  return vmlinux;
}

/**
 * `npx tsx test/fuzz/make-seeds.ts`: makes the seeds in test/native/fuzz/seeds anew, from guests of the kernel matrix with a
 * handful of containers. Needed when views read what the seeds do not hold; an hour-old seed finds as much as a new one.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { startContainers } from '../../lab/kernels/containers.ts';
import { bootKernelGuest, type KernelGuestOptions } from '../../lab/kernels/guest.ts';
import { connectQmp } from '../guest-disk/qemu.ts';
import { startDetailed } from '../native/detailed-containers.ts';
import { FUZZ_PROGRAMS, SEEDS } from './places.ts';

/** One kernel of each kind: indices as they are and compacted, kallsyms by a base and by place; each cgroup set-up. */
const GUESTS: readonly (KernelGuestOptions & Required<Pick<KernelGuestOptions, 'cgroups'>>)[] = [
  { kernel: '6.1', cgroups: 'v1', machine: 'pc', cpu: 'qemu64' },
  { kernel: '6.12', cgroups: 'hybrid' },
  { kernel: 'newest', cgroups: 'v2', vcpus: 2, append: 'psi=1' },
];
const MEMORY_MIB = 256;

await execa('make', ['-s', '-C', join(import.meta.dirname, '../../native'), 'fuzz-programs'], { stdio: 'inherit' });
const directory = await mkdtemp(join(tmpdir(), 'ciel-seeds-'));
const wanted = process.argv.slice(2);
for (const options of GUESTS) {
  if (wanted.length > 0 && !wanted.includes(options.kernel)) continue;
  const guest = await bootKernelGuest({ memoryMiB: MEMORY_MIB, ...options });
  try {
    // The rest of what views read is there on version 2 only.
    await (options.cgroups === 'v2' ? startDetailed : startContainers)(guest);
    const qmp = await connectQmp(guest.monitor);
    const dump = join(directory, 'dump');
    const answer = await qmp.monitor({
      execute: 'dump-guest-memory',
      arguments: { paging: false, protocol: `file:${dump}`, format: 'kdump-zlib' },
    });
    qmp.close();
    if (typeof answer !== 'object' || answer === null || 'error' in answer) throw new Error(JSON.stringify(answer));
    const seed = join(SEEDS, `${options.kernel}-${options.cgroups}.kdump`);
    const { stdout } = await execa(join(FUZZ_PROGRAMS, 'cut-down'), [dump, seed]);
    console.log(`${seed} (${guest.image.release}): ${stdout.replaceAll('\n', ', ')}`);
  } finally {
    await guest.stop();
  }
}
await rm(directory, { recursive: true });

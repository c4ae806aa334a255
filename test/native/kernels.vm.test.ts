/**
 * Introspection of real kernels, one after the other: each container of a guest is found, and each of its figures is what
 * the guest's own files say. A few kernels as a rule; with CIEL_KERNEL_MATRIX=all every kernel in every flavour and set-up
 * (or in those named: CIEL_KERNEL_MATRIX=cloud,rt), with CIEL_KERNEL_MATRIX=more those of MORE_KERNELS (one of them:
 * vitest -t 'Ubuntu 6.8'): that then also brings the support table up to date.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { requestOf } from '../../lab/attach-request.ts';
import { CONTAINERS, startContainers } from '../../lab/kernels/containers.ts';
import { bootKernelGuest, CGROUP_SETUPS, type KernelGuest, type KernelGuestOptions } from '../../lab/kernels/guest.ts';
import {
  KERNEL_FLAVOURS,
  KERNEL_NAMES,
  type KernelFlavour,
  type KernelName,
  MORE_KERNELS,
} from '../../lab/kernels/kernels.ts';
import {
  type GuestSupport,
  MORE_SUPPORT,
  outcomeOf,
  RELEASES_SUPPORT,
  renderSupport,
} from '../../lab/kernels/support.ts';
import { FIGURES, judge, readTruth, saidOf } from '../../lab/kernels/truth.ts';
import { attach, type Guest } from '../../native/mapper.ts';
import { sourceFile } from '../../template/sources.ts';

const wanted = process.env.CIEL_KERNEL_MATRIX?.split(',') ?? null;
const LOOKS = 6;
const SETTLING_MS = 2000;

/** Each of what a machine may be like is in one of them: paging, KASLR, chipset, a RAM in two parts, vCPUs, who reads. */
const FEW: readonly KernelGuestOptions[] = [
  { kernel: '5.10', flavour: 'cloud', cgroups: 'v1', cpu: 'qemu64', machine: 'pc', memoryMiB: 3840 },
  { kernel: '6.1', flavour: 'cloud', cgroups: 'hybrid', append: 'nokaslr', memoryMiB: 6144 },
  { kernel: '6.12', flavour: 'cloud', cgroups: 'v2', cpu: 'qemu64', vcpus: 2, memory: 'private', numaNodes: 2 },
  { kernel: 'newest', flavour: 'cloud', cgroups: 'v2' },
];
/** Bullseye's archive has no real-time flavour of its last kernel. */
const isPublished = ({ kernel, flavour }: KernelGuestOptions): boolean => kernel !== '5.10' || flavour !== 'rt';
const isWanted = ({ flavour }: KernelGuestOptions): boolean =>
  wanted?.some((name) => name === 'all' || name === flavour) ?? false;
const ALL_RELEASES: readonly KernelGuestOptions[] = KERNEL_NAMES.flatMap((kernel) =>
  KERNEL_FLAVOURS.flatMap((flavour) => CGROUP_SETUPS.map((cgroups) => ({ kernel, flavour, cgroups }))),
);
const ALL = ALL_RELEASES.filter((options) => isPublished(options) && isWanted(options));

/** Version 2 came with 4.5. */
const hasSetup = ({ kernel, cgroups }: KernelGuestOptions): boolean => kernel !== 'Ubuntu 4.4' || cgroups === 'v1';
const MORE: readonly KernelGuestOptions[] = Object.entries(MORE_KERNELS)
  .flatMap(([kernel, flavours]) =>
    Object.keys(flavours).flatMap((flavour) =>
      CGROUP_SETUPS.map((cgroups) => ({
        kernel: kernel as KernelName,
        flavour: flavour as KernelFlavour,
        cgroups,
      })),
    ),
  )
  .filter(hasSetup);
const isMore = wanted?.includes('more') ?? false;
const SUPPORT = isMore ? MORE_SUPPORT : RELEASES_SUPPORT;

/** What a matrix guest has switched on: Debian leaves pressure off, Ubuntu did not count swap. */
const withAllCounted = (options: KernelGuestOptions): KernelGuestOptions => ({
  ...options,
  append: `psi=1 swapaccount=1 ${options.append ?? ''}`,
});
const titleOf = (options: KernelGuestOptions): string => Object.values(options).join(' ');

/** Looks at the guest several times, between two readings of its own files each. */
async function look(guest: KernelGuest, attached: Guest): Promise<GuestSupport['outcomes']> {
  const seen = new Map(FIGURES.map(({ name }) => [name, [] as Parameters<typeof outcomeOf>[0][number][]]));
  for (let i = 0; i < LOOKS; i++) {
    const before = await readTruth(guest, CONTAINERS);
    const sample = attached.sample();
    const after = await readTruth(guest, CONTAINERS);
    for (const container of CONTAINERS) {
      const counters = sample.containers.find(({ cgroupPath }) => cgroupPath === container.cgroupPath);
      expect(counters, container.name).toMatchObject({ id: container.id, runtime: container.runtime });
      if (!counters) continue;
      for (const figure of FIGURES) {
        if (figure.isLate && container.load.startsWith('memory')) continue;
        const reading = figure.seen(counters);
        if (reading === undefined) throw new Error(`${figure.name} was not asked for`);
        const said = [before, after].map((truth) => saidOf(guest, truth, container, figure)) as [bigint, bigint];
        const verdict = reading.available
          ? judge(guest, figure, reading.value, ...said)
          : { unavailable: reading.message };
        if (verdict === 'wrong')
          throw new Error(
            `${figure.name} of ${container.name} is ${reading.available && reading.value}, the guest says ${said}`,
          );
        seen.get(figure.name)?.push(verdict);
      }
    }
    expect(sample.containers.map(({ cgroupPath }) => cgroupPath).sort()).toEqual(
      CONTAINERS.map(({ cgroupPath }) => cgroupPath).sort(),
    );
  }
  return Object.fromEntries([...seen].map(([name, outcomes]) => [name, outcomeOf(outcomes)]));
}

const recorded = JSON.parse(await readFile(sourceFile(SUPPORT.seen), 'utf8')) as GuestSupport[];
const isOf = (one: GuestSupport, { kernel, flavour, cgroups }: KernelGuestOptions): boolean =>
  one.kernel === kernel && one.flavour === flavour && one.cgroups === cgroups;

/** Rows of what was not booted this time stay. */
async function record(support: GuestSupport): Promise<void> {
  const known = JSON.parse(await readFile(sourceFile(SUPPORT.seen), 'utf8')) as GuestSupport[];
  const order = (guest: GuestSupport): number =>
    [...ALL_RELEASES, ...MORE].findIndex((options) => isOf(guest, options));
  const guests = [...known.filter((one) => !isOf(one, support)), support].sort((a, b) => order(a) - order(b));
  await writeFile(sourceFile(SUPPORT.seen), `${JSON.stringify(guests, null, 2)}\n`);
  await writeFile(sourceFile(SUPPORT.document), renderSupport(guests, SUPPORT));
}

describe('real kernels', () => {
  const guests = (wanted ? (isMore ? MORE : ALL) : FEW).map((options) => [titleOf(options), options] as const);

  it.each(guests)('%s', async (_, options) => {
    const guest = await bootKernelGuest(withAllCounted(options));
    try {
      await startContainers(guest);
      await new Promise((resolve) => setTimeout(resolve, SETTLING_MS));
      const attached = attach(await requestOf(guest.pid, { withDetails: true, btfDirectory: guest.image.types }));
      try {
        expect(attached.report.kernelRelease).toBe(guest.image.release);
        expect(attached.sample().possibleCpus).toBeGreaterThanOrEqual(options.vcpus ?? 1);
        const { kernel, flavour = 'cloud', cgroups = 'v2' } = options;
        const outcomes = await look(guest, attached);
        const support = { kernel, flavour, cgroups, release: guest.image.release, outcomes };
        if (wanted) await record(support);
        else expect(outcomes).toEqual(recorded.find((one) => isOf(one, support))?.outcomes);
      } finally {
        attached.detach();
      }
    } finally {
      await guest.stop();
    }
  });
});

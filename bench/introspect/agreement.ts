/**
 * `introspect agreement [--minutes N] [--kernel K] [--flavour F] [--cgroups C] [--seed S] [--vcpus N]`: random container
 * churn and load in kernels of the matrix, one after the other, and every figure compared with the guest's own files
 * (lab/kernels/agreement.ts). The guest is read in two ways in each call: mapped, and by process_vm_readv.
 */
import { parseArgs } from 'node:util';
import { requestOf } from '../../lab/attach-request.ts';
import { Agreement, type AgreementReport, type Reader } from '../../lab/kernels/agreement.ts';
import { bootKernelGuest, CGROUP_SETUPS, type CgroupSetup } from '../../lab/kernels/guest.ts';
import { KERNEL_FLAVOURS, KERNEL_NAMES, type KernelFlavour, type KernelName } from '../../lab/kernels/kernels.ts';
import { attach } from '../../native/mapper.ts';
import { allocatedBytes, ramFile } from '../../test/native/live-guest.ts';

const DEFAULT_MINUTES = 10;
const SHOWN_EVERY_MS = 60_000;
/** A machine that is busy with other things may leave a guest without a core for long. */
const ANSWER_LIMIT_MS = 600_000;
const SOURCES = ['mapped', 'process'] as const;

function chosen<T extends string>(
  among: readonly T[],
  wanted: string | undefined,
  fallback: readonly T[],
): readonly T[] {
  if (wanted === undefined) return fallback;
  const found = among.filter((name) => name === wanted);
  if (found.length === 0) throw new Error(`there is no "${wanted}" among ${among.join(', ')}`);
  return found;
}

type Results = Record<string, unknown>;

/** Told of what there is so far, by kernel and cgroup version, each minute: a run of an hour may end early. */
export async function agreement(
  args: readonly string[],
  progress: (results: Results) => Promise<void>,
): Promise<Results> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      minutes: { type: 'string' },
      kernel: { type: 'string' },
      flavour: { type: 'string' },
      cgroups: { type: 'string' },
      seed: { type: 'string' },
      vcpus: { type: 'string' },
    },
  });
  const minutes = Number(values.minutes ?? DEFAULT_MINUTES);
  const seed = Number(values.seed ?? 1);
  const vcpus = Number(values.vcpus ?? 1);
  const results: Results = {};
  for (const kernel of chosen(KERNEL_NAMES, values.kernel, KERNEL_NAMES))
    for (const flavour of chosen(KERNEL_FLAVOURS, values.flavour, ['cloud']))
      for (const cgroups of chosen(CGROUP_SETUPS, values.cgroups, ['v2']))
        await oneKernel({ kernel, flavour, cgroups, vcpus }, minutes, seed, async (report) => {
          results[[kernel, ...(flavour === 'cloud' ? [] : [flavour]), cgroups].join(', ')] = report;
          await progress(results);
        });
  return results;
}

interface Chosen {
  readonly kernel: KernelName;
  readonly flavour: KernelFlavour;
  readonly cgroups: CgroupSetup;
  readonly vcpus: number;
}

async function oneKernel(
  wanted: Chosen,
  minutes: number,
  seed: number,
  tell: (report: Results) => Promise<void>,
): Promise<void> {
  const guest = await bootKernelGuest({ ...wanted, append: 'psi=1', answerLimitMs: ANSWER_LIMIT_MS });
  const readers: Reader[] = [];
  const ram = await ramFile(guest.pid);
  const beforeAttach = await allocatedBytes(ram);
  try {
    const request = await requestOf(guest.pid, { withDetails: true });
    for (const source of SOURCES) readers.push({ name: source, guest: attach({ ...request, source }) });
    const afterAttach = await allocatedBytes(ram);
    const trial = new Agreement(guest, readers, seed);
    await trial.start();
    const start = performance.now();
    const passed = () => (performance.now() - start) / 60_000;
    const report = async () => {
      const guestRamAllocatedBytes = { beforeAttach, afterAttach, now: await allocatedBytes(ram) };
      const run = { release: guest.image.release, vcpus: wanted.vcpus, minutes: passed(), seed };
      await tell({ ...run, ...trial.report(), guestRamAllocatedBytes });
      const title = `${wanted.kernel} ${wanted.flavour}, ${wanted.cgroups}, after ${passed().toFixed(1)} min`;
      console.log(`${title}: ${summary(trial.report())}`);
    };
    let shown = start;
    while (passed() < minutes) {
      await trial.round();
      if (performance.now() - shown < SHOWN_EVERY_MS) continue;
      shown = performance.now();
      await report();
    }
    await report();
  } finally {
    for (const reader of readers) reader.guest.detach();
    await guest.stop();
  }
}

function summary({
  rounds,
  looks,
  judged,
  wrong,
  viewsRun,
  viewsRepeated,
  containersMade,
  failedLooks,
  corrections,
}: AgreementReport): string {
  const repeated = ((100 * viewsRepeated) / (viewsRun + viewsRepeated)).toFixed(0);
  return `${rounds} rounds, ${looks} looks (${repeated} % repeated, corrections ${JSON.stringify(corrections)}), ${containersMade} containers made, ${judged} figures compared, ${wrong} wrong, failed ${JSON.stringify(failedLooks)}`;
}

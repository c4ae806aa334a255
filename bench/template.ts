/**
 * `npm run bench -- template [RUNS]`: from the start of QEMU to a ready Docker, the template beside a full Debian with
 * systemd and Docker from the same packages, in turns on the same machine. Ready is when dockerd says so to its init.
 */
import { join } from 'node:path';
import Table from 'cli-table3';
import { FULL_DEBIAN_ARGUMENTS, FULL_DEBIAN_READY, fullDebian } from '../lab/images/full-debian.ts';
import { workingAccelerator } from '../native/accelerator.ts';
import { buildTemplate, DOCKER_READY } from '../template/build.ts';
import { kernelCommandLine, TEMPLATE_FILES } from '../template/domain-xml.ts';
import { Trial } from '../template/trial.ts';
import { type Spread, spread, writeResults } from './measure.ts';

const DEFAULT_RUNS = 5;
const MEMORY_MIB = 1024;
const BOOT_LIMIT_MS = 600_000;
const WANTED_RATIO = 0.6;

interface Candidate {
  readonly name: string;
  readonly directory: string;
  readonly commandLine: string;
  readonly ready: RegExp;
  readonly allocatedBytes: number;
  readonly packages: number;
  readonly dockerMs: number[];
  readonly agentMs: number[];
}

export interface TemplateBench {
  readonly template: Spread;
  readonly fullDebian: Spread;
  readonly ratio: number;
}

export async function benchTemplate(runs: number): Promise<TemplateBench> {
  const accelerator = await workingAccelerator();
  const progress = (step: string, detail: string) => console.error(`▸ ${step}: ${detail}`);
  const template = await buildTemplate({}, progress);
  const debian = await fullDebian(progress);
  const base = kernelCommandLine(accelerator);
  const candidates: [Candidate, Candidate] = [
    {
      name: 'template',
      directory: template.directory,
      commandLine: base,
      ready: DOCKER_READY,
      allocatedBytes: template.manifest.disk.allocatedBytes,
      packages: Object.keys(template.manifest.packages).length,
      dockerMs: [],
      agentMs: [],
    },
    {
      name: 'full Debian',
      directory: debian.directory,
      commandLine: `${base} ${FULL_DEBIAN_ARGUMENTS}`,
      ready: FULL_DEBIAN_READY,
      allocatedBytes: debian.disk.allocatedBytes,
      packages: debian.packages,
      dockerMs: [],
      agentMs: [],
    },
  ];
  for (let run = 1; run <= runs; run++)
    for (const candidate of candidates) {
      const trial = await Trial.start({
        kernel: join(candidate.directory, TEMPLATE_FILES.kernel),
        initrd: join(candidate.directory, TEMPLATE_FILES.initrd),
        commandLine: candidate.commandLine,
        disk: join(candidate.directory, TEMPLATE_FILES.disk),
        keepWrites: false,
        accelerator,
        memoryMiB: MEMORY_MIB,
      });
      try {
        const [agentMs, dockerMs] = await Promise.all([
          trial.agentAnswers(BOOT_LIMIT_MS),
          trial.consoleShows(candidate.ready, BOOT_LIMIT_MS),
        ]);
        candidate.agentMs.push(agentMs);
        candidate.dockerMs.push(dockerMs);
        progress(`run ${run}`, `${candidate.name}: agent ${agentMs} ms, Docker ${dockerMs} ms`);
      } finally {
        await trial.stop();
      }
    }
  const [ours, theirs] = candidates.map(({ dockerMs }) => spread(dockerMs)) as [Spread, Spread];
  const ratio = ours.median / theirs.median;
  const seconds = (ms: number) => (ms / 1000).toFixed(1);
  const table = new Table({ head: ['', 'agent s', 'Docker s', 'min–max', 'disk MB', 'packages'] });
  for (const candidate of candidates) {
    const docker = spread(candidate.dockerMs);
    table.push([
      candidate.name,
      seconds(spread(candidate.agentMs).median),
      seconds(docker.median),
      `${seconds(docker.min)}–${seconds(docker.max)}`,
      Math.round(candidate.allocatedBytes / 1e6),
      candidate.packages,
    ]);
  }
  console.log(table.toString());
  console.log(
    `The template is ready in ${Math.round(ratio * 100)} % of the time (to reach: ${WANTED_RATIO * 100} %), by ${accelerator}.`,
  );
  const figures = Object.fromEntries(
    candidates.map(({ name, dockerMs, agentMs, allocatedBytes, packages }) => [
      name,
      { dockerMs: spread(dockerMs), agentMs: spread(agentMs), allocatedBytes, packages },
    ]),
  );
  await writeResults('template', { accelerator, memoryMiB: MEMORY_MIB, ratio, ...figures });
  return { template: ours, fullDebian: theirs, ratio };
}

export default async function bench(args: readonly string[]): Promise<void> {
  const runs = args[0] === undefined ? DEFAULT_RUNS : Number(args[0]);
  if (!Number.isInteger(runs) || runs < 1) throw new Error(`RUNS must be a whole number from 1, not "${args[0]}"`);
  await benchTemplate(runs);
}

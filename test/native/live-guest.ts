/**
 * A real guest to look into: the template under QEMU, with three containers — one idle, one that uses half a CPU, one that
 * writes to its disk. The guest's own cgroup files are the truth that introspection is compared with.
 */
import { readdir, readlink, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { workingAccelerator } from '../../native/accelerator.ts';
import { buildTemplate, DOCKER_READY } from '../../template/build.ts';
import { kernelCommandLine, TEMPLATE_FILES } from '../../template/domain-xml.ts';
import { Trial } from '../../template/trial.ts';

const BOOT_LIMIT_MS = 240_000;
const IMAGE = 'registry.test/box:1';
export const CONTAINERS = {
  idle: 'exec sleep 100000',
  busy: 'while :; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; usleep 100000; done',
  writer: 'while :; do dd if=/dev/zero of=/tmp/f bs=64k count=16 conv=fsync 2>/dev/null; sleep 1; done',
} as const;
export type ContainerName = keyof typeof CONTAINERS;
export const CONTAINER_NAMES = Object.keys(CONTAINERS) as ContainerName[];

/** What the guest's kernel says of one container. */
export interface OwnFigures {
  readonly cpuMicroseconds: bigint;
  readonly memoryBytes: number;
  readonly anonBytes: number;
  readonly fileBytes: number;
  readonly readBytes: bigint;
  readonly writeBytes: bigint;
}

export interface LiveGuest {
  readonly trial: Trial;
  /** Full container ids. */
  readonly ids: Readonly<Record<ContainerName, string>>;
}

export async function bootGuest(monitor: string): Promise<Trial> {
  const template = await buildTemplate({}, () => undefined);
  const accelerator = await workingAccelerator();
  const trial = await Trial.start({
    kernel: join(template.directory, TEMPLATE_FILES.kernel),
    initrd: join(template.directory, TEMPLATE_FILES.initrd),
    commandLine: kernelCommandLine(accelerator),
    disk: join(template.directory, TEMPLATE_FILES.disk),
    keepWrites: false,
    accelerator,
    memoryMiB: 1024,
    monitor,
  });
  try {
    await trial.agentAnswers(BOOT_LIMIT_MS);
    await trial.consoleShows(DOCKER_READY, BOOT_LIMIT_MS);
  } catch (error) {
    await trial.stop();
    throw error;
  }
  return trial;
}

export async function startContainers(trial: Trial): Promise<LiveGuest> {
  await trial.succeed(['mkdir', '-p', '/root/image/bin', '/root/image/tmp']);
  await trial.succeed(['cp', '/bin/busybox', '/root/image/bin/busybox']);
  for (const name of ['sh', 'sleep', 'usleep', 'dd', '['])
    await trial.succeed(['ln', '-s', 'busybox', `/root/image/bin/${name}`]);
  await trial.succeed(['tar', '-C', '/root/image', '-cf', '/root/image.tar', '.']);
  await trial.succeed(['docker', 'import', '/root/image.tar', IMAGE]);
  const ids: Partial<Record<ContainerName, string>> = {};
  for (const name of CONTAINER_NAMES) {
    const limits = name === 'writer' ? ['--memory', '64m'] : [];
    const command = ['docker', 'run', '-d', '--name', name, '--network', 'none', ...limits, IMAGE];
    ids[name] = (await trial.succeed([...command, 'sh', '-c', CONTAINERS[name]])).trim().split('\n').at(-1) as string;
  }
  return { trial, ids: ids as Record<ContainerName, string> };
}

export async function ownFigures(trial: Trial, id: string): Promise<OwnFigures> {
  const directory = `/sys/fs/cgroup/docker/${id}`;
  const files = ['cpu.stat', 'memory.current', 'memory.stat', 'io.stat'].map((name) => `${directory}/${name}`);
  const text = await trial.succeed(['cat', ...files]);
  const number = (pattern: RegExp): bigint => BigInt(pattern.exec(text)?.[1] ?? 0);
  return {
    cpuMicroseconds: number(/^usage_usec (\d+)$/m),
    memoryBytes: Number(number(/^(\d+)$/m)),
    anonBytes: Number(number(/^anon (\d+)$/m)),
    fileBytes: Number(number(/^file (\d+)$/m)),
    readBytes: number(/ rbytes=(\d+) /),
    writeBytes: number(/ wbytes=(\d+) /),
  };
}

/** The file behind the guest's RAM, as QEMU has it open. */
export async function ramFile(pid: number): Promise<string> {
  for (const entry of await readdir(`/proc/${pid}/fd`)) {
    const target = await readlink(`/proc/${pid}/fd/${entry}`).catch(() => '');
    if (target.startsWith('/memfd:memory-backend-memfd')) return `/proc/${pid}/fd/${entry}`;
  }
  throw new Error(`process ${pid} has no memfd open`);
}

export async function allocatedBytes(file: string): Promise<number> {
  return (await stat(file)).blocks * 512;
}

/**
 * `introspect peers [--containers N]`: what it costs to know the figures of a guest's containers once a second: CPU time of
 * Ciel, which looks from outside, beside cAdvisor and `docker stats`, which run in the same guest, in turn.
 *
 * Each runs for a minute. Inside, the CPU time of its own processes is counted, and that of all processors; outside, QEMU's
 * and Ciel's. A minute without any of them is what the guest costs by itself.
 */
import { mkdir, rename, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { requestOf } from '../../lab/attach-request.ts';
import { workingAccelerator } from '../../native/accelerator.ts';
import { attach } from '../../native/mapper.ts';
import { processCpuNanoseconds } from '../../native/qemu-process.ts';
import { buildTemplate, DOCKER_READY } from '../../template/build.ts';
import { cacheDirectory } from '../../template/cache.ts';
import { kernelCommandLine, TEMPLATE_FILES } from '../../template/domain-xml.ts';
import { Trial } from '../../template/trial.ts';
import { inDirectory, sleep } from './part.ts';

const CONTAINERS = 100;
const MEMORY_MIB = 3072;
const VCPUS = 2;
const BOOT_LIMIT_MS = 240_000;
/** Without KVM a `docker run` takes seconds. */
const START_LIMIT_MS = 60_000;
const MEASURED_MS = 60_000;
/** For a peer to find its containers, and for what it does but once. */
const WARM_UP_MS = 20_000;
const SAMPLE_EVERY_MS = 1000;
const IMAGE = 'registry.test/box:1';
const CADVISOR = 'cadvisor';

/** Started in the guest; its processes are those of these names. */
interface Peer {
  readonly start: string;
  readonly names: readonly string[];
}

const PEERS: Readonly<Record<string, Peer>> = {
  cAdvisor: { start: `/root/peers/${CADVISOR} > /dev/null 2>&1 & echo $!`, names: [CADVISOR] },
  // The client asks the daemon for each container's figures.
  'docker stats': { start: 'docker stats > /dev/null 2>&1 & echo $!', names: ['docker', 'dockerd', 'containerd'] },
};

export async function peers(options: readonly string[]): Promise<Record<string, unknown>> {
  const at = options.indexOf('--containers');
  const wanted = at < 0 ? CONTAINERS : Number(options[at + 1]);
  if (!Number.isInteger(wanted) || wanted < 1) throw new Error('--containers N: a whole number from 1 on');
  return inDirectory(async (directory) => {
    const disk = join(directory, 'peers.tar');
    const program = await buildCadvisor();
    await execa('tar', ['-cf', disk, '-C', join(program, '..'), CADVISOR]);
    // A disk is of whole sectors.
    await truncate(disk, 64 * 2 ** 20);
    const trial = await bootWith(disk);
    try {
      return await measure(trial, wanted);
    } finally {
      await trial.stop();
    }
  });
}

/** Static, so that it runs in any guest; built once. */
async function buildCadvisor(): Promise<string> {
  const source = join(import.meta.dirname, '../native/cadvisor');
  const directory = join(cacheDirectory(), 'bench');
  const program = join(directory, CADVISOR);
  await mkdir(directory, { recursive: true });
  // Go's own cache knows when there is nothing to do.
  await execa('go', ['build', '-trimpath', '-ldflags=-s -w', '-o', `${program}.new`, '.'], {
    cwd: source,
    env: { CGO_ENABLED: '0' },
  });
  await rename(`${program}.new`, program);
  return program;
}

async function bootWith(dataDisk: string): Promise<Trial> {
  const template = await buildTemplate({}, () => undefined);
  const accelerator = await workingAccelerator();
  const file = (name: keyof typeof TEMPLATE_FILES) => join(template.directory, TEMPLATE_FILES[name]);
  const trial = await Trial.start({
    kernel: file('kernel'),
    initrd: file('initrd'),
    commandLine: kernelCommandLine(accelerator),
    disk: file('disk'),
    keepWrites: false,
    dataDisk,
    accelerator,
    memoryMiB: MEMORY_MIB,
    vcpus: VCPUS,
  });
  try {
    await trial.agentAnswers(BOOT_LIMIT_MS);
    await trial.consoleShows(DOCKER_READY, BOOT_LIMIT_MS);
    await inGuest(
      trial,
      `mkdir -p /root/peers /root/image/bin
       tar -xf /dev/vdb -C /root/peers
       cp /bin/busybox /root/image/bin/sleep
       tar -C /root/image -cf /root/image.tar . && docker import /root/image.tar ${IMAGE}`,
    );
  } catch (error) {
    await trial.stop();
    throw error;
  }
  return trial;
}

const inGuest = (trial: Trial, script: string, withinMs?: number): Promise<string> =>
  trial.succeed(['sh', '-ec', script], withinMs);

async function measure(trial: Trial, wanted: number) {
  const startedAt = performance.now();
  for (let i = 0; i < wanted; i++)
    await trial.succeed(['docker', 'run', '-d', '--network', 'none', IMAGE, 'sleep', '100000'], START_LIMIT_MS);
  console.log(`${wanted} containers started in ${Math.round((performance.now() - startedAt) / 1000)} s`);

  const reader = attach(await requestOf(trial.pid));
  try {
    const seen = reader.sample().containers.length;
    if (seen !== wanted) throw new Error(`Ciel sees ${seen} of ${wanted} containers`);
    const results: Record<string, unknown> = { containers: wanted, vcpus: VCPUS, seconds: MEASURED_MS / 1000 };
    const note = (name: string, costs: Costs) => {
      results[name] = costs;
      const shown = Object.entries(costs).map(([what, seconds]) => `${what} ${seconds.toFixed(3)} s`);
      console.log(`${name}: a minute costs ${shown.join(', ')}`);
    };
    note('nobody', await costsOf(trial, []));
    const sampling = setInterval(() => reader.sample(), SAMPLE_EVERY_MS);
    try {
      note('Ciel', await costsOf(trial, []));
    } finally {
      clearInterval(sampling);
    }
    for (const [name, { start, names }] of Object.entries(PEERS)) {
      const pid = (await inGuest(trial, start)).trim();
      await sleep(WARM_UP_MS);
      note(name, await costsOf(trial, names));
      await inGuest(trial, `kill ${pid}`);
      await sleep(WARM_UP_MS);
    }
    return results;
  } finally {
    reader.detach();
  }
}

type Costs = Readonly<Record<'peer' | 'guest' | 'qemu' | 'ciel', number>>;

/** CPU seconds in a minute: of the named processes and of all in the guest, of QEMU, and of this process. */
async function costsOf(trial: Trial, names: readonly string[]): Promise<Costs> {
  const before = await guestTicks(trial, names);
  const hostBefore = { qemu: await processCpuNanoseconds(trial.pid), ciel: process.cpuUsage() };
  await sleep(MEASURED_MS);
  const { user, system } = process.cpuUsage(hostBefore.ciel);
  const qemu = Number(((await processCpuNanoseconds(trial.pid)) ?? 0n) - (hostBefore.qemu ?? 0n)) / 1e9;
  const after = await guestTicks(trial, names);
  return {
    peer: (after.peer - before.peer) / TICKS_A_SECOND,
    guest: (after.guest - before.guest) / TICKS_A_SECOND,
    qemu,
    ciel: (user + system) / 1e6,
  };
}

const TICKS_A_SECOND = 100;

/** In USER_HZ. */
async function guestTicks(trial: Trial, names: readonly string[]): Promise<{ guest: number; peer: number }> {
  const text = await inGuest(trial, 'head -n 1 /proc/stat; cat /proc/[0-9]*/stat 2>/dev/null || true');
  const [all = '', ...processes] = text.trim().split('\n');
  // user nice system idle iowait irq softirq
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = all.trim().split(/\s+/).slice(1).map(Number);
  let peer = 0;
  for (const line of processes) {
    const [, name = '', rest = ''] = /^\d+ \((.*)\) (.*)$/.exec(line) ?? [];
    const fields = rest.split(' ').map(Number);
    if (names.includes(name)) peer += (fields[11] ?? 0) + (fields[12] ?? 0);
  }
  return { guest: user + nice + system + irq + softirq, peer };
}

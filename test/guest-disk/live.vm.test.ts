/**
 * A real guest, whose kernel and Docker write while we read. Truth is what `docker inspect` says inside; nothing is synced
 * there for us. Measures how long after `docker run` began a container's name, image and address show outside.
 */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ContainersOnDisk } from '../../guest-disk/look-up.ts';
import { withQemuExport } from '../../guest-disk/qemu-export.ts';
import { GuestDiskReader } from '../../guest-disk/reader.ts';
import type { ContainerOnDisk } from '../../guest-disk/runtimes/runtime.ts';
import type { Reading } from '../../model/reading.ts';
import { workingAccelerator } from '../../native/accelerator.ts';
import { buildTemplate, DOCKER_READY } from '../../template/build.ts';
import { kernelCommandLine, TEMPLATE_FILES } from '../../template/domain-xml.ts';
import { Trial } from '../../template/trial.ts';
import { temporaryDirectory } from './images.ts';
import { connectQmp, type QmpConnection } from './qemu.ts';

const BOOT_LIMIT_MS = 240_000;
const SEEN_LIMIT_MS = 60_000;
/** Docker fsyncs a container's description before it starts it; emulated, the command itself takes some seconds. */
const NAME_SEEN_WITHIN_MS = 10_000;

const directory = await temporaryDirectory();
const reader = new GuestDiskReader();
let guest: Trial;
let qmp: QmpConnection;

beforeAll(async () => {
  const template = await buildTemplate({}, () => undefined);
  const accelerator = await workingAccelerator();
  guest = await Trial.start({
    kernel: join(template.directory, TEMPLATE_FILES.kernel),
    initrd: join(template.directory, TEMPLATE_FILES.initrd),
    commandLine: kernelCommandLine(accelerator),
    disk: join(template.directory, TEMPLATE_FILES.disk),
    keepWrites: false,
    accelerator,
    memoryMiB: 1024,
    monitor: join(directory, 'qmp.sock'),
  });
  await guest.agentAnswers(BOOT_LIMIT_MS);
  await guest.consoleShows(DOCKER_READY, BOOT_LIMIT_MS);
  qmp = await connectQmp(join(directory, 'qmp.sock'));
  await guest.succeed(['mkdir', '-p', '/root/image/bin', '/root/image/tmp']);
  await guest.succeed(['cp', '/bin/busybox', '/root/image/bin/busybox']);
  for (const name of ['sh', 'sleep', 'dd']) await guest.succeed(['ln', '-s', 'busybox', `/root/image/bin/${name}`]);
  await guest.succeed(['tar', '-C', '/root/image', '-cf', '/root/image.tar', '.']);
  await guest.succeed(['docker', 'import', '/root/image.tar', 'registry.test/box:1']);
  await guest.succeed(['ip', 'link', 'set', 'eth0', 'up']);
  const network = ['-d', 'macvlan', '--subnet', '10.77.0.0/24', '-o', 'parent=eth0', 'lan'];
  await guest.succeed(['docker', 'network', 'create', ...network]);
});
afterAll(async () => {
  await reader.close();
  qmp?.close();
  await guest?.stop();
});

const read = (): Promise<Reading<ContainersOnDisk>> =>
  withQemuExport(qmp.monitor, { directory }, ({ source }) => reader.listContainers(source, { diskId: 'live' }));

async function list(): Promise<readonly ContainerOnDisk[]> {
  const reading = await read();
  if (!reading.available) throw new Error(`${reading.reason}: ${reading.message}`);
  return reading.value.containers;
}

const start = (name: string, ...more: string[]) =>
  guest.succeed(['docker', 'run', '-d', '--name', name, ...more, 'registry.test/box:1', 'sleep', '100000']);

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

describe('the containers of a running guest', () => {
  it('show by name within seconds of docker run, and with their address soon after', async () => {
    const seen: { nameMs: number; addressMs: number; commandMs: number }[] = [];
    for (let n = 1; n <= 3; n++) {
      const from = performance.now();
      const elapsed = () => Math.round(performance.now() - from);
      const name = `quick-${n}`;
      let commandMs: number | undefined;
      const command = start(name, '--label', `ciel.test=${n}`, '--network', 'lan', '--ip', `10.77.0.${20 + n}`).then(
        () => {
          commandMs = elapsed();
        },
      );
      let nameMs: number | undefined;
      let addressMs: number | undefined;
      while (addressMs === undefined && elapsed() < SEEN_LIMIT_MS) {
        const found = (await list()).find((container) => container.name === name);
        if (!found) continue;
        nameMs ??= elapsed();
        expect(found).toMatchObject({ image: 'registry.test/box:1', labels: { 'ciel.test': `${n}` } });
        if (found.running && found.addresses.lan === `10.77.0.${20 + n}`) addressMs = elapsed();
      }
      await command;
      seen.push({ nameMs: nameMs as number, addressMs: addressMs as number, commandMs: commandMs as number });
    }
    console.log('after docker run began, in ms:', JSON.stringify(seen));
    expect(median(seen.map(({ nameMs }) => nameMs))).toBeLessThan(NAME_SEEN_WITHIN_MS);
    for (const { addressMs, commandMs } of seen) expect(addressMs).toBeLessThan(commandMs + NAME_SEEN_WITHIN_MS);
  });

  it('are described as docker inspect describes them', async () => {
    await start(
      'limited',
      '--memory',
      '64m',
      '--cpus',
      '0.5',
      '--restart',
      'always',
      '--label',
      'a=1',
      '--label',
      'b=',
    );
    let found: ContainerOnDisk | undefined;
    for (const from = performance.now(); !found?.running && performance.now() - from < SEEN_LIMIT_MS; ) {
      found = (await list()).find(({ name }) => name === 'limited');
    }
    const [truth] = JSON.parse(await guest.succeed(['docker', 'inspect', 'limited']));
    expect(found).toMatchObject({
      id: truth.Id,
      image: truth.Config.Image,
      imageId: truth.Image,
      labels: truth.Config.Labels,
      pid: truth.State.Pid,
      startedAt: truth.State.StartedAt,
      cpuLimitCores: 0.5,
      memoryLimitBytes: 64 << 20,
      restartPolicy: 'always',
    });
  });

  it('stay readable, all of them, while the guest writes as much as it can', async () => {
    const loop =
      'while :; do dd if=/dev/zero of=/tmp/f bs=64k count=64 conv=fsync; rm /tmp/f; mkdir /tmp/d; rmdir /tmp/d; done';
    const run = ['docker', 'run', '-d', '--name', 'writer', 'registry.test/box:1', 'sh', '-c', `${loop} 2>/dev/null`];
    await guest.succeed(run);
    const always = ['quick-1', 'quick-2', 'quick-3', 'limited'];
    let isChurning = true;
    const churn = (async () => {
      for (let n = 0; isChurning; n++) {
        await start(`passing-${n}`);
        await guest.succeed(['docker', 'rm', '-f', `passing-${n}`]);
      }
    })();
    const durations: number[] = [];
    const sequences = new Set<number | null>();
    const passing = new Set<string>();
    const from = performance.now();
    while (performance.now() - from < 20_000) {
      const began = performance.now();
      const reading = await read();
      durations.push(performance.now() - began);
      expect(reading).toMatchObject({ available: true, value: { unreadable: [] } });
      if (!reading.available) break;
      const names = reading.value.containers.map(({ name }) => name);
      expect(names).toEqual(expect.arrayContaining(always));
      for (const name of names) if (name.startsWith('passing-')) passing.add(name);
      sequences.add(reading.value.fileSystems[0]?.journalSequence ?? null);
    }
    isChurning = false;
    await churn;
    durations.sort((a, b) => a - b);
    const worst = Math.round(durations.at(-1) ?? 0);
    console.log(
      `${durations.length} look-ups over ${sequences.size} states of the journal: median ${Math.round(median(durations))} ms, worst ${worst} ms`,
    );
    expect(sequences.size).toBeGreaterThan(5);
    expect(passing.size).toBeGreaterThan(0);
  });
});

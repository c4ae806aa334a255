/**
 * A real guest that runs podman (on ext4), containerd (on an XFS in a volume of LVM, on a second disk) and LXC, read while
 * it writes. Truth is what the runtimes say inside. Measures how long after `run` began a name shows outside.
 */
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ContainersOnDisk } from '../../guest-disk/look-up.ts';
import { GuestDiskReader } from '../../guest-disk/reader.ts';
import type { ContainerOnDisk } from '../../guest-disk/runtimes/runtime.ts';
import { listContainersOfVm } from '../../guest-disk/vm-containers.ts';
import { Introspection } from '../../native/introspection.ts';
import type { Trial } from '../../template/trial.ts';
import { temporaryDirectory } from './images.ts';
import { connectQmp, type QmpConnection } from './qemu.ts';
import { makeRootInGuest, startRuntimesGuest } from './runtimes-guest.ts';

const UUID = '6f1c8b52-7a55-4a3e-9c1d-0d4f5b8a7e21';
const SEEN_LIMIT_MS = 180_000;
/** Both runtimes sync their database before they start a container; emulated, the command itself takes many seconds. */
const NAME_SEEN_AFTER_COMMAND_MS = 2_000;
const IMAGE = 'registry.test/box:1';

const directory = await temporaryDirectory();
const reader = new GuestDiskReader();
let guest: Trial;
let qmp: QmpConnection;

/** LVM asks udev to make its device nodes unless told that there is none. */
const lvm = (...command: string[]) =>
  guest.succeed([...command, '--config', 'activation{udev_sync=0 udev_rules=0}'], SEEN_LIMIT_MS);
const shell = (script: string) => guest.succeed(['sh', '-c', script], SEEN_LIMIT_MS);

beforeAll(async () => {
  const dataDisk = join(directory, 'data.raw');
  writeFileSync(dataDisk, '');
  truncateSync(dataDisk, 2 * 2 ** 30);
  guest = await startRuntimesGuest({ monitor: join(directory, 'qmp.sock'), dataDisk });
  qmp = await connectQmp(join(directory, 'qmp.sock'));
  await makeRootInGuest(guest);
  await lvm('pvcreate', '-y', '/dev/vdb');
  await lvm('vgcreate', 'data', '/dev/vdb');
  await lvm('lvcreate', '-y', '-n', 'containerd', '-L', '512M', 'data');
  await lvm('lvcreate', '-y', '-n', 'between', '-L', '16M', 'data');
  await lvm('lvextend', '-L', '+512M', 'data/containerd');
  await shell(
    'mkfs.xfs -q /dev/data/containerd && mkdir -p /var/lib/containerd && mount /dev/data/containerd /var/lib/containerd',
  );
  await shell('mkdir -p /var/log /var/tmp /run/lock; (containerd >/var/log/containerd.log 2>&1 &); ip link set lo up');
  await shell(
    `podman import /root/image.tar ${IMAGE} && podman save -q --format docker-archive -o /root/box.tar ${IMAGE}`,
  );
  await shell('podman network create lan --subnet 10.77.0.0/24');
  await shell('for n in 1 2 3 4 5 6 7 8 9; do ctr version && break; sleep 2; done; ctr images import /root/box.tar');
});
afterAll(async () => {
  await reader.close();
  qmp?.close();
  await guest?.stop();
});

async function read(): Promise<ContainersOnDisk> {
  const reading = await listContainersOfVm(reader, qmp.monitor, { uuid: UUID, directory });
  if (!reading.available) throw new Error(`${reading.reason}: ${reading.message}`);
  return reading.value;
}

const isNotFound = (error: unknown) => /^NotFound|^NoFileSystem/.test((error as Error).message);

/** Runs a command and looks for a name meanwhile. @returns how long after the command began (and ended) it showed. */
async function timeUntilSeen(command: readonly string[], isIt: (container: ContainerOnDisk) => boolean) {
  const from = performance.now();
  let endedMs: number | undefined;
  const ended = guest.succeed(command, SEEN_LIMIT_MS).then(() => {
    endedMs = performance.now() - from;
  });
  let found: ContainerOnDisk | undefined;
  while (!found && performance.now() - from < SEEN_LIMIT_MS) {
    const listed = await read().catch((error: unknown) => {
      if (isNotFound(error)) return null;
      throw error;
    });
    found = listed?.containers.find(isIt);
  }
  const seenMs = Math.round(performance.now() - from);
  await ended;
  return { found, seenMs, commandMs: Math.round(endedMs ?? Number.NaN) };
}

describe('a guest of several runtimes', () => {
  it('shows podman by name while `podman run` still runs, and as podman inspect describes it', async () => {
    const limits = ['--label', 'ciel.test=shop', '--memory', '64m', '--cpus', '0.5', '--restart', 'always'];
    const run = ['podman', 'run', '-d', '--name', 'shop', ...limits, '--network', 'lan', '--ip', '10.77.0.21'];
    const { seenMs, commandMs } = await timeUntilSeen(
      [...run, IMAGE, 'sleep', '100000'],
      ({ name }) => name === 'shop',
    );
    console.log(`podman on ext4: name seen ${seenMs} ms after the command began, which took ${commandMs} ms`);
    expect(seenMs).toBeLessThan(commandMs + NAME_SEEN_AFTER_COMMAND_MS);
    const [truth] = JSON.parse(await guest.succeed(['podman', 'inspect', 'shop'], SEEN_LIMIT_MS));
    const from = performance.now();
    let found: ContainerOnDisk | undefined;
    while (!found?.running && performance.now() - from < SEEN_LIMIT_MS) {
      found = (await read()).containers.find(({ name }) => name === 'shop');
    }
    expect(found).toMatchObject({
      runtime: 'podman',
      id: truth.Id,
      image: truth.ImageName,
      imageId: `sha256:${truth.Image}`,
      labels: { 'ciel.test': 'shop' },
      addresses: { lan: '10.77.0.21' },
      pid: truth.State.Pid,
      cpuLimitCores: 0.5,
      memoryLimitBytes: 64 << 20,
      restartPolicy: 'always',
    });
    expect(Date.parse(found?.startedAt ?? '')).toBe(Date.parse(truth.State.StartedAt));
  });

  it('shows containerd, whose state lies on an XFS in a volume of LVM on another disk', async () => {
    const run = ['ctr', 'run', '-d', '--label', 'ciel.test=direct', '--memory-limit', '67108864', '--cpus', '0.5'];
    const { found, seenMs, commandMs } = await timeUntilSeen(
      [...run, IMAGE, 'direct', 'sleep', '100000'],
      ({ runtime, id }) => runtime === 'containerd' && id === 'direct',
    );
    console.log(`containerd on XFS on LVM: seen ${seenMs} ms after the command began, which took ${commandMs} ms`);
    expect(seenMs).toBeLessThan(commandMs + NAME_SEEN_AFTER_COMMAND_MS);
    expect(found).toMatchObject({
      image: IMAGE,
      labels: { 'ciel.test': 'direct' },
      cpuLimitCores: 0.5,
      memoryLimitBytes: 64 << 20,
    });
    const listed = await read();
    expect(listed.fileSystems).toEqual(
      expect.arrayContaining([
        expect.objectContaining({ format: 'ext4', place: 'disk' }),
        expect.objectContaining({ format: 'xfs', place: 'data/containerd', runtimes: ['containerd'] }),
      ]),
    );
    expect(listed.failures).toEqual([]);
  });

  it('names what its memory shows, of every runtime', async () => {
    const config = [
      'lxc.rootfs.path = dir:/root/image',
      'lxc.uts.name = web',
      'lxc.net.0.type = empty',
      'lxc.apparmor.profile = unconfined',
      'lxc.init.cmd = /bin/sleep 100000',
    ].join('\\n');
    await shell(`mkdir -p /root/image/dev /var/lib/lxc/web && printf '${config}\\n' > /var/lib/lxc/web/config && sync`);
    await shell('lxc-start -n web');
    const introspection = new Introspection({ cacheDirectory: null });
    try {
      introspection.watch({ uuid: UUID, pid: guest.pid });
      const reading = (await introspection.sample([UUID], 60_000)).get(UUID);
      if (!reading?.available) throw new Error(`${reading?.reason}: ${reading?.message}`);
      const { containers } = await read();
      const named = reading.value.containers.map(({ runtime, id }) => {
        const identity = containers.find((container) => container.id === id && container.runtime === runtime);
        return `${runtime} ${identity?.name}`;
      });
      expect(named.sort()).toEqual(['containerd direct', 'lxc web', 'podman shop']);
    } finally {
      await introspection.close();
    }
  });

  it('stays readable while it writes to both disks', async () => {
    const loop =
      'while :; do dd if=/dev/zero of=$1/f bs=64k count=8 conv=fsync; rm $1/f; mkdir $1/d; rmdir $1/d; sleep 0.2; done';
    for (const place of ['/root', '/var/lib/containerd']) await shell(`(sh -c '${loop}' - ${place} >/dev/null 2>&1 &)`);
    let isChurning = true;
    const churn = (async () => {
      for (let n = 0; isChurning; n++) {
        await guest.succeed(['ctr', 'container', 'create', IMAGE, `passing-${n}`, 'true'], SEEN_LIMIT_MS);
      }
    })();
    const states = new Set<string>();
    const durations: number[] = [];
    const passing = new Set<string>();
    const from = performance.now();
    const elapsed = () => performance.now() - from;
    while (elapsed() < 30_000 || (passing.size === 0 && elapsed() < SEEN_LIMIT_MS)) {
      const began = performance.now();
      const { containers, unreadable, failures, fileSystems } = await read();
      durations.push(performance.now() - began);
      expect({ unreadable, failures }).toEqual({ unreadable: [], failures: [] });
      const names = containers.map(({ runtime, name }) => `${runtime} ${name}`);
      expect(names).toEqual(expect.arrayContaining(['podman shop', 'containerd direct', 'lxc web']));
      for (const name of names) if (name.includes('passing-')) passing.add(name);
      for (const { format, journalSequence } of fileSystems) states.add(`${format} ${journalSequence}`);
    }
    isChurning = false;
    await churn;
    durations.sort((a, b) => a - b);
    const median = Math.round(durations[durations.length >> 1] ?? Number.NaN);
    console.log(
      `${durations.length} look-ups at two disks over ${states.size} states of their journals: median ${median} ms, ` +
        `worst ${Math.round(durations.at(-1) ?? Number.NaN)} ms; passing: ${[...passing].join(', ')}`,
    );
    expect([...states].filter((state) => state.startsWith('xfs')).length).toBeGreaterThan(3);
    expect([...states].filter((state) => state.startsWith('ext4')).length).toBeGreaterThan(3);
    expect([...passing].some((name) => name.startsWith('containerd'))).toBe(true);
  });
});

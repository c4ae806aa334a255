/**
 * Real runtimes of today, and what each says of its containers itself, compared field by field with what is read from
 * outside: Docker 26, podman 5, containerd 1.7 by CRI, Incus 6, LXD 5, and containerd with CRI in a container of Docker's (what kind
 * does); then Docker in a full Debian with systemd. Minutes under emulation: only with CIEL_RUNTIMES=all.
 */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { NamesOfContainers } from '../../guest-disk/matching-names.ts';
import { GuestDiskReader } from '../../guest-disk/reader.ts';
import type { ContainerOnDisk } from '../../guest-disk/runtimes/runtime.ts';
import { listContainersOfVm } from '../../guest-disk/vm-containers.ts';
import { FULL_DEBIAN_ARGUMENTS, FULL_DEBIAN_READY, fullDebian } from '../../lab/images/full-debian.ts';
import type { ContainerCounters } from '../../model/usage.ts';
import { workingAccelerator } from '../../native/accelerator.ts';
import { Introspection } from '../../native/introspection.ts';
import { kernelCommandLine, TEMPLATE_FILES } from '../../template/domain-xml.ts';
import { Trial } from '../../template/trial.ts';
import { temporaryDirectory } from './images.ts';
import { startNewerRuntimesGuest } from './newer-runtimes-guest.ts';
import { connectQmp, type QmpConnection } from './qemu.ts';

const UUID = '6f1c8b52-7a55-4a3e-9c1d-0d4f5b8a7e21';
const LIMIT_MS = 300_000;
const IMAGE = 'registry.test/box:1';
const isWanted = process.env.CIEL_RUNTIMES === 'all';

interface Look {
  readonly described: readonly ContainerOnDisk[];
  readonly shown: readonly ContainerCounters[];
  /** "runtime name" of what the guest's kernel shows. */
  readonly names: readonly string[];
}

/** A guest, and both ways in which it is read. */
class ReadGuest {
  readonly guest: Trial;
  readonly #directory: string;
  readonly #qmp: QmpConnection;
  readonly #reader = new GuestDiskReader();
  readonly #introspection = new Introspection({ cacheDirectory: null });

  static async of(guest: Trial, directory: string): Promise<ReadGuest> {
    return new ReadGuest(guest, directory, await connectQmp(join(directory, 'qmp.sock')));
  }

  private constructor(guest: Trial, directory: string, qmp: QmpConnection) {
    this.guest = guest;
    this.#directory = directory;
    this.#qmp = qmp;
    this.#introspection.watch({ uuid: UUID, pid: guest.pid, withServices: true });
  }

  shell(script: string): Promise<string> {
    return this.guest.succeed(['sh', '-ec', script], LIMIT_MS);
  }

  async described(): Promise<readonly ContainerOnDisk[]> {
    const reading = await listContainersOfVm(this.#reader, this.#qmp.monitor, {
      uuid: UUID,
      directory: this.#directory,
    });
    if (reading.available) {
      expect({ unreadable: reading.value.unreadable, failures: reading.value.failures }).toEqual({
        unreadable: [],
        failures: [],
      });
      return reading.value.containers;
    }
    if (/^No(tFound|FileSystem)$/.test(reading.reason)) return [];
    throw new Error(`${reading.reason}: ${reading.message}`);
  }

  async look(): Promise<Look> {
    const sample = (await this.#introspection.sample([UUID], 60_000)).get(UUID);
    if (!sample?.available) throw new Error(`${sample?.reason}: ${sample?.message}`);
    const described = await this.described();
    const shown = sample.value.containers;
    const matcher = new NamesOfContainers(shown, described);
    const names = shown
      .filter(({ runtime }) => runtime !== 'systemd')
      .map((container) => `${container.runtime} ${matcher.of(container)?.name}`);
    return { described, shown, names: names.sort() };
  }

  /** Runs a script; tells when it ended, and when a container showed on the disk by name, after the script began. */
  async start(name: string, script: string): Promise<string> {
    const from = performance.now();
    let endedMs = Number.NaN;
    const output = this.shell(script).then((text) => {
      endedMs = Math.round(performance.now() - from);
      return text;
    });
    while (performance.now() - from < LIMIT_MS && !(await this.#has(name)));
    const seenMs = Math.round(performance.now() - from);
    const text = await output;
    console.log(`${name}: seen ${seenMs} ms after its command began, which took ${endedMs} ms`);
    return text;
  }

  async #has(name: string): Promise<boolean> {
    return (await this.described()).some((container) => container.name === name);
  }

  /** What is on the disk once it says so: states are written a little later than names, see docs/reference/names.md. */
  async once(name: string, isReady: (container: ContainerOnDisk) => boolean): Promise<ContainerOnDisk> {
    for (const from = performance.now(); performance.now() - from < LIMIT_MS; ) {
      const found = (await this.described()).find((container) => container.name === name && isReady(container));
      if (found) return found;
    }
    throw new Error(`${name} was not described`);
  }

  async close(): Promise<void> {
    await Promise.all([this.#introspection.close(), this.#reader.close()]);
    this.#qmp.close();
    await this.guest.stop();
  }
}

const dockerTruth = (inspected: string) => {
  const [truth] = JSON.parse(inspected);
  return {
    runtime: 'docker',
    id: truth.Id,
    name: truth.Name.slice(1),
    image: truth.Config.Image,
    imageId: truth.Image,
    labels: truth.Config.Labels,
    addresses: Object.fromEntries(
      Object.entries<{ IPAddress: string }>(truth.NetworkSettings.Networks).map(([network, { IPAddress }]) => [
        network,
        IPAddress,
      ]),
    ),
    running: truth.State.Running,
    pid: truth.State.Pid,
    startedAt: truth.State.StartedAt,
    cpuLimitCores: truth.HostConfig.NanoCpus / 1e9 || null,
    memoryLimitBytes: truth.HostConfig.Memory || null,
    restartPolicy: truth.HostConfig.RestartPolicy.Name,
    within: [],
  };
};

const INCUS = {
  ...{ product: 'Incus', home: 'incus', start: '/usr/libexec/incus/incusd', admin: 'incus admin', client: 'incus' },
  ...{ subnet: '10.80.0', name: 'first' },
};
const LXD = {
  ...{ product: 'LXD', home: 'lxd', start: 'lxd --group root', admin: 'lxd', client: 'lxc' },
  ...{ subnet: '10.81.0', name: 'second' },
};

describe.runIf(isWanted)('Debian 13 says the same as the disk of it:', () => {
  let one: ReadGuest;
  const crictl = async (...command: string[]) => JSON.parse(await one.guest.succeed(['crictl', ...command], LIMIT_MS));

  beforeAll(async () => {
    const directory = await temporaryDirectory();
    one = await ReadGuest.of(await startNewerRuntimesGuest({ monitor: join(directory, 'qmp.sock') }), directory);
    await one.shell(`
      mkdir -p /var/log /var/tmp /run/lock /root/image/bin /root/image/tmp /root/image/etc /root/image/proc
      cp /bin/busybox /root/image/bin/busybox
      for name in sh sleep true; do ln -s busybox /root/image/bin/$name; done
      tar -C /root/image -cf /root/image.tar .
      ip link set lo up
      (containerd >/var/log/containerd.log 2>&1 &)
      podman import -c 'CMD ["/bin/sleep", "100000"]' /root/image.tar ${IMAGE}
      podman save -q --format docker-archive -o /root/box.tar ${IMAGE}
      for attempt in 1 2 3 4 5 6 7 8 9; do ctr version && break; sleep 2; done
      ctr -n k8s.io images import /root/box.tar
      printf '{"metadata":{"name":"shop-0","namespace":"store","uid":"u1"},"labels":{"app":"shop"},"linux":{}}' >/root/pod.json
      limits='{"cpu_period":100000,"cpu_quota":50000,"memory_limit_in_bytes":67108864}'
      printf '{"metadata":{"name":"web"},"image":{"image":"${IMAGE}"},"labels":{"tier":"front"},"linux":{"resources":%s}}' "$limits" >/root/container.json`);
  });
  afterAll(() => one?.close());

  it('containerd by CRI, as crictl inspects it', async () => {
    const run = 'crictl start $(crictl create $(crictl runp /root/pod.json) /root/container.json /root/pod.json)';
    const id = (await one.start('store/shop-0/web', run)).trim();
    const { status, info } = await crictl('inspect', id);
    const pod = (await crictl('inspectp', info.runtimeSpec.annotations['io.kubernetes.cri.sandbox-id'])).status;
    expect(await one.once('store/shop-0/web', ({ running }) => running === true)).toMatchObject({
      runtime: 'containerd',
      id: status.id,
      name: `${pod.metadata.namespace}/${pod.metadata.name}/${status.metadata.name}`,
      image: status.image.image,
      imageId: status.imageRef,
      labels: status.labels,
      addresses: { pod: pod.network.ip },
      pid: info.pid,
      startedAt: status.startedAt,
      cpuLimitCores: 0.5,
      memoryLimitBytes: 64 << 20,
      within: [],
    });
    expect(await one.once('store/shop-0', () => true)).toMatchObject({
      id: pod.id,
      labels: pod.labels,
      addresses: { pod: pod.network.ip },
    });
  });

  it('Docker, as docker inspects it', async () => {
    await one.shell(`
      (dockerd --containerd /run/containerd/containerd.sock >/var/log/dockerd.log 2>&1 &)
      for attempt in 1 2 3 4 5 6 7 8 9; do docker version && break; sleep 2; done
      docker import --change 'CMD ["/bin/sleep", "100000"]' /root/image.tar ${IMAGE}
      docker network create --subnet 10.79.0.0/24 lan`);
    const limits = '--label a=1 --label b= --memory 64m --cpus 0.5 --restart always --network lan --ip 10.79.0.21';
    await one.start('shop', `docker run -d --name shop ${limits} ${IMAGE}`);
    const truth = dockerTruth(await one.shell('docker inspect shop'));
    expect(await one.once('shop', ({ addresses }) => addresses.lan !== undefined)).toMatchObject(truth);
  });

  it('podman with SQLite, as podman inspects it', async () => {
    await one.shell('podman network create --subnet 10.77.0.0/24 lan');
    const limits = '--label a=1 --memory 64m --cpus 0.5 --restart always --network lan --ip 10.77.0.21';
    await one.start('pods', `podman run -d --name pods ${limits} ${IMAGE}`);
    const [truth] = JSON.parse(await one.shell('podman inspect pods'));
    const found = await one.once('pods', ({ running }) => running === true);
    expect(found).toMatchObject({
      runtime: 'podman',
      id: truth.Id,
      image: truth.ImageName,
      imageId: `sha256:${truth.Image}`,
      labels: truth.Config.Labels,
      addresses: { lan: truth.NetworkSettings.Networks.lan.IPAddress },
      pid: truth.State.Pid,
      cpuLimitCores: 0.5,
      memoryLimitBytes: truth.HostConfig.Memory,
      restartPolicy: truth.HostConfig.RestartPolicy.Name,
    });
    expect(Date.parse(found.startedAt ?? '')).toBe(Date.parse(truth.State.StartedAt));
    expect(await one.shell('ls /var/lib/containers/storage/db.sql')).toMatch('db.sql');
  });

  it.each([INCUS, LXD])('$product, as it lists it itself; starts once configured anew', async (daemon) => {
    const { home, start, admin, client, subnet, name } = daemon;
    await one.shell(`
      mkdir -p /run/${home} /var/lib/${home} /var/log/${home} /root/${home}/rootfs
      (${start} >/var/log/${home}.log 2>&1 &)
      for attempt in 1 2 3 4 5 6 7 8 9; do ${admin} waitready --timeout 60 && break; sleep 2; done
      ${admin} init --preseed <<EOF
networks: [{name: ${home}br0, type: bridge, config: {ipv4.address: ${subnet}.1/24, ipv4.nat: "false", ipv4.firewall: "false", ipv6.address: none}}]
storage_pools: [{name: default, driver: dir}]
profiles: [{name: default, devices: {root: {type: disk, path: /, pool: default}, eth0: {type: nic, network: ${home}br0, name: eth0}}}]
EOF
      cp -a /root/image/. /root/${home}/rootfs/
      mkdir /root/${home}/rootfs/sbin /root/${home}/rootfs/dev /root/${home}/rootfs/sys
      ln -s ../bin/busybox /root/${home}/rootfs/sbin/init
      printf '::sysinit:/bin/true\\n::respawn:/bin/sleep 100000\\n' >/root/${home}/rootfs/etc/inittab
      printf 'architecture: x86_64\\ncreation_date: 1795595925\\nproperties: {os: Box, release: one}\\n' >/root/${home}/metadata.yaml
      tar -C /root/${home} -czf /root/${home}.tar.gz metadata.yaml rootfs
      ${client} image import /root/${home}.tar.gz --alias box`);
    const limits = `-c limits.memory=64MiB -c limits.cpu.allowance=50ms/100ms -c user.owner=ada -d eth0,ipv4.address=${subnet}.21`;
    await one.start(name, `${client} launch box ${name} ${limits}`);
    const [truth] = JSON.parse(await one.shell(`${client} list --format json`));
    const told = {
      runtime: 'lxc',
      id: truth.name,
      image: 'box/one',
      imageId: truth.config['volatile.base_image'],
      labels: { owner: truth.config['user.owner'] },
      addresses: { [`${home}br0`]: truth.expanded_devices.eth0['ipv4.address'] },
      cpuLimitCores: 0.5,
      memoryLimitBytes: 64 << 20,
    };
    expect(await one.once(name, () => true)).toMatchObject({ ...told, running: null, startedAt: null });
    await one.shell(`${client} config set ${name} boot.autostart=true`);
    const written = await one.once(name, ({ running }) => running === true);
    expect(written).toMatchObject({ ...told, startedAt: truth.last_used_at, restartPolicy: 'always' });
  });

  it('containerd with CRI in a container of Docker, whatever else that container writes', async () => {
    await one.shell(`
      mkdir -p /root/outer && cd /root/outer && for name in bin sbin lib lib64; do ln -s usr/$name $name; done
      mkdir usr etc tmp var run proc sys dev root
      tar -C /root/outer -cf /root/outer.tar . && docker import /root/outer.tar registry.test/outer:1
      cat >/root/outer.sh <<'EOF'
mkdir /sys/fs/cgroup/init
for pid in $(cat /sys/fs/cgroup/cgroup.procs); do echo $pid >/sys/fs/cgroup/init/cgroup.procs; done
echo '+cpu +memory +io +pids' >/sys/fs/cgroup/cgroup.subtree_control
mkdir -p /var/log /var/tmp /run/lock
exec containerd >/var/log/containerd.log 2>&1
EOF
      mounts='-v node:/var -v /usr:/usr:ro -v /root:/root'
      for path in containerd cni crictl.yaml; do mounts="$mounts -v /etc/$path:/etc/$path:ro"; done
      docker run -d --name node --privileged --network lan $mounts registry.test/outer:1 sh /root/outer.sh
      for attempt in 1 2 3 4 5 6 7 8 9; do docker exec node ctr version && break; sleep 2; done
      docker exec node ctr -n k8s.io images import /root/box.tar
      docker exec node sh -c 'crictl start $(crictl create $(crictl runp /root/pod.json) /root/container.json /root/pod.json)'`);
    const [{ Id: node }] = JSON.parse(await one.shell('docker inspect node'));
    const [{ Id: shop }] = JSON.parse(await one.shell('docker inspect shop'));
    // Somebody in the node claims a neighbour's container.
    await one.shell(`docker exec node sh -c '
      mkdir -p /var/lib/docker/containers/${shop}
      printf %s "{\\"ID\\":\\"${shop}\\",\\"Name\\":\\"/forged\\",\\"Config\\":{\\"Image\\":\\"evil:1\\"}}" >/var/lib/docker/containers/${shop}/config.v2.json
      printf "{}" >/var/lib/docker/containers/${shop}/hostconfig.json; sync'`);
    const within = [{ runtime: 'docker', id: node }];
    await one.once('forged', (container) => container.within.length === 1);
    const { described, names, shown } = await one.look();
    const inner = described.filter((container) => container.within.length > 0);
    expect(inner.map(({ name }) => name).sort()).toEqual(['forged', 'store/shop-0', 'store/shop-0/web']);
    for (const container of inner) expect(container.within).toEqual(within);
    expect(names).toEqual([
      ...[
        'containerd store/shop-0',
        'containerd store/shop-0',
        'containerd store/shop-0/web',
        'containerd store/shop-0/web',
      ],
      ...['docker node', 'docker shop', 'lxc first', 'lxc second', 'podman pods'],
    ]);
    const cri = JSON.parse(await one.shell('docker exec node crictl ps -o json'));
    const nested = shown.find(({ id }) => id === cri.containers[0].id);
    expect(nested?.cgroupPath).toBe(`/docker/${node}/k8s.io/${cri.containers[0].id}`);
  });
});

describe.runIf(isWanted)('a full Debian 12 with systemd', () => {
  let one: ReadGuest;

  beforeAll(async () => {
    const directory = await temporaryDirectory();
    const image = (await fullDebian(() => undefined)).directory;
    const accelerator = await workingAccelerator();
    const guest = await Trial.start({
      kernel: join(image, TEMPLATE_FILES.kernel),
      initrd: join(image, TEMPLATE_FILES.initrd),
      commandLine: `${kernelCommandLine(accelerator)} ${FULL_DEBIAN_ARGUMENTS}`,
      disk: join(image, TEMPLATE_FILES.disk),
      keepWrites: false,
      accelerator,
      memoryMiB: 1024,
      monitor: join(directory, 'qmp.sock'),
    });
    await guest.consoleShows(FULL_DEBIAN_READY, LIMIT_MS);
    await guest.agentAnswers(LIMIT_MS);
    one = await ReadGuest.of(guest, directory);
  });
  afterAll(() => one?.close());

  it("says the same of Docker's containers, and shows its services", async () => {
    await one.shell(`
      cd / && tar -ch bin/sleep lib64/ld-linux-x86-64.so.2 lib/x86_64-linux-gnu/libc.so.6 | docker import --change 'CMD ["/bin/sleep", "100000"]' - ${IMAGE}`);
    await one.start('shop', `docker run -d --name shop --label a=1 --memory 64m --cpus 0.5 ${IMAGE}`);
    const truth = dockerTruth(await one.shell('docker inspect shop'));
    expect(await one.once('shop', ({ addresses }) => Boolean(addresses.bridge))).toMatchObject(truth);
    const { names, shown } = await one.look();
    expect(names).toEqual(['docker shop']);
    expect(shown.find(({ runtime }) => runtime === 'docker')?.cgroupPath).toBe(
      `/system.slice/docker-${truth.id}.scope`,
    );
    const services = shown.filter(({ runtime }) => runtime === 'systemd').map(({ id }) => id);
    expect(services).toEqual(expect.arrayContaining(['docker.service', 'dbus.service', 'qemu-guest-agent.service']));
  });
});

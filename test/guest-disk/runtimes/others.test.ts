/** What runtimes other than Docker left on the disks of real guests (state/README.md), on file systems made here. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { lookUpContainers } from '../../../guest-disk/look-up.ts';
import { containerd } from '../../../guest-disk/runtimes/containerd.ts';
import { lxc } from '../../../guest-disk/runtimes/lxc.ts';
import { lxd } from '../../../guest-disk/runtimes/lxd.ts';
import { podman } from '../../../guest-disk/runtimes/podman.ts';
import type { RuntimeOnDisk } from '../../../guest-disk/runtimes/runtime.ts';
import {
  bufferSource,
  CONTAINER_ID,
  dockerFiles,
  inflated,
  makeImage,
  openExt4,
  stateOf,
  temporaryDirectory,
  writeTree,
} from '../images.ts';

const directory = await temporaryDirectory();
let images = 0;

type Files = Readonly<Record<string, string | Buffer>>;

async function imageOf(files: Files): Promise<string> {
  images += 1;
  const tree = join(directory, `tree-${images}`);
  writeTree(tree, { 'etc/hostname': 'guest', ...files });
  await makeImage(join(directory, `${images}.img`), tree, 8, []);
  return join(directory, `${images}.img`);
}

async function list(runtime: RuntimeOnDisk, files: Files) {
  return runtime.list(await openExt4(await imageOf(files)));
}

const named = (listing: Awaited<ReturnType<typeof list>>, name: string) =>
  listing?.containers.find((container) => container.name === name);

describe('podman', () => {
  it('of version 4 is read from its bbolt database', async () => {
    const listing = await list(podman, {
      'var/lib/containers/storage/libpod/bolt_state.db': inflated('podman-4.db'),
    });
    expect(listing?.unreadable).toEqual([]);
    expect(listing?.containers.map(({ name, state }) => `${name} ${state}`).sort()).toEqual([
      'ended exited',
      'made created',
      'shop running',
      'web exited',
    ]);
    expect(named(listing, 'shop')).toEqual({
      runtime: 'podman',
      id: '631c6996966ca3fe87f8205cfd09a9e215e7b2e2e0d55d16587a26a8cd7e7921',
      name: 'shop',
      image: 'registry.test/box:1',
      imageId: 'sha256:b063a9b784f5ddae2528e5eb2c5a522a94bce04e67a66e7fd2b448ea3e84630b',
      labels: { 'ciel.test': 'shop' },
      addresses: {},
      running: true,
      state: 'running',
      pid: 1173,
      startedAt: '2026-11-25T03:24:42.319975343Z',
      cpuLimitCores: 1.5,
      memoryLimitBytes: 64 << 20,
      cgroupParent: '/libpod_parent',
      restartPolicy: 'always',
      within: [],
    });
  });

  it('of version 5 is read from its SQLite database, which wins over an older one', async () => {
    const listing = await list(podman, {
      'var/lib/containers/storage/db.sql': inflated('podman-5.sql'),
      'var/lib/containers/storage/libpod/bolt_state.db': inflated('podman-4.db'),
    });
    expect(listing?.containers).toHaveLength(9);
    expect(named(listing, 'shop')).toMatchObject({
      id: expect.stringMatching(/^5f28a8fc5c72/),
      image: 'registry.test/box:1',
      labels: { 'ciel.test': 'shop' },
      state: 'created',
      cpuLimitCores: 1.5,
      memoryLimitBytes: 64 << 20,
    });
    expect(Object.keys(named(listing, 'large')?.labels ?? {})).toHaveLength(120);
  });

  it('of a user who is not root is read from that home', async () => {
    const files = { 'home/ada/.local/share/containers/storage/db.sql': inflated('podman-5.sql') };
    expect((await list(podman, files))?.containers).toHaveLength(9);
  });
});

describe('containerd', () => {
  const DATABASE = 'io.containerd.metadata.v1.bolt/meta.db';

  it('is read over its namespaces', async () => {
    const listing = await list(containerd, { [`var/lib/containerd/${DATABASE}`]: inflated('containerd-1.6.db') });
    expect(listing?.unreadable).toEqual([]);
    expect(listing?.containers.map(({ id }) => id)).toEqual(['direct', 'unstarted']);
    expect(named(listing, 'direct')).toMatchObject({
      runtime: 'containerd',
      image: 'registry.test/box:1',
      imageId: 'sha256:a1cf5f59086a7298772e6715fd565142d46079126ee7b74a71c4c70ed8711246',
      labels: { 'ciel.test': 'direct' },
      running: null,
      state: 'unknown',
      cpuLimitCores: 0.5,
      memoryLimitBytes: 64 << 20,
    });
  });

  it('under Kubernetes tells pods, their addresses and states, and leaves Docker to Docker', async () => {
    const container = 'c'.repeat(64);
    const listing = await list(containerd, {
      [`var/lib/containerd/${DATABASE}`]: inflated('kubernetes.db'),
      [`var/lib/containerd/io.containerd.grpc.v1.cri/containers/${container}/status`]:
        '{"Version":"v1","Pid":4711,"CreatedAt":1795577364000000000,"StartedAt":1795577365000000000,"FinishedAt":0}',
    });
    expect(listing?.unreadable).toEqual([]);
    expect(listing?.containers).toHaveLength(2);
    expect(named(listing, 'store/shop-0')).toMatchObject({
      id: 'a'.repeat(64),
      image: 'registry.k8s.io/pause:3.6',
      addresses: { pod: '10.244.0.7', 'pod-2': 'fd00::7' },
      running: null,
      labels: { app: 'shop' },
    });
    expect(named(listing, 'store/shop-0/web')).toMatchObject({
      id: container,
      image: 'registry.test/shop:2',
      imageId: `sha256:${'e'.repeat(64)}`,
      addresses: { pod: '10.244.0.7', 'pod-2': 'fd00::7' },
      running: true,
      state: 'running',
      pid: 4711,
      startedAt: '2026-11-25T03:29:25Z',
      cpuLimitCores: 0.2,
      memoryLimitBytes: 128 << 20,
    });
  });

  it('names pods that no kubelet made, as crictl shows them', async () => {
    const container = '2a853a2c63e1845d4264177307d786dbd43d4b7d03f3376ea2ae1b64d235ac05';
    const listing = await list(containerd, {
      [`var/lib/containerd/${DATABASE}`]: inflated('cri-1.7.db'),
      [`var/lib/containerd/io.containerd.grpc.v1.cri/containers/${container}/status`]:
        '{"Version":"v1","Pid":507,"CreatedAt":1795595923867457186,"StartedAt":1795595925970260228,"FinishedAt":0}',
    });
    expect(named(listing, 'store/shop-0')).toMatchObject({ labels: { app: 'shop' }, addresses: { pod: '10.78.0.3' } });
    expect(named(listing, 'store/shop-0/web')).toMatchObject({
      id: container,
      image: 'registry.test/box:1',
      imageId: 'sha256:1c3067acda7ae0fe5e8512dfee65bccbcf05d8b2dee9cd89ebfab0323bdf8ae0',
      labels: { tier: 'front' },
      addresses: { pod: '10.78.0.3' },
      startedAt: '2026-11-25T08:38:45.970260228Z',
      cpuLimitCores: 0.5,
      memoryLimitBytes: 64 << 20,
    });
  });

  it('whose description is no protobuf is one that cannot be read, and does not hide the others', async () => {
    const database = inflated('containerd-1.6.db');
    // The second field of google.protobuf.Any, of every container: now of a kind that there is not.
    for (let at = database.indexOf('Spec\x12'); at >= 0; at = database.indexOf('Spec\x12', at + 1))
      database[at + 4] = 0x17;
    const listing = await list(containerd, { [`var/lib/containerd/${DATABASE}`]: database });
    expect(listing?.unreadable.length).toBeGreaterThan(0);
    for (const { reason, message } of listing?.unreadable ?? [])
      expect([reason, message]).toEqual(['Malformed', expect.stringContaining('no protobuf')]);
  });

  it('takes addresses from what the host-local plugin keeps', async () => {
    const listing = await list(containerd, {
      [`var/lib/containerd/${DATABASE}`]: inflated('containerd-1.6.db'),
      'var/lib/cni/networks/bridge/10.4.0.5': 'default-direct\r\neth0',
      'var/lib/cni/networks/bridge/last_reserved_ip.0': '10.4.0.5',
      'var/lib/cni/networks/bridge/lock': '',
    });
    expect(named(listing, 'direct')?.addresses).toEqual({ bridge: '10.4.0.5' });
    expect(named(listing, 'unstarted')?.addresses).toEqual({});
  });

  it.each([
    ['of k3s', `var/lib/rancher/k3s/agent/containerd/${DATABASE}`],
    ['on a disk mounted at /var/lib', `containerd/${DATABASE}`],
    ['on a disk of its own', DATABASE],
  ])('%s is found', async (_name, path) => {
    expect((await list(containerd, { [path]: inflated('containerd-1.6.db') }))?.containers).toHaveLength(2);
  });
});

describe('LXC', () => {
  it('is read from its configurations', async () => {
    const listing = await list(lxc, {
      'var/lib/lxc/web/config': stateOf('lxc-web.config'),
      'var/lib/lxc/rootfs-only/rootfs/etc/hostname': 'x',
    });
    expect(listing).toMatchObject({
      unreadable: [],
      containers: [
        {
          id: 'web',
          name: 'web',
          image: 'busybox',
          addresses: { lxcbr0: '10.0.3.7' },
          cpuLimitCores: 0.5,
          memoryLimitBytes: 64 << 20,
          running: null,
        },
      ],
    });
  });

  it('names the distribution that was downloaded, and the address that was leased', async () => {
    const config = [
      '# Template used to create this container: /usr/share/lxc/templates/lxc-download',
      '# Parameters passed to the template: --dist debian --release bookworm --arch amd64',
      'lxc.net.0.type = veth',
      'lxc.net.0.link = lxcbr0',
      'lxc.net.0.hwaddr = 00:16:3E:00:00:07',
      'lxc.cgroup.memory.limit_in_bytes = 1G',
    ].join('\n');
    const listing = await list(lxc, {
      'var/lib/lxc/web/config': config,
      'var/lib/misc/dnsmasq.lxcbr0.leases': '1795577364 00:16:3e:00:00:07 10.0.3.99 web *\n',
    });
    expect(named(listing, 'web')).toMatchObject({
      image: 'debian/bookworm',
      addresses: { lxcbr0: '10.0.3.99' },
      memoryLimitBytes: 1 << 30,
    });
  });
});

describe('LXD', () => {
  const files = {
    'var/lib/lxd/storage-pools/default/x': '',
    'var/lib/lxd/containers/first/backup.yaml': stateOf('lxd-first.yaml'),
    'var/lib/lxd/containers/other_second/backup.yaml': stateOf('lxd-second.yaml'),
  };

  it('is read from the description beside each container, of every project', async () => {
    const listing = await list(lxd, files);
    expect(listing?.unreadable).toEqual([]);
    expect(listing?.containers).toMatchObject([
      {
        runtime: 'lxc',
        id: 'first',
        name: 'first',
        image: 'box/1',
        imageId: '63d5f90e7167191ad5c9f0e1e5f4edbd5b5fd5b6b165e53a95f2e48eed3d0ad7',
        labels: { 'ciel.test': 'first' },
        addresses: { lxdbr0: '10.66.0.9' },
        running: true,
        startedAt: '2026-11-25T03:18:44.472593738Z',
        cpuLimitCores: 0.5,
        memoryLimitBytes: 64 << 20,
      },
      { id: 'other_second', name: 'second', running: null, state: 'unknown', startedAt: null },
    ]);
  });

  it.each(['', '\0'.repeat(3_000)])('leaves out what is being written', async (content) => {
    const listing = await list(lxd, { ...files, 'var/lib/lxd/containers/first/backup.yaml': content });
    expect(listing?.unreadable).toEqual([]);
    expect(listing?.containers).toMatchObject([{ id: 'other_second' }]);
  });

  it('of which Incus is one says Stopped of what it is about to start: neither that nor a time is believed', async () => {
    const listing = await list(lxd, {
      'var/lib/incus/storage-pools/default/x': '',
      'var/lib/incus/containers/second/backup.yaml': stateOf('incus-started.yaml'),
    });
    expect(listing?.containers).toMatchObject([
      {
        id: 'second',
        image: 'box/one',
        labels: { role: 'db' },
        addresses: { incusbr0: '10.80.0.22' },
        running: null,
        state: 'unknown',
        startedAt: null,
      },
    ]);
  });

  it.each([
    ['another container', String(stateOf('lxd-first.yaml')).replace(/^ {2}name: first$/m, '  name: else')],
    ['aliases that grow without end', 'a: &a [x, x]\nb: &b [*a, *a]\ncontainer: *b\n'],
    ['no YAML', '\u0000: ['],
    [
      'a network whose name is half a character',
      String(stateOf('lxd-first.yaml')).replaceAll('network: lxdbr0', 'network: "\\ud800"'),
    ],
    [
      'a network whose name clears the screen',
      String(stateOf('lxd-first.yaml')).replaceAll('network: lxdbr0', 'network: "\\e[2J"'),
    ],
  ])('that describes %s is refused', async (_name, content) => {
    const listing = await list(lxd, { ...files, 'var/lib/lxd/containers/first/backup.yaml': content });
    expect(listing?.unreadable).toMatchObject([{ id: 'first', reason: 'Malformed' }]);
    expect(listing?.containers).toMatchObject([{ id: 'other_second' }]);
  });
});

describe('a disk of several runtimes', () => {
  const look = async (files: Files) =>
    lookUpContainers(bufferSource(readFileSync(await imageOf(files))), { fileSystems: [] });

  it('gives the containers of all, and says which could not be read', async () => {
    const found = await look({
      ...dockerFiles(CONTAINER_ID, 'shop'),
      'var/lib/lxc/web/config': stateOf('lxc-web.config'),
      'var/lib/containers/storage/db.sql': 'SQLite format 4',
    });
    expect(found.containers.map(({ runtime, name }) => `${runtime} ${name}`)).toEqual(['docker shop', 'lxc web']);
    expect(found.fileSystems).toMatchObject([{ runtimes: ['docker', 'lxc'] }]);
    expect(found.failures).toMatchObject([{ runtime: 'podman', place: 'disk', reason: 'Malformed' }]);
  });

  it('is unavailable when the only runtime there cannot be read', async () => {
    const broken = look({ 'var/lib/containers/storage/db.sql': 'SQLite format 4' });
    await expect(broken).rejects.toMatchObject({ reason: 'Malformed', message: expect.stringContaining('podman') });
  });

  it('gives those in containers too: Docker in Docker, and kind', async () => {
    const inner = 'ab'.repeat(32);
    const withMount = (files: Record<string, string>, mount: object) =>
      Object.fromEntries(
        Object.entries(files).map(([path, content]) =>
          path.endsWith('config.v2.json')
            ? [path, JSON.stringify({ ...JSON.parse(content), MountPoints: { '/var': mount } })]
            : [path, content],
        ),
      );
    const kind = 'cd'.repeat(32);
    const found = await look({
      ...withMount(dockerFiles(CONTAINER_ID, 'dind'), { Name: 'v1', Source: '', Destination: '/var/lib/docker' }),
      ...dockerFiles(inner, 'inner', 'var/lib/docker/volumes/v1/_data'),
      ...withMount(dockerFiles(kind, 'kind-control-plane'), { Source: '/srv/kind', Destination: '/var' }),
      'srv/kind/lib/containerd/io.containerd.metadata.v1.bolt/meta.db': inflated('kubernetes.db'),
    });
    expect(found.containers.map(({ name, within }) => [name, within])).toEqual([
      ['dind', []],
      ['kind-control-plane', []],
      ['inner', [{ runtime: 'docker', id: CONTAINER_ID }]],
      ['store/shop-0', [{ runtime: 'docker', id: kind }]],
      ['store/shop-0/web', [{ runtime: 'docker', id: kind }]],
    ]);
  });

  it('does not follow a volume that holds itself without end', async () => {
    const files = dockerFiles(CONTAINER_ID, 'mirror');
    const config = Object.keys(files).find((path) => path.endsWith('config.v2.json')) as string;
    const mount = { Source: '/var/lib/docker', Destination: '/var/lib/docker' };
    const found = await look({
      ...files,
      [config]: JSON.stringify({ ...JSON.parse(files[config] as string), MountPoints: { a: mount, b: mount } }),
    });
    expect(found.containers.length).toBeGreaterThan(1);
    expect(found.containers.length).toBeLessThan(50);
  });
});

/**
 * What a scale-out asks of host and director, in its order, on real VMs: a director with the real IP_VS, a VM cloned from
 * the real template, a container from a real registry, and clients on their segment.
 */
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { createDirectorActivities } from '../../activities/director.ts';
import { agentReach } from '../../activities/director-reach.ts';
import { createHostActivities } from '../../activities/hypervisor.ts';
import { Ipvsadm } from '../../activities/ipvsadm.ts';
import { buildImages, type LabImages } from '../../lab/images/images.ts';
import { Lab, type LabGuest } from '../../lab/lab.ts';
import { inSegment } from '../../lab/segment.ts';
import type { HostActivities, Reservation } from '../../model/activities.ts';
import { CielFailure } from '../../model/failures.ts';
import { replicaIdentity } from '../../model/identity.ts';
import type { ServiceSpec } from '../../model/spec.ts';
import { RowsInMemory, realServer, virtualServer } from './fake-director.ts';

const MEBIBYTE = 2 ** 20;
const installationId = '6b0b1f0e-6f5c-4a53-9a0c-0d3f1c9a7e11';
const operation = { installationId, service: 'nginx', operationId: 'scale-out/nginx/1', runId: 'run-1' };
const REPLICA = '10.77.0.101';
const VIRTUAL = '10.77.0.12';
const quiet = { logger: new DefaultLogger('ERROR') };

let images: LabImages;
let lab: Lab;
let director: LabGuest;
let storage: string;
let reservation: Reservation;
let spec: ServiceSpec;
let open = true;
let bridge: string;
/** Where the template is; tests of bad input change it. */
let templateDirectory: string;

beforeAll(async () => {
  images = await buildImages(() => {});
  lab = await Lab.up('activities', images);
  director = await lab.startGuest({
    name: 'director',
    address: '10.77.0.2',
    template: images.director,
    disk: join(images.director, 'disk.raw'),
    vcpus: 1,
    memoryBytes: 256 * MEBIBYTE,
  });
  storage = join(lab.directory, 'storage');
  await mkdir(storage);
  templateDirectory = images.template.directory;
  bridge = lab.segment.bridge;
  reservation = {
    ...replicaIdentity(installationId, 'nginx', 'run-1', 0),
    host: 'lab',
    replicaAddress: REPLICA,
    vmAddress: '10.77.0.100',
    subnet: lab.segment.subnet,
    gateway: null,
    size: { vcpus: 1, memoryBytes: 512 * MEBIBYTE, reasons: [] },
    template: 'minimal',
  };
  spec = {
    name: 'nginx',
    image: `${lab.registry.endpoint}/${images.registry.images.nginx}`,
    run: { command: null, env: { GREETING: 'hello; $(reboot)' }, cpuLimitCores: 1, memoryLimitBytes: 64 * MEBIBYTE },
    virtual: { director: 'lvs', address: VIRTUAL, port: 80, protocol: 'tcp', scheduler: 'rr', adopt: false },
    network: 'lan',
    template: 'minimal',
    min: 0,
    max: 1,
    targets: { cpu: 0.8, memory: 0.9 },
    size: { minVcpus: 1, maxVcpus: 1, minMemoryBytes: 0, maxMemoryBytes: 2 ** 30 },
    health: { path: '/healthz', intervalMs: 1_000, timeoutMs: 3_000, withinMs: 60_000 },
    cooldown: { outMs: 0, inMs: 0 },
    drainMs: 1_000,
    replicas: [],
  };
});
afterAll(async () => {
  await lab?.down();
});

function host(): HostActivities {
  return createHostActivities({
    host: { name: 'lab', libvirt: lab.libvirtd.uri, storage, bridge, capacity: { vcpus: 4, memoryBytes: 2 ** 32 } },
    installationId,
    libvirt: lab.libvirt,
    readTemplate: async (name) => ({ name, directory: templateDirectory }),
    assertOpen: async () => {
      if (!open) throw new CielFailure('Superseded', 'the operation is closed');
    },
  });
}
function run<K extends keyof HostActivities>(activity: K, change: object = {}): Promise<unknown> {
  const request = { operation, reservation, spec, image: spec.image, ...change };
  const act = host()[activity] as (request: object) => Promise<unknown>;
  return new MockActivityEnvironment({}, quiet).run(act, request);
}
/** A client on the segment. @returns HTTP status, 000 for none. */
async function get(url: string): Promise<string> {
  const [file, args] = inSegment(lab.segment, 'curl', ['-s', '-m', '5', '-o', '/dev/null', '-w', '%{http_code}', url]);
  return (await execa(file, args, { reject: false })).stdout;
}
/** A template directory like the real one, with another domain.xml. */
async function templateWith(change: (xml: string) => string): Promise<string> {
  const directory = join(lab.directory, 'changed-template');
  await mkdir(directory, { recursive: true });
  const xml = await readFile(join(images.template.directory, 'domain.xml'), 'utf8');
  await writeFile(join(directory, 'domain.xml'), change(xml));
  return directory;
}

describe('bad input, before anything is there', () => {
  it.each<[string, (xml: string) => string, string, RegExp]>([
    [
      'a kernel that is missing',
      (xml) => xml.replace(/vmlinuz/, 'vmlinux-gone'),
      'TemplateBroken',
      /vmlinux-gone|kernel/,
    ],
    [
      'an unknown machine',
      (xml) => xml.replace("machine='q35'", "machine='abacus'"),
      'TemplateBroken',
      /template "minimal"/,
    ],
    ['an unknown element', (xml) => xml.replace('<os>', '<nonsense/><os>'), 'TemplateBroken', /nonsense|schema/],
    ['no XML', () => 'hello', 'TemplateBroken', /domain\.xml/],
  ])('a template with %s', async (_what, change, failure, message) => {
    await run('cloneDisk');
    templateDirectory = await templateWith(change);
    try {
      await expect(run('startVm')).rejects.toMatchObject({ failure, message: expect.stringMatching(message) });
    } finally {
      templateDirectory = images.template.directory;
    }
    await run('removeVm');
    expect(await lab.libvirt.lookup(reservation.vmUuid)).toBeNull();
  });

  it('a bridge that is missing', async () => {
    bridge = 'br-gone';
    try {
      await expect(run('startVm')).rejects.toMatchObject({
        failure: 'InvalidSpec',
        message: expect.stringContaining('br-gone'),
      });
    } finally {
      bridge = lab.segment.bridge;
    }
    await run('removeVm');
  });

  it("somebody else's domain of the same name stays as it is", async () => {
    const other = await lab.libvirt.defineXml(
      `<domain type="qemu"><name>${reservation.vmName}</name><memory>32768</memory><os><type>hvm</type></os></domain>`,
    );
    await expect(run('startVm')).rejects.toMatchObject({ failure: 'NotOurs' });
    await run('removeVm');
    expect(await lab.libvirt.lookup(reservation.vmName)).toMatchObject({ uuid: other.uuid, state: 'shutoff' });
    await lab.libvirt.undefine(other.uuid);
    await run('removeDisk');
    expect(await readdir(storage)).toEqual([]);
  });
});

describe('the way up', () => {
  it('clones the disk sparsely', async () => {
    const weight = (await run('cloneDisk')) as { virtualBytes: number; allocatedBytes: number };
    expect(weight.virtualBytes).toBeGreaterThan(40e9);
    expect(weight.allocatedBytes).toBeLessThan(700 * MEBIBYTE);
    expect(await run('cloneDisk')).toEqual(weight);
  });

  it('starts the VM once, with our mark', async () => {
    await run('startVm');
    const first = await lab.libvirt.lookup(reservation.vmUuid);
    await run('startVm');
    expect(await lab.libvirt.lookup(reservation.vmUuid)).toEqual(first);
    expect(await lab.libvirt.xml(reservation.vmUuid)).toContain(reservation.replicaId);
  });

  it('a closed operation starts nothing and removes nothing', async () => {
    open = false;
    try {
      for (const activity of ['removeVm', 'removeDisk', 'startContainer'] as const) {
        await expect(run(activity)).rejects.toMatchObject({ failure: 'Superseded' });
      }
    } finally {
      open = true;
    }
    expect(await lab.libvirt.lookup(reservation.vmUuid)).toMatchObject({ state: 'running' });
  });

  it('prepares the guest: address, host name, Docker', async () => {
    await run('prepareGuest');
    await run('prepareGuest');
    const seen = await lab.run(reservation.vmUuid, 'hostname; ip -o -4 address; cat /etc/machine-id');
    expect(seen).toContain(reservation.vmName);
    expect(seen.match(/10\.77\.0\.100\/24/g)).toHaveLength(1);
    expect(seen).toContain(reservation.vmUuid.replaceAll('-', ''));
  });

  it('installs the one image, and says when there is none', async () => {
    const gone = run('installImage', { image: `${lab.registry.endpoint}/nothing:1` });
    await expect(gone).rejects.toMatchObject({
      failure: 'ImageMissing',
      message: expect.stringContaining('nothing:1'),
    });
    const away = run('installImage', { image: '10.77.0.9:5000/nginx:1' });
    await expect(away).rejects.toMatchObject({ failure: 'RegistryUnreachable' });
    const installed = await run('installImage');
    expect(installed).toEqual({ imageId: expect.stringMatching(/^sha256:/) });
    expect(await run('installImage')).toEqual(installed);
    expect((await lab.run(reservation.vmUuid, 'docker images -q')).trim().split('\n')).toHaveLength(1);
  });

  it('a container that ends at once, with its last words', async () => {
    const command = ['/usr/sbin/nginx', '-c', '/nowhere'];
    const failing = run('startContainer', { spec: { ...spec, run: { ...spec.run, command } } });
    await expect(failing).rejects.toMatchObject({
      failure: 'ContainerExited',
      message: expect.stringMatching(/exit code 1.*nowhere/),
    });
    const missing = run('startContainer', { spec: { ...spec, run: { ...spec.run, command: ['/no/such'] } } });
    await expect(missing).rejects.toMatchObject({ failure: 'ContainerExited' });
    expect(await lab.run(reservation.vmUuid, 'docker ps -aq')).toBe('');
  });

  it('starts the container on its own address, or finds it', async () => {
    const started = await run('startContainer');
    expect(await run('startContainer')).toEqual(started);
    expect(await get(`http://${REPLICA}/healthz`)).toBe('200');
    const inspect = `docker inspect -f '{{json .Config.Env}} {{.HostConfig.Memory}}' nginx`;
    const seen = await lab.run(reservation.vmUuid, inspect);
    expect(seen).toContain('GREETING=hello; $(reboot)');
    expect(seen).toContain(String(64 * MEBIBYTE));
  });

  it('keeps the virtual address of a container that crashes', async () => {
    const script = `before=$(docker inspect -f '{{.State.Pid}}' nginx)
kill -9 "$before"
until pid=$(docker inspect -f '{{.State.Pid}}' nginx) && [ "$pid" != 0 ] && [ "$pid" != "$before" ]; do sleep 0.3; done
for try in 1 2 3 4 5 6 7 8; do
  if nsenter -t "$pid" -n ip -o -4 address show dev lo | grep "$1"; then exit 0; fi
  sleep 1
done
exit 1`;
    expect(await lab.run(reservation.vmUuid, script, [`${VIRTUAL}/32`])).toContain(VIRTUAL);
  });
});

describe('LVS', () => {
  const rows = new RowsInMemory();
  const reach = () => agentReach(lab.libvirt, 'director');
  const table = () => lab.run(director.uuid, 'ipvsadm -S -n; ip -o -4 address | grep -c " 10.77.0.12/32" || true');
  const activities = () =>
    createDirectorActivities({
      director: { name: 'lvs', reach: { kind: 'agent', host: 'lab', vm: 'director' } },
      reach: reach(),
      rows,
      reportHealth: async () => {},
    });
  const converge = (): Promise<{ readonly changes: readonly string[] }> =>
    new MockActivityEnvironment({}, quiet).run(activities().convergeVirtualServer, {
      director: 'lvs',
      service: 'nginx',
    });
  const desire = (weight: number) =>
    rows.servers.set(
      'nginx',
      virtualServer({
        ...{ service: 'nginx', director: 'lvs', address: VIRTUAL, health: spec.health },
        realServers: [realServer({ service: 'nginx', replicaId: reservation.replicaId, address: REPLICA, weight })],
      }),
    );

  it('a virtual server of somebody else stays as it is', async () => {
    await lab.run(director.uuid, `ipvsadm -A -t ${VIRTUAL}:80 -s lc`);
    const before = await table();
    desire(1);
    await expect(converge()).rejects.toMatchObject({ failure: 'NotOurs' });
    expect(await table()).toBe(before);
    await lab.run(director.uuid, `ipvsadm -D -t ${VIRTUAL}:80`);
  });

  it('serves the virtual address by direct server return', async () => {
    const { changes } = await converge();
    expect(changes).toHaveLength(3);
    expect((await converge()).changes).toEqual([]);
    for (let count = 0; count < 5; count++) expect(await get(`http://${VIRTUAL}/healthz`)).toBe('200');
    // The kernel adds its counters up every two seconds.
    const [packetsIn, packetsOut] = await vi.waitFor(
      async () => {
        const counters = await lab.run(director.uuid, `ipvsadm -L -n --stats --exact -t ${VIRTUAL}:80`);
        const [, connections, ...packets] = /-> \S+\s+(\d+)\s+(\d+)\s+(\d+)/.exec(counters) ?? [];
        expect(connections).toBe('5');
        return packets;
      },
      { timeout: 10_000, interval: 500 },
    );
    expect(Number(packetsIn)).toBeGreaterThan(0);
    // What comes back does not pass the director.
    expect(Number(packetsOut)).toBe(0);
  });

  it('fills the table of a director that lost it', async () => {
    await lab.run(
      director.uuid,
      `ipvsadm -C; ip address del ${VIRTUAL}/32 dev $(ip -o -4 address | awk '/${VIRTUAL}/ {print $2}')`,
    );
    expect((await converge()).changes).toHaveLength(3);
    expect(await get(`http://${VIRTUAL}/healthz`)).toBe('200');
  });

  it('counts active connections, drains, and removes all that it made', async () => {
    const ipvsadm = new Ipvsadm(reach());
    const virtual = { address: VIRTUAL, port: 80 };
    expect(await ipvsadm.activeConnections(virtual, `${REPLICA}:80`)).toBe(0);
    expect(await ipvsadm.activeConnections(virtual, '10.77.0.99:80')).toBeNull();
    rows.changeReal('nginx', reservation.replicaId, { weight: 0 });
    expect((await converge()).changes).toEqual([`-e -t ${VIRTUAL}:80 -r ${REPLICA}:80 -g -w 0`]);
    const drained = new MockActivityEnvironment({ scheduledTimestampMs: Date.now() }, quiet).run(
      activities().waitDrained,
      { director: 'lvs', service: 'nginx', address: REPLICA, port: 80, deadlineMs: 20_000 },
    );
    expect(await drained).toEqual({ activeConnections: 0 });
    rows.unwant('nginx');
    await converge();
    expect(await table()).toBe('0\n');
    expect(rows.servers.size).toBe(0);
    expect(await ipvsadm.activeConnections(virtual, `${REPLICA}:80`)).toBeNull();
  });

  it('a director without LVS in its kernel, or that is off, is said to be so', async () => {
    await lab.run(
      director.uuid,
      'for i in 1 2 3; do modprobe -r ip_vs_rr ip_vs_lc ip_vs_wrr ip_vs_wlc ip_vs_sh ip_vs_sed ip_vs_nq ip_vs && break; done 2>/dev/null; mv /usr/sbin/ipvsadm /usr/sbin/ipvsadm.away',
    );
    desire(1);
    await expect(converge()).rejects.toMatchObject({ failure: 'NoIpvs' });
    await lab.libvirt.destroy(director.uuid);
    await expect(converge()).rejects.toMatchObject({
      failure: 'DirectorUnreachable',
      message: expect.stringContaining('shutoff'),
    });
  });
});

describe('the way down', () => {
  it('stops the container and removes VM and disk, and a repeat finds nothing to do', async () => {
    for (let count = 0; count < 2; count++) {
      await run('stopContainer');
      await run('removeVm');
      await run('removeDisk');
    }
    expect(await lab.libvirt.lookup(reservation.vmUuid)).toBeNull();
    expect(await readdir(storage)).toEqual([]);
    expect(existsSync(join(images.template.directory, 'disk.raw'))).toBe(true);
  });
});

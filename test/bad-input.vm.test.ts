/**
 * Bad input as an operator meets it, on real components and through the command line: what a VM, a template, a disk, a
 * network, a director or libvirt can be that Ciel cannot work with. Each gets an error that names the thing and the remedy,
 * what was begun is undone, and nothing is left and nothing of others touched.
 *
 * Two guests: the director, and a VM of somebody else's, which no service names. What is told without any VM is tested with
 * the commands; containers that cannot serve, and LVS entries that are not ours, in the end-to-end test.
 */
import { access, mkdir, open, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import type { Explanation } from '../cli/explain.ts';
import type { Status, VmStatus } from '../cli/status.ts';
import { Ciel, type CommandOutcome } from '../lab/ciel.ts';
import { buildImages, type LabImages } from '../lab/images/images.ts';
import { Lab } from '../lab/lab.ts';
import { killLibvirtd, startLibvirtd } from '../lab/libvirtd.ts';
import { startLoad } from '../lab/load-client.ts';
import { bootGuests, DIRECTOR_VM, SHOP_VM, type Shop } from '../lab/shop.ts';
import { startTenant } from '../lab/tenant.ts';
import type { SpecInput } from '../model/spec.ts';
import { connectStore } from '../store/database.ts';
import { listReservations } from '../store/reservations.ts';
import { listVirtualServers } from '../store/virtual-servers.ts';
import { cacheDirectory } from '../template/cache.ts';
import { DOMAIN_XML } from '../template/manifest.ts';
import { sourceFile } from '../template/sources.ts';

const LAB = 'bad';
const EMPTY_VM = 'empty';
const OFF_VM = 'off';
/** Of the service whose replica is listed in a VM that there is not. */
const STRANGER = { address: '10.77.0.21', virtualAddress: '10.77.0.11' };
let images: LabImages;
let lab: Lab;
let ciel: Ciel;
let guests: Omit<Shop, 'specFile'>;
let storage: string;
let spec: SpecInput;
let emptySince: number;

type Service = NonNullable<SpecInput['services']>[number];

beforeAll(async () => {
  images = await buildImages(() => {});
  lab = await Lab.up(LAB, images);
  storage = join(lab.directory, 'storage');
  await mkdir(storage);
  ciel = new Ciel(lab.segment, join(lab.directory, 'ciel'));
  [guests] = await Promise.all([bootGuests(lab, images), ciel.up(), defineEmptyMachines()]);
  spec = await specification();
  const file = await written('ciel.yaml', spec);
  await ciel.json('apply', '-f', file);
});
afterAll(async () => {
  await ciel?.down();
  await lab?.down();
});

/** Machines without a disk: one that is off, and one in its firmware, whose guest agent is silent. */
async function defineEmptyMachines(): Promise<void> {
  const xml = (name: string) => `<domain type='qemu'>
  <name>${name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><controller type='usb' model='none'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices>
</domain>`;
  await lab.libvirt.defineXml(xml(OFF_VM));
  await lab.libvirt.defineXml(xml(EMPTY_VM));
  await lab.libvirt.create((await lab.libvirt.lookup(EMPTY_VM))?.uuid ?? '');
  emptySince = performance.now();
}

function service(name: string, last: number, change: Partial<Service> = {}): Service {
  return {
    name,
    image: `${lab.registry.endpoint}/${images.registry.images.nginx}`,
    run: { memory: '64MiB' },
    virtual: { director: 'lvs', address: `10.77.0.${last}`, port: 80 },
    network: 'lan',
    template: 'minimal',
    min: 0,
    max: 1,
    health: { path: '/healthz' },
    ...change,
  };
}

async function specification(): Promise<SpecInput> {
  const broken = await brokenTemplates();
  const replica = { vm: 'elsewhere', container: 'mosaic', address: STRANGER.address };
  const byLabel = { vm: 'elsewhere', label: 'app=shop', address: '10.77.0.22' };
  return {
    version: 1,
    hosts: [
      {
        name: 'lab',
        libvirt: lab.libvirtd.uri,
        storage,
        bridge: lab.segment.bridge,
        capacity: { vcpus: 2, memory: '2GiB' },
      },
    ],
    directors: [director('lvs', DIRECTOR_VM)],
    networks: [
      { name: 'lan', subnet: lab.segment.subnet, addresses: ['10.77.0.100-10.77.0.119'] },
      { name: 'narrow', subnet: lab.segment.subnet, addresses: ['10.77.0.150-10.77.0.150'] },
    ],
    templates: [{ name: 'minimal', directory: images.template.directory }, ...broken],
    services: [
      service('mosaic', 11, { max: 2, replicas: [replica] }),
      service('by-label', 12, { max: 2, replicas: [byLabel] }),
      ...broken.map(({ name }, index) => service(name, 40 + index, { template: name })),
      service('no-address', 50, { network: 'narrow' }),
      service('too-large', 51, { size: { vcpus: { min: 8, max: 8 } } }),
      service('cloned', 52),
      service('no-image', 53, { image: `${lab.registry.endpoint}/missing:1` }),
    ],
  };
}

function director(name: string, vm: string): SpecInput['directors'][number] {
  return { name, reach: { kind: 'agent', host: 'lab', vm } };
}

async function brokenTemplates(): Promise<SpecInput['templates']> {
  const whole = images.template.directory;
  const xml = await readFile(join(whole, DOMAIN_XML), 'utf8');
  const template = async (name: string, files: Readonly<Record<string, string | Buffer>>) => {
    const directory = join(lab.directory, 'templates', name);
    await mkdir(directory, { recursive: true });
    for (const [file, content] of Object.entries(files)) await writeFile(join(directory, file), content);
    return { name, directory };
  };
  // Its kernel and initrd are the whole one's: only the disk is another.
  const withDisk = (name: string) =>
    xml.replace(`${whole}/disk.raw`, join(lab.directory, 'templates', name, 'disk.raw'));
  const head = Buffer.alloc(2 ** 20);
  const disk = await open(join(whole, 'disk.raw'));
  await disk.read(head, 0, head.length, 0);
  await disk.close();
  return [
    await template('no-disk', { [DOMAIN_XML]: withDisk('no-disk') }),
    await template('cut-off', { [DOMAIN_XML]: withDisk('cut-off'), 'disk.raw': head }),
    await template('no-system', { [DOMAIN_XML]: withDisk('no-system'), 'disk.raw': Buffer.alloc(2 ** 20) }),
    await template('no-xml', {}),
    await template('malformed', { [DOMAIN_XML]: xml.slice(0, xml.length / 2) }),
  ];
}

async function written(name: string, content: SpecInput): Promise<string> {
  const file = join(lab.directory, name);
  await writeFile(file, stringify(content));
  return file;
}

// --- what is looked at --------------------------------------------------------------------------------------------

interface Problem {
  readonly exitCode: number;
  readonly reason: string;
  readonly tried: string;
  readonly found: string;
  readonly remedy: string | null;
}
function problemOf({ exitCode, stderr, stdout }: CommandOutcome): Problem {
  const line = stderr.split('\n').findLast((candidate) => candidate.startsWith('{"error"'));
  if (line === undefined) throw new Error(`exit code ${exitCode} and no error: ${stderr}${stdout}`);
  const { error } = JSON.parse(line) as { error: Problem };
  expect(error.exitCode).toBe(exitCode);
  return error;
}
function introspect(vm: string): Promise<CommandOutcome> {
  return ciel.cli('introspect', vm, '--host-uri', lab.libvirtd.uri, '--json');
}
const bootOf = ({ stdout }: CommandOutcome) => (JSON.parse(stdout) as { guest: { boot: string } }).guest.boot;

/** Nothing that Ciel made is there: domains, disks, reservations, entries in LVS. */
async function expectNothingLeft(): Promise<void> {
  const domains = (await lab.libvirt.allStats()).map(({ name }) => name);
  expect(domains.filter((name) => name.startsWith('ciel-'))).toEqual([]);
  expect(await readdir(storage)).toEqual([]);
  expect(await inStore(listReservations)).toEqual([]);
  const inLvs = await lab.run(guests.director.uuid, 'ipvsadm -S -n');
  expect(inLvs.split('\n').filter((line) => line.startsWith('-a') && !/10\.77\.0\.2[12]:80/.test(line))).toEqual([]);
}
async function inStore<T>(read: (store: ReturnType<typeof connectStore>) => Promise<T>): Promise<T> {
  const store = connectStore((await ciel.runtime())?.databaseUrl ?? '', { maxConnections: 1 });
  try {
    return await read(store);
  } finally {
    await store.destroy();
  }
}

async function until<T>(what: string, withinMs: number, look: () => Promise<T | null>): Promise<T> {
  const deadline = Date.now() + withinMs;
  for (;;) {
    const found = await look();
    if (found !== null) return found;
    if (Date.now() > deadline) throw new Error(`waited ${withinMs} ms in vain until ${what}`);
    await pause(500);
  }
}
function untilVm(what: string, vm: string, is: (vm: VmStatus) => boolean): Promise<VmStatus> {
  return until(`${vm} is ${what}`, 90_000, async () => {
    const { exitCode, stdout } = await ciel.cli('status', '--json');
    // On a busy machine a workflow may not be asked in time.
    if (exitCode !== 0) return null;
    const { vms } = JSON.parse(stdout) as Status;
    return vms.find((candidate) => candidate.vmName === vm && is(candidate)) ?? null;
  });
}

// ------------------------------------------------------------------------------------------------------------------

describe('a VM that cannot be looked into', () => {
  it('is not there, or off: what there is, and how to start it', async () => {
    const unknown = problemOf(await introspect('nowhere'));
    expect(unknown).toMatchObject({ exitCode: 5, reason: 'UnknownVm' });
    expect(unknown.found).toContain(SHOP_VM);
    const off = problemOf(await introspect(OFF_VM));
    expect(off).toMatchObject({ exitCode: 1, reason: 'GuestOff' });
    expect(off.remedy).toBe(`start it: virsh -c '${lab.libvirtd.uri}' start ${OFF_VM}`);

    const watched = await ciel.cli('monitor', 'start', 'nowhere', OFF_VM, SHOP_VM);
    expect(watched.exitCode).toBe(5);
    expect(watched.stderr).toMatch(/"nowhere"\n {2}found: not among the VMs that hosts report: .*shop-1/);
    expect(watched.stdout).toMatch(/off .*started\nshop-1 .*started/);
    await untilVm('known to be off', OFF_VM, ({ unreadable }) => unreadable?.startsWith('GuestOff') ?? false);
    expect((await ciel.cli('status')).stdout).toMatch(
      /VM off: containers unreadable: GuestOff: it is shutoff\n {2}to do: start it: virsh start off/,
    );
    expect((await ciel.cli('monitor', 'stop', OFF_VM)).exitCode).toBe(0);
  });

  it('cannot be read by whom it does not belong to', async () => {
    // Root without a capability owns libvirt's socket, and not the memory of a process that has some.
    const { exitCode, stderr, stdout } = await execa(
      'setpriv',
      ['--bounding-set=-all', '--inh-caps=-all', process.execPath, sourceFile('dist/cli/main.js')].concat([
        'introspect',
        SHOP_VM,
        '--host-uri',
        lab.libvirtd.uri,
        '--json',
      ]),
      { reject: false },
    );
    const problem = problemOf({ exitCode: exitCode ?? -1, stderr, stdout });
    expect(problem).toMatchObject({ exitCode: 1, reason: 'PermissionDenied' });
    expect(problem.tried).toContain(SHOP_VM);
    expect(problem.remedy).toMatch(/root, or with CAP_SYS_PTRACE/);
  });

  it('is paused: its containers have no figures until it goes on', async () => {
    await startTenant(lab, guests.vm, [
      { name: 'mosaic', image: images.registry.images.mosaic, ...STRANGER, healthPath: '/?side=8' },
    ]);
    await untilVm('read', SHOP_VM, ({ containers }) => containers.some(({ cpuCores }) => cpuCores !== null));
    await lab.libvirt.monitorCommand(guests.vm.uuid, { execute: 'stop' });
    const problem = problemOf(await introspect(SHOP_VM));
    expect(problem).toMatchObject({ exitCode: 1, reason: 'GuestPaused', found: 'it is paused' });
    expect(problem.remedy).toContain(`resume ${SHOP_VM}`);
    const vm = await untilVm('known to be paused', SHOP_VM, ({ unreadable }) => unreadable !== null);
    expect(vm).toMatchObject({ state: 'paused', unreadable: 'GuestPaused: it is paused' });
    expect(vm.containers).toMatchObject([{ cpuCores: null, memoryBytes: null, unavailable: vm.unreadable }]);
    expect((await ciel.cli('status')).stdout).toMatch(/GuestPaused: it is paused\n {2}to do: .*virsh resume shop-1/);

    await lab.libvirt.monitorCommand(guests.vm.uuid, { execute: 'cont' });
    await untilVm('read again', SHOP_VM, ({ unreadable, containers }) => {
      return unreadable === null && containers.some(({ cpuCores }) => cpuCores !== null);
    });
    expect((await introspect(SHOP_VM)).exitCode).toBe(0);
  });
});

describe("a container in another's VM, named and labelled like a service's replica", () => {
  it('is nobody’s: shown as unmanaged, and its load never scales the service', async () => {
    const image = `${lab.registry.endpoint}/${images.registry.images.nginx}`;
    await lab.run(guests.vm.uuid, 'docker run --detach --name look-alike --label app=shop --network none "$1"', [
      image,
    ]);
    const seen = await untilVm('read with names', SHOP_VM, ({ containers }) =>
      ['mosaic', 'look-alike'].every((wanted) => containers.some(({ name }) => name === wanted)),
    );
    expect(seen.containers.map(({ service: of, replicaId }) => [of, replicaId])).toEqual([
      [null, null],
      [null, null],
    ]);
    const load = startLoad(lab.segment, `http://${STRANGER.address}/`, 3);
    try {
      // Starting a container costs CPU time outside of containers, which may be what is decided upon first.
      await until('its load is decided upon', 120_000, async () => {
        const { decisions } = await ciel.json<Explanation>('explain', SHOP_VM);
        expect(decisions.filter(({ outcome }) => outcome.act)).toEqual([]);
        return decisions.find(({ outcome }) => !outcome.act && outcome.reason === 'UnmanagedCause') ?? null;
      });
    } finally {
      load.setClients(0);
      await load.stop();
    }
    const { operations } = await ciel.json<Explanation>('explain', 'mosaic');
    expect(operations).toEqual([]);
    await expectNothingLeft();
  });
});

describe('a scale-out', () => {
  it.each([
    ['no-disk', /templates\/no-disk\/disk\.raw: ENOENT.*Build the template/],
    ['cut-off', /templates\/cut-off\/disk\.raw \(1048576 bytes\).*cut off or damaged/],
    [
      'no-system',
      /VM ciel-no-system-\w+: the VM is shutoff\. Its console ends with: .*\/dev\/vda.*template "no-system"/,
    ],
    ['no-xml', /templates\/no-xml\/domain\.xml: ENOENT.*ciel template build/],
    ['malformed', /templates\/malformed\/domain\.xml as domain XML: it is not well-formed XML.*Correct the file/],
    ['no-address', /network "narrow" \(10\.77\.0\.150-10\.77\.0\.150\) and found 1.*Add a range/],
    ['too-large', /no host has room for 8 vCPUs .*raise a host's capacity/],
  ])('of "%s" is undone at once, and says why', async (name, why) => {
    const problem = problemOf(await ciel.cli('scale', name, 'out', '--wait', '--json'));
    expect(problem).toMatchObject({ exitCode: 1, reason: 'undone' });
    expect(problem.found).toMatch(why);
    expect(problem.remedy).toContain(`ciel explain scale-out/${name}/1`);
    await expectNothingLeft();
  });

  it('is undone where the storage is full, nearly full, or missing', async () => {
    const fails = async (why: RegExp) => {
      const problem = problemOf(await ciel.cli('scale', 'cloned', 'out', '--wait', '--json'));
      expect(problem).toMatchObject({ exitCode: 1, reason: 'undone' });
      expect(problem.found).toMatch(why);
    };
    const full = new RegExp(`into ${storage}, keeping 512 MiB spare: \\d+ MiB are free.*Free space there`);
    // In the mount namespace of `ciel up` and its roles: nobody else sees it, and it ends with them.
    const inCiel = async (...command: string[]) => {
      const { pid } = (await ciel.runtime())?.up ?? { pid: 0 };
      await execa('nsenter', ['--target', String(pid), '--mount', ...command]);
    };
    await inCiel('mount', '-t', 'tmpfs', '-o', 'size=64m', 'ciel-bad', storage);
    try {
      await fails(full);
      // Enough for the disk, and not for what running VMs write.
      const { allocatedBytes } = images.template.manifest.disk;
      const nearlyFull = `remount,size=${Math.ceil(allocatedBytes / 2 ** 20) + 100}m`;
      await inCiel('mount', '-o', nearlyFull, storage);
      await fails(full);
    } finally {
      await inCiel('umount', storage);
    }
    await rename(storage, `${storage}.away`);
    await fails(/storage .*ENOENT.*Create the directory, or correct "storage"/);
    await rename(`${storage}.away`, storage);
    await expectNothingLeft();
  });

  it('goes on when libvirtd is killed in the middle and started again', async () => {
    const id = 'scale-out/no-image/1';
    const asked = await ciel.cli('scale', 'no-image', 'out');
    expect(asked.exitCode).toBe(0);
    await until('its VM is started', 60_000, async () => ((await stepsOf(id)).includes('start VM') ? true : null));
    await killLibvirtd(lab.libvirtd.directory);
    const down = problemOf(await introspect(SHOP_VM));
    expect(down).toMatchObject({ exitCode: 4, reason: 'HypervisorUnreachable' });
    expect(down.remedy).toMatch(/start libvirtd/);
    await until('it is said', 30_000, async () => {
      const { operations } = await ciel.json<Status>('status');
      const failures = operations.flatMap(({ retrying }) => retrying.map(({ failure }) => failure));
      return failures.some((failure) => /libvirt/i.test(failure)) ? true : null;
    });
    await startLibvirtd({
      directory: lab.libvirtd.directory,
      namespace: lab.segment.namespace,
      cache: join(cacheDirectory(), 'libvirt'),
    });
    const ended = await until('it has ended', 240_000, async () => {
      const [operation] = (await ciel.json<Explanation>('explain', id)).operations;
      return operation === undefined || operation.state === 'open' ? null : operation;
    });
    // It got to the image, which there is not.
    expect(ended).toMatchObject({ state: 'undone', message: expect.stringMatching(/missing:1/) });
    await expectNothingLeft();
  });
});

async function stepsOf(operationId: string): Promise<string[]> {
  const { operations } = await ciel.json<Explanation>('explain', operationId);
  return operations.flatMap(({ steps }) => steps.map(({ step }) => step));
}

describe('a director', () => {
  it.each([
    ['missing', 'no-such-vm', 'DirectorUnreachable', /no-such-vm.*no domain of that name.*correct "reach"/],
    ['silent', EMPTY_VM, 'DirectorUnreachable', /VM "empty".*[Gg]uest agent.*virsh console empty/],
    ['bare', SHOP_VM, 'NoIpvs', /VM "shop-1": there is no such command\. Install/],
  ])('that is %s: the service is refused, and nothing of it stays', async (name, vm, reason, why) => {
    const services = [service(`on-${name}`, 60, { virtual: { director: name, address: '10.77.0.60', port: 80 } })];
    const file = await written(`${name}.yaml`, {
      ...spec,
      directors: [...spec.directors, director(name, vm)],
      services,
    });
    const outcome = await ciel.cli('apply', '-f', file, '--json');
    expect(outcome.exitCode).toBe(3);
    const { services: answers } = JSON.parse(outcome.stdout) as {
      services: { accepted: boolean; error: { reason: string; message: string } }[];
    };
    expect(answers).toMatchObject([{ accepted: false, error: { reason } }]);
    expect(answers[0]?.error.message).toMatch(why);
    expect(await inStore((store) => listVirtualServers(store, { director: name }))).toEqual([]);
    expect((await ciel.json<Status>('status')).services.map((known) => known.name)).not.toContain(`on-${name}`);
  });
});

describe('a guest that boots', () => {
  it('again is never shown as it was before, and is told from one that boots for the first time', async () => {
    const before = bootOf(await introspect(SHOP_VM));
    await lab.libvirt.monitorCommand(guests.vm.uuid, { execute: 'system_reset' });
    const after = await until('its new kernel is read', 120_000, async () => {
      const outcome = await introspect(SHOP_VM);
      if (outcome.exitCode === 0) return bootOf(outcome);
      // What is left of the old kernel is being written over, and may read as anything but a kernel that runs.
      expect(problemOf(outcome).reason).toMatch(
        /^(Stale|GuestBooting|NoVmcoreinfo|NoSymbols|NoTypes|NoField|Faulted|Malformed|Torn|Exhausted|NotFound)$/,
      );
      return null;
    });
    expect(after).not.toBe(before);
    // Its services start anew, so that it may be hot right after: what was said last is not enough to ask for.
    await until('the watcher says so', 60_000, async () => {
      const log = await readFile(`${ciel.stateDirectory}/logs/host-lab.log`, 'utf8');
      return log.includes('"crossing":"rebooted"') ? true : null;
    });

    await lab.libvirt.destroy(guests.vm.uuid);
    await lab.libvirt.create(guests.vm.uuid);
    await until('it is read', 120_000, async () => ((await introspect(SHOP_VM)).exitCode === 0 ? true : null));

    // A machine without a disk is never further than that.
    const off = (await lab.libvirt.lookup(OFF_VM))?.uuid ?? '';
    await lab.libvirt.create(off);
    const booting = problemOf(await introspect(OFF_VM));
    await lab.libvirt.destroy(off);
    expect(booting).toMatchObject({ exitCode: 1, reason: 'GuestBooting' });
    expect(booting.remedy).toMatch(/look again in some seconds/);
  });

  it('no Linux at all is told after 90 s', async () => {
    await pause(Math.max(0, 92_000 - (performance.now() - emptySince)));
    const problem = problemOf(await introspect(EMPTY_VM));
    expect(problem).toMatchObject({ exitCode: 1, reason: 'NoVmcoreinfo' });
    expect(problem.found).toMatch(/no Linux kernel/);
    expect(problem.remedy).toMatch(/if it runs no Linux/);
  });
});

describe('a second `ciel up`', () => {
  it('on the same state directory is refused, and the first goes on', async () => {
    const second = await ciel.cli('up');
    expect(second.exitCode).toBe(3);
    expect(second.stderr).toMatch(/another `ciel up` runs on this directory\n {2}to do: .*--state/);
    expect((await ciel.cli('status')).exitCode).toBe(0);
    await access(join(ciel.stateDirectory, 'runtime.json'));
  });
});

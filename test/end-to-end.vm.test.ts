/**
 * The main job on real VMs, with the product as its user has it: `ciel up` and the command line, in a lab of its own. What is
 * checked is what libvirt, LVS, the disks and clients say. The main job comes after the bad input: what was undone must
 * not stand in its way.
 */
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse, stringify } from 'yaml';
import type { Explanation } from '../cli/explain.ts';
import type { Status } from '../cli/status.ts';
import { Ciel } from '../lab/ciel.ts';
import { buildImages } from '../lab/images/images.ts';
import { Lab } from '../lab/lab.ts';
import { type LoadClient, startLoad } from '../lab/load-client.ts';
import { bootGuests, SHOP_VM, type Shop, startContainers, virtualUrl, writeSpec } from '../lab/shop.ts';
import type { SpecInput } from '../model/spec.ts';

const LAB = 'e2e';
let lab: Lab;
let ciel: Ciel;
let shop: Shop;
let storage: string;

async function up(): Promise<void> {
  const images = await buildImages(() => {});
  lab = await Lab.up(LAB, images);
  const guests = await bootGuests(lab, images);
  storage = `${lab.directory}/storage`;
  shop = { ...guests, specFile: await writeSpec(lab, images, storage) };
  await addBadServices(shop.specFile);
  ciel = new Ciel(lab.segment, `${lab.directory}/ciel`);
  await Promise.all([startContainers(lab, guests.vm, images), ciel.up()]);
  await ciel.json('apply', '-f', shop.specFile);
}

async function down(): Promise<void> {
  await ciel?.down();
  await lab?.down();
}

/** Services that can never serve, each for its own reason. They have no adopted replica and a min of 0. */
async function addBadServices(specFile: string): Promise<void> {
  const spec = parse(await readFile(specFile, 'utf8')) as SpecInput;
  const [mosaic] = spec.services ?? [];
  if (mosaic === undefined) throw new Error(`${specFile} has no service`);
  const bad = (name: string, last: number) => ({
    ...mosaic,
    name,
    min: 0,
    max: 1,
    replicas: [],
    virtual: { ...mosaic.virtual, address: `10.77.0.${last}` },
  });
  const services = [
    ...(spec.services ?? []),
    { ...bad('no-image', 14), image: mosaic.image.replace('mosaic:1', 'missing:1') },
    { ...bad('exits', 15), run: { memory: '64MiB', command: ['/usr/sbin/apache2', '-v'] } },
    { ...bad('unhealthy', 16), health: { path: '/no-such-page', within: '10s' } },
  ];
  await writeFile(specFile, stringify({ ...spec, services }));
}

async function made(): Promise<{ vms: string[]; files: string[] }> {
  const vms = (await lab.libvirt.allStats()).map(({ name }) => name).filter((name) => name.startsWith('ciel-'));
  return { vms, files: (await readdir(storage)).filter((file) => file.endsWith('.img') || file.endsWith('.part')) };
}
async function realServers(address: string): Promise<string[]> {
  const table = await lab.run(shop.director.uuid, 'ipvsadm -S -n');
  return table.split('\n').filter((line) => line.startsWith('-a') && line.includes(`${address}:80`));
}
async function lastOperation(service: string) {
  const [operation] = (await ciel.json<Explanation>('explain', service, '--last', '1')).operations;
  if (operation === undefined) throw new Error(`no operation of ${service} is recorded`);
  return operation;
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

/** Watches by one process: a command each second would take the CPU time that makes the VM hot. */
async function operationOf(service: string) {
  let status: Status | null = null;
  const stopWatching = ciel.watchStatus((next) => {
    status = next;
  });
  try {
    return await until(`${service} has an operation`, 120_000, async () => {
      const operations = (status as Status | null)?.operations ?? [];
      return operations.find((operation) => operation.service === service) ?? null;
    });
  } catch (error) {
    const why = await ciel.cli('explain', SHOP_VM);
    throw new Error(`no operation of ${service}: ${why.stdout}${why.stderr}`, { cause: error });
  } finally {
    stopWatching();
  }
}

beforeAll(up);
afterAll(down);

describe('bad input', () => {
  it.each([
    ['no-image', 'install image', /missing/],
    ['exits', 'start container', /Apache/],
    ['unhealthy', 'probe', /no-such-page|404/],
  ])('service "%s" fails in "%s", says why, and leaves nothing (invariant 3)', async (service, step, why) => {
    const outcome = await ciel.cli('scale', service, 'out', '--wait');
    expect(outcome.exitCode).not.toBe(0);
    const operation = await lastOperation(service);
    expect(operation.state).toBe('undone');
    expect(operation.message).toMatch(why);
    expect(operation.steps.find((candidate) => candidate.step === step)).toBeDefined();
    expect(await made()).toEqual({ vms: [], files: [] });
    const status = await ciel.json<Status>('status', service);
    expect(status.services[0]?.replicas).toEqual([]);
  });

  it('never touches an LVS entry that is not ours (invariant 6)', async () => {
    const foreign = '-A -t 10.77.0.99:80 -s wrr';
    await lab.run(shop.director.uuid, 'ipvsadm -A -t 10.77.0.99:80 -s wrr');
    const spec = parse(await readFile(shop.specFile, 'utf8')) as { services: { name: string; virtual: object }[] };
    const taken = { ...spec, services: spec.services.filter(({ name }) => name === 'no-image') };
    const [service] = taken.services;
    if (service === undefined) throw new Error('the service is missing');
    const file = `${lab.directory}/taken.yaml`;
    const services = [{ ...service, name: 'taken', virtual: { ...service.virtual, address: '10.77.0.99' } }];
    await writeFile(file, stringify({ ...taken, services }));
    const outcome = await ciel.cli('apply', '-f', file);
    expect(outcome.exitCode).not.toBe(0);
    expect(outcome.stderr + outcome.stdout).toMatch(/10\.77\.0\.99/);
    expect(await lab.run(shop.director.uuid, 'ipvsadm -S -n')).toContain(foreign);
    await lab.run(shop.director.uuid, 'ipvsadm -D -t 10.77.0.99:80');
  });
});

describe('the main job', () => {
  it('reads the containers from outside, with names and images', async () => {
    const look = await ciel.json<{ containers: { name: string | null; image: string | null }[] }>(
      ...['introspect', SHOP_VM, '--host-uri', lab.libvirtd.uri],
    );
    expect(look.containers.map(({ name }) => name).sort()).toEqual(['jvm', 'mosaic', 'nginx']);
  });

  it('scales out the service that causes the load, while every process of Ciel is killed in turn (invariants 1, 3, 7)', async () => {
    await ciel.json('monitor', 'start', SHOP_VM);
    const load: LoadClient = startLoad(lab.segment, virtualUrl('mosaic'), 3);
    try {
      const operation = await operationOf('mosaic');
      // A kill each few seconds, of one process after the other, Temporal and PostgreSQL included.
      const runtime = await ciel.runtime();
      for (const { pid } of runtime?.processes ?? []) {
        process.kill(pid, 'SIGKILL');
        await pause(6_000);
      }
      const done = await until('the operation has ended', 400_000, async () => {
        await pause(4_000);
        const found = await ciel.cli('explain', operation.operationId, '--json');
        if (found.exitCode !== 0) return null;
        const [current] = (JSON.parse(found.stdout) as Explanation).operations;
        return current === undefined || current.state === 'open' ? null : current;
      });
      expect(done.state).toBe('completed');
      const { vms, files } = await made();
      expect(vms).toHaveLength(1);
      expect(files).toHaveLength(1);
      expect(vms[0]).toMatch(/^ciel-mosaic-/);
      expect(await realServers('10.77.0.11')).toHaveLength(2);
      await until('both replicas answer', 60_000, async () =>
        load.seconds.slice(-5).some(({ byReplica }) => Object.keys(byReplica).length === 2) ? true : null,
      );
    } finally {
      load.setClients(0);
      await load.stop();
    }
    const failures = load.seconds.filter(({ failed }) => failed > 0);
    expect(failures).toEqual([]);
  });

  it('pauses, refuses with the reason, and resumes (invariant 10)', async () => {
    expect((await ciel.cli('pause', 'mosaic', '--reason', 'a test')).exitCode).toBe(0);
    const refused = await ciel.cli('scale', 'mosaic', 'in');
    expect(refused.exitCode).toBe(3);
    expect(refused.stderr).toMatch(/[Pp]aused/);
    expect((await ciel.cli('resume', 'mosaic')).exitCode).toBe(0);
  });

  it('scales in: drained, out of LVS, removed; the adopted replica stays (invariants 2, 6)', async () => {
    expect((await ciel.cli('scale', 'mosaic', 'in', '--wait')).exitCode).toBe(0);
    expect(await made()).toEqual({ vms: [], files: [] });
    expect(await realServers('10.77.0.11')).toHaveLength(1);
    expect((await lab.libvirt.lookup(shop.vm.uuid))?.name).toBe(SHOP_VM);
  });

  it('deletes a service: what was made goes, adopted replicas stay served', async () => {
    expect((await ciel.cli('delete', 'nginx', '--wait')).exitCode).toBe(0);
    expect(await realServers('10.77.0.12')).toHaveLength(1);
    expect(await lab.run(shop.vm.uuid, 'docker ps --format "{{.Names}}"')).toContain('nginx');
  });
});

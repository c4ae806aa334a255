/** Watching, with recorded counters and a clock of its own, on a real store. */
import { randomUUID } from 'node:crypto';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { HostWatch } from '../../activities/watch.ts';
import type { Crossing } from '../../model/evidence.ts';
import { adoptedReplicaId } from '../../model/identity.ts';
import { unavailable } from '../../model/reading.ts';
import { saveService } from '../../store/configuration.ts';
import { listContainers, listVms } from '../../store/observations.ts';
import { saveReplicas } from '../../store/replicas.ts';
import { clearWatch, listWatches, setWatch } from '../../store/watches.ts';
import { serviceForTest } from '../store/spec-for-test.ts';
import { type StoreForTest, startStoreForTest } from '../store/store-for-test.ts';
import { RecordedHost, type RecordedVm } from './recorded-vms.ts';

let test: StoreForTest;
beforeAll(async () => {
  test = await startStoreForTest();
});
afterAll(() => test.end());

let host: RecordedHost;
let shop: RecordedVm;
let crossings: Crossing[];
let watching: HostWatch;
let refuse: Error | null;

beforeEach(async () => {
  await sql`truncate watch, vm, container, rollup, replica, service`.execute(test.store);
  host = new RecordedHost();
  shop = host.add(randomUUID(), 'shop-1', ['mosaic', 'nginx', 'jvm']);
  crossings = [];
  refuse = null;
  watching = newWatching();
  const spec = serviceForTest();
  await saveService(test.store, spec);
  await saveReplicas(test.store, spec.name, [
    {
      replicaId: adoptedReplicaId(test.installationId, spec.name, 'shop-1', '10.0.0.20'),
      kind: 'adopted',
      state: 'serving',
      vmName: 'shop-1',
      vmUuid: null,
      host: null,
      address: '10.0.0.20',
      vcpus: null,
      memoryBytes: null,
      servingSince: null,
    },
  ]);
  await watch(null);
});

function newWatching(name = 'kvm-1', source = host): HostWatch {
  return new HostWatch(name, {
    source,
    store: test.store,
    clock: host.clock,
    deliver: async (crossing) => {
      if (refuse !== null) throw refuse;
      crossings.push(crossing);
    },
    log: { info() {}, warn() {} },
  });
}
function watch(quietUntil: string | null) {
  return setWatch(test.store, { vmUuid: shop.uuid, vmName: 'shop-1', host: 'kvm-1', quietUntil });
}
async function seconds(count: number): Promise<void> {
  for (let second = 0; second < count; second += 1) {
    await watching.tick();
    await watching.settled();
    host.advance(1);
  }
}
const kinds = () => crossings.map(({ kind }) => kind);
const load = (cores: number) => {
  const [mosaic] = shop.containers;
  if (mosaic !== undefined) mosaic.cpuCores = cores;
};

describe('a VM that gets hot', () => {
  it('is reported within 10 s, with evidence that names the container and its service', async () => {
    await seconds(70);
    expect(crossings).toEqual([]);
    load(0.95);
    await seconds(10);
    expect(kinds()).toEqual(['hot']);
    const [crossing] = crossings;
    expect(crossing).toMatchObject({ vmUuid: shop.uuid, vmName: 'shop-1', host: 'kvm-1', boot: 'kvm-1/1/boot-1' });
    const evidence = crossing?.evidence;
    expect(evidence).toMatchObject({ cause: 'vmCpu', vcpus: 1, target: { cpu: 0.8, memory: 0.9 }, unreadable: null });
    expect(evidence?.onset).not.toBeNull();
    expect(evidence?.cpuCores.before?.mean).toBeCloseTo(0.05, 2);
    const mosaic = evidence?.containers.find(({ name }) => name === 'mosaic');
    expect(mosaic?.service).toBe('mosaic');
    expect(mosaic?.cpuCores.before?.mean).toBeCloseTo(0.01, 2);
    expect(mosaic?.cpuCores.since?.max).toBeCloseTo(0.95, 2);
    expect(evidence?.containers.find(({ name }) => name === 'nginx')?.service).toBeNull();
    expect(Buffer.byteLength(JSON.stringify(evidence))).toBeLessThan(16 * 1024);
  });

  it('is reported again every 30 s while it lasts, each time with a higher sequence', async () => {
    load(0.95);
    await seconds(70);
    expect(kinds()).toEqual(['hot', 'hot', 'hot']);
    const sequences = crossings.map(({ sequence }) => sequence);
    expect(sequences).toEqual([...new Set(sequences)].sort((a, b) => a - b));
  });

  it('is not reported before quietUntil, and at it while it is still hot', async () => {
    await watch(new Date(host.wallMs + 60_000).toISOString());
    load(0.95);
    await seconds(59);
    expect(crossings).toEqual([]);
    await seconds(3);
    expect(kinds()).toEqual(['hot']);
  });

  it('stays quiet when the wall clock jumps past quietUntil', async () => {
    await watch(new Date(host.wallMs + 60_000).toISOString());
    load(0.95);
    await seconds(10);
    host.wallMs += 3_600_000;
    await seconds(40);
    expect(crossings).toEqual([]);
    await seconds(12);
    expect(kinds()).toEqual(['hot']);
  });

  it('is reported once the delivery succeeds, when the first ones fail', async () => {
    refuse = new Error('Temporal is away');
    load(0.95);
    await seconds(20);
    expect(crossings).toEqual([]);
    refuse = null;
    await seconds(3);
    expect(kinds()).toEqual(['hot']);
  });

  it('is reported by a restarted process with a higher sequence of the same boot', async () => {
    load(0.95);
    await seconds(10);
    watching = newWatching();
    await seconds(15);
    expect(kinds()).toEqual(['hot', 'hot']);
    expect(crossings[1]?.boot).toBe(crossings[0]?.boot);
    expect(crossings[1]?.sequence).toBeGreaterThan(crossings[0]?.sequence ?? Number.POSITIVE_INFINITY);
  });

  it('is reported without containers, saying why, when they cannot be read', async () => {
    shop.unreadable = unavailable('NoTypes', 'the kernel carries no BTF');
    load(0.95);
    await seconds(10);
    expect(crossings[0]?.evidence).toMatchObject({ containers: [], unreadable: expect.stringContaining('NoTypes') });
  });

  it('is not reported after its watch was cleared', async () => {
    await clearWatch(test.store, shop.uuid);
    load(0.95);
    await seconds(20);
    expect(crossings).toEqual([]);
    expect(host.introspections).toBe(0);
  });
});

describe('a VM that was hot', () => {
  beforeEach(async () => {
    load(0.95);
    await seconds(10);
    crossings = [];
  });

  it('is reported low once, when it is far below its target', async () => {
    load(0.01);
    await seconds(20);
    expect(kinds()).toEqual(['low']);
  });

  it('is never low by missing, paused or backward counters (invariant 5)', async () => {
    host.down = new Error('libvirtd is away');
    await seconds(20);
    host.down = null;
    shop.state = 'paused';
    await seconds(20);
    expect(crossings).toEqual([]);
    shop.state = 'running';
    for (let second = 0; second < 10; second += 1) {
      shop.cpuNanoseconds /= 2n;
      await seconds(1);
    }
    expect(crossings).toEqual([]);
  });
});

describe('a VM that goes away', () => {
  it('is gone once, after two readings without it, and armed again when it is back', async () => {
    await seconds(5);
    shop.present = false;
    await seconds(1);
    expect(crossings).toEqual([]);
    await seconds(40);
    expect(kinds()).toEqual(['gone']);
    shop.present = true;
    await seconds(5);
    shop.state = 'shutoff';
    await seconds(5);
    expect(kinds()).toEqual(['gone', 'gone']);
    expect(crossings[1]?.message).toContain('shutoff');
  });

  it('is not gone while the hypervisor does not answer', async () => {
    await seconds(5);
    host.down = new Error('libvirtd is away');
    await seconds(30);
    expect(crossings).toEqual([]);
  });

  it('is rebooted when libvirt or the guest counts another boot', async () => {
    await seconds(10);
    shop.libvirtId = 2;
    shop.cpuNanoseconds = 0n;
    await seconds(2);
    expect(kinds()).toEqual(['rebooted']);
    await seconds(10);
    shop.guestBoot = 'boot-2';
    await seconds(10);
    expect(kinds()).toEqual(['rebooted', 'rebooted']);
    expect(crossings[1]?.boot).toBe('kvm-1/2/boot-2');
  });
});

describe('a VM whose containers cannot be read', () => {
  it('is unreadable once after 30 s, and again after it could be read meanwhile', async () => {
    shop.unreadable = unavailable('GuestEncrypted', 'its memory is encrypted');
    await seconds(70);
    expect(kinds()).toEqual(['unreadable']);
    expect(crossings[0]?.message).toContain('GuestEncrypted');
    shop.unreadable = null;
    await seconds(10);
    shop.unreadable = unavailable('Faulted', 'x');
    await seconds(40);
    expect(kinds()).toEqual(['unreadable', 'unreadable']);
  });
});

describe('a VM that is migrated', () => {
  it('is watched where it runs, once it runs nowhere else, and stays so when its monitor writes again', async () => {
    await seconds(6);
    const target = new RecordedHost();
    const moved = target.add(shop.uuid, 'shop-1', ['mosaic', 'nginx', 'jvm']);
    moved.state = 'paused';
    const there = newWatching('kvm-2', target);
    const alsoThere = async (count: number) => {
      for (let second = 0; second < count; second += 1) {
        await seconds(1);
        await there.tick();
        await there.settled();
        target.advance(1);
      }
    };
    await alsoThere(15);
    expect(await listWatches(test.store)).toMatchObject([{ host: 'kvm-1' }]);
    moved.state = 'running';
    shop.state = 'shutoff';
    await alsoThere(15);
    await watch(null);
    await alsoThere(15);
    expect(await listWatches(test.store)).toMatchObject([{ host: 'kvm-2' }]);
    expect(target.introspections).toBeGreaterThan(2);
    expect(kinds()).not.toContain('hot');
  });
});

describe('a VM that stands still', () => {
  it('has no figures of its containers while it is paused, with the reason, and has them again afterwards', async () => {
    await seconds(20);
    shop.state = 'paused';
    await seconds(6);
    await watching.settled();
    const [vm] = await listVms(test.store);
    expect(vm).toMatchObject({ state: 'paused', unreadable: 'GuestPaused: it is paused' });
    for (const container of await listContainers(test.store)) {
      expect(container).toMatchObject({ cpuCores: null, memoryBytes: null, unavailable: vm?.unreadable });
    }
    expect(await listContainers(test.store)).toHaveLength(3);
    shop.state = 'shutoff';
    await seconds(6);
    await watching.settled();
    expect((await listVms(test.store))[0]?.unreadable).toBe('GuestOff: it is shutoff');
    expect(await listContainers(test.store)).toEqual([]);
    shop.state = 'running';
    await seconds(12);
    await watching.settled();
    expect((await listVms(test.store))[0]?.unreadable).toBeNull();
    expect(await listContainers(test.store)).toHaveLength(3);
  });
});

describe('what watching costs a quiet VM', () => {
  it('is one look into its memory in five seconds, and one at its disk', async () => {
    await seconds(60);
    expect(host.introspections).toBe(12);
    expect(host.lookUps).toBe(1);
  });
});

describe('rollups', () => {
  it('are ten-second means of the VM and of each container, and null with a reason where nothing was read', async () => {
    host.wallMs = Date.parse('2026-01-02T03:04:00.000Z');
    load(0.5);
    await seconds(21);
    shop.unreadable = unavailable('Stale', 'its clock stands still');
    await seconds(20);
    const rows = await test.store.selectFrom('rollup').selectAll().orderBy('startsAt').execute();
    const ofVm = rows.filter(({ containerId }) => containerId === '');
    expect(ofVm.map(({ startsAt }) => startsAt.toISOString().slice(14, 19))).toEqual(['04:10', '04:20', '04:30']);
    for (const { samples, cpuCores } of ofVm) {
      expect(samples).toBe(10);
      expect(cpuCores).toBeCloseTo(0.54, 2);
    }
    const mosaic = rows.filter(({ containerId }) => containerId === shop.containers[0]?.id);
    expect(mosaic[0]?.cpuCores).toBeCloseTo(0.5, 2);
    expect(mosaic.at(-1)).toMatchObject({ cpuCores: null, samples: 0, unavailable: expect.stringContaining('Stale') });
  });
});

describe('the latest figures', () => {
  it('are published with names and services, and forgotten with what they were of', async () => {
    const other = host.add(randomUUID(), 'unwatched', ['db']);
    load(0.3);
    await seconds(12);
    const vms = await listVms(test.store);
    expect(vms.map(({ vmName }) => vmName)).toEqual(['shop-1', 'unwatched']);
    expect(vms[0]).toMatchObject({ host: 'kvm-1', kernelRelease: '6.1.0-test', unreadable: null });
    expect(vms[0]?.cpuCores).toBeCloseTo(0.34, 2);
    const containers = await listContainers(test.store);
    expect(containers.map(({ name, service }) => [name, service])).toEqual([
      ['jvm', null],
      ['mosaic', 'mosaic'],
      ['nginx', null],
    ]);
    other.present = false;
    shop.containers.pop();
    await seconds(12);
    expect(await listVms(test.store)).toHaveLength(1);
    expect(await listContainers(test.store)).toHaveLength(2);
  });
});

describe('a container in another VM', () => {
  it('is no replica, however it is called', async () => {
    const other = host.add(randomUUID(), 'evil', ['mosaic']);
    await setWatch(test.store, { vmUuid: other.uuid, vmName: 'evil', host: 'kvm-1', quietUntil: null });
    await seconds(12);
    const [container] = await listContainers(test.store, other.uuid);
    expect(container).toMatchObject({ name: 'mosaic', service: null, replicaId: null });
  });
});

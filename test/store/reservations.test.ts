/** Reservations under concurrency, with random sizes and orders. That VMs and disks follow them is the host's to show. */
import { randomUUID } from 'node:crypto';
import fc from 'fast-check';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { OperationRef } from '../../model/activities.ts';
import type { VmSize } from '../../model/decision.ts';
import { CielFailure } from '../../model/failures.ts';
import { replicaIdentity } from '../../model/identity.ts';
import { placeVm } from '../../policy/placement.ts';
import { saveConfiguration } from '../../store/configuration.ts';
import { claimHost } from '../../store/host-processes.ts';
import { closeOperation, openOperation } from '../../store/operations.ts';
import {
  type Choose,
  findReservation,
  listReservations,
  type ReserveRequest,
  release,
  reserve,
  restAddress,
} from '../../store/reservations.ts';
import { serviceForTest, specForTest } from './spec-for-test.ts';
import { type StoreForTest, startStoreForTest } from './store-for-test.ts';

const MIB = 2 ** 20;
const HOSTS = ['kvm-1', 'kvm-2'];
const CAPACITY = { vcpus: 8, memoryBytes: 8 * 1024 * MIB };

let test: StoreForTest;
const size: VmSize = { vcpus: 1, memoryBytes: 512 * MIB, reasons: ['declared'] };
const spec = serviceForTest();
const choosing =
  (wanted: VmSize): Choose =>
  (hosts) =>
    placeVm(
      hosts,
      wanted,
      hosts.filter(({ alive }) => !alive).map(({ host }) => host),
    );

beforeAll(async () => {
  test = await startStoreForTest();
});
afterAll(() => test.end());
beforeEach(async () => {
  await sql`truncate host, director, network, template, service, reservation, released_replica, address, operation,
    host_process cascade`.execute(test.store);
  await apply(['10.0.0.100-10.0.0.199']);
  for (const host of HOSTS) await claimHost(test.store, { host, machineId: 'm', processId: randomUUID() });
});

async function apply(addresses: string[]) {
  const [host] = specForTest().hosts;
  await saveConfiguration(test.store, {
    ...specForTest({
      networks: [{ name: 'lan', subnet: '10.0.0.0/24', gateway: '10.0.0.1', addresses }],
    }),
    hosts: HOSTS.map((name) => ({ ...host, name }) as NonNullable<typeof host>),
  });
}
async function operationFor(service = 'mosaic'): Promise<OperationRef> {
  const runId = randomUUID();
  const operation = { installationId: test.installationId, service, operationId: `scale-out/${service}/1`, runId };
  await openOperation(test.store, operation, 'scaleOut', 'a test');
  return operation;
}
function reserving(request: Partial<ReserveRequest> & Pick<ReserveRequest, 'operation'>) {
  const full = { spec, ordinal: 0, size, ...request };
  return reserve(test.store, full, choosing(full.size));
}

describe('reserve', () => {
  it('gives concurrent replicas nothing in common and never more than a host has (invariants 3, 4)', async () => {
    const step = fc.record({
      vcpus: fc.integer({ min: 1, max: 5 }),
      memoryMebibytes: fc.integer({ min: 256, max: 4096 }),
      releasing: fc.boolean(),
      attempts: fc.integer({ min: 1, max: 3 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 4, maxLength: 12 }), async (steps) => {
        await Promise.all(
          steps.map(async ({ vcpus, memoryMebibytes, releasing, attempts }) => {
            const operation = await operationFor();
            const wanted = { vcpus, memoryBytes: memoryMebibytes * MIB, reasons: [] };
            const answers = await Promise.allSettled(
              Array.from({ length: attempts }, () => reserving({ operation, size: wanted })),
            );
            for (const answer of answers) {
              if (answer.status === 'rejected') expect(answer.reason).toMatchObject({ failure: 'HostFull' });
            }
            const replicaIds = answers.flatMap((answer) =>
              answer.status === 'fulfilled' ? [answer.value.replicaId] : [],
            );
            expect(new Set(replicaIds).size).toBeLessThanOrEqual(1);
            if (releasing && replicaIds[0] !== undefined) await release(test.store, replicaIds[0]);
          }),
        );
        const held = await listReservations(test.store);
        for (const key of ['vmName', 'vmUuid', 'mac', 'diskFileName'] as const) {
          expect(new Set(held.map((reservation) => reservation[key])).size).toBe(held.length);
        }
        const addresses = held.flatMap(({ replicaAddress, vmAddress }) => [replicaAddress, vmAddress]);
        expect(new Set(addresses).size).toBe(2 * held.length);
        for (const host of HOSTS) {
          const there = held.filter((reservation) => reservation.host === host);
          expect(there.reduce((sum, each) => sum + each.size.vcpus, 0)).toBeLessThanOrEqual(CAPACITY.vcpus);
          expect(there.reduce((sum, each) => sum + each.size.memoryBytes, 0)).toBeLessThanOrEqual(CAPACITY.memoryBytes);
        }
        for (const { replicaId } of held) await release(test.store, replicaId);
        await sql`truncate address cascade`.execute(test.store);
      }),
      { numRuns: 15 },
    );
  });

  it('answers a repeat with the first answer, whatever has changed', async () => {
    const operation = await operationFor();
    const first = await reserving({ operation });
    expect(await reserving({ operation, size: { ...size, vcpus: 4 } })).toEqual(first);
  });

  it('names the hosts and what is free on each when none has room', async () => {
    await expect(reserving({ operation: await operationFor(), size: { ...size, vcpus: 9 } })).rejects.toMatchObject({
      failure: 'HostFull',
      message: expect.stringMatching(/kvm-1: 8 of 8 vCPUs.*kvm-2: 8 of 8/),
    });
  });

  it('waits for a host process rather than place a VM where nobody starts it', async () => {
    await sql`update host_process set seen_at = now() - interval '1 minute'`.execute(test.store);
    const failure = await reserving({ operation: await operationFor() }).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(CielFailure);
    expect(failure).toMatchObject({ failure: 'HypervisorUnreachable', retryable: true });
  });

  it('places nothing on the one host that is not seen', async () => {
    await sql`update host_process set seen_at = now() - interval '1 minute' where host = 'kvm-1'`.execute(test.store);
    for (let made = 0; made < 3; made += 1) {
      expect((await reserving({ operation: await operationFor() })).host).toBe('kvm-2');
    }
  });

  it('gives out no address that the configuration, a gateway or the subnet itself uses', async () => {
    // .20 is the adopted replica, .10 the virtual address.
    await apply(['10.0.0.0-10.0.0.2', '10.0.0.10-10.0.0.10', '10.0.0.20-10.0.0.21', '10.0.0.255-10.0.0.255']);
    const { replicaAddress, vmAddress } = await reserving({ operation: await operationFor() });
    expect([replicaAddress, vmAddress].sort()).toEqual(['10.0.0.2', '10.0.0.21']);
  });

  it('lets released addresses rest, and says so when no other is left', async () => {
    await apply(['10.0.0.100-10.0.0.101']);
    const { replicaId } = await reserving({ operation: await operationFor() });
    await release(test.store, replicaId);
    await expect(reserving({ operation: await operationFor() })).rejects.toMatchObject({
      failure: 'AddressesExhausted',
      message: expect.stringContaining('rests after a release'),
    });
    await sql`update address set rests_until = now()`.execute(test.store);
    expect((await reserving({ operation: await operationFor() })).replicaAddress).toBe('10.0.0.100');
  });

  it('passes over an address that answered though nobody holds it, and never takes a held one away', async () => {
    await restAddress(test.store, '10.0.0.100', 'lan', 'answered to ARP');
    const reservation = await reserving({ operation: await operationFor() });
    expect(reservation.replicaAddress).toBe('10.0.0.101');
    await restAddress(test.store, '10.0.0.101', 'lan', 'answered to ARP');
    const rows = await test.store.selectFrom('address').selectAll().where('address', '=', '10.0.0.101').execute();
    expect(rows).toMatchObject([{ replicaId: reservation.replicaId, restsUntil: null }]);
  });

  it('derives another MAC when the first is held', async () => {
    const operation = await operationFor();
    const identity = replicaIdentity(test.installationId, spec.name, operation.runId, 0);
    const other = await reserving({ operation: await operationFor() });
    await test.store.updateTable('reservation').set({ mac: identity.mac }).execute();
    const { mac } = await reserving({ operation });
    expect(mac).toMatch(/^52:54:00(:[0-9a-f]{2}){3}$/);
    expect(mac).not.toBe(identity.mac);
    expect(other.replicaId).not.toBe(identity.replicaId);
  });
});

describe('a late attempt', () => {
  it('reserves nothing after its release, also when the release came first', async () => {
    const operation = await operationFor();
    const { replicaId } = replicaIdentity(test.installationId, spec.name, operation.runId, 0);
    await release(test.store, replicaId);
    await release(test.store, replicaId);
    await expect(reserving({ operation })).rejects.toMatchObject({ failure: 'Superseded' });
    expect(await findReservation(test.store, replicaId)).toBeNull();
  });

  it('reserves nothing after its operation was closed', async () => {
    const operation = await operationFor();
    await closeOperation(test.store, operation, 'undone', '');
    await expect(reserving({ operation })).rejects.toMatchObject({ failure: 'Superseded' });
    expect(await listReservations(test.store)).toEqual([]);
  });

  it('leaves nothing when release and attempts race', async () => {
    for (let round = 0; round < 20; round += 1) {
      const operation = await operationFor();
      const { replicaId } = replicaIdentity(test.installationId, spec.name, operation.runId, 0);
      await Promise.allSettled([reserving({ operation }), release(test.store, replicaId), reserving({ operation })]);
      expect(await findReservation(test.store, replicaId)).toBeNull();
    }
    const held = await test.store.selectFrom('address').selectAll().where('replicaId', 'is not', null).execute();
    expect(held).toEqual([]);
  });
});

import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { afterEach, describe, expect, it, vi } from 'vitest';
import {
  convergeVirtualServer,
  createDirectorActivities,
  type DirectorDependencies,
} from '../../activities/director.ts';
import { agentReach } from '../../activities/director-reach.ts';
import { Ipvsadm } from '../../activities/ipvsadm.ts';
import type { Libvirt } from '../../native/libvirt.ts';
import { FakeDirector, RowsInMemory, realServer, virtualServer } from './fake-director.ts';

/** The SDK logs every failure of an activity; here they are intended. */
const quiet = { logger: new DefaultLogger('ERROR') };

const VIRTUAL = '-A -t 10.0.0.10:80 -s rr';
const REAL = '-a -t 10.0.0.10:80 -r 10.0.0.21:80 -g -w 1';

describe('convergeVirtualServer', () => {
  it('claims each entry before it is made, adds the virtual address last, and a repeat changes nothing', async () => {
    const director = new FakeDirector();
    const rows = new RowsInMemory(virtualServer());
    const order: string[] = [];
    rows.onClaim = (claim) => order.push(`${claim} (${director.changes.length} changes before)`);
    const changes = await convergeVirtualServer(new Ipvsadm(director), rows, 'mosaic');
    expect(order).toEqual(['mosaic (0 changes before)', '10.0.0.21 (0 changes before)']);
    expect(changes).toEqual([VIRTUAL, REAL, 'ip address add 10.0.0.10 dev eth0']);
    expect(director.changes.at(-1)).toBe('ip address add 10.0.0.10/32 dev eth0 label eth0:ciel');
    expect(await convergeVirtualServer(new Ipvsadm(director), rows, 'mosaic')).toEqual([]);
  });

  it('goes on where a killed attempt stopped, wherever that was', async () => {
    for (const saved of ['', VIRTUAL, `${VIRTUAL}\n${REAL}`]) {
      const director = new FakeDirector(saved);
      const claimed = new Date(0);
      const rows = new RowsInMemory(
        virtualServer({ ownedAt: claimed, realServers: [realServer({ ownedAt: claimed })] }),
      );
      await convergeVirtualServer(new Ipvsadm(director), rows, 'mosaic');
      expect(director.saved()).toBe(`${VIRTUAL}\n${REAL}`);
    }
  });

  it('touches nothing when the virtual server is not ours', async () => {
    const director = new FakeDirector(VIRTUAL);
    const rows = new RowsInMemory(virtualServer());
    await expect(convergeVirtualServer(new Ipvsadm(director), rows, 'mosaic')).rejects.toMatchObject({
      failure: 'NotOurs',
    });
    expect(director.changes).toEqual([]);
    expect(rows.servers.get('mosaic')?.ownedAt).toBeNull();
  });

  it('removes all that it made, and the rows', async () => {
    const director = new FakeDirector('-A -t 10.0.0.99:80 -s lc');
    const rows = new RowsInMemory(virtualServer());
    await convergeVirtualServer(new Ipvsadm(director), rows, 'mosaic');
    rows.unwant('mosaic');
    await convergeVirtualServer(new Ipvsadm(director), rows, 'mosaic');
    expect(director.saved()).toBe('-A -t 10.0.0.99:80 -s lc');
    expect([...director.addresses.keys()]).toEqual(['10.0.0.2/24']);
    expect(rows.servers.size).toBe(0);
  });

  it('forgets what never came into LVS without asking a director that cannot be reached', async () => {
    const away = { where: 'VM "away"', run: () => Promise.reject(new Error('asked all the same')) };
    const rows = new RowsInMemory(virtualServer());
    await expect(convergeVirtualServer(new Ipvsadm(away), rows, 'mosaic')).rejects.toThrow('asked all the same');
    rows.unwant('mosaic');
    await convergeVirtualServer(new Ipvsadm(away), rows, 'mosaic');
    expect(rows.servers.size).toBe(0);
  });

  it('leaves an address that was there, or that another virtual server uses', async () => {
    for (const prepare of [
      (director: FakeDirector) => director.addresses.set('10.0.0.10/32', 'eth0'),
      (director: FakeDirector) => director.run('ipvsadm', ['-R'], '-A -t 10.0.0.10:443 -s rr'),
    ]) {
      const director = new FakeDirector();
      const rows = new RowsInMemory(virtualServer());
      await prepare(director);
      await convergeVirtualServer(new Ipvsadm(director), rows, 'mosaic');
      rows.unwant('mosaic');
      await convergeVirtualServer(new Ipvsadm(director), rows, 'mosaic');
      expect(director.addresses.has('10.0.0.10/32')).toBe(true);
    }
  });

  it.each([
    ["Can't initialize ipvs: Protocol not available", 'NoIpvs', 'modprobe ip_vs'],
    ['Operation not permitted', 'NoIpvs', 'CAP_NET_ADMIN'],
    ['Memory allocation problem', 'DirectorUnreachable', 'Memory allocation'],
  ])('says what "%s" means', async (failure, name, remedy) => {
    const director = new FakeDirector();
    director.failure = failure;
    const attempt = convergeVirtualServer(new Ipvsadm(director), new RowsInMemory(virtualServer()), 'mosaic');
    await expect(attempt).rejects.toMatchObject({ failure: name, message: expect.stringContaining(remedy) });
  });

  it('an address in no subnet of the director is the specification’s mistake', async () => {
    const rows = new RowsInMemory(virtualServer({ address: '192.168.7.7', realServers: [] }));
    await expect(convergeVirtualServer(new Ipvsadm(new FakeDirector()), rows, 'mosaic')).rejects.toMatchObject({
      failure: 'InvalidSpec',
    });
  });
});

describe('a director VM', () => {
  const libvirt = (domain: object | null, answer: unknown) =>
    ({ uri: 'qemu:///test', lookup: async () => domain, agentCommand: async () => answer }) as unknown as Libvirt;

  it.each([
    ['that does not exist', null, {}, 'no domain of that name'],
    ['that is off', { uuid: 'u', libvirtId: null, state: 'shutoff' }, {}, 'the domain is shutoff'],
    ['whose agent answers nonsense', { uuid: 'u', libvirtId: 1 }, { return: { pid: 'x' } }, 'protocol'],
  ])('%s is unreachable, with the reason', async (_what, domain, answer, reason) => {
    await expect(agentReach(libvirt(domain, answer), 'lvs').run('ipvsadm', ['-S'])).rejects.toMatchObject({
      failure: 'DirectorUnreachable',
      message: expect.stringContaining(reason),
    });
  });
});

describe('watchDirector', () => {
  const servers: Server[] = [];
  afterEach(() => {
    for (const server of servers.splice(0)) server.close();
  });
  async function replica(address: string, port = 0): Promise<{ server: Server; port: number }> {
    const server = createServer((_request, response) => response.end('ok'));
    servers.push(server);
    await new Promise<void>((listening) => server.listen(port, address, listening));
    return { server, port: (server.address() as AddressInfo).port };
  }

  it('takes a dead real server out, reports it, puts it back, and never takes the last', async () => {
    const first = await replica('127.0.0.21');
    const second = await replica('127.0.0.22', first.port);
    const claimed = { ownedAt: new Date(0), port: first.port };
    const realServers = ['127.0.0.21', '127.0.0.22'].map((address) => realServer({ address, ...claimed }));
    const rows = new RowsInMemory(virtualServer({ ...claimed, realServers }));
    const director = new FakeDirector();
    const reports: string[] = [];
    let refuseReports = 1;
    const dependencies: DirectorDependencies = {
      director: { name: 'd', reach: { kind: 'local' } },
      reach: director,
      rows,
      reportHealth: async (service, { replicaId, healthy }) => {
        if (refuseReports-- > 0) throw new Error('Temporal is away');
        reports.push(`${service} ${replicaId} ${healthy}`);
      },
    };
    const environment = new MockActivityEnvironment({}, quiet);
    const watching = environment.run(createDirectorActivities(dependencies).watchDirector, { director: 'd' });
    watching.catch(() => {});
    const serving = () => (director.saved().match(/-r \S+/g) ?? []).map((word) => word.slice(3).split(':')[0]);
    const until = (check: () => void) => vi.waitFor(check, { timeout: 8_000, interval: 50 });

    // An empty table, as after a restart of the director, is filled by itself.
    await until(() => expect(serving()).toEqual(['127.0.0.21', '127.0.0.22']));
    second.server.close();
    await until(() => expect(serving()).toEqual(['127.0.0.21']));
    await until(() => expect(reports).toEqual(['mosaic 127.0.0.22 false']));
    first.server.close();
    await until(() => expect(reports).toContain('mosaic 127.0.0.21 false'));
    expect(serving()).toEqual(['127.0.0.21']);
    await replica('127.0.0.22', first.port);
    await until(() => expect(serving()).toEqual(['127.0.0.22']));
    expect(reports.at(-1)).toBe('mosaic 127.0.0.22 true');
    environment.cancel();
    await expect(watching).rejects.toThrow();
  }, 30_000);
});

describe('probeReplica', () => {
  it('fails for good after health.within, with what was found', async () => {
    const director: DirectorDependencies = {
      director: { name: 'd', reach: { kind: 'local' } },
      reach: new FakeDirector(),
      rows: new RowsInMemory(),
      reportHealth: async () => {},
    };
    const spec = {
      name: 'mosaic',
      virtual: { port: 9 },
      health: { path: null, timeoutMs: 100, withinMs: 300, intervalMs: 100 },
    } as never;
    const environment = new MockActivityEnvironment({ scheduledTimestampMs: Date.now() }, quiet);
    const probing = environment.run(createDirectorActivities(director).probeReplica, { spec, address: '127.0.0.1' });
    await expect(probing).rejects.toMatchObject({
      failure: 'UnhealthyReplica',
      message: expect.stringContaining('ECONNREFUSED'),
    });
  });
});

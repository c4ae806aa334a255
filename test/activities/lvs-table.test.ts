import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseActiveConnections, parseTable, stepsFor } from '../../activities/lvs-table.ts';
import type { DesiredRealServer, DesiredVirtualServer } from '../../store/virtual-servers.ts';
import { FakeDirector, realServer, virtualServer } from './fake-director.ts';

const OURS = new Date(0);
const lines = (row: DesiredVirtualServer, saved: string) =>
  stepsFor(row, parseTable(saved)).flatMap(({ line }) => line ?? []);

describe('parseTable', () => {
  it('reads what ipvsadm saves', () => {
    const table = parseTable(
      '-A -t 10.0.0.10:80 -s wlc -p 300\n-a -t 10.0.0.10:80 -r 10.0.0.21:80 -g -w 3\n' +
        '-a -t 10.0.0.10:80 -r 10.0.0.22:80 -m -w 0 -x 100 -y 5\n-A -f 7 -s rr\n\n',
    );
    expect(table.get('-t 10.0.0.10:80')).toEqual({
      key: '-t 10.0.0.10:80',
      scheduler: 'wlc',
      options: ['-p', '300'],
      realServers: [
        { key: '10.0.0.21:80', method: '-g', weight: 3 },
        { key: '10.0.0.22:80', method: '-m', weight: 0 },
      ],
    });
    expect(table.get('-f 7')?.realServers).toEqual([]);
    expect(parseTable('').size).toBe(0);
  });

  it.each(['nonsense', '-a -t 10.0.0.10:80 -r x -g -w 1', '-A -t 1.1.1.1:1 -s rr\n-a -t 1.1.1.1:1 -g -w 1'])(
    'refuses what ipvsadm does not write: %s',
    (saved) => expect(() => parseTable(saved)).toThrow('ipvsadm'),
  );
});

it('parseActiveConnections counts by real server', () => {
  const listed = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  10.0.0.10:80 rr
  -> 10.0.0.21:80                 Route   1      12         5
  -> 10.0.0.22:80                 Route   0      0          1         `;
  expect([...parseActiveConnections(listed)]).toEqual([
    ['10.0.0.21:80', 12],
    ['10.0.0.22:80', 0],
  ]);
});

describe('stepsFor', () => {
  const two = [realServer({ address: '10.0.0.21' }), realServer({ address: '10.0.0.22', weight: 2 })];
  const saved =
    '-A -t 10.0.0.10:80 -s rr\n-a -t 10.0.0.10:80 -r 10.0.0.21:80 -g -w 1\n-a -t 10.0.0.10:80 -r 10.0.0.22:80 -g -w 2';
  const owned = (change: Partial<DesiredVirtualServer> = {}) =>
    virtualServer({ ownedAt: OURS, realServers: two.map((real) => ({ ...real, ownedAt: OURS })), ...change });

  it('makes an empty table what is desired, each entry claimed before', () => {
    expect(stepsFor(virtualServer({ realServers: two }), parseTable(''))).toEqual([
      { line: '-A -t 10.0.0.10:80 -s rr', claimVirtualServer: true },
      { line: '-a -t 10.0.0.10:80 -r 10.0.0.21:80 -g -w 1', claimRealServer: '10.0.0.21' },
      { line: '-a -t 10.0.0.10:80 -r 10.0.0.22:80 -g -w 2', claimRealServer: '10.0.0.22' },
    ]);
  });

  it('does nothing when all is as desired', () => expect(stepsFor(owned(), parseTable(saved))).toEqual([]));

  it('edits weights and the scheduler, keeping what else an adopted virtual server has', () => {
    const adopted = saved.replace('-s rr', '-s wlc -p 300').replace('-g -w 2', '-m -w 9');
    expect(lines(owned(), adopted)).toEqual([
      '-E -t 10.0.0.10:80 -s rr -p 300',
      '-e -t 10.0.0.10:80 -r 10.0.0.22:80 -m -w 2',
    ]);
  });

  it('refuses a virtual server that was there without a claim', () => {
    expect(() => stepsFor(virtualServer(), parseTable(saved))).toThrow(/LVS has one there that Ciel did not make/);
  });

  it('adopts it where the spec says so, and leaves real servers that it does not know', () => {
    const steps = stepsFor(
      virtualServer({ adopt: true, realServers: [two[0] as DesiredRealServer] }),
      parseTable(saved),
    );
    expect(steps).toEqual([
      { line: null, claimVirtualServer: true },
      { line: null, claimRealServer: '10.0.0.21' },
    ]);
  });

  it('takes a dead real server out, and puts it back', () => {
    const dead = owned();
    const realServers = dead.realServers.map((real, index) => ({ ...real, healthy: index === 1 }));
    expect(lines({ ...dead, realServers }, saved)).toEqual(['-d -t 10.0.0.10:80 -r 10.0.0.21:80']);
    const without = saved.replace('\n-a -t 10.0.0.10:80 -r 10.0.0.21:80 -g -w 1', '');
    expect(lines(owned(), without)).toEqual(['-a -t 10.0.0.10:80 -r 10.0.0.21:80 -g -w 1']);
  });

  it('never takes out the last, and does not put dead ones back for it', () => {
    const dead = owned();
    const realServers = dead.realServers.map((real) => ({ ...real, healthy: false }));
    expect(lines({ ...dead, realServers }, saved)).toEqual([]);
    const one = saved.replace('\n-a -t 10.0.0.10:80 -r 10.0.0.21:80 -g -w 1', '');
    expect(lines({ ...dead, realServers }, one)).toEqual([]);
    // A director that was restarted: better dead ones than none.
    expect(lines({ ...dead, realServers }, '-A -t 10.0.0.10:80 -s rr')).toHaveLength(2);
  });

  it('does not count one that is being drained as the last', () => {
    const realServers = owned().realServers.map((real, index) =>
      index === 0 ? { ...real, weight: 0 } : { ...real, healthy: false },
    );
    expect(lines(owned({ realServers }), saved)).toEqual(['-e -t 10.0.0.10:80 -r 10.0.0.21:80 -g -w 0']);
  });

  it('removes what is no longer wanted, and the virtual server unless others use it', () => {
    const realServers = owned().realServers.map((real) => ({ ...real, wanted: false }));
    const gone = owned({ wanted: false, realServers });
    expect(lines(gone, saved).at(-1)).toBe('-D -t 10.0.0.10:80');
    expect(stepsFor(gone, parseTable(saved)).at(-1)).toMatchObject({ forgetVirtualServer: true });
    expect(lines(gone, `${saved}\n-a -t 10.0.0.10:80 -r 10.9.9.9:80 -g -w 1`)).toEqual([
      '-d -t 10.0.0.10:80 -r 10.0.0.21:80',
      '-d -t 10.0.0.10:80 -r 10.0.0.22:80',
    ]);
  });

  it('leaves alone what it never claimed, when it is no longer wanted', () => {
    const never = virtualServer({ wanted: false, realServers: two.map((real) => ({ ...real, wanted: false })) });
    expect(lines(never, saved)).toEqual([]);
  });
});

describe('stepsFor, for any rows and table', () => {
  const address = fc.integer({ min: 21, max: 26 }).map((last) => `10.0.0.${last}`);
  const real = fc.record({
    address,
    weight: fc.integer({ min: 0, max: 3 }),
    wanted: fc.boolean(),
    ownedAt: fc.constantFrom(null, OURS),
    healthy: fc.constantFrom(null, true, false),
  });
  const row = fc
    .record({
      wanted: fc.boolean(),
      ownedAt: fc.constantFrom(null, OURS),
      adopt: fc.boolean(),
      scheduler: fc.constantFrom('rr' as const, 'wlc' as const),
      realServers: fc.uniqueArray(real, { selector: (server) => server.address, maxLength: 6 }),
    })
    .map((change) => virtualServer({ ...change, realServers: change.realServers.map(realServer) }));
  const table = fc
    .record({
      present: fc.boolean(),
      scheduler: fc.constantFrom('rr', 'sh'),
      entries: fc.uniqueArray(fc.tuple(address, fc.integer({ min: 0, max: 3 })), { selector: ([name]) => name }),
    })
    .map(({ present, scheduler, entries }) =>
      present
        ? [
            `-A -t 10.0.0.10:80 -s ${scheduler}`,
            ...entries.map(([name, weight]) => `-a -t 10.0.0.10:80 -r ${name}:80 -g -w ${weight}`),
          ].join('\n')
        : '',
    );
  const foreign = '-A -t 10.0.0.99:80 -s lc\n-a -t 10.0.0.99:80 -r 10.0.0.21:80 -g -w 1';

  async function converged(before: DesiredVirtualServer, saved: string) {
    const director = new FakeDirector(`${foreign}\n${saved}`);
    const steps = stepsFor(before, parseTable(director.saved()));
    const applied = await director.run('ipvsadm', ['-R'], steps.flatMap(({ line }) => line ?? []).join('\n'));
    expect(applied.stderr).toBe('');
    const claimed = new Set(steps.flatMap(({ claimRealServer }) => claimRealServer ?? []));
    const after: DesiredVirtualServer = {
      ...before,
      ownedAt: before.ownedAt ?? (steps.some(({ claimVirtualServer }) => claimVirtualServer) ? OURS : null),
      realServers: before.realServers
        .filter(({ replicaId }) => !steps.some(({ forgetRealServer }) => forgetRealServer === replicaId))
        .map((server) => (claimed.has(server.replicaId) ? { ...server, ownedAt: OURS } : server)),
    };
    return { director, after };
  }
  const refused = (before: DesiredVirtualServer, saved: string) => {
    try {
      stepsFor(before, parseTable(saved));
      return false;
    } catch {
      return true;
    }
  };

  it('one round is enough, and what is of others stays', async () => {
    await fc.assert(
      fc.asyncProperty(row, table, async (before, saved) => {
        fc.pre(!refused(before, saved));
        const { director, after } = await converged(before, saved);
        expect(lines(after, director.saved())).toEqual([]);
        expect(director.saved()).toContain(foreign);
        const known = new Set(before.realServers.map((server) => `${server.address}:80`));
        const unknown = (text: string) =>
          text.split('\n').filter((line) => line.startsWith('-a') && !known.has(line.split(' ')[4] ?? ''));
        expect(unknown(director.saved())).toEqual(unknown(`${foreign}\n${saved}`));
      }),
    );
  });

  it('something serves while anything is wanted with a weight', async () => {
    await fc.assert(
      fc.asyncProperty(row, table, async (before, saved) => {
        fc.pre(!refused(before, saved) && before.wanted && before.realServers.some((s) => s.wanted && s.weight > 0));
        const { director, after } = await converged(before, saved);
        const serving = parseTable(director.saved()).get('-t 10.0.0.10:80')?.realServers ?? [];
        const answering = after.realServers.filter((s) => s.wanted && s.healthy !== false && s.weight > 0);
        // The last is counted over what is in LVS: with nobody answering, what was there stays.
        if (answering.length > 0) expect(serving.some(({ weight }) => weight > 0)).toBe(true);
        else expect(serving.length).toBeGreaterThan(0);
      }),
    );
  });
});

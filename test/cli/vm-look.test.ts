import { describe, expect, it } from 'vitest';
import { type NamesOnDisk, namesAgeText, namesLook, namesNotes } from '../../cli/names-on-disk.ts';
import { renderLook, vmLook } from '../../cli/vm-look.ts';
import { available, unavailable } from '../../model/reading.ts';
import type {
  ContainerCounters,
  ContainerDetails,
  ContainerIdentity,
  InterfaceCounters,
  VmIntrospection,
} from '../../model/usage.ts';
import { RecordedTerminal } from './recorded-terminal.ts';

const SECOND = 1_000_000_000n;
const MIB = 2 ** 20;
const VM = { uuid: 'u', name: 'shop-1', pid: 7, libvirtUri: 'qemu:///system', ramBytes: 1024 * MIB };
const ID = 'ab'.repeat(32);

function counters(cpu: bigint, changes: Partial<ContainerCounters> = {}): ContainerCounters {
  return {
    id: ID,
    runtime: 'docker',
    cgroupPath: `/docker/${ID}`,
    run: '7',
    cpuNanoseconds: available(cpu),
    cpuUserNanoseconds: available(cpu),
    cpuSystemNanoseconds: available(0n),
    perCpuNanoseconds: available([cpu, null]),
    memoryBytes: available(120 * MIB),
    memoryAnonBytes: available(100 * MIB),
    memoryFileBytes: available(20 * MIB),
    memorySwapCacheBytes: available(0),
    memoryLimitBytes: available(512 * MIB),
    ioReadBytes: available(0n),
    ioWriteBytes: available(2n ** 62n),
    details: null,
    ...changes,
  };
}
const NO_PRESSURE = { someNanoseconds: available(0n), fullNanoseconds: available(0n) };
function details(changes: Partial<ContainerDetails> = {}): ContainerDetails {
  return {
    cpuQuotaNanoseconds: available(null),
    cpuPeriodNanoseconds: available(100_000_000n),
    cpuPeriods: available(0n),
    cpuThrottledPeriods: available(0n),
    cpuThrottledNanoseconds: available(0n),
    cpuShares: available(1024),
    memoryPeakBytes: available(130 * MIB),
    memorySwapBytes: available(0),
    memoryInactiveFileBytes: available(5 * MIB),
    memoryMappedBytes: available(2 * MIB),
    memoryKernelBytes: unavailable('NoField', 'the kernel has no enumerator memcg_stat_item.MEMCG_KMEM'),
    oomKills: available(0n),
    ioReads: available(0n),
    ioWrites: available(0n),
    ioDevices: available([]),
    pids: available(3),
    pidsLimit: available(null),
    pressure: { cpu: NO_PRESSURE, memory: NO_PRESSURE, io: NO_PRESSURE },
    network: available({ namespace: 1, isHost: false, interfaces: [] }),
    ...changes,
  };
}
function device(name: string, received: bigint, sent: bigint): InterfaceCounters {
  return {
    name,
    kind: name === 'lo' ? null : 'veth',
    index: name === 'lo' ? 1 : 2,
    isLoopback: name === 'lo',
    counts: available({
      receivedBytes: received,
      receivedPackets: received / 100n,
      receiveErrors: 0n,
      receiveDropped: 0n,
      sentBytes: sent,
      sentPackets: sent / 100n,
      sendErrors: 0n,
      sendDropped: 2n,
    }),
  };
}
function at(seconds: bigint, containers: readonly ContainerCounters[], guestBoot = 'b1'): VmIntrospection {
  return {
    atNanoseconds: seconds * SECOND,
    guestBoot,
    kernelRelease: '6.1.0',
    nodename: 'shop\u001b[2J',
    possibleCpus: 1,
    jiffies: 0n,
    containers,
  };
}
const IDENTITY: ContainerIdentity = {
  id: ID,
  runtime: 'docker',
  within: [],
  name: 'mosaic',
  image: 'mosaic:1',
  imageId: 'sha256:1',
  labels: {},
  addresses: {},
  running: true,
  startedAt: null,
  cpuLimitCores: null,
  memoryLimitBytes: null,
};
const cpu = (nanoseconds: bigint, seconds: bigint) => ({ cpu: nanoseconds, at: seconds * SECOND });
const NAMES: NamesOnDisk = {
  containers: [IDENTITY],
  unreadable: [],
  failures: [],
  asOfUnixMs: Date.now(),
  fileSystems: [],
};
const look = (before: VmIntrospection, after: VmIntrospection, names = available(NAMES)) =>
  vmLook(VM, before, after, [cpu(0n, 0n), cpu(SECOND, 2n)], names);

describe('rates', () => {
  it('are differences of u64 counters over the time between the two looks', () => {
    const before = counters(2n ** 63n);
    const after = counters(2n ** 63n + SECOND, { ioWriteBytes: available(2n ** 62n + 4096n) });
    const { containers, cpuCores, intervalMs } = look(at(10n, [before]), at(12n, [after]));
    expect(intervalMs).toBe(2_000);
    expect(cpuCores).toEqual(available(0.5));
    expect(containers).toMatchObject([
      {
        name: 'mosaic',
        image: 'mosaic:1',
        cpuCores: available(0.5),
        perCpuCores: available([0.5, null]),
        ioWriteBytesPerSecond: available(2048),
        counters: { cpuNanoseconds: available(2n ** 63n + SECOND) },
      },
    ]);
  });

  it('are unavailable with the reason, never 0 (invariant 5)', () => {
    const broken = unavailable('NoField', 'the io controller is off');
    const { containers } = look(
      at(10n, [counters(0n, { ioReadBytes: broken })]),
      at(11n, [counters(0n), counters(5n, { id: 'new' })]),
    );
    expect(containers[0]?.ioReadBytesPerSecond).toEqual(broken);
    expect(containers[0]?.memoryBytes).toEqual(available(120 * MIB));
    expect(containers[1]?.cpuCores).toMatchObject({
      available: false,
      message: expect.stringContaining('no rate yet'),
    });
  });

  it('are not made across a reboot', () => {
    const { containers } = look(at(10n, [counters(9n * SECOND)]), at(11n, [counters(1n)], 'b2'));
    expect(containers[0]?.cpuCores.available).toBe(false);
  });
});

describe('details', () => {
  const network = (received: bigint, sent: bigint, namespace = 1) =>
    available({
      namespace,
      isHost: false,
      interfaces: [device('lo', 7n * received, 0n), device('eth0', received, sent)],
    });

  it('are rates of throttling, pressure, devices and interfaces', () => {
    const disk = { major: 254, minor: 0, name: 'vda', reads: 0n, writes: 0n, readBytes: 0n, writeBytes: 0n };
    const before = details({
      cpuQuotaNanoseconds: available(25_000_000n),
      pressure: { cpu: NO_PRESSURE, memory: NO_PRESSURE, io: { ...NO_PRESSURE, someNanoseconds: available(SECOND) } },
      network: network(1000n, 500n),
    });
    const after = details({
      ...before,
      cpuThrottledNanoseconds: available(SECOND / 2n),
      ioDevices: available([{ ...disk, writes: 4n, writeBytes: 8192n }]),
      pressure: {
        cpu: { ...NO_PRESSURE, someNanoseconds: available(SECOND / 4n) },
        memory: NO_PRESSURE,
        io: { ...NO_PRESSURE, someNanoseconds: available(SECOND - 5n) },
      },
      network: network(3000n, 500n),
    });
    const [container] = look(
      at(10n, [counters(0n, { details: before })]),
      at(11n, [counters(0n, { details: after })]),
    ).containers;
    expect(container).toMatchObject({
      cpuLimitCores: available(0.25),
      cpuThrottledRatio: available(0.5),
      memoryKernelBytes: { available: false, reason: 'NoField' },
      pressure: { cpu: { someRatio: available(0.25) }, io: { someRatio: available(0) } },
      networkReceivedBytesPerSecond: available(2000),
      networkSentBytesPerSecond: available(0),
      counters: { cpuThrottledNanoseconds: available(SECOND / 2n) },
    });
    expect(container?.ioDevices).toMatchObject({
      value: [{ name: 'vda', writeBytesPerSecond: available(8192), writesPerSecond: available(4) }],
    });
  });

  it('show the traffic of a shared network once', () => {
    const pair = (received: bigint) => [
      counters(0n, { id: 'first', details: details({ network: network(received, 0n) }) }),
      counters(0n, { id: 'second', details: details({ network: network(received, 0n) }) }),
      counters(0n, { id: 'alone', details: details({ network: network(received, 0n, 2) }) }),
    ];
    const [first, second, alone] = look(at(10n, pair(0n)), at(11n, pair(100n))).containers;
    expect(first?.networkReceivedBytesPerSecond).toEqual(available(100));
    expect(first?.network).toMatchObject({ value: { sharedWith: ['second'] } });
    expect(second?.networkReceivedBytesPerSecond).toMatchObject({
      available: false,
      message: expect.stringContaining('first'),
    });
    expect(alone?.networkReceivedBytesPerSecond).toEqual(available(100));
  });

  it('tell the host’s network from their own, and what cannot be read from nothing (invariant 5)', () => {
    const unknown = { ...device('eth0', 0n, 0n), counts: unavailable('Unsupported', 'the driver counts for itself') };
    const both = [
      counters(0n, { details: details({ network: available({ namespace: 1, isHost: true, interfaces: [] }) }) }),
      counters(0n, {
        id: 'x',
        details: details({ network: available({ namespace: 2, isHost: false, interfaces: [unknown] }) }),
      }),
    ];
    const [host, hidden] = look(at(10n, both), at(11n, both)).containers;
    expect(host?.networkSentBytesPerSecond).toMatchObject({ available: false, reason: 'NotFound' });
    expect(hidden?.networkSentBytesPerSecond).toMatchObject({ available: false, reason: 'Unsupported' });
  });

  it('are a paragraph for each container, escaped', () => {
    const hostile = (received: bigint) =>
      counters(received, {
        ioReadBytes: available(0n),
        details: details({
          oomKills: available(3n),
          ioDevices: available([
            { major: 8, minor: 1, name: null, reads: 0n, writes: 0n, readBytes: received, writeBytes: 0n },
          ]),
          network: available({ namespace: 1, isHost: false, interfaces: [device('\u001b[2J', received, 0n)] }),
        }),
      });
    const text = renderLook(look(at(10n, [hostile(0n)]), at(11n, [hostile(4096n)])), new RecordedTerminal(), true);
    expect(text).not.toContain('\u001b');
    expect(text).toMatchInlineSnapshot(`
      "shop-1  Linux 6.1.0 on "shop\\u{1b}[2J"
      CPU 0.50 of 1, 1 GiB RAM; read from outside over 1.0 s

      CONTAINER  IMAGE      CPU              MEMORY   DISK  NETWORK
      mosaic     mosaic:1  0.00  120 MiB of 512 MiB  0 B/s  4 KiB/s

      mosaic
        docker      abababababababababababababababababababababababababababababababab
        cgroup      /docker/abababababababababababababababababababababababababababababababab
        CPU         user 0.00, system 0.00, no limit, shares 1024, held back 0 %
        by CPU      0: 0.00
        memory      anon 100 MiB, file 20 MiB (inactive 5 MiB, mapped 2 MiB), kernel unavailable
                    peak 130 MiB, limit 512 MiB, swap 0 B, OOM kills 3
        tasks       3, no limit
        waited for  CPU 0 % (every task 0 %), memory 0 % (every task 0 %), I/O 0 % (every task 0 %)
        8:1         reads 4 KiB/s (0.0/s), writes 0 B/s (0.0/s)
        \\u{1b}[2J   veth, received 4 KiB/s (40/s), sent 0 B/s (0.0/s), 2 dropped

      mosaic: 3 killed for want of memory since it began
      kernel memory unavailable: NoField: the kernel has no enumerator memcg_stat_item.MEMCG_KMEM"
    `);
  });
});

describe('the text', () => {
  it('shows figures by name within 80 columns, and what is missing with its reason once', () => {
    const missing = unavailable('Faulted', 'an address is not backed by RAM');
    const text = renderLook(
      look(at(10n, [counters(0n)]), at(11n, [counters(SECOND / 2n, { ioReadBytes: missing, ioWriteBytes: missing })])),
      new RecordedTerminal(),
    );
    expect(text).toMatchInlineSnapshot(`
      "shop-1  Linux 6.1.0 on "shop\\u{1b}[2J"
      CPU 0.50 of 1, 1 GiB RAM; read from outside over 1.0 s

      CONTAINER  IMAGE      CPU              MEMORY         DISK      NETWORK
      mosaic     mosaic:1  0.50  120 MiB of 512 MiB  unavailable  unavailable

      disk reads, disk writes unavailable: Faulted: an address is not backed by RAM
      network unavailable: NotFound: it was not asked for"
    `);
  });

  it('marks services as what they are', () => {
    const service = counters(0n, { id: 'cron.service', runtime: 'systemd', cgroupPath: '/system.slice/cron.service' });
    const text = renderLook(look(at(10n, [service]), at(11n, [service])), new RecordedTerminal());
    expect(text).toMatch(/^cron\.service +\(service\) +0\.00/m);
  });

  it('falls back to ids, and says why there are no names', () => {
    const names = unavailable('NbdBusy', 'a backup uses the NBD server');
    const text = renderLook(
      vmLook(VM, at(10n, [counters(0n)]), at(11n, [counters(0n)]), [null, null], names),
      new RecordedTerminal(),
    );
    expect(text).toContain(ID.slice(0, 12));
    expect(text).toContain('names unavailable: NbdBusy: a backup uses the NBD server');
  });
});

describe('names from the disk', () => {
  const found: NamesOnDisk = {
    ...NAMES,
    asOfUnixMs: 1_795_577_364_000,
    fileSystems: [
      {
        format: 'ext4',
        place: 'disk',
        runtimes: ['docker', 'lxc'],
        journalledBlocks: 7,
        journalSequence: 3,
        committedAtUnixMs: 1_795_577_361_000,
        hasNewer: false,
      },
      {
        format: 'xfs',
        place: 'data/\u001bc',
        runtimes: ['containerd'],
        journalledBlocks: 0,
        journalSequence: null,
        committedAtUnixMs: Number.MAX_SAFE_INTEGER,
        hasNewer: false,
      },
    ],
    failures: [{ runtime: 'podman', place: 'disk', reason: 'Torn', message: 'again and again' }],
    unreadable: Array.from({ length: 9 }, (_, n) => ({ id: `\u001b${n}`, reason: 'Malformed', message: 'cut' })),
  };

  it('say how old they are and where they were read', () => {
    const look = namesLook(available(found), 1_795_577_364_400);
    expect(look).toMatchObject({ asOf: '2026-11-25T03:29:24.000Z', ageMs: 400 });
    expect(look.fileSystems.map(({ committedAt }) => committedAt)).toEqual(['2026-11-25T03:29:21.000Z', null]);
    expect(namesAgeText(look)).toMatch(
      /^Names 400 ms old, from ext4 \(docker, lxc\) and xfs on data\/\S+ \(containerd\)\.$/,
    );
    expect(namesAgeText(look)).not.toMatch(/\p{Control}/u);
  });

  it('say what could not be read, and not without end', () => {
    const notes = namesNotes(namesLook(available(found), Date.now()));
    expect(notes[0]).toBe('names of podman on disk unavailable: Torn: again and again');
    expect(notes.at(-1)).toBe('… and 5 more names unavailable');
    expect(notes.join('')).not.toMatch(/\p{Control}/u);
  });
});

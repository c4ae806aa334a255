import { describe, expect, it } from 'vitest';
import { renderLook, vmLook } from '../../cli/vm-look.ts';
import { available, unavailable } from '../../model/reading.ts';
import type { ContainerCounters, ContainerIdentity, VmIntrospection } from '../../model/usage.ts';
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
const look = (before: VmIntrospection, after: VmIntrospection, names = available([IDENTITY])) =>
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

      CONTAINER  IMAGE      CPU              MEMORY        READS       WRITES
      mosaic     mosaic:1  0.50  120 MiB of 512 MiB  unavailable  unavailable

      reads, writes unavailable: Faulted: an address is not backed by RAM"
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

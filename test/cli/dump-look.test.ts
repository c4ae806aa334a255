import { describe, expect, it } from 'vitest';
import { type DumpLook, dumpLook, renderDumpLook } from '../../cli/dump-look.ts';
import { safeJson } from '../../cli/escape.ts';
import { available, unavailable } from '../../model/reading.ts';
import type { ContainerCounters, VmIntrospection } from '../../model/usage.ts';
import { RecordedTerminal } from './recorded-terminal.ts';

const ID = 'ab'.repeat(32);
const DUMP: DumpLook['dump'] = { file: 'shop.dump', format: 'ELF core', writtenAt: '2026-11-25T02:56:49.000Z' };
const NO_NAMES = unavailable('NotFound', 'no disk was given');

const container = {
  id: ID,
  runtime: 'docker',
  cgroupPath: `/docker/${ID}`,
  cpuNanoseconds: available(2n ** 63n),
  memoryBytes: available(120 * 2 ** 20),
  ioReadBytes: unavailable('NoField', 'no such field'),
  ioWriteBytes: available(0n),
} as ContainerCounters;
const sample: VmIntrospection = {
  atNanoseconds: 0n,
  guestBoot: 'b1',
  kernelRelease: '6.1.0',
  nodename: 'shop\u001b[2J',
  possibleCpus: 2,
  jiffies: 0n,
  containers: [container],
};
const render = (look: DumpLook): string => renderDumpLook(look, new RecordedTerminal());

describe('a look into a dump', () => {
  it('shows totals, and what is missing as unavailable', () => {
    const text = render(dumpLook(DUMP, sample, NO_NAMES));
    expect(text).toMatch(/ELF core of 2026-11-25T02:56:49.000Z, 2 CPUs/);
    expect(text).toMatch(/abababababab +– +106751 d \d+ h +120 MiB +unavailable +0 B/);
    expect(text).toContain('shown by id');
  });

  it('obeys nothing that the guest or the file name says', () => {
    const text = render(dumpLook({ ...DUMP, file: 'a\u009bb' }, sample, NO_NAMES));
    expect(text).toContain('shop\\u{1b}[2J');
    expect(text).toContain('a\\u{9b}b');
  });

  it('keeps every bit of the counters in JSON', () => {
    const json = JSON.parse(safeJson(dumpLook(DUMP, sample, NO_NAMES)));
    expect(json.containers[0].cpuNanoseconds).toEqual({ available: true, value: '9223372036854775808' });
    expect(json.names).toEqual({ available: false, reason: 'NotFound', message: 'no disk was given' });
  });
});

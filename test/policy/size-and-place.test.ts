/** How large a new VM is, and on which host. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { placeVm } from '../../policy/placement.ts';
import { sizeFor } from '../../policy/size.ts';
import { pressureOn } from '../workflows/evidence.ts';
import { MIB, serviceSpec } from '../workflows/world.ts';

const spec = serviceSpec('mosaic');
const base = { spec, pressure: pressureOn('mosaic', 'd'), servingReplicas: 1, templateBaseMemoryBytes: 128 * MIB };
const sized = (changes: Partial<typeof base>) => {
  const result = sizeFor({ ...base, ...changes });
  return result.fits ? result.size : result.why;
};
const run = (cpuLimitCores: number | null, memoryLimitBytes: number | null) => ({
  ...spec,
  run: { ...spec.run, cpuLimitCores, memoryLimitBytes },
});

describe('size', () => {
  it('follows measured use: half of the load goes to a second replica', () => {
    // 1.15 x 0.8 cores / 2 / 0.8 = 0.575; 1.15 x 100 MB + 128 MiB, in steps of 64 MiB.
    expect(sized({})).toMatchObject({ vcpus: 1, memoryBytes: 256 * MIB });
  });
  it('follows the limits of the container where it has some', () => {
    expect(sized({ spec: run(2.5, 900 * MIB) })).toMatchObject({ vcpus: 3, memoryBytes: 1088 * MIB });
  });
  it('takes the smallest that is allowed when nothing is known', () => {
    expect(sizeFor({ ...base, pressure: null })).toMatchObject({ size: { vcpus: 1, memoryBytes: 256 * MIB } });
  });
  it('says which bound or measurement shaped it', () => {
    const size = sized({ spec: { ...spec, size: { ...spec.size, minVcpus: 2 } } });
    expect(size).toMatchObject({ vcpus: 2, reasons: expect.arrayContaining(['size.vcpus.min: 2']) });
  });
  it('refuses bounds in which no replica fits, naming the bound', () => {
    expect(sized({ spec: run(8, null) })).toContain('size.vcpus.max is 4');
    expect(sized({ spec: run(null, 4000 * MIB) })).toContain('size.memory.max is 4096 MiB');
  });
  it('is always within the bounds, and never below what the replica may use', () => {
    fc.assert(
      fc.property(
        fc.option(fc.double({ min: 0.1, max: 8, noNaN: true }), { nil: null }),
        fc.option(fc.integer({ min: MIB, max: 8192 * MIB }), { nil: null }),
        (cpuLimit, memoryLimit) => {
          const result = sizeFor({ ...base, spec: run(cpuLimit, memoryLimit) });
          if (!result.fits) return;
          const { vcpus, memoryBytes } = result.size;
          expect(vcpus).toBeGreaterThanOrEqual(Math.max(1, cpuLimit ?? 0));
          expect(vcpus).toBeLessThanOrEqual(4);
          expect(memoryBytes).toBeGreaterThanOrEqual((memoryLimit ?? 0) + 128 * MIB);
          expect(memoryBytes).toBeLessThanOrEqual(4096 * MIB);
        },
      ),
    );
  });
});

describe('placement', () => {
  const host = (name: string, vcpus: number, reservedVcpus: number) => ({
    host: name,
    vcpus,
    memoryBytes: 8192 * MIB,
    reservedVcpus,
    reservedMemoryBytes: 0,
  });
  const small = { vcpus: 1, memoryBytes: 512 * MIB };

  it('takes the host with the largest free share left', () => {
    expect(placeVm([host('a', 4, 3), host('b', 8, 2)], small, [])).toMatchObject({ act: true, host: 'b' });
  });
  it('avoids hosts that do not answer, and says so when none is left', () => {
    expect(placeVm([host('a', 4, 0)], small, ['a'])).toMatchObject({
      reason: 'HostFull',
      explanation: expect.stringContaining('a: its host process does not answer'),
    });
  });
  it('never overbooks', () => {
    const hosts = fc.array(fc.tuple(fc.integer({ min: 1, max: 16 }), fc.integer({ min: 0, max: 20 })), {
      maxLength: 6,
    });
    fc.assert(
      fc.property(hosts, fc.integer({ min: 1, max: 8 }), (list, vcpus) => {
        const all = list.map(([total, reserved], index) => host(`h${index}`, total, reserved));
        const placed = placeVm(all, { vcpus, memoryBytes: MIB }, []);
        const fits = all.filter((each) => each.reservedVcpus + vcpus <= each.vcpus).map((each) => each.host);
        if (placed.act) expect(fits).toContain(placed.host);
        else expect(fits).toEqual([]);
      }),
    );
  });
});

/** Which container is blamed. Broken input is in adversarial.test.ts. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { VmEvidence } from '../../model/evidence.ts';
import { attribute } from '../../policy/culprit.ts';
import { container, steady, vmEvidence } from '../workflows/evidence.ts';

const NOW = '2026-01-01T00:01:00.000Z';
const blamed = (evidence: VmEvidence) => {
  const outcome = attribute(evidence, NOW);
  return outcome.act ? outcome.candidates.map(({ service, by }) => `${service} by ${by}`) : outcome.reason;
};

/** As when the wish to watch a VM, or the container, is younger than the rise. */
function unreadBefore(name: string, since: number) {
  const read = container(name, name, 0, since);
  return { ...read, cpuCores: { ...read.cpuCores, before: null, unavailable: 'no sample in this window' } };
}

describe('the cause of a hot VM', () => {
  it.each<[string, VmEvidence, string | string[]]>([
    [
      'one that uses most of it, by level',
      vmEvidence([container('mosaic', 'mosaic', 0.7, 0.8), container('nginx', 'nginx', 0.05, 0.05)]),
      ['mosaic by level'],
    ],
    [
      'three at 30 % make 90 %: the one that grew, by change',
      vmEvidence([container('a', 'a', 0.3, 0.3), container('b', 'b', 0.05, 0.3), container('c', 'c', 0.3, 0.3)]),
      ['b by change'],
    ],
    [
      'a steady half is not blamed for the growth of another',
      vmEvidence([container('steady', 'steady', 0.5, 0.5), container('grew', 'grew', 0.02, 0.4)]),
      ['grew by change'],
    ],
    [
      'several that grew alike: all of them, none makes half of it',
      vmEvidence([container('a', 'a', 0.05, 0.31), container('b', 'b', 0.05, 0.3), container('c', 'c', 0.05, 0.29)]),
      ['a by change', 'b by change', 'c by change'],
    ],
    [
      'the one behind it is named too, in case the first is at its maximum',
      vmEvidence([container('a', 'a', 0.1, 0.6), container('b', 'b', 0.1, 0.3)]),
      ['a by level', 'b by level'],
    ],
    [
      'three that have always been so: nobody',
      vmEvidence([container('a', 'a', 0.3, 0.3), container('b', 'b', 0.3, 0.3), container('c', 'c', 0.3, 0.3)], {
        onset: null,
      }),
      'NoneStandsOut',
    ],
    [
      'a container that is no replica of a service',
      vmEvidence([container('stranger', null, 0.1, 0.8), container('nginx', 'nginx', 0.05, 0.05)]),
      'UnmanagedCause',
    ],
    [
      'an unmanaged container that makes the growth',
      vmEvidence([container('a', 'a', 0.45, 0.45), container('stranger', null, 0.02, 0.4)]),
      'UnmanagedCause',
    ],
    [
      'the kernel, or processes in no container',
      vmEvidence([container('a', 'a', 0.2, 0.2)], { cpuCores: steady(0.3, 0.95) }),
      'LoadOutsideContainers',
    ],
    [
      'load outside that came on top of a busy container',
      vmEvidence([container('a', 'a', 0.5, 0.5)], { cpuCores: steady(0.5, 0.95) }),
      'LoadOutsideContainers',
    ],
    [
      'one that stands out, read only since the rise: its growth is unknown, and not zero (invariant 5)',
      vmEvidence([unreadBefore('mosaic', 0.98), unreadBefore('nginx', 0.01)], { cpuCores: steady(0.06, 0.96) }),
      ['mosaic by level'],
    ],
    [
      'one that grew, beside one that may have grown by more',
      vmEvidence([container('a', 'a', 0.1, 0.3), unreadBefore('b', 0.3), unreadBefore('c', 0.3)]),
      'NoneStandsOut',
    ],
    [
      'load outside, though the containers were read only since the rise',
      vmEvidence([unreadBefore('a', 0.3)], { cpuCores: steady(0.05, 0.95) }),
      'LoadOutsideContainers',
    ],
    ['containers that cannot be read', vmEvidence([], { unreadable: 'GuestEncrypted' }), 'NoEvidence'],
    ['no container at all', vmEvidence([]), 'NoEvidence'],
  ])('%s', (_, evidence, expected) => {
    expect(blamed(evidence)).toEqual(expected);
  });

  it('is a replica at its own limit, however idle the VM', () => {
    const limited = { ...container('mosaic', 'mosaic', 0.1, 0.24), cpuLimitCores: 0.25 };
    const idle = { ...container('nginx', 'nginx', 0.1, 0.1), cpuLimitCores: 0.5 };
    expect(blamed(vmEvidence([idle, limited], { cause: 'replicaCpuLimit', vcpus: 4 }))).toEqual(['mosaic by limit']);
  });

  it('is said with quoted, printable names: a guest chooses them', () => {
    const hostile = container('\u001b[2J|`rm`\u202e', 'mosaic', 0.1, 0.9);
    const outcome = attribute(vmEvidence([hostile]), NOW);
    expect(outcome.explanation).toMatch(/^[\x20-\x7e]*$/);
    expect(outcome.explanation).not.toMatch(/[|`]/);
  });
});

describe('properties', () => {
  const use = fc.double({ min: 0, max: 1, noNaN: true });
  const containers = fc
    .array(fc.tuple(use, use, fc.boolean()), { minLength: 1, maxLength: 8 })
    .map((list) =>
      list.map(([before, since, managed], index) =>
        container(`c${index}`, managed ? `s${index}` : null, before, since),
      ),
    );

  it('whoever is blamed is a replica of a service, with a share between 0 and 1', () => {
    fc.assert(
      fc.property(containers, (list) => {
        const outcome = attribute(vmEvidence(list), NOW);
        if (!outcome.act) return;
        expect(outcome.candidates.length).toBeGreaterThan(0);
        for (const { service, share } of outcome.candidates) {
          expect(list.map((entry) => entry.service)).toContain(service);
          expect(share).toBeGreaterThan(0);
          expect(share).toBeLessThanOrEqual(1);
        }
      }),
    );
  });

  it('the order in which containers are listed makes no difference', () => {
    fc.assert(
      fc.property(containers, (list) => {
        const names = (of: typeof list) => {
          const outcome = attribute(vmEvidence(of), NOW);
          return outcome.act ? outcome.candidates.map(({ share }) => share.toFixed(9)) : outcome.reason;
        };
        expect(names([...list].reverse())).toEqual(names(list));
      }),
    );
  });

  it('one that uses more than three quarters of a busy VM, and grew to it, is always first', () => {
    fc.assert(
      fc.property(fc.array(fc.double({ min: 0, max: 0.05, noNaN: true }), { maxLength: 4 }), (others) => {
        const list = others.map((each, index) => container(`o${index}`, `o${index}`, each, each));
        const outcome = attribute(vmEvidence([...list, container('big', 'big', 0.1, 0.8)]), NOW);
        expect(outcome.act && outcome.candidates[0]?.service).toBe('big');
      }),
    );
  });
});

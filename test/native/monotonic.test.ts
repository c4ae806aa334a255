import { expect, it } from 'vitest';
import { available, unavailable } from '../../model/reading.ts';
import type { ContainerCounters, VmIntrospection } from '../../model/usage.ts';
import { keepMonotonic } from '../../native/monotonic.ts';

function sample(
  guestBoot: string,
  cpu: ContainerCounters['cpuNanoseconds'],
  cgroupPath = '/docker/a',
): VmIntrospection {
  const container: ContainerCounters = {
    id: 'a',
    runtime: 'docker',
    cgroupPath,
    cpuNanoseconds: cpu,
    cpuUserNanoseconds: available(0n),
    cpuSystemNanoseconds: available(0n),
    perCpuNanoseconds: available([]),
    memoryBytes: available(1),
    memoryAnonBytes: available(1),
    memoryFileBytes: available(1),
    memorySwapCacheBytes: available(1),
    memoryLimitBytes: available(null),
    ioReadBytes: available(0n),
    ioWriteBytes: available(0n),
    details: null,
  };
  return {
    atNanoseconds: 0n,
    guestBoot,
    kernelRelease: '',
    nodename: '',
    possibleCpus: 1,
    jiffies: 0n,
    containers: [container],
  };
}
const cpuOf = (introspection: VmIntrospection) => introspection.containers[0]?.cpuNanoseconds;

it('lifts a counter that went backward to what it was', () => {
  expect(cpuOf(keepMonotonic(sample('b', available(10n)), sample('b', available(9n))))).toEqual(available(10n));
  expect(cpuOf(keepMonotonic(sample('b', available(10n)), sample('b', available(11n))))).toEqual(available(11n));
});

it('lets another boot and another container start anew', () => {
  expect(cpuOf(keepMonotonic(sample('b', available(10n)), sample('c', available(1n))))).toEqual(available(1n));
  const other = sample('b', available(1n), '/docker/other');
  expect(cpuOf(keepMonotonic(sample('b', available(10n)), other))).toEqual(available(1n));
});

it('keeps what is unavailable unavailable', () => {
  const torn = unavailable('Torn', '');
  expect(cpuOf(keepMonotonic(sample('b', available(10n)), sample('b', torn)))).toEqual(torn);
  expect(cpuOf(keepMonotonic(sample('b', torn), sample('b', available(1n))))).toEqual(available(1n));
});

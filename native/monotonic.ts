/**
 * Counters only grow. What is read from a running guest may for an instant be behind what was read before (a flush between
 * two loads); within one boot and one container such a reading is lifted to the earlier one, so that no rate is negative.
 */
import { available, type Reading } from '../model/reading.ts';
import type { ContainerCounters, VmIntrospection } from '../model/usage.ts';

const COUNTERS = [
  'cpuNanoseconds',
  'cpuUserNanoseconds',
  'cpuSystemNanoseconds',
  'ioReadBytes',
  'ioWriteBytes',
] as const;

function lift(before: Reading<bigint>, now: Reading<bigint>): Reading<bigint> {
  return before.available && now.available && now.value < before.value ? available(before.value) : now;
}

export function keepMonotonic(previous: VmIntrospection | null, current: VmIntrospection): VmIntrospection {
  if (previous === null || previous.guestBoot !== current.guestBoot) return current;
  const earlier = new Map(previous.containers.map((container) => [container.cgroupPath, container]));
  const containers = current.containers.map((container): ContainerCounters => {
    const before = earlier.get(container.cgroupPath);
    if (!before) return container;
    const lifted = Object.fromEntries(COUNTERS.map((name) => [name, lift(before[name], container[name])]));
    return { ...container, ...lifted };
  });
  return { ...current, containers };
}

/** What a watch does about samples that fail, without a guest; what it does about real ones is restarts.vm.test.ts. */
import { afterEach, expect, it, vi } from 'vitest';
import type { AttachPool } from '../../native/attach-pool.ts';
import { GuestWatch } from '../../native/guest-watch.ts';
import type { Host } from '../../native/mapper.ts';

const VM = {
  uuid: '00000000-0000-4000-8000-00000000000c',
  pid: null,
  source: 'auto',
  withServices: false,
  withDetails: false,
} as const;
const CLOCK = { atNanoseconds: 1n, jiffies: 4_295_000_000n, guestBoot: 'a boot', kernelRelease: '6.1' };
const OVERRUN = { kind: 'error', reason: 'Exhausted', message: 'longer than its budget', wasRead: false } as const;

/** Neither is asked for anything where no QEMU has the VM's UUID. */
const watched = () => new GuestWatch(VM, '/nowhere', null, {} as AttachPool, {} as Host);

afterEach(() => {
  vi.useRealTimers();
});

it('looks anew into a guest that has long not been read to the end, and is more patient each time', async () => {
  vi.useFakeTimers({ toFake: ['performance'] });
  const watch = watched();
  const kindsOver = (seconds: number) =>
    Array.from({ length: seconds }, () => {
      vi.advanceTimersByTime(1_000);
      return watch.judgeFailure(OVERRUN).kind;
    });
  expect(kindsOver(10)).not.toContain('suspect');
  expect(kindsOver(2)).toContain('suspect');
  expect(kindsOver(18)).not.toContain('suspect');
  const kinds = kindsOver(3);
  expect(kinds).toContain('suspect');
  await watch.judge(CLOCK);
  expect(kindsOver(10)).not.toContain('suspect');
});

it('says that its VM is off when it looks anew and finds no QEMU', async () => {
  vi.useFakeTimers({ toFake: ['performance'] });
  const watch = watched();
  watch.judgeFailure(OVERRUN);
  vi.advanceTimersByTime(60_000);
  const verdict = watch.judgeFailure(OVERRUN);
  if (verdict.kind !== 'suspect') throw new Error(verdict.kind);
  expect(await verdict.settle()).toMatchObject({ available: false, reason: 'GuestOff' });
});

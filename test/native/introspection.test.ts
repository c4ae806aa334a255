/**
 * The sampler's process and its parent, without a VM: VMs that are off answer GuestOff, which takes the same way as a
 * reading. What a real guest reads as is introspection.vm.test.ts.
 */
import { afterEach, expect, it } from 'vitest';
import { Introspection } from '../../native/introspection.ts';

const A = '00000000-0000-4000-8000-00000000000a';
const B = '00000000-0000-4000-8000-00000000000b';
/** A sampler that starts anew on a busy machine takes its time. */
const DEADLINE_MS = 25_000;

let introspection: Introspection | null = null;
afterEach(async () => {
  await introspection?.close();
});

async function start(hangMs = 30_000): Promise<{ it: Introspection; troubles: string[] }> {
  const troubles: string[] = [];
  introspection = new Introspection({ cacheDirectory: null, hangMs, onTrouble: (message) => troubles.push(message) });
  await introspection.start();
  introspection.watch({ uuid: A });
  introspection.watch({ uuid: B });
  return { it: introspection, troubles };
}

function pidOf(it: Introspection): number {
  if (it.pid === null) throw new Error('no sampler runs');
  return it.pid;
}

/** Ends the sampler with a signal while it owes the answers of a sample. */
async function sampleAndEndBy(it: Introspection, signal: NodeJS.Signals, uuids: string[]) {
  const pid = pidOf(it);
  process.kill(pid, 'SIGSTOP');
  const readings = it.sample(uuids, DEADLINE_MS);
  await new Promise((resolve) => setTimeout(resolve, 50));
  process.kill(pid, signal);
  process.kill(pid, 'SIGCONT');
  return readings;
}

it('answers for each VM that is asked for, and says why there is no reading', async () => {
  const { it: subject } = await start();
  const readings = await subject.sample([A, B, 'unknown'], DEADLINE_MS);
  expect(readings.get(A)).toMatchObject({ available: false, reason: 'GuestOff' });
  expect(readings.get(B)).toMatchObject({ available: false, reason: 'GuestOff' });
  expect(readings.get('unknown')).toMatchObject({ available: false, reason: 'NotFound' });
});

it('goes on with the others when the sampler is killed, and blames nobody', async () => {
  const { it: subject, troubles } = await start();
  for (let i = 0; i < 2; i++) {
    const readings = await sampleAndEndBy(subject, 'SIGKILL', [A, B]);
    expect(readings.get(A)).toMatchObject({ reason: 'ReaderDown' });
    expect(readings.get(B)).toMatchObject({ reason: 'GuestOff' });
  }
  expect(troubles).toHaveLength(2);
  expect((await subject.sample([A], DEADLINE_MS)).get(A)).toMatchObject({ reason: 'GuestOff' });
});

it('quarantines a VM whose reading crashed the sampler twice, and only that', async () => {
  const { it: subject } = await start();
  expect((await sampleAndEndBy(subject, 'SIGSEGV', [A, B])).get(A)).toMatchObject({ reason: 'ReaderDown' });
  expect((await sampleAndEndBy(subject, 'SIGBUS', [A])).get(A)).toMatchObject({ reason: 'Quarantined' });
  const readings = await subject.sample([A, B], DEADLINE_MS);
  expect(readings.get(A)).toMatchObject({ reason: 'Quarantined' });
  expect(readings.get(B)).toMatchObject({ reason: 'GuestOff' });
  subject.forget(A);
  subject.watch({ uuid: A });
  expect((await subject.sample([A], DEADLINE_MS)).get(A)).toMatchObject({ reason: 'GuestOff' });
});

it('kills a sampler that hangs, though each sample has given up long before', async () => {
  const { it: subject, troubles } = await start(2_000);
  const pid = pidOf(subject);
  process.kill(pid, 'SIGSTOP');
  expect((await subject.sample([A, B], 100)).get(A)).toMatchObject({ reason: 'Exhausted' });
  const readings = await subject.sample([A, B], DEADLINE_MS);
  expect(troubles[0]).toMatch(/hung/);
  expect(readings.get(A)).toMatchObject({ reason: 'ReaderDown' });
  expect(readings.get(B)).toMatchObject({ reason: 'GuestOff' });
  expect(pidOf(subject)).not.toBe(pid);
});

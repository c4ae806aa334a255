/**
 * What is seen of containers that come and go is what the guest says: a short run of what `npm run bench -- introspect
 * agreement` does for ten minutes in each kernel. What happens to the containers is decided by the seed.
 */
import { expect, it } from 'vitest';
import { requestOf } from '../../lab/attach-request.ts';
import { Agreement, type Reader } from '../../lab/kernels/agreement.ts';
import { bootKernelGuest } from '../../lab/kernels/guest.ts';
import { attach, type SourceChoice } from '../../native/mapper.ts';

const SEED = 4;
const ROUNDS = 8;
const SOURCES = ['mapped', 'process'] as const satisfies SourceChoice[];

it('agrees with the guest while containers are made, removed, made again, limited and loaded', async () => {
  const guest = await bootKernelGuest({ kernel: '6.12', append: 'psi=1' });
  const readers: Reader[] = [];
  try {
    for (const source of SOURCES)
      readers.push({ name: source, guest: attach(await requestOf(guest.pid, { withDetails: true, source })) });
    const agreement = new Agreement(guest, readers, SEED);
    await agreement.start();
    for (let i = 0; i < ROUNDS; i++) await agreement.round();

    const { disagreements, corrections, containersMade, viewsRun, viewsRepeated, figures } = agreement.report();
    expect(disagreements).toEqual([]);
    expect(corrections).toEqual({ mapped: 0, process: 0 });
    expect(containersMade).toBeGreaterThan(ROUNDS);
    expect(viewsRepeated).toBeGreaterThan(viewsRun);
    // Each has been judged, also where it had to be exact; version 2 has no file that says shares.
    for (const [name, { loose, tight, stopped, exact }] of Object.entries(figures))
      if (name !== 'CPU shares') expect(Math.min(loose, tight, stopped, exact), name).toBeGreaterThan(0);
  } finally {
    for (const reader of readers) reader.guest.detach();
    await guest.stop();
  }
});

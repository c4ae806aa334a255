/**
 * The parsers of hostile disks, by mutation: a short deterministic run among the fast tests, and a long one by
 * `npm run fuzz -- --target disk` (journal, xfs, lvm), which sets CIEL_FUZZ_MINUTES and CIEL_FUZZ_SEED. Everything below
 * the reader's thread runs here without the thread, so that a mistake has a stack; that the thread ends a look-up that
 * takes too long or too much is reader.test.ts's.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { HOSTILE_DISKS } from '../guest-disk/hostile-images.ts';
import { temporaryDirectory } from '../guest-disk/images.ts';
import { blocksRead, lookUp, mutateDisk } from '../guest-disk/mutations.ts';
import { checkText, forSeeds, IS_LONG, isWanted, TEST_LIMIT_MS } from './fuzzing.ts';

const SHORT = { disk: 60, journal: 30, xfs: 20, lvm: 20 } as const;
const directory = await temporaryDirectory();

it.each(Object.keys(HOSTILE_DISKS).filter(isWanted) as (keyof typeof HOSTILE_DISKS)[])(
  '%s: a look-up ends with containers or a reason, soon',
  async (target) => {
    const images: { name: string; content: Buffer; blocks: number[] }[] = [];
    for (const [index, [name, make]] of HOSTILE_DISKS[target].entries()) {
      const place = join(directory, `${target}-${index}`);
      mkdirSync(place);
      const content = await make(place);
      images.push({ name, content, blocks: await blocksRead(content) });
    }
    const outcomes = await forSeeds(target, SHORT[target], async (seed) => {
      const { name, content, blocks } = images[seed % images.length] as (typeof images)[number];
      const what = `${name}, seed ${seed}`;
      const mutated = mutateDisk(content, blocks, seed);
      const found = await lookUp(mutated.disk, what);
      mutated.undo();
      checkText(found, what);
      if (found === null) return 'refused';
      return found.unreadable.length + found.failures.length > 0 ? 'unreadable' : 'read';
    });
    if (!IS_LONG) expect(outcomes.read).toBeGreaterThan(3);
  },
  TEST_LIMIT_MS,
);

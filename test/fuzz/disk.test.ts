/**
 * The parsers of hostile disks, by mutation: a short deterministic run among the fast tests, and a long one by
 * `npm run fuzz -- --target disk` (partitions, journal, xfs, lvm), which sets CIEL_FUZZ_MINUTES and CIEL_FUZZ_SEED. Everything below
 * the reader's thread runs here without the thread, so that a mistake has a stack; that the thread ends a look-up that
 * takes too long or too much is reader.test.ts's.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { BlockSource } from '../../guest-disk/disk.ts';
import { HOSTILE_DISKS } from '../guest-disk/hostile-images.ts';
import { bufferSource, temporaryDirectory } from '../guest-disk/images.ts';
import { blocksRead, lookUp, Mutable, random } from '../guest-disk/mutations.ts';
import { checkText, forSeeds, IS_LONG, isWanted, TEST_LIMIT_MS } from './fuzzing.ts';

const SHORT = { disk: 60, partitions: 40, journal: 40, xfs: 40, lvm: 20 } as const;
const directory = await temporaryDirectory();

it.each(Object.keys(HOSTILE_DISKS).filter(isWanted) as (keyof typeof HOSTILE_DISKS)[])(
  '%s: a look-up ends with containers or a reason, soon',
  async (target) => {
    const images: { name: string; mutable: Mutable }[] = [];
    for (const [index, [name, make]] of HOSTILE_DISKS[target].entries()) {
      const place = join(directory, `${target}-${index}`);
      mkdirSync(place);
      const content = await make(place);
      const blocks = await blocksRead(content);
      images.push({ name, mutable: new Mutable(content, target === 'partitions' ? tables(content, blocks) : blocks) });
    }
    const outcomes = await forSeeds(target, SHORT[target], async (seed) => {
      const { name, mutable } = images[seed % images.length] as (typeof images)[number];
      const below = random(seed);
      const what = `${name}, seed ${seed}`;
      const known = { fileSystems: [] };
      const disk = counted(bufferSource(mutable.content));
      // Now and then the guest spoils what was whole when it was first read.
      if (below(8) === 0) await lookUp(disk, what, known);
      const undo = mutable.mutate(below);
      const found = await lookUp(disk, what, known);
      undo();
      checkText(found, what);
      const { reads } = disk;
      if (found === null) return { outcome: 'refused', reads };
      return { outcome: found.unreadable.length + found.failures.length > 0 ? 'unreadable' : 'read', reads };
    });
    if (!IS_LONG) expect(outcomes.read).toBeGreaterThan(3);
  },
  TEST_LIMIT_MS,
);

/** Of the blocks that are read, those that say where others are. */
function tables(content: Buffer, blocks: readonly number[]): number[] {
  const isTable = (at: number) => content.readUInt16LE(at + 510) === 0xaa55 || (at > 0 && at < 34 * 512);
  return blocks.filter(isTable);
}

function counted(source: BlockSource): BlockSource & { readonly reads: number } {
  return {
    sizeBytes: source.sizeBytes,
    reads: 0,
    read(offset, length) {
      (this as { reads: number }).reads += 1;
      return source.read(offset, length);
    },
  };
}

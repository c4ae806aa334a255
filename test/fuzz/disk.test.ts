/**
 * The parsers of hostile disks, by mutation: a short deterministic run among the fast tests, and a long one by
 * `npm run fuzz -- --target disk` (or json), which sets CIEL_FUZZ_MINUTES and CIEL_FUZZ_SEED. Everything below the reader's
 * thread runs here without the thread, so that a mistake has a stack; that the thread ends a look-up that takes too long or
 * too much is reader.test.ts's.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { DiskUnreadable } from '../../guest-disk/disk.ts';
import { parseContainer } from '../../guest-disk/runtimes/docker.ts';
import { CONTAINER_ID, dockerFiles, makeImage, run, temporaryDirectory, writeTree } from '../guest-disk/images.ts';
import { blocksRead, lookUp, mutateDisk, mutateJson, mutateText, random } from '../guest-disk/mutations.ts';

const MINUTES = Number(process.env.CIEL_FUZZ_MINUTES ?? 0);
const FIRST_SEED = Number(process.env.CIEL_FUZZ_SEED ?? 1_000_000);
const TEST_LIMIT_MS = MINUTES * 60_000 + 60_000;
/** A look-up has five seconds before its thread is ended. This is wall-clock time, on a machine that does other things too. */
const MOST_MS = 10_000;
const SHORT = { disk: 60, json: 1_500 } as const;

/** Calls `one` for one seed after the other: so often in the short run, until the time is over in a long one. */
async function forSeeds(short: number, minutes: number, one: (seed: number) => Promise<void> | void): Promise<number> {
  const end = performance.now() + minutes * 60_000;
  let count = 0;
  while (minutes > 0 ? performance.now() < end : count < short) {
    await one(FIRST_SEED + count);
    count++;
  }
  return count;
}

function report(target: string, count: number, outcomes: Readonly<Record<string, number>>): void {
  if (MINUTES > 0) console.log(`${target}: ${count} inputs, ${JSON.stringify(outcomes)}`);
}

/** Text that leaves the parsers is whole Unicode, and names hold nothing that moves a cursor. */
function checkText(value: unknown, what: string): void {
  if (typeof value === 'string') expect(/\p{Surrogate}/u.test(value), what).toBe(false);
  else if (typeof value === 'object' && value !== null)
    for (const [key, inner] of Object.entries(value)) {
      checkText(key, what);
      checkText(inner, what);
    }
}

describe('disks', () => {
  const VARIANTS: readonly (readonly [name: string, args: readonly string[], partitioned: boolean])[] = [
    ['ext4 with checksums', ['-O', 'extent,64bit,metadata_csum,has_journal'], false],
    ['ext4 with data in inodes', ['-I', '256', '-O', 'extent,inline_data,has_journal'], false],
    ['ext2 in a partition', ['-b', '1024', '-O', '^extent,^has_journal'], true],
  ];
  const images: { name: string; content: Buffer; blocks: number[] }[] = [];

  beforeAll(async () => {
    const directory = await temporaryDirectory();
    writeTree(join(directory, 'tree'), {
      ...dockerFiles(CONTAINER_ID, 'shop'),
      ...dockerFiles('ab'.repeat(32), 'other'),
      'etc/docker/daemon.json': '{"data-root": "/var/lib/docker"}',
    });
    for (const [name, args, partitioned] of VARIANTS) {
      const path = join(directory, `${images.length}.img`);
      await makeImage(path, join(directory, 'tree'), 8, args);
      let content: Buffer = readFileSync(path);
      if (partitioned) {
        const table = Buffer.alloc(1 << 20);
        writeTree(directory, { table: Buffer.concat([table, content, table]) });
        await run('sfdisk', ['-q', join(directory, 'table')], { input: 'label: gpt\nstart=2048, size=16384\n' });
        content = readFileSync(join(directory, 'table'));
      }
      images.push({ name, content, blocks: await blocksRead(content) });
    }
  }, TEST_LIMIT_MS);

  it(
    'end a look-up with containers or a reason, soon',
    async () => {
      const outcomes = { read: 0, refused: 0, unreadable: 0 };
      const isWanted = MINUTES === 0 || process.env.CIEL_FUZZ_TARGET === 'disk';
      const count = await forSeeds(SHORT.disk, isWanted ? MINUTES : 1e-6, async (seed) => {
        const { name, content, blocks } = images[seed % images.length] as (typeof images)[number];
        const what = `${name}, seed ${seed}`;
        const mutated = mutateDisk(content, blocks, seed);
        const from = performance.now();
        const found = await lookUp(mutated.disk, what);
        mutated.undo();
        expect(performance.now() - from, what).toBeLessThan(MOST_MS);
        checkText(found, what);
        outcomes[found === null ? 'refused' : found.unreadable.length > 0 ? 'unreadable' : 'read'] += 1;
      });
      report('disk', count, outcomes);
      if (MINUTES === 0) expect(Math.min(outcomes.read, outcomes.refused)).toBeGreaterThan(3);
    },
    TEST_LIMIT_MS,
  );
});

describe("a runtime's JSON", () => {
  const files = Object.values(dockerFiles(CONTAINER_ID, 'shop')).map((text) => JSON.parse(text) as unknown);

  it(
    'describes a container or is refused, soon',
    async () => {
      const outcomes = { described: 0, refused: 0 };
      const isWanted = MINUTES === 0 || process.env.CIEL_FUZZ_TARGET === 'json';
      const count = await forSeeds(SHORT.json, isWanted ? MINUTES : 1e-6, (seed) => {
        const below = random(seed);
        const [config, host] = files.map((file) =>
          mutateText(Buffer.from(JSON.stringify(below(4) === 0 ? file : mutateJson(file, below))), below),
        ) as [Buffer, Buffer];
        const from = performance.now();
        try {
          const container = parseContainer(CONTAINER_ID, config, host);
          expect(container.id).toBe(CONTAINER_ID);
          expect(/\p{Control}/u.test(`${container.name}${container.image}${container.imageId}`)).toBe(false);
          checkText(container, `seed ${seed}`);
          outcomes.described++;
        } catch (error) {
          if (!(error instanceof DiskUnreadable)) throw new Error(`seed ${seed}`, { cause: error });
          outcomes.refused++;
        }
        expect(performance.now() - from, `seed ${seed}`).toBeLessThan(MOST_MS);
      });
      report('json', count, outcomes);
      if (MINUTES === 0) expect(Math.min(outcomes.described, outcomes.refused)).toBeGreaterThan(100);
    },
    TEST_LIMIT_MS,
  );
});

import { copyFileSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { JournalOverlay } from '../../guest-disk/journal.ts';
import {
  bufferSource,
  CONTAINER_ID,
  debugfs,
  dockerFiles,
  makeImage,
  openExt4,
  recoverJournal,
  temporaryDirectory,
  writeTree,
} from './images.ts';
import { type JournalOptions, JournalWriter, type Transaction } from './journal-writer.ts';

const MAGIC = 0xc03b_3998;

function block(fill: number, first?: number): Buffer {
  const content = Buffer.alloc(1024, fill);
  if (first !== undefined) content.writeUInt32BE(first);
  return content;
}

function transaction(blocks: Readonly<Record<number, Buffer>>, revoked: readonly number[] = []): Transaction {
  return { blocks: new Map(Object.entries(blocks).map(([home, content]) => [Number(home), content])), revoked };
}

/** Short, for the failure's message. */
function digest(content: Buffer | undefined): string {
  return content ? `${content.toString('hex', 0, 8)}…` : 'never written';
}

async function newest(overlay: JournalOverlay, journal: JournalWriter, home: number): Promise<Buffer | undefined> {
  return (await overlay.read(journal, home)) ?? journal.home.get(home);
}

const v3: JournalOptions = { checksums: 'v3', wide: true, blocks: 64, firstSequence: 100 };

describe('a journal that is written while it is followed', () => {
  it('is what the kernel would recover, whatever is committed, revoked, written home or cut', async () => {
    const homes = fc.integer({ min: 1, max: 12 });
    const content = fc.tuple(fc.integer({ min: 0, max: 255 }), fc.option(fc.constant(MAGIC), { nil: undefined }));
    const transactions = fc.record({
      blocks: fc.array(fc.tuple(homes, content), { minLength: 0, maxLength: 14 }),
      revoked: fc.array(homes, { maxLength: 3 }),
    });
    const steps = fc.oneof(
      { weight: 5, arbitrary: transactions.map((value) => ({ kind: 'commit' as const, ...value })) },
      { weight: 2, arbitrary: fc.constant({ kind: 'checkpoint' as const }) },
      { weight: 3, arbitrary: fc.constant({ kind: 'follow' as const }) },
      { weight: 1, arbitrary: transactions.map((value) => ({ kind: 'cut' as const, ...value })) },
    );
    const options = fc.record({
      checksums: fc.constantFrom('none' as const, 'v2' as const, 'v3' as const),
      wide: fc.boolean(),
      blocks: fc.integer({ min: 28, max: 70 }),
      firstSequence: fc.constantFrom(1, 100, 0xffff_fffa),
    });
    await fc.assert(
      fc.asyncProperty(options, fc.array(steps, { minLength: 5, maxLength: 60 }), async (how, script) => {
        const journal = new JournalWriter(how);
        const overlay = new JournalOverlay();
        const before = new Map<number, string>();
        for (const step of [...script, { kind: 'follow' as const }]) {
          if (step.kind === 'checkpoint') journal.checkpoint();
          if (step.kind === 'commit' || step.kind === 'cut') {
            const blocks = Object.fromEntries(step.blocks.map(([home, [fill, first]]) => [home, block(fill, first)]));
            journal.commit(transaction(blocks, step.revoked), step.kind === 'cut' ? 2 : undefined);
          }
          if (step.kind !== 'follow') continue;
          const changed = await overlay.follow(journal);
          for (let home = 1; home <= 12; home++) {
            const found = await newest(overlay, journal, home);
            expect(digest(found), `block ${home}`).toBe(digest(journal.recovered(home)));
            // What was not told to have changed has not, or a reader's cache would be stale.
            if (changed !== 'everything' && !changed.has(home))
              expect(digest(found)).toBe(before.get(home) ?? digest(undefined));
            before.set(home, digest(found));
          }
        }
      }),
      { numRuns: 100 },
    );
  });

  it('tells nothing new at the price of two small reads', async () => {
    const journal = new JournalWriter(v3);
    const overlay = new JournalOverlay();
    for (let n = 1; n < 9; n++) journal.commit(transaction({ [n]: block(n) }));
    expect(await overlay.follow(journal)).toBe('everything');
    let reads = 0;
    journal.beforeRead = () => {
      reads += 1;
    };
    expect(await overlay.follow(journal)).toEqual(new Set());
    expect(reads).toBe(2);
    journal.commit(transaction({ 3: block(33) }));
    expect(await overlay.follow(journal)).toEqual(new Set([3]));
    expect(overlay.sequence).toBe(journal.lastSequence);
  });

  it('is followed again when its tail moves between the reads', async () => {
    const journal = new JournalWriter(v3);
    const overlay = new JournalOverlay();
    for (let n = 1; n < 9; n++) journal.commit(transaction({ [n]: block(n) }));
    let isOnce = true;
    journal.beforeRead = (first) => {
      if (first === 0 || !isOnce) return;
      isOnce = false;
      for (let n = 0; n < 40; n++) journal.commit(transaction({ [n % 9]: block(100 + n) }));
    };
    await overlay.follow(journal);
    for (let home = 0; home < 9; home++) expect(await newest(overlay, journal, home)).toEqual(journal.recovered(home));
  });

  it('is given up when its tail moves at every read', async () => {
    const journal = new JournalWriter(v3);
    journal.commit(transaction({ 1: block(1) }));
    journal.beforeRead = (first) => {
      if (first === 0) return;
      journal.commit(transaction({ 2: block(2), 3: block(3) }));
      journal.checkpoint();
    };
    await expect(new JournalOverlay().follow(journal)).rejects.toMatchObject({ reason: 'Torn' });
  });

  it('does not serve a copy that was overwritten', async () => {
    const journal = new JournalWriter(v3);
    const overlay = new JournalOverlay();
    journal.commit(transaction({ 5: block(55) }));
    await overlay.follow(journal);
    journal.corrupt(block(55));
    await expect(overlay.read(journal, 5)).rejects.toMatchObject({ reason: 'Torn' });
  });

  it('is not mistaken for an earlier one: another disk, or a snapshot that was reverted to', async () => {
    const overlay = new JournalOverlay();
    const one = new JournalWriter(v3);
    one.commit(transaction({ 1: block(1), 2: block(2) }));
    one.commit(transaction({ 1: block(11) }));
    await overlay.follow(one);

    const reverted = new JournalWriter(v3);
    reverted.commit(transaction({ 1: block(1), 2: block(2) }));
    reverted.commit(transaction({ 2: block(22) }));
    expect(await overlay.follow(reverted)).toBe('everything');
    expect(await overlay.read(reverted, 1)).toEqual(block(1));
    expect(await overlay.read(reverted, 2)).toEqual(block(22));

    const another = new JournalWriter(v3, 8);
    another.commit(transaction({ 7: block(7) }));
    another.commit(transaction({ 8: block(8) }));
    expect(await overlay.follow(another)).toBe('everything');
    expect(overlay.has(1)).toBe(false);
    expect(await overlay.read(another, 7)).toEqual(block(7));
  });
});

describe('a journal that e2fsprogs wrote', async () => {
  const directory = await temporaryDirectory();
  const tree = join(directory, 'tree');
  beforeAll(() => writeTree(tree, { ...dockerFiles(CONTAINER_ID, 'before'), 'etc/hostname': 'guest' }));

  const cases: [name: string, features: string[], open: string][] = [
    ['without checksums, 32 bits', ['-b', '4096', '-O', 'extent,^64bit,^metadata_csum,has_journal'], 'jo'],
    ['with checksums v2, 64 bits', ['-b', '4096', '-O', 'extent,64bit,metadata_csum,has_journal'], 'jo -c -v 2'],
    ['with checksums v3, 64 bits', ['-b', '4096', '-O', 'extent,64bit,metadata_csum,has_journal'], 'jo -c -v 3'],
    [
      'with checksums v3, blocks of 1 KiB',
      ['-b', '1024', '-O', 'extent,64bit,metadata_csum,has_journal'],
      'jo -c -v 3',
    ],
  ];
  it.each(cases)('%s: reads as its own recovery does', async (name, features, open) => {
    // Two states of one file system; the second becomes transactions in the first one's journal.
    const base = join(directory, `${name.replaceAll(/\W/g, '-')}.img`);
    await makeImage(base, tree, 32, features);
    const after = `${base}.after`;
    copyFileSync(base, after);
    const config = join(directory, 'config');
    writeTree(directory, {
      config: dockerFiles(CONTAINER_ID, 'after')[`var/lib/docker/containers/${CONTAINER_ID}/config.v2.json`] ?? '',
    });
    const path = `var/lib/docker/containers/${CONTAINER_ID}/config.v2.json`;
    await debugfs(after, `rm ${path}`, `write ${config} ${path}`, 'mkdir later', `write ${config} later/copy`);

    const blockSize = features.includes('1024') ? 1024 : 4096;
    const [old, changed] = [readFileSync(base), readFileSync(after)];
    const differing = Array.from({ length: old.length / blockSize }, (_, n) => n).filter(
      // The superblock is debugfs's own to write.
      (n) =>
        n > 1 &&
        !old.subarray(n * blockSize, (n + 1) * blockSize).equals(changed.subarray(n * blockSize, (n + 1) * blockSize)),
    );
    expect(differing.length).toBeGreaterThan(4);
    const script = [open];
    for (const [index, half] of [differing.slice(0, 3), differing.slice(3)].entries()) {
      const file = join(directory, `blocks-${index}`);
      writeTree(directory, {
        [`blocks-${index}`]: Buffer.concat(half.map((n) => changed.subarray(n * blockSize, (n + 1) * blockSize))),
      });
      script.push(`jw -b ${half.join(',')} ${file}`);
    }
    await debugfs(base, ...script, 'jc');

    const recovered = `${base}.recovered`;
    copyFileSync(base, recovered);
    await recoverJournal(recovered);
    const live = await openExt4(base);
    const truth = await openExt4(recovered);
    const read = (fileSystem: typeof live, file: string) =>
      fileSystem.coherently(() => fileSystem.readFile(file, 1 << 20));
    expect(String(await read(live, `/${path}`))).toContain('/after');
    expect(await read(live, `/${path}`)).toEqual(await read(truth, `/${path}`));
    expect(await read(live, '/later/copy')).toEqual(await read(truth, '/later/copy'));
    expect(await live.coherently(() => live.readDirectory('/'))).toEqual(
      await truth.coherently(() => truth.readDirectory('/')),
    );
    expect(live.age.journalledBlocks).toBe(differing.length);
    expect(truth.age.journalledBlocks).toBe(0);
  });

  it('revokes and uncommitted transactions count as its own recovery counts them', async () => {
    const base = join(directory, 'revoke.img');
    await makeImage(base, tree, 32, ['-b', '4096', '-O', 'extent,64bit,metadata_csum,has_journal']);
    const blocks = [5000, 5001, 5002, 5003];
    writeTree(directory, { one: Buffer.alloc(4 * 4096, 1), two: Buffer.alloc(4096, 2), three: Buffer.alloc(4096, 3) });
    const script = [
      'jo -c -v 3',
      `jw -b ${blocks.join(',')} ${join(directory, 'one')}`,
      'jw -r 5000,5002',
      `jw -b 5001 ${join(directory, 'two')}`,
      `jw -c -b 5003 ${join(directory, 'three')}`,
      'jc',
    ];
    await debugfs(base, ...script);
    const recovered = `${base}.recovered`;
    copyFileSync(base, recovered);
    await recoverJournal(recovered);
    const truth = readFileSync(recovered);
    const fileSystem = await openExt4(base);
    await fileSystem.coherently(async () => undefined);
    // 5001 and 5003; that what they hold is right is the property above, here it is which of them count.
    expect(fileSystem.age).toMatchObject({ journalledBlocks: 2, journalSequence: 3 });
    expect(blocks.map((n) => truth[n * 4096])).toEqual([0, 2, 0, 1]);
  });

  it('fast commits that are newer are told, and older ones not', async () => {
    const base = join(directory, 'fast.img');
    await makeImage(base, tree, 32, ['-b', '1024', '-O', 'extent,^metadata_csum,has_journal', '-J', 'size=4']);
    const content = readFileSync(base);
    const at = async (block: number) => Number(await debugfs(base, `bmap <8> ${block}`).then(onlyNumber)) * 1024;
    const superblock = await at(0);
    const blocks = content.readUInt32BE(superblock + 16);
    const sequence = content.readUInt32BE(superblock + 24);
    // As the kernel sets it when it mounts with fast commits: 256 blocks, and one between the log and them.
    content.writeUInt32BE(content.readUInt32BE(superblock + 40) | 0x20, superblock + 40);
    const area = await at(blocks - 256 + 1);
    content.writeUInt16LE(9, area);
    content.writeUInt16LE(8, area + 2);
    for (const [ahead, hasNewer] of [
      [0, true],
      [-1, false],
    ] as const) {
      content.writeUInt32LE(sequence + ahead, area + 8);
      const fileSystem = await openExt4(bufferSource(content));
      await fileSystem.coherently(async () => undefined);
      expect(fileSystem.age.hasNewer).toBe(hasNewer);
    }
  });
});

const onlyNumber = (output: string) => /^(\d+)$/m.exec(output)?.[1] ?? Number.NaN;

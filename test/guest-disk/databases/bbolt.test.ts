import { describe, expect, it } from 'vitest';
import { type Bucket, readBolt } from '../../../guest-disk/databases/bbolt.ts';
import type { BlockSource } from '../../../guest-disk/disk.ts';
import { checksumsOf } from '../checksums.ts';
import { bufferSource, inflated } from '../images.ts';

const database = inflated('kubernetes.db');
const PAGE = 4096;

async function keysOf(bucket: Bucket | null): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of bucket?.entries() ?? []) keys.push(String(key));
  return keys;
}

describe('a bbolt database', () => {
  it('is read through branches, nested and inline buckets, and values of several pages', async () => {
    await readBolt(bufferSource(database), async (root) => {
      const many = await root.bucket('many');
      const keys = await keysOf(many);
      expect(keys.filter((key) => key.startsWith('key-'))).toEqual(
        Array.from({ length: 800 }, (_, n) => `key-${String(n).padStart(4, '0')}`),
      );
      for (const n of [0, 1, 399, 799]) {
        const expected = `value ${n} of a length that fills pages`;
        expect(await many?.text(`key-${String(n).padStart(4, '0')}`)).toBe(expected);
      }
      expect((await (await many?.bucket('nested-39'))?.get('large'))?.length).toBe(300 * 39);
      expect(await many?.get('key-0800')).toBeNull();
      expect(await many?.get('')).toBeNull();
      expect(await many?.bucket('key-0001')).toBeNull();
      expect(await root.bucket('many', 'nested-03')).toBeNull();
    });
  });

  /** The transaction number of a meta page. */
  const transactionOf = (content: Buffer, meta: number) => content.readBigUInt64LE(meta * PAGE + 16 + 48);

  it('is read through the other meta when the newest is torn', async () => {
    const torn = Buffer.from(database);
    const newest = transactionOf(torn, 0) > transactionOf(torn, 1) ? 0 : 1;
    torn.writeUInt8(torn.readUInt8(newest * PAGE + 40) ^ 1, newest * PAGE + 40);
    const keys = await readBolt(bufferSource(torn), async (root) => keysOf(await root.bucket('many')));
    // The last transaction but one had not written the last bucket yet.
    expect(keys).toContain('nested-38');
    expect(keys).not.toContain('nested-39');
  });

  it('is read again when a transaction ends meanwhile', async () => {
    const older = Buffer.from(database);
    const newest = transactionOf(older, 0) > transactionOf(older, 1) ? 0 : 1;
    older.writeUInt8(0, newest * PAGE + 16);
    let content: Buffer = older;
    const source: BlockSource = {
      sizeBytes: database.length,
      read: (offset, length) => bufferSource(content).read(offset, length),
    };
    let attempts = 0;
    const keys = await readBolt(source, async (root) => {
      attempts += 1;
      const found = await keysOf(await root.bucket('many'));
      content = database;
      return found;
    });
    expect(attempts).toBe(2);
    expect(keys).toContain('nested-39');
  });

  it('of nothing but metas that do not match their checksums is refused', async () => {
    const broken = Buffer.from(database);
    for (const meta of [0, 1]) broken.writeUInt8(broken.readUInt8(meta * PAGE + 40) ^ 1, meta * PAGE + 40);
    await expect(readBolt(bufferSource(broken), keysOf)).rejects.toMatchObject({ reason: 'Malformed' });
  });

  it('whose branch leads to itself ends', async () => {
    const circular = Buffer.from(database);
    for (let page = 2; page * PAGE < circular.length; page++) {
      const isBranch = circular.readUInt16LE(page * PAGE + 8) === 1;
      const count = circular.readUInt16LE(page * PAGE + 10);
      for (let index = 0; isBranch && index < count; index++) {
        circular.writeBigUInt64LE(BigInt(page), page * PAGE + 16 + index * 16 + 8);
      }
    }
    const read = readBolt(bufferSource(circular), async (root) => keysOf(await root.bucket('many')));
    await expect(read).rejects.toMatchObject({ reason: expect.stringMatching(/Malformed|Exhausted/) });
  });

  it('whose many branches lead to one page is given up', async () => {
    const [branch, leaf] = [database.length / PAGE, database.length / PAGE + 1];
    const children = 250;
    const entries = 60_000;
    const pagesOfLeaf = Math.ceil((16 + entries * 16) / PAGE);
    const crowded = Buffer.concat([database, Buffer.alloc((1 + pagesOfLeaf) * PAGE)]);
    const header = (page: number, flags: number, count: number, overflow: number) => {
      crowded.writeBigUInt64LE(BigInt(page), page * PAGE);
      crowded.writeUInt16LE(flags, page * PAGE + 8);
      crowded.writeUInt16LE(count, page * PAGE + 10);
      crowded.writeUInt32LE(overflow, page * PAGE + 12);
    };
    header(branch, 1, children, 0);
    for (let index = 0; index < children; index++)
      crowded.writeBigUInt64LE(BigInt(leaf), branch * PAGE + 16 + index * 16 + 8);
    header(leaf, 2, entries, pagesOfLeaf - 1);
    for (const meta of [0, 1]) crowded.writeBigUInt64LE(BigInt(branch), meta * PAGE + 16 + 16);
    for (const { repair } of checksumsOf(crowded, [0, PAGE])) repair();
    await expect(readBolt(bufferSource(crowded), keysOf)).rejects.toMatchObject({
      reason: 'Exhausted',
      message: expect.stringContaining('entries'),
    });
  });
});

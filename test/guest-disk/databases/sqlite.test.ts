import { describe, expect, it } from 'vitest';
import { readSqlite, type SqliteRow } from '../../../guest-disk/databases/sqlite.ts';
import type { BlockSource } from '../../../guest-disk/disk.ts';
import { bufferSource, inflated } from '../images.ts';

const database = inflated('podman-5.sql');

const rowsOf = (source: BlockSource, table: string) =>
  readSqlite(source, async (opened) => {
    const rows: SqliteRow[] = [];
    for await (const row of opened.rows(table)) rows.push(row);
    return rows;
  });

describe('an SQLite database', () => {
  it('is read by table and column, also where a row is longer than a page', async () => {
    const rows = await rowsOf(bufferSource(database), 'ContainerConfig');
    expect(rows.map(({ Name }) => Name).sort()).toEqual(
      ['large', 'n1', 'n2', 'n4', 'n5', 'n6', 'n7', 'n8', 'shop'].sort(),
    );
    const large = rows.find(({ Name }) => Name === 'large');
    expect(String(large?.JSON).length).toBeGreaterThan(4 * 4096);
    expect(JSON.parse(String(large?.JSON))).toMatchObject({ id: large?.ID, labels: { 'label-120': 'x'.repeat(100) } });
    for (const { State } of await rowsOf(bufferSource(database), 'ContainerState')) expect(State).toBe(1);
    expect(await rowsOf(bufferSource(database), 'NoSuchTable')).toEqual([]);
  });

  it('is read again when it was written to meanwhile, and Torn when that does not end', async () => {
    const content = Buffer.from(database);
    let writes = 1;
    const source: BlockSource = {
      sizeBytes: content.length,
      read: (offset, length) => {
        // The counter of transactions in the header.
        if (offset > 0 && writes-- > 0) content.writeUInt32BE(content.readUInt32BE(24) + 1, 24);
        return bufferSource(content).read(offset, length);
      },
    };
    expect(await rowsOf(source, 'ContainerConfig')).toHaveLength(9);
    writes = Number.POSITIVE_INFINITY;
    await expect(rowsOf(source, 'ContainerConfig')).rejects.toMatchObject({ reason: 'Torn' });
  });

  it('whose tree leads to itself ends', async () => {
    const circular = Buffer.from(database);
    const pageBytes = circular.readUInt16BE(16);
    for (let page = 1; page * pageBytes < circular.length; page++) {
      const at = page * pageBytes;
      if (circular.readUInt8(at) !== 5) continue;
      for (let index = 0; index < circular.readUInt16BE(at + 3); index++) {
        circular.writeUInt32BE(page + 1, at + circular.readUInt16BE(at + 12 + index * 2));
      }
      circular.writeUInt32BE(page + 1, at + 8);
    }
    expect(circular.equals(database)).toBe(false);
    const read = rowsOf(bufferSource(circular), 'ContainerConfig');
    await expect(read).rejects.toMatchObject({ reason: expect.stringMatching(/Malformed|Exhausted/) });
  });

  it('whose records lie over each other, and so are many times its size, is given up', async () => {
    const pageBytes = 65_536;
    const crowded = Buffer.alloc(2 * pageBytes);
    crowded.write('SQLite format 3\0', 'latin1');
    crowded.writeUInt16BE(1, 16);
    crowded.writeUInt32BE(1, 56);
    const varint = (value: number) => Buffer.from([0x80 | (value >> 14), 0x80 | ((value >> 7) & 0x7f), value & 0x7f]);
    const record = (...texts: readonly string[]) => {
      const types = texts.map((text) => varint(text.length * 2 + 13));
      const header = Buffer.concat([varint(3 + types.length * 3), ...types]);
      const payload = Buffer.concat([header, ...texts.map((text) => Buffer.from(text))]);
      return Buffer.concat([varint(payload.length), varint(1), payload]);
    };
    /** A leaf whose cells are all the one at `cell`. */
    const fill = (start: number, count: number, cell: number, bytes: Buffer) => {
      const page = crowded.subarray(start === 100 ? 0 : start);
      const at = start === 100 ? 100 : 0;
      page.writeUInt8(13, at);
      page.writeUInt16BE(count, at + 3);
      for (let index = 0; index < count; index++) page.writeUInt16BE(cell, at + 8 + index * 2);
      bytes.copy(page, cell);
    };
    const schema = record('table', 'T', 'T', '2', 'CREATE TABLE T (A TEXT)');
    // The root page is a number: one byte, 2, of type 1, in place of the text "2".
    schema[6 + 3 + 3 * 3 + 2] = 1;
    schema[6 + 18 + 'tableTT'.length] = 2;
    fill(100, 1, 1000, schema);
    fill(pageBytes, 100, 4000, record('x'.repeat(60_000)));
    expect(await rowsOf(bufferSource(crowded), 'T')).toHaveLength(100);
    fill(pageBytes, 1000, 4000, record('x'.repeat(60_000)));
    await expect(rowsOf(bufferSource(crowded), 'T')).rejects.toMatchObject({ reason: 'Exhausted' });
  });

  it('in WAL mode, or none at all, is refused', async () => {
    const wal = Buffer.from(database);
    wal.writeUInt8(2, 19);
    await expect(rowsOf(bufferSource(wal), 'ContainerConfig')).rejects.toMatchObject({ reason: 'Unsupported' });
    const none = Buffer.alloc(8192);
    await expect(rowsOf(bufferSource(none), 'ContainerConfig')).rejects.toMatchObject({ reason: 'Malformed' });
  });
});

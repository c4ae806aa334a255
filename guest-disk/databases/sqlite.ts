/**
 * SQLite, read only, while another process writes to it: whole tables, which is all that podman's database asks for.
 *
 *   page 1: file header, then the b-tree of sqlite_schema: tables with the SQL that made them and their root pages
 *   table b-tree: interior pages → leaf pages → cells: row id, record (column types, then values), its rest in a list of
 *   overflow pages
 *
 * A rollback journal protects the writer, not us: pages are overwritten in place between two syncs. So everything is
 * read twice in different moments and must be the same (the header counts transactions, but is itself just a page), and
 * the caller checks each row by what it says: a row that is half of one transaction and half of another is no JSON, or
 * names another container. A journal in WAL mode is not read: podman does not use it.
 *
 * Format: https://www.sqlite.org/fileformat2.html
 */
import { asDiskUnreadable, type BlockSource, DiskUnreadable } from '../disk.ts';

const MAGIC = 'SQLite format 3\0';
const HEADER_BYTES = 100;
const INTERIOR_TABLE = 5;
const LEAF_TABLE = 13;
const WAL_VERSION = 2;

const MAX_DEPTH = 20;
const MAX_PAGE_READS = 20_000;
const MAX_RECORD_BYTES = 4 << 20;
/** In one read of the database. Records may lie over each other, so pages alone bound nothing. */
const MAX_ALL_RECORDS_BYTES = 32 << 20;
const MAX_COLUMNS = 128;
const MAX_CACHE_BYTES = 16 << 20;
const MAX_ATTEMPTS = 5;

export type SqliteValue = string | number | Buffer | null;
export type SqliteRow = { readonly [column: string]: SqliteValue };

/** Runs `read` on a database that does not change meanwhile; again when it does, Torn when that does not end. */
export async function readSqlite<T>(file: BlockSource, read: (database: SqliteDatabase) => Promise<T>): Promise<T> {
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
    const database = new SqliteDatabase(file);
    const outcome = await read(database).then(
      (value) => () => value,
      (error: unknown) => () => {
        throw asDiskUnreadable(error);
      },
    );
    if (await database.isUnchanged()) return outcome();
  }
  throw new DiskUnreadable('Torn', `the database was written to in each of ${MAX_ATTEMPTS} attempts to read it`);
}

export class SqliteDatabase {
  readonly #file: BlockSource;
  readonly #pages = new Map<number, Buffer>();
  #geometry: { pageBytes: number; usableBytes: number } | undefined;
  #reads = 0;
  #recordBytes = 0;

  constructor(file: BlockSource) {
    this.#file = file;
  }

  /** Reads again what was read. */
  async isUnchanged(): Promise<boolean> {
    const { pageBytes } = this.#geometry ?? { pageBytes: 0 };
    for (const [number, page] of this.#pages) {
      const now = await this.#file.read((number - 1) * pageBytes, pageBytes);
      if (!now.equals(page)) return false;
    }
    return true;
  }

  /** Every row of a table; none when there is no such table. A column that is the row id reads as null. */
  async *rows(table: string): AsyncGenerator<SqliteRow> {
    for await (const [type, name, , root, sql] of this.#records(1)) {
      if (type !== 'table' || name !== table || typeof root !== 'number' || typeof sql !== 'string') continue;
      const columns = columnsOf(sql);
      for await (const values of this.#records(root)) {
        yield Object.fromEntries(columns.map((column, index) => [column, values[index] ?? null]));
      }
      return;
    }
  }

  async #open(): Promise<{ pageBytes: number; usableBytes: number }> {
    if (this.#geometry) return this.#geometry;
    const header = await this.#file.read(0, HEADER_BYTES);
    const stored = header.readUInt16BE(16);
    const pageBytes = stored === 1 ? 65_536 : stored;
    const usableBytes = pageBytes - header.readUInt8(20);
    const isPage = pageBytes >= 512 && (pageBytes & (pageBytes - 1)) === 0 && usableBytes >= 480;
    if (header.toString('latin1', 0, 16) !== MAGIC || !isPage) {
      throw new DiskUnreadable('Malformed', `no SQLite database, or one with pages of ${pageBytes} bytes`);
    }
    if (header.readUInt8(19) === WAL_VERSION) {
      throw new DiskUnreadable('Unsupported', 'an SQLite database in WAL mode');
    }
    const encoding = header.readUInt32BE(56);
    if (encoding > 1) throw new DiskUnreadable('Unsupported', `an SQLite database of text encoding ${encoding}`);
    this.#geometry = { pageBytes, usableBytes };
    return this.#geometry;
  }

  async #page(number: number): Promise<Buffer> {
    const { pageBytes } = await this.#open();
    if (++this.#reads > MAX_PAGE_READS) {
      throw new DiskUnreadable('Exhausted', `more than ${MAX_PAGE_READS} pages of an SQLite database looked at`);
    }
    const known = this.#pages.get(number);
    if (known) return known;
    if (number < 1 || (this.#pages.size + 1) * pageBytes > MAX_CACHE_BYTES) {
      throw new DiskUnreadable(number < 1 ? 'Malformed' : 'Exhausted', `page ${number} of an SQLite database`);
    }
    const page = await this.#file.read((number - 1) * pageBytes, pageBytes);
    this.#pages.set(number, page);
    return page;
  }

  async *#records(page: number, depth = 0): AsyncGenerator<SqliteValue[]> {
    if (depth > MAX_DEPTH) throw new DiskUnreadable('Malformed', `an SQLite tree of more than ${MAX_DEPTH} levels`);
    const bytes = await this.#page(page);
    const start = page === 1 ? HEADER_BYTES : 0;
    const type = bytes.readUInt8(start);
    const count = bytes.readUInt16BE(start + 3);
    if (type !== LEAF_TABLE && type !== INTERIOR_TABLE) {
      throw new DiskUnreadable('Malformed', `page ${page} of an SQLite database is of kind ${type}`);
    }
    const pointers = start + (type === INTERIOR_TABLE ? 12 : 8);
    for (let index = 0; index < count; index++) {
      const cell = bytes.readUInt16BE(pointers + index * 2);
      if (type === INTERIOR_TABLE) yield* this.#records(bytes.readUInt32BE(cell), depth + 1);
      else yield decodeRecord(await this.#payload(bytes, cell));
    }
    if (type === INTERIOR_TABLE) yield* this.#records(bytes.readUInt32BE(start + 8), depth + 1);
  }

  /** A cell's record, with what of it lies on overflow pages. */
  async #payload(page: Buffer, cell: number): Promise<Buffer> {
    const { usableBytes } = await this.#open();
    const cursor = { at: cell };
    const length = readVarint(page, cursor);
    readVarint(page, cursor);
    if (length > MAX_RECORD_BYTES) throw new DiskUnreadable('Exhausted', `a record of ${length} bytes`);
    this.#recordBytes += length;
    if (this.#recordBytes > MAX_ALL_RECORDS_BYTES) {
      throw new DiskUnreadable(
        'Exhausted',
        `more than ${MAX_ALL_RECORDS_BYTES} bytes of records in an SQLite database`,
      );
    }
    const most = usableBytes - 35;
    if (length <= most) return take(page, cursor.at, length);
    const least = Math.floor(((usableBytes - 12) * 32) / 255) - 23;
    const fitting = least + ((length - least) % (usableBytes - 4));
    const local = fitting <= most ? fitting : least;
    const parts = [take(page, cursor.at, local)];
    let next = page.readUInt32BE(cursor.at + local);
    for (let left = length - local; left > 0; ) {
      const overflow = await this.#page(next);
      const here = Math.min(left, usableBytes - 4);
      parts.push(take(overflow, 4, here));
      next = overflow.readUInt32BE(0);
      left -= here;
    }
    return Buffer.concat(parts);
  }
}

function take(bytes: Buffer, start: number, length: number): Buffer {
  if (start + length > bytes.length) {
    throw new DiskUnreadable('Malformed', `${length} bytes at ${start} of an SQLite page of ${bytes.length}`);
  }
  return bytes.subarray(start, start + length);
}

/** Up to nine bytes, seven bits each. Beyond 2^53 nothing is a length or a page; precision does not matter there. */
function readVarint(bytes: Buffer, cursor: { at: number }): number {
  let value = 0;
  for (let index = 0; index < 9; index++) {
    const byte = bytes.readUInt8(cursor.at++);
    if (index === 8) return value * 256 + byte;
    value = value * 128 + (byte & 0x7f);
    if (byte < 0x80) return value;
  }
  return value;
}

function decodeRecord(record: Buffer): SqliteValue[] {
  const cursor = { at: 0 };
  const headerBytes = readVarint(record, cursor);
  const types: number[] = [];
  while (cursor.at < headerBytes) {
    if (types.length === MAX_COLUMNS) throw new DiskUnreadable('Malformed', `a record of over ${MAX_COLUMNS} columns`);
    types.push(readVarint(record, cursor));
  }
  let at = headerBytes;
  return types.map((type) => {
    const length = lengthOf(type);
    const value = take(record, at, length);
    at += length;
    if (type === 0) return null;
    if (type <= 6) return integerOf(value);
    if (type === 7) return value.readDoubleBE(0);
    if (type <= 9) return type - 8;
    return type % 2 === 1 ? value.toString('utf8') : value;
  });
}

function lengthOf(type: number): number {
  if (type >= 12) return Math.floor((type - 12) / 2);
  const length = [0, 1, 2, 3, 4, 6, 8, 8, 0, 0][type];
  if (length === undefined) throw new DiskUnreadable('Malformed', `a column of type ${type}`);
  return length;
}

function integerOf(bytes: Buffer): number {
  return bytes.length <= 6 ? bytes.readIntBE(0, bytes.length) : Number(bytes.readBigInt64BE(0));
}

/** The names of a table's columns, by the SQL that made it: podman's are plain words, one definition each. */
function columnsOf(sql: string): string[] {
  const body = sql.slice(sql.indexOf('(') + 1);
  const names: string[] = [];
  let depth = 0;
  let begins = true;
  for (const [token] of body.matchAll(/[(),]|"[^"]*"|[^\s(),"]+/g)) {
    if (token === '(') depth += 1;
    else if (token === ')') depth -= 1;
    else if (token === ',' && depth === 0) begins = true;
    else if (begins) {
      begins = false;
      if (!/^(CONSTRAINT|PRIMARY|UNIQUE|CHECK|FOREIGN)$/i.test(token)) names.push(token.replaceAll('"', ''));
    }
    if (depth < 0 || names.length > MAX_COLUMNS) break;
  }
  return names;
}

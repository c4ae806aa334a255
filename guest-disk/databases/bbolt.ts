/**
 * bbolt (BoltDB), read only, while another process writes to it: what containerd and older podman keep their state in.
 *
 *   meta 0 │ meta 1 │ pages …      a page: header, elements, then keys and values, over 1 + overflow pages in a row
 *     └ root ─▶ branch pages ─▶ leaf pages: key → value, or key → bucket: a tree of its own, or inline in the value
 *
 * A transaction writes changed pages to places that its predecessor does not use, syncs them, and then overwrites the
 * older of the two metas, which names the new root. So what is reachable from the newest whole meta stays untouched until
 * a second transaction follows it. readBolt() reads through that meta and looks at both again afterwards: if they are
 * the same, nothing that was read can have changed; if not, it reads again.
 *
 * Format: https://github.com/etcd-io/bbolt (internal/common/{meta,page,bucket}.go)
 */
import { asDiskUnreadable, type BlockSource, DiskUnreadable } from '../disk.ts';

const MAGIC = 0xed0c_daed;
const VERSION = 2;
const PAGE_HEADER_BYTES = 16;
const META_BYTES = 64;
const META_CHECKSUM_AT = 56;
const ELEMENT_BYTES = 16;
const BUCKET_BYTES = 16;
const PAGE_BRANCH = 0x1;
const PAGE_LEAF = 0x2;
const ELEMENT_IS_BUCKET = 0x1;

const MIN_PAGE_BYTES = 1024;
const MAX_PAGE_BYTES = 64 << 10;
/** With its overflow. The largest value that is written here is a container's specification. */
const MAX_NODE_BYTES = 4 << 20;
const MAX_DEPTH = 16;
/** In one read of the database, pages that are looked at again included. */
const MAX_NODE_VISITS = 50_000;
/** Likewise: a page that many branches lead to gives its entries to each of them. */
const MAX_ENTRIES = 500_000;
const MAX_CACHE_BYTES = 16 << 20;
/** Values that are kept keep the pages that they are in. */
const MAX_READ_BYTES = 128 << 20;
const MAX_ATTEMPTS = 5;

interface Meta {
  readonly pageBytes: number;
  readonly root: number;
  readonly transaction: bigint;
}

interface Node {
  readonly isLeaf: boolean;
  readonly count: number;
  readonly bytes: Buffer;
}

export interface BoltEntry {
  readonly key: Buffer;
  /** null: a bucket. */
  readonly value: Buffer | null;
}

/** Runs `read` on one state of the database that a transaction has left, again when the next ones overtake it. */
export async function readBolt<T>(file: BlockSource, read: (root: Bucket) => Promise<T>): Promise<T> {
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
    const meta = await newestMeta(file);
    const outcome = await read(new Bucket(new Pages(file, meta), meta.root, null)).then(
      (value) => () => value,
      (error: unknown) => () => {
        throw asDiskUnreadable(error);
      },
    );
    if ((await newestMeta(file)).transaction === meta.transaction) return outcome();
  }
  throw new DiskUnreadable('Torn', `the database was written to in each of ${MAX_ATTEMPTS} attempts to read it`);
}

async function newestMeta(file: BlockSource): Promise<Meta> {
  const metas: Meta[] = [];
  const first = parseMeta(await readPart(file, 0, PAGE_HEADER_BYTES + META_BYTES));
  if (first) metas.push(first);
  // The second is one page behind, and of what size pages are, only the first tells, which may be half written.
  const sizes = first ? [first.pageBytes] : [1, 2, 4, 8, 16, 32, 64].map((factor) => factor * MIN_PAGE_BYTES);
  for (const pageBytes of sizes) {
    const meta = parseMeta(await readPart(file, pageBytes, PAGE_HEADER_BYTES + META_BYTES));
    if (meta?.pageBytes === pageBytes) metas.push(meta);
  }
  const [newest] = metas.sort((a, b) => (a.transaction < b.transaction ? 1 : -1));
  if (!newest) throw new DiskUnreadable('Malformed', 'a bbolt database without a whole meta page');
  return newest;
}

async function readPart(file: BlockSource, offset: number, length: number): Promise<Buffer> {
  return offset + length > file.sizeBytes ? Buffer.alloc(length) : file.read(offset, length);
}

function parseMeta(page: Buffer): Meta | null {
  const meta = page.subarray(PAGE_HEADER_BYTES);
  const pageBytes = meta.readUInt32LE(8);
  const isMeta = meta.readUInt32LE(0) === MAGIC && meta.readUInt32LE(4) === VERSION;
  const isPage = pageBytes >= MIN_PAGE_BYTES && pageBytes <= MAX_PAGE_BYTES && (pageBytes & (pageBytes - 1)) === 0;
  if (!isMeta || !isPage) return null;
  if (fnv64a(meta.subarray(0, META_CHECKSUM_AT)) !== meta.readBigUInt64LE(META_CHECKSUM_AT)) return null;
  return { pageBytes, root: Number(meta.readBigUInt64LE(16)), transaction: meta.readBigUInt64LE(48) };
}

function fnv64a(bytes: Buffer): bigint {
  let hash = 0xcbf2_9ce4_8422_2325n;
  for (const byte of bytes) hash = ((hash ^ BigInt(byte)) * 0x100_0000_01b3n) & 0xffff_ffff_ffff_ffffn;
  return hash;
}

class Pages {
  readonly #file: BlockSource;
  readonly #meta: Meta;
  readonly #cache = new Map<number, Node>();
  #readBytes = 0;
  #visits = 0;
  #entries = 0;

  constructor(file: BlockSource, meta: Meta) {
    this.#file = file;
    this.#meta = meta;
  }

  visit(): void {
    if (++this.#visits > MAX_NODE_VISITS) {
      throw new DiskUnreadable('Exhausted', `more than ${MAX_NODE_VISITS} pages of a bbolt database looked at`);
    }
  }

  enter(): void {
    if (++this.#entries > MAX_ENTRIES) {
      throw new DiskUnreadable('Exhausted', `more than ${MAX_ENTRIES} entries of a bbolt database looked at`);
    }
  }

  async node(page: number): Promise<Node> {
    this.visit();
    const cached = this.#cache.get(page);
    if (cached) return cached;
    const { pageBytes } = this.#meta;
    let bytes = await this.#file.read(page * pageBytes, pageBytes);
    const overflow = bytes.readUInt32LE(12);
    if (Number(bytes.readBigUInt64LE(0)) !== page || (1 + overflow) * pageBytes > MAX_NODE_BYTES) {
      throw new DiskUnreadable('Malformed', `page ${page} of a bbolt database, with ${overflow} more`);
    }
    if (overflow > 0) bytes = await this.#file.read(page * pageBytes, (1 + overflow) * pageBytes);
    const node = parseNode(bytes);
    this.#readBytes += bytes.length;
    if (this.#readBytes > MAX_READ_BYTES) {
      throw new DiskUnreadable('Exhausted', `more than ${MAX_READ_BYTES} bytes of a bbolt database read`);
    }
    if (this.#readBytes <= MAX_CACHE_BYTES) this.#cache.set(page, node);
    return node;
  }
}

function parseNode(bytes: Buffer): Node {
  const flags = bytes.readUInt16LE(8);
  const count = bytes.readUInt16LE(10);
  const isLeaf = flags === PAGE_LEAF;
  if ((!isLeaf && flags !== PAGE_BRANCH) || PAGE_HEADER_BYTES + count * ELEMENT_BYTES > bytes.length) {
    throw new DiskUnreadable('Malformed', `a bbolt page of kind 0x${flags.toString(16)} with ${count} elements`);
  }
  return { isLeaf, count, bytes };
}

/** A part of a node, which must lie in it. */
function part(node: Node, start: number, length: number): Buffer {
  if (start + length > node.bytes.length) {
    throw new DiskUnreadable('Malformed', `a bbolt element of ${length} bytes at ${start} of ${node.bytes.length}`);
  }
  return node.bytes.subarray(start, start + length);
}

function keyAt(node: Node, index: number): Buffer {
  const { isLeaf, bytes } = node;
  const at = PAGE_HEADER_BYTES + index * ELEMENT_BYTES;
  const position = bytes.readUInt32LE(isLeaf ? at + 4 : at);
  return part(node, at + position, bytes.readUInt32LE(isLeaf ? at + 8 : at + 4));
}

function childAt({ bytes }: Node, index: number): number {
  return Number(bytes.readBigUInt64LE(PAGE_HEADER_BYTES + index * ELEMENT_BYTES + 8));
}

function leafAt(node: Node, index: number): { key: Buffer; value: Buffer; isBucket: boolean } {
  const at = PAGE_HEADER_BYTES + index * ELEMENT_BYTES;
  const key = keyAt(node, index);
  const value = part(node, at + node.bytes.readUInt32LE(at + 4) + key.length, node.bytes.readUInt32LE(at + 12));
  return { key, value, isBucket: (node.bytes.readUInt32LE(at) & ELEMENT_IS_BUCKET) !== 0 };
}

export class Bucket {
  readonly #pages: Pages;
  readonly #root: number;
  readonly #inline: Node | null;

  constructor(pages: Pages, root: number, inline: Node | null) {
    this.#pages = pages;
    this.#root = root;
    this.#inline = inline;
  }

  /** null: there is no such key, or it is a bucket's. */
  async get(key: string): Promise<Buffer | null> {
    const found = await this.#find(Buffer.from(key));
    return found && !found.isBucket ? found.value : null;
  }

  async text(key: string): Promise<string | null> {
    return (await this.get(key))?.toString('utf8') ?? null;
  }

  /** The bucket at the end of a path of names; null when one is missing. */
  async bucket(...path: readonly string[]): Promise<Bucket | null> {
    let bucket: Bucket = this;
    for (const name of path) {
      const found = await bucket.#find(Buffer.from(name));
      if (!found?.isBucket) return null;
      const { value } = found;
      const root = Number(value.readBigUInt64LE(0));
      bucket = new Bucket(this.#pages, root, root === 0 ? parseNode(value.subarray(BUCKET_BYTES)) : null);
    }
    return bucket;
  }

  /** In order of keys. */
  async *entries(): AsyncGenerator<BoltEntry> {
    yield* this.#walk(await this.#rootNode(), 0);
  }

  async *#walk(node: Node, depth: number): AsyncGenerator<BoltEntry> {
    if (depth > MAX_DEPTH) throw new DiskUnreadable('Malformed', `a bbolt tree of more than ${MAX_DEPTH} levels`);
    for (let index = 0; index < node.count; index++) {
      if (!node.isLeaf) {
        yield* this.#walk(await this.#pages.node(childAt(node, index)), depth + 1);
        continue;
      }
      this.#pages.enter();
      const { key, value, isBucket } = leafAt(node, index);
      yield { key, value: isBucket ? null : value };
    }
  }

  async #rootNode(): Promise<Node> {
    if (!this.#inline) return this.#pages.node(this.#root);
    this.#pages.visit();
    return this.#inline;
  }

  async #find(key: Buffer): Promise<{ value: Buffer; isBucket: boolean } | null> {
    let node = await this.#rootNode();
    for (let depth = 0; depth <= MAX_DEPTH; depth++) {
      // The last element that is not behind the key.
      let low = 0;
      let high = node.count;
      while (low < high) {
        const middle = (low + high) >>> 1;
        if (Buffer.compare(keyAt(node, middle), key) <= 0) low = middle + 1;
        else high = middle;
      }
      const index = Math.max(0, low - 1);
      if (node.isLeaf) {
        if (index >= node.count) return null;
        const found = leafAt(node, index);
        return found.key.equals(key) ? found : null;
      }
      if (node.count === 0) return null;
      node = await this.#pages.node(childAt(node, index));
    }
    throw new DiskUnreadable('Malformed', `a bbolt tree of more than ${MAX_DEPTH} levels`);
  }
}

/**
 * A client for the Network Block Device protocol over a unix socket, read only, as far as QEMU's own export needs it.
 *
 *   server                                   client
 *   "NBDMAGIC" "IHAVEOPT" flags          →
 *                                        ←   flags (fixed newstyle, no zeroes)
 *                                        ←   NBD_OPT_GO: the export's name, asks for its block sizes
 *   NBD_REP_INFO (size; block sizes) …   →
 *   NBD_REP_ACK, or an error             →
 *                                        ←   NBD_CMD_READ …   answered in any order, told apart by the cookie
 *
 * Structured replies are not negotiated: a server then sends simple ones, and a read either fails or is whole. Nothing
 * here waits with a time limit: the deadline of the whole look-up (reader.ts) covers a server that does not answer.
 * Format: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
 */
import { createConnection, type Socket } from 'node:net';
import { DiskUnreadable, MAX_READ_BYTES, type OpenBlockSource } from './disk.ts';

const SERVER_MAGIC = Buffer.from('NBDMAGICIHAVEOPT', 'latin1');
const OPTION_MAGIC = Buffer.from('IHAVEOPT', 'latin1');
const OPTION_REPLY_MAGIC = 0x0003_e889_0455_65a9n;
const REQUEST_MAGIC = 0x2560_9513;
const SIMPLE_REPLY_MAGIC = 0x6744_6698;

const FLAG_FIXED_NEWSTYLE = 1;
const FLAG_NO_ZEROES = 2;
const OPT_GO = 7;
const REP_ACK = 1;
const REP_INFO = 3;
const REP_ERROR = 0x8000_0000;
const REP_ERROR_UNKNOWN = 0x8000_0006;
const INFO_EXPORT = 0;
const INFO_BLOCK_SIZE = 3;
const CMD_READ = 0;
const CMD_DISCONNECT = 2;

const MAX_OPTION_REPLIES = 64;
const MAX_OPTION_REPLY_BYTES = 8192;
const MAX_BLOCK_BYTES = 1 << 20;
/** What a server may send ahead of what is asked for; then it has to wait. */
const MAX_BUFFERED_BYTES = 2 * MAX_READ_BYTES;

export async function openNbd(socketPath: string, exportName: string): Promise<OpenBlockSource> {
  const what = `the NBD export ${exportName} at ${socketPath}`;
  const connection = await Connection.open(socketPath, what);
  try {
    const { sizeBytes, alignmentBytes } = await negotiate(connection, exportName, what);
    return serveReads(connection, sizeBytes, alignmentBytes, what);
  } catch (error) {
    connection.destroy();
    throw error;
  }
}

async function negotiate(connection: Connection, exportName: string, what: string) {
  if (!(await connection.receive(SERVER_MAGIC.length)).equals(SERVER_MAGIC)) {
    throw new DiskUnreadable('Unsupported', `${what} does not speak newstyle NBD`);
  }
  const flags = (await connection.receive(2)).readUInt16BE();
  if ((flags & FLAG_FIXED_NEWSTYLE) === 0) {
    throw new DiskUnreadable('Unsupported', `${what} does not speak fixed newstyle NBD`);
  }
  const hello = Buffer.alloc(4);
  hello.writeUInt32BE(FLAG_FIXED_NEWSTYLE | (flags & FLAG_NO_ZEROES));
  connection.send(hello);
  connection.send(optionGo(exportName));

  let sizeBytes: number | undefined;
  let alignmentBytes = 1;
  for (let replies = 0; replies < MAX_OPTION_REPLIES; replies++) {
    const header = await connection.receive(20);
    const type = header.readUInt32BE(12);
    const length = header.readUInt32BE(16);
    if (header.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC || length > MAX_OPTION_REPLY_BYTES) {
      throw new DiskUnreadable('Malformed', `${what} answered the option to open it with something else`);
    }
    const data = await connection.receive(length);
    if (type === REP_ACK) {
      if (sizeBytes === undefined) throw new DiskUnreadable('Malformed', `${what} does not tell its size`);
      return { sizeBytes, alignmentBytes };
    }
    if (type >= REP_ERROR) {
      const reason = type === REP_ERROR_UNKNOWN ? 'NotFound' : 'Unreachable';
      throw new DiskUnreadable(
        reason,
        `${what} was refused (0x${type.toString(16)}): ${JSON.stringify(data.toString())}`,
      );
    }
    if (type !== REP_INFO || length < 2) continue;
    const info = data.readUInt16BE(0);
    if (info === INFO_EXPORT && length >= 12) {
      const size = data.readBigUInt64BE(2);
      if (size > BigInt(Number.MAX_SAFE_INTEGER)) throw new DiskUnreadable('Malformed', `${what} has ${size} bytes`);
      sizeBytes = Number(size);
    } else if (info === INFO_BLOCK_SIZE && length >= 14) {
      alignmentBytes = data.readUInt32BE(2);
      const isPowerOfTwo = alignmentBytes > 0 && (alignmentBytes & (alignmentBytes - 1)) === 0;
      if (!isPowerOfTwo || alignmentBytes > MAX_BLOCK_BYTES) {
        throw new DiskUnreadable('Malformed', `${what} wants reads in units of ${alignmentBytes} bytes`);
      }
    }
  }
  throw new DiskUnreadable('Malformed', `${what} sent more than ${MAX_OPTION_REPLIES} answers to one option`);
}

function optionGo(exportName: string): Buffer {
  const name = Buffer.from(exportName);
  const data = Buffer.alloc(4 + name.length + 4);
  data.writeUInt32BE(name.length, 0);
  name.copy(data, 4);
  data.writeUInt16BE(1, 4 + name.length);
  data.writeUInt16BE(INFO_BLOCK_SIZE, 6 + name.length);
  const header = Buffer.alloc(16);
  OPTION_MAGIC.copy(header);
  header.writeUInt32BE(OPT_GO, 8);
  header.writeUInt32BE(data.length, 12);
  return Buffer.concat([header, data]);
}

function serveReads(connection: Connection, sizeBytes: number, alignment: number, what: string): OpenBlockSource {
  const waiting = new Map<bigint, { length: number; resolve(data: Buffer): void; reject(error: Error): void }>();
  let nextCookie = 1n;

  const failAll = (error: Error) => {
    connection.destroy(error);
    for (const request of waiting.values()) request.reject(error);
    waiting.clear();
  };
  const receiveReplies = async () => {
    for (;;) {
      const header = await connection.receive(16);
      const request = waiting.get(header.readBigUInt64BE(8));
      if (header.readUInt32BE(0) !== SIMPLE_REPLY_MAGIC || request === undefined) {
        throw new DiskUnreadable('Malformed', `${what} answered something that was not asked`);
      }
      const errno = header.readUInt32BE(4);
      const data = errno === 0 ? await connection.receive(request.length) : undefined;
      waiting.delete(header.readBigUInt64BE(8));
      if (data) request.resolve(data);
      else request.reject(new DiskUnreadable('Unreachable', `${what} failed to read: errno ${errno}`));
    }
  };
  receiveReplies().catch(failAll);

  const command = (type: number, cookie: bigint, offset: number, length: number) => {
    const request = Buffer.alloc(28);
    request.writeUInt32BE(REQUEST_MAGIC, 0);
    request.writeUInt16BE(type, 6);
    request.writeBigUInt64BE(cookie, 8);
    request.writeBigUInt64BE(BigInt(offset), 16);
    request.writeUInt32BE(length, 24);
    connection.send(request);
  };

  return {
    sizeBytes,
    read: async (offset, length) => {
      if (length === 0) return Buffer.alloc(0);
      const start = offset - (offset % alignment);
      const end = Math.min(Math.ceil((offset + length) / alignment) * alignment, sizeBytes);
      if (offset + length > end || end - start > MAX_READ_BYTES + 2 * alignment) {
        throw new DiskUnreadable('Malformed', `bytes ${offset} to ${offset + length} of ${what} (${sizeBytes} bytes)`);
      }
      const data = await new Promise<Buffer>((resolve, reject) => {
        if (connection.failure) return reject(connection.failure);
        const cookie = nextCookie++;
        waiting.set(cookie, { length: end - start, resolve, reject });
        command(CMD_READ, cookie, start, end - start);
      });
      return data.subarray(offset - start, offset - start + length);
    },
    close: async () => {
      if (!connection.failure) command(CMD_DISCONNECT, 0n, 0, 0);
      connection.end();
    },
  };
}

/** A socket of which exactly as many bytes are taken as are asked for. One reader at a time. */
class Connection {
  readonly #socket: Socket;
  #chunks: Buffer[] = [];
  #buffered = 0;
  #wanted: { length: number; resolve(data: Buffer): void; reject(error: Error): void } | undefined;
  failure: Error | undefined;

  static open(socketPath: string, what: string): Promise<Connection> {
    return new Promise((resolve, reject) => {
      const socket = createConnection({ path: socketPath });
      const connection = new Connection(socket, what);
      socket.once('connect', () => resolve(connection));
      socket.once('close', () => reject(connection.failure));
    });
  }

  private constructor(socket: Socket, what: string) {
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#buffered += chunk.length;
      this.#deliver();
      if (this.#buffered > MAX_BUFFERED_BYTES) socket.pause();
    });
    socket.on('error', (cause) => {
      this.#fail(new DiskUnreadable('Unreachable', `${what} cannot be reached: ${cause.message}`, { cause }));
    });
    socket.on('close', () => this.#fail(new DiskUnreadable('Unreachable', `${what} closed the connection`)));
  }

  send(data: Buffer): void {
    this.#socket.write(data);
  }

  receive(length: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.#wanted = { length, resolve, reject };
      this.#deliver();
      if (this.#wanted && this.failure) reject(this.failure);
    });
  }

  end(): void {
    this.#socket.end();
    this.#socket.unref();
  }

  destroy(error?: Error): void {
    if (error) this.#fail(error);
    this.#socket.destroy();
  }

  #deliver(): void {
    const wanted = this.#wanted;
    if (!wanted) return;
    if (this.#buffered < wanted.length) {
      this.#socket.resume();
      return;
    }
    // One concat of everything that is there: chunks are at most 64 KiB, and rarely more than one reply is buffered.
    const all = this.#chunks.length === 1 && this.#chunks[0] ? this.#chunks[0] : Buffer.concat(this.#chunks);
    const rest = all.subarray(wanted.length);
    this.#chunks = rest.length > 0 ? [rest] : [];
    this.#buffered = rest.length;
    this.#wanted = undefined;
    wanted.resolve(all.subarray(0, wanted.length));
  }

  #fail(error: Error): void {
    this.failure ??= error;
    this.#wanted?.reject(this.failure);
    this.#wanted = undefined;
    this.#socket.destroy();
  }
}

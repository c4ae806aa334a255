import { readFileSync, writeFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, describe, expect, it } from 'vitest';
import { openNbd } from '../../guest-disk/nbd.ts';
import { run, temporaryDirectory } from './images.ts';

const directory = await temporaryDirectory();
const socketPath = join(directory, 'nbd.sock');
const endings: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const end of endings.splice(0)) await end();
});

/** qemu-nbd, serving one image until the test is over. */
async function serveByQemu(image: string, format: string, ...args: string[]): Promise<void> {
  const server = execa('qemu-nbd', ['-r', '-t', '-f', format, '-x', 'disk', '-k', socketPath, ...args, image], {
    reject: false,
  });
  endings.push(() => {
    server.kill();
    return server;
  });
  for (let attempt = 0; ; attempt++) {
    const source = await openNbd(socketPath, 'disk').catch((error: unknown) => {
      if (attempt === 100) throw error;
      return null;
    });
    if (source) return source.close();
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** A server of our own, to misbehave: `behave` gets each connection. */
async function serveByHand(behave: (socket: Socket) => void): Promise<void> {
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    behave(socket);
  });
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  endings.push(() => new Promise((resolve) => server.close(resolve)));
}

const HELLO = Buffer.concat([Buffer.from('NBDMAGICIHAVEOPT', 'latin1'), Buffer.from([0, 3])]);

function optionReply(type: number, data: Buffer = Buffer.alloc(0), length = data.length): Buffer {
  const header = Buffer.alloc(20);
  header.writeBigUInt64BE(0x3e889045565a9n, 0);
  header.writeUInt32BE(7, 8);
  header.writeUInt32BE(type, 12);
  header.writeUInt32BE(length, 16);
  return Buffer.concat([header, data]);
}

function exportInfo(sizeBytes: bigint): Buffer {
  const data = Buffer.alloc(12);
  data.writeBigUInt64BE(sizeBytes, 2);
  return optionReply(3, data);
}

const OPENED = Buffer.concat([HELLO, exportInfo(1n << 20n), optionReply(1)]);

describe('an export of QEMU', () => {
  const content = Buffer.alloc(3 << 20);
  for (let at = 0; at < content.length; at += 4) content.writeUInt32LE(at * 31, at);
  const raw = join(directory, 'disk.raw');
  writeFileSync(raw, content);

  it.each([['raw'], ['qcow2']])('is read, whole and in parts, from %s', async (format) => {
    const image = join(directory, `disk.${format}`);
    if (format !== 'raw') await run('qemu-img', ['convert', '-O', format, raw, image]);
    await serveByQemu(image, format);
    const source = await openNbd(socketPath, 'disk');
    expect(source.sizeBytes).toBe(content.length);
    const ranges = [
      [0, 1],
      [511, 2],
      [4096, 8192],
      [1_000_001, 1_500_000],
      [content.length - 3, 3],
    ] as const;
    const parts = await Promise.all(ranges.map(([offset, length]) => source.read(offset, length)));
    for (const [index, [offset, length]] of ranges.entries()) {
      expect(parts[index]?.equals(content.subarray(offset, offset + length)), `${length} bytes at ${offset}`).toBe(
        true,
      );
    }
    await expect(source.read(content.length - 1, 2)).rejects.toMatchObject({ reason: 'Malformed' });
    await source.close();
  });

  it('that does not exist is NotFound', async () => {
    await serveByQemu(raw, 'raw');
    await expect(openNbd(socketPath, 'other')).rejects.toMatchObject({ reason: 'NotFound' });
  });

  it('is read in the units that the server asks for', async () => {
    const blocks = Buffer.alloc(14);
    blocks.writeUInt16BE(3, 0);
    for (const [index, size] of [4096, 4096, 1 << 20].entries()) blocks.writeUInt32BE(size, 2 + index * 4);
    const asked: [number, number][] = [];
    await serveByHand((socket) => {
      socket.write(Buffer.concat([HELLO, exportInfo(1n << 20n), optionReply(3, blocks), optionReply(1)]));
      socket.on('data', (data) => {
        if (data.length < 28 || data.readUInt32BE(data.length - 28) !== 0x25609513) return;
        const request = data.subarray(data.length - 28);
        const [offset, length] = [Number(request.readBigUInt64BE(16)), request.readUInt32BE(24)];
        asked.push([offset, length]);
        const reply = Buffer.alloc(16);
        reply.writeUInt32BE(0x67446698, 0);
        request.copy(reply, 8, 8, 16);
        socket.write(Buffer.concat([reply, content.subarray(offset, offset + length)]));
      });
    });
    const source = await openNbd(socketPath, 'disk');
    expect(await source.read(5000, 10)).toEqual(content.subarray(5000, 5010));
    expect(asked).toEqual([[4096, 4096]]);
    await source.close();
  });
});

describe('a server that does not keep to the protocol ends in an error', () => {
  const reply = (errno: number, cookie: bigint, magic = 0x67446698) => {
    const header = Buffer.alloc(16);
    header.writeUInt32BE(magic, 0);
    header.writeUInt32BE(errno, 4);
    header.writeBigUInt64BE(cookie, 8);
    return header;
  };
  const cases: [name: string, opening: Buffer, answer: Buffer | 'close', reason: string][] = [
    ['another protocol', Buffer.from('SSH-2.0-OpenSSH_9.2 and so on'), 'close', 'Unsupported'],
    ['old style', Buffer.concat([HELLO.subarray(0, 16), Buffer.from([0, 0])]), 'close', 'Unsupported'],
    [
      'an option reply of 4 GB',
      Buffer.concat([HELLO, optionReply(3, Buffer.alloc(0), 0xffff_ffff)]),
      'close',
      'Malformed',
    ],
    ['no size', Buffer.concat([HELLO, optionReply(1)]), 'close', 'Malformed'],
    ['a size of 2^63', Buffer.concat([HELLO, exportInfo(1n << 63n), optionReply(1)]), 'close', 'Malformed'],
    ['endless information', Buffer.concat([HELLO, ...Array(100).fill(exportInfo(1n))]), 'close', 'Malformed'],
    ['an end in the middle', HELLO.subarray(0, 9), 'close', 'Unreachable'],
    ['a failed read', OPENED, reply(5, 1n), 'Unreachable'],
    ['another reply', OPENED, reply(0, 77n), 'Malformed'],
    ['another magic', OPENED, reply(0, 1n, 0x12345678), 'Malformed'],
    ['an end before the data', OPENED, 'close', 'Unreachable'],
  ];
  it.each(cases)('%s', async (_name, opening, answer, reason) => {
    await serveByHand((socket) => {
      socket.write(opening);
      if (answer === 'close' && opening !== OPENED) socket.end();
      socket.on('data', (data) => {
        if (data.length < 28 || data.readUInt32BE(data.length - 28) !== 0x25609513) return;
        if (answer === 'close') socket.end();
        else socket.write(answer);
      });
    });
    const read = async () => {
      const source = await openNbd(socketPath, 'disk');
      try {
        return await source.read(0, 4096);
      } finally {
        await source.close();
      }
    };
    await expect(read()).rejects.toMatchObject({ reason });
  });

  it('and so does none at all', async () => {
    await expect(openNbd(join(directory, 'nobody.sock'), 'disk')).rejects.toMatchObject({ reason: 'Unreachable' });
    expect(readFileSync(join(directory, 'disk.raw')).length).toBeGreaterThan(0);
  });
});

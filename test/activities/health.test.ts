import { createServer } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { probe } from '../../activities/health.ts';

const answers: Record<string, number> = { '/ok': 200, '/moved': 302, '/gone': 404, '/broken': 500 };
const http = createServer((request, response) => {
  const status = answers[request.url ?? ''];
  if (status === undefined) return; // never answers
  response.writeHead(status);
  // A body without end: a probe must not wait for it.
  response.write('x'.repeat(1 << 16));
});
const nonsense = createTcpServer((socket) => {
  socket.on('error', () => {});
  socket.write('hello\r\n');
});
let port = 0;
let nonsensePort = 0;

beforeAll(async () => {
  await new Promise<void>((listening) => http.listen(0, '127.0.0.1', listening));
  await new Promise<void>((listening) => nonsense.listen(0, '127.0.0.1', listening));
  port = (http.address() as AddressInfo).port;
  nonsensePort = (nonsense.address() as AddressInfo).port;
});
afterAll(() => {
  http.closeAllConnections();
  http.close();
  nonsense.close();
});

const ask = (
  change: { path?: string | null; port?: number; address?: string },
  signal = new AbortController().signal,
) => probe({ address: '127.0.0.1', port, path: null, timeoutMs: 300, ...change }, signal);

describe('probe', () => {
  it.each([null, '/ok', '/moved'])('path %s answers', async (path) => {
    expect(await ask({ path })).toMatchObject({ healthy: true });
  });
  it.each([
    ['/gone', 'status 404'],
    ['/broken', 'status 500'],
    ['/silent', 'no answer within 300 ms'],
  ])('path %s: %s', async (path, found) => {
    expect(await ask({ path })).toEqual({ healthy: false, message: expect.stringContaining(found) });
  });
  it('is limited although garbage is collected meanwhile', async () => {
    setFlagsFromString('--expose-gc');
    const collectGarbage = runInNewContext('gc') as () => void;
    const collecting = setInterval(collectGarbage, 5);
    try {
      expect(await ask({ path: '/silent' })).toEqual({
        healthy: false,
        message: expect.stringContaining('no answer within 300 ms'),
      });
    } finally {
      clearInterval(collecting);
    }
  });
  it('a closed port, and something that speaks no HTTP', async () => {
    expect(await ask({ port: 1 })).toEqual({ healthy: false, message: expect.stringContaining('ECONNREFUSED') });
    expect(await ask({ port: nonsensePort, path: '/' })).toMatchObject({ healthy: false });
  });
  it('ends when it is cancelled', async () => {
    const abort = new AbortController();
    setTimeout(() => abort.abort(), 20);
    const began = performance.now();
    expect((await ask({ path: '/silent' }, abort.signal)).healthy).toBe(false);
    expect(performance.now() - began).toBeLessThan(250);
  });
});

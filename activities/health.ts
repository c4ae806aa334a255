/**
 * Whether a replica answers on an address: a TCP connection, or an HTTP GET that is answered 2xx or 3xx. Written on
 * sockets and node:http without an agent, so that each probe is a connection of its own, as a new client's.
 */
import { request } from 'node:http';
import { connect } from 'node:net';

export interface ProbeTarget {
  readonly address: string;
  readonly port: number;
  /** null: a connection is enough. */
  readonly path: string | null;
  readonly timeoutMs: number;
}
export type ProbeResult =
  | { readonly healthy: true; readonly latencyMs: number }
  | { readonly healthy: false; readonly message: string };

/**
 * Never throws; cancelled by the signal it counts as no answer. The limit is a timer of our own: Node 20 holds the
 * sources of AbortSignal.any weakly, so an AbortSignal.timeout among them may be collected and then never fires, and the
 * probe of a silent replica waits for ever (nodejs/node issue 54614).
 */
export async function probe(target: ProbeTarget, signal: AbortSignal): Promise<ProbeResult> {
  const began = performance.now();
  const limit = new AbortController();
  const timer = setTimeout(() => limit.abort(), target.timeoutMs);
  const limited = AbortSignal.any([signal, limit.signal]);
  try {
    await (target.path === null ? connectOnce(target, limited) : getOnce(target, target.path, limited));
    return { healthy: true, latencyMs: Math.round(performance.now() - began) };
  } catch (error) {
    const where = `${target.address}:${target.port}${target.path ?? ''}`;
    const found = limited.aborted ? `no answer within ${target.timeoutMs} ms` : (error as Error).message;
    return { healthy: false, message: `${where}: ${found}` };
  } finally {
    clearTimeout(timer);
  }
}

function connectOnce({ address, port }: ProbeTarget, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: address, port, signal });
    socket.once('connect', () => {
      socket.destroy();
      resolve();
    });
    socket.once('error', reject);
  });
}

function getOnce({ address, port }: ProbeTarget, path: string, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const get = request({ host: address, port, path, agent: false, signal, headers: { 'User-Agent': 'ciel-health' } });
    get.once('response', (response) => {
      const status = response.statusCode ?? 0;
      // The status says it; a hostile body of any length is not read.
      response.destroy();
      if (status >= 200 && status < 400) resolve();
      else reject(new Error(`answered HTTP status ${status}`));
    });
    get.once('error', reject);
    get.end();
  });
}

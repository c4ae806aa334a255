/**
 * A client on the segment: keeps a fixed number of requests under way at one URL, each on a connection of its own, so
 * that LVS places every one anew. Prints one JSON line a second until it is told to stop by SIGTERM; the number of
 * clients can be changed by a line on standard input.
 *
 * Usage: node load.js URL CLIENTS
 */
import { Agent, get } from 'node:http';
import { createInterface } from 'node:readline';

/** One second of load. Latencies are of the requests that ended in it. */
export interface LoadSecond {
  readonly at: string;
  readonly answered: number;
  readonly failed: number;
  /** Answers by the replica that gave them (its X-Replica header). */
  readonly byReplica: Readonly<Record<string, number>>;
  readonly latenciesMs: readonly number[];
  /** The first failure of that second. */
  readonly failure: string | null;
}

const REQUEST_TIMEOUT_MS = 60_000;

async function main(url: string, initialClients: number): Promise<void> {
  let clients = initialClients;
  let running = 0;
  let stopped = false;
  let second = emptySecond();

  const request = () =>
    new Promise<void>((resolve) => {
      const startedAt = performance.now();
      const fail = (message: string) => {
        second.failed += 1;
        second.failure ??= message;
        resolve();
      };
      const outgoing = get(url, { agent: new Agent({ keepAlive: false }), timeout: REQUEST_TIMEOUT_MS }, (response) => {
        response.resume();
        response.on('error', (error) => fail(error.message));
        response.on('end', () => {
          if (response.statusCode !== 200) return fail(`status ${response.statusCode}`);
          const replica = String(response.headers['x-replica'] ?? 'unnamed');
          second.answered += 1;
          second.byReplica[replica] = (second.byReplica[replica] ?? 0) + 1;
          second.latenciesMs.push(Math.round(performance.now() - startedAt));
          resolve();
        });
      });
      outgoing.on('timeout', () => outgoing.destroy(new Error(`no answer within ${REQUEST_TIMEOUT_MS / 1000} s`)));
      outgoing.on('error', (error) => fail(error.message));
    });

  const client = async () => {
    running += 1;
    while (!stopped && running <= clients) await request();
    running -= 1;
  };
  const adjust = () => {
    while (running < clients) void client();
  };

  createInterface({ input: process.stdin }).on('line', (line) => {
    clients = Number.parseInt(line, 10) || 0;
    adjust();
  });
  // Whoever reads us has gone: so do we.
  process.stdout.on('error', () => process.exit(0));
  process.on('SIGTERM', () => {
    stopped = true;
  });
  adjust();
  while (!stopped || running > 0) {
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const done = second;
    second = emptySecond();
    process.stdout.write(`${JSON.stringify({ at: new Date().toISOString(), ...done } satisfies LoadSecond)}\n`);
  }
  process.exit(0);
}

function emptySecond() {
  return {
    answered: 0,
    failed: 0,
    byReplica: {} as Record<string, number>,
    latenciesMs: [] as number[],
    failure: null as string | null,
  };
}

const [url, clients] = process.argv.slice(2);
if (url === undefined) throw new Error('usage: load URL CLIENTS');
await main(url, Number(clients ?? 1));

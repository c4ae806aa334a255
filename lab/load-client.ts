/** Runs lab/load.ts inside a segment and keeps what it reports. */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { sourceFile } from '../template/sources.ts';
import type { LoadSecond } from './load.ts';
import { inSegment, type Segment } from './segment.ts';

export interface LoadClient {
  readonly seconds: readonly LoadSecond[];
  /** How many requests are under way at any time. */
  setClients(clients: number): void;
  /** Ends it once its last request is answered. */
  stop(): Promise<void>;
}

export function startLoad(segment: Segment, url: string, clients: number): LoadClient {
  const [file, args] = inSegment(segment, process.execPath, [sourceFile('dist/lab/load.js'), url, String(clients)]);
  const child = spawn(file, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const seconds: LoadSecond[] = [];
  createInterface({ input: child.stdout }).on('line', (line) => seconds.push(JSON.parse(line) as LoadSecond));
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
  return {
    seconds,
    setClients: (count) => child.stdin.write(`${count}\n`),
    stop: async () => {
      child.kill('SIGTERM');
      await ended;
    },
  };
}

/** The worker process at its door: what it is told, what it waits for, and how it ends. Roles at work: test/activities. */
import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { afterEach, describe, expect, it } from 'vitest';
import { awaiting } from '../worker/awaiting.ts';
import { parseWorkerOptions } from '../worker/options.ts';

const ENV = { DATABASE_URL: 'postgresql://ciel@127.0.0.1:1/ciel' };

describe('options', () => {
  it('name the roles, each with what it is for', () => {
    const args = ['--role', 'control,host=kvm-1', '--role', 'director=lvs', '--state', '/srv/ciel'];
    expect(parseWorkerOptions(args, ENV)).toEqual({
      roles: [{ kind: 'control' }, { kind: 'host', host: 'kvm-1' }, { kind: 'director', director: 'lvs' }],
      databaseUrl: ENV.DATABASE_URL,
      stateDirectory: '/srv/ciel',
      logLevel: 'info',
    });
  });

  it.each([
    [[], ENV, 'no --role is given'],
    [['--role', 'control'], {}, 'DATABASE_URL is not set'],
    [['--role', 'host'], ENV, '"host" is no role'],
    [['--role', 'host='], ENV, '"host=" is no role'],
    [['--role', 'control=x'], ENV, '"control=x" is no role'],
    [['--role', 'queen'], ENV, '"queen" is no role'],
    [['--rolle', 'control'], ENV, "Unknown option '--rolle'"],
  ])('%j are refused with what is wrong', (args, env, message) => {
    expect(() => parseWorkerOptions(args, env)).toThrow(message);
  });
});

describe('awaiting', () => {
  it('tries until it succeeds, and says the same only once', async () => {
    const lines: string[] = [];
    const log = pino({ base: null }, { write: (line: string) => lines.push(JSON.parse(line).msg) });
    let attempts = 0;
    const result = await awaiting(
      'the database',
      async () => {
        attempts += 1;
        if (attempts < 3) throw new Error('connection refused');
        return 'connected';
      },
      log,
      new AbortController().signal,
    );
    expect(result).toBe('connected');
    expect(lines).toEqual(['awaits the database: connection refused', 'the database: there']);
  });

  it('ends with what waiting cannot mend', async () => {
    const log = pino({ level: 'silent' });
    const isFinal = (error: unknown) => error instanceof RangeError;
    let attempts = 0;
    const attempt = async () => {
      attempts += 1;
      throw attempts < 2 ? new Error('not yet') : new RangeError('never');
    };
    await expect(awaiting('it', attempt, log, new AbortController().signal, isFinal)).rejects.toThrow('never');
    expect(attempts).toBe(2);
  });

  it('ends when it is told to', async () => {
    const stop = new AbortController();
    const log = pino({ level: 'silent' });
    const waiting = awaiting('nothing', () => Promise.reject(new Error('no')), log, stop.signal);
    stop.abort();
    await expect(waiting).rejects.toThrow();
  });
});

describe('a process', () => {
  let child: ChildProcess | null = null;
  afterEach(() => {
    child?.kill('SIGKILL');
  });

  it('says what it awaits when the database is down, and ends at once by SIGTERM', { timeout: 60_000 }, async () => {
    const worker = spawn(
      process.execPath,
      ['--import', 'tsx', join(import.meta.dirname, '../worker.ts'), '--role', 'control'],
      { env: { ...process.env, ...ENV }, stdio: ['ignore', 'pipe', 'inherit'] },
    );
    child = worker;
    let said = '';
    worker.stdout.on('data', (chunk) => (said += String(chunk)));
    while (!said.includes('awaits the database at 127.0.0.1:1/ciel')) await sleep(20);
    const exit = new Promise((resolve) => worker.once('exit', (code) => resolve(code)));
    worker.kill('SIGTERM');
    expect(await exit).toBe(0);
  });
});

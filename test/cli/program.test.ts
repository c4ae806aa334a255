/** What every command has, and how the command line fails before anything is asked. */
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Command } from 'commander';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { CommandContext } from '../../cli/context.ts';
import { buildProgram } from '../../cli/program.ts';
import { ciel, RecordedTerminal } from './recorded-terminal.ts';

const REFERENCE = readFileSync(join(import.meta.dirname, '../../docs/reference/cli.md'), 'utf8');

const unused = () => Promise.reject(new Error('help asks nobody'));
const context: CommandContext = {
  terminal: new RecordedTerminal(),
  env: {},
  now: () => new Date(0),
  signal: new AbortController().signal,
  openStore: unused,
  openTemporal: unused,
  exitCode: () => undefined,
};
interface Leaf {
  readonly name: string;
  readonly command: Command;
}
function leaves(command: Command, path: readonly string[] = []): Leaf[] {
  if (command.commands.length === 0) return [{ name: path.join(' '), command }];
  return command.commands.flatMap((sub) => leaves(sub, [...path, sub.name()]));
}
const LEAVES = leaves(buildProgram(context));

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'ciel-cli-'));
});
afterAll(() => rm(directory, { recursive: true, force: true }));

describe.each(LEAVES)('ciel $name', ({ name, command }) => {
  it('explains itself with an example, within 120 columns', async () => {
    const { exitCode, out } = await ciel([...name.split(' '), '--help']);
    expect(exitCode).toBe(0);
    expect(out).toContain(`Usage: ciel ${name}`);
    expect(out).toMatch(/\nExamples?:\n {2}\S/);
    expect(out).toContain('--json');
    for (const line of out.split('\n')) expect(line.length).toBeLessThanOrEqual(120);
  });
  it('is in docs/reference/cli.md with each of its options', () => {
    expect(REFERENCE).toContain(`ciel ${name}`);
    for (const { long } of command.options) expect(REFERENCE).toContain(`\`${long}`);
  });
});

describe('wrong usage', () => {
  it.each([
    ['an unknown command', ['stat'], 'Did you mean status?'],
    ['an unknown option', ['status', '--wach'], 'Did you mean --watch?'],
    ['a missing argument', ['pause'], "missing required argument 'service'"],
    ['a dump with rates', ['introspect', '--dump', 'shop-1.dump', '--wide'], '--json has every figure'],
    ['a wrong direction', ['scale', 'mosaic', 'up'], 'Allowed are: out, in.'],
    ['a wrong count', ['scale', 'mosaic', 'out', '--to', 'two'], 'A number of replicas is expected.'],
    ['a wrong duration', ['status', '--watch', '--every', '2'], 'A duration such as'],
    ['an unreadable file', ['apply', '-f', '/nowhere/ciel.yaml'], 'no such file'],
  ])('%s: exit code 2', async (_name, words, message) => {
    const { exitCode, out, error } = await ciel(words);
    expect(exitCode).toBe(2);
    expect(error).toContain(message);
    expect(out).toBe('');
  });

  it('an invalid file: exit code 2, all mistakes, as JSON too', async () => {
    const file = join(directory, 'ciel.yaml');
    await writeFile(file, 'version: 2\nhosts: []\n');
    const text = await ciel(['apply', '-f', file]);
    expect(text.exitCode).toBe(2);
    expect(text.error).toContain(`${file}:1:10  version  expected 1, got 2`);
    expect(text.error).toContain('nothing was changed');
    const json = await ciel(['apply', '-f', file, '--json']);
    expect(json.exitCode).toBe(2);
    expect(JSON.parse(json.out)).toMatchObject({
      ok: false,
      problems: expect.arrayContaining([{ line: 1, column: 10, path: 'version', message: 'expected 1, got 2' }]),
    });
    expect(JSON.parse(json.error)).toMatchObject({ error: { exitCode: 2, reason: 'InvalidFile' } });
  });
});

describe('without anything to connect to', () => {
  it.each([
    ['status'],
    ['monitor list'],
    ['explain mosaic'],
    ['pause mosaic'],
    ['delete mosaic'],
    ['operation retry scale-out/mosaic/1'],
  ])('ciel %s: exit code 4, and what to do', async (line) => {
    const { exitCode, error } = await ciel([...line.split(' '), '--state', directory]);
    expect(exitCode).toBe(4);
    expect(error).toMatch(
      /to do: start `ciel up`, name its directory by --state, or set (TEMPORAL_ADDRESS|DATABASE_URL)/,
    );
  });

  it('a valid file can still be checked', async () => {
    const example = join(import.meta.dirname, '../../docs/examples/ciel.yaml');
    const { exitCode, out } = await ciel(['apply', '--check', '-f', example, '--state', directory]);
    expect(exitCode).toBe(0);
    expect(out).toContain('The file is valid.');
  });

  it('Temporal that is down is said to be within seconds: exit code 4', async () => {
    const env = { TEMPORAL_ADDRESS: '127.0.0.1:1' };
    const { exitCode, error } = await ciel(['pause', 'mosaic', '--json'], env);
    expect(exitCode).toBe(4);
    expect(JSON.parse(error)).toMatchObject({ error: { reason: 'TemporalUnreachable' } });
  });

  it('a database that is down is named without its password: exit code 4', async () => {
    const env = { DATABASE_URL: 'postgres://ciel:secret@127.0.0.1:1/ciel' };
    const { exitCode, error } = await ciel(['status', '--json'], env);
    expect(exitCode).toBe(4);
    expect(JSON.parse(error)).toMatchObject({
      error: {
        reason: 'DatabaseUnreachable',
        tried: 'connected to the database at 127.0.0.1:1/ciel (from DATABASE_URL)',
      },
    });
    expect(error).not.toContain('secret');
  });
});

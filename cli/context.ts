/**
 * What a command works with. Commands get it as an argument, so that tests give them a terminal, a clock, a store and a
 * Temporal of their own.
 */
import type { Command } from 'commander';
import type { Store } from '../store/database.ts';
import type { ExitCode } from './errors.ts';
import { safeJson } from './escape.ts';
import type { Temporal } from './temporal.ts';
import type { Terminal } from './terminal.ts';

export interface GlobalOptions {
  readonly json: boolean;
  /** The state directory of `ciel up`, where its runtime file lies; null: its default. */
  readonly state: string | null;
}

export interface CommandContext {
  readonly terminal: Terminal;
  readonly env: NodeJS.ProcessEnv;
  readonly now: () => Date;
  /** Ends a watching command. */
  readonly signal: AbortSignal;
  /** Connects at the first call; the program closes it. Throws a CommandError with what to do. */
  openStore(options: GlobalOptions): Promise<Store>;
  openTemporal(options: GlobalOptions): Promise<Temporal>;
  /** For a command that has shown its result and yet did not succeed in all; errors set the code by themselves. */
  exitCode(code: ExitCode): void;
}

export function globalOptions(command: Command): GlobalOptions {
  const options: { json?: unknown; state?: unknown } = command.optsWithGlobals();
  return { json: options.json === true, state: typeof options.state === 'string' ? options.state : null };
}

/** With --json one JSON document, else the text. The text is made only when it is shown. */
export function printResult(
  context: CommandContext,
  options: GlobalOptions,
  result: unknown,
  text: () => string,
): void {
  context.terminal.print(options.json ? safeJson(result, 2) : text());
}

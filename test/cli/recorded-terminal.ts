/** A terminal that keeps what is written to it: 80 columns, no colours. */
import pc from 'picocolors';
import { run } from '../../cli/program.ts';
import type { Terminal } from '../../cli/terminal.ts';

export class RecordedTerminal implements Terminal {
  readonly columns: number;
  readonly colours = pc.createColors(false);
  readonly interactive = false;
  out = '';
  error = '';
  constructor(columns = 80) {
    this.columns = columns;
  }
  print(text: string): void {
    this.out += `${text}\n`;
  }
  printError(text: string): void {
    this.error += `${text}\n`;
  }
  write(text: string): void {
    this.out += text;
  }
}

export interface Ran {
  readonly exitCode: number;
  readonly out: string;
  readonly error: string;
}

/** Runs one command line as main.ts does; nothing of this process's environment reaches it. */
export async function ciel(words: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Ran> {
  const terminal = new RecordedTerminal();
  const exitCode = await run([...words], { terminal, env, signal: new AbortController().signal });
  return { exitCode, out: terminal.out, error: terminal.error };
}

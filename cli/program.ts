/**
 * The `ciel` command: its subcommands, the options that all have, and how a command ends. One file a subcommand beside
 * this one.
 */
import { readFile } from 'node:fs/promises';
import { Command, CommanderError } from 'commander';
import type { Store } from '../store/database.ts';
import { applyCommand } from './apply.ts';
import { databaseTarget, noInstallation, openStore, temporalTarget } from './connections.ts';
import type { CommandContext, GlobalOptions } from './context.ts';
import { deleteCommand } from './delete.ts';
import { doctorCommand } from './doctor.ts';
import { EXIT, type ExitCode, problemOf, renderProblem } from './errors.ts';
import { safeJson } from './escape.ts';
import { explainCommand } from './explain.ts';
import { introspectCommand } from './introspect.ts';
import { monitorCommand } from './monitor.ts';
import { operationCommand } from './operation.ts';
import { pauseCommand, resumeCommand } from './pause.ts';
import { findRuntime } from './runtime.ts';
import { scaleCommand } from './scale.ts';
import { statusCommand } from './status.ts';
import { templateCommand } from './template.ts';
import { connectTemporal, type Temporal } from './temporal.ts';
import type { Terminal } from './terminal.ts';
import { upCommand } from './up.ts';

const EPILOGUE = `
Where: Temporal at TEMPORAL_ADDRESS (and Temporal's other client settings), the database at DATABASE_URL; what these do
not name is taken from a running \`ciel up\`.

Exit codes: 0 done, 1 failed, 2 wrong usage or invalid file, 3 refused (with the reason), 4 something does not answer,
5 not found.`;

export function buildProgram(context: CommandContext): Command {
  const { terminal } = context;
  const program = new Command('ciel')
    .description('Per-service autoscaling for containers in VMs.')
    .option('--json', 'one JSON document on stdout; errors as JSON on stderr')
    .option('--state <directory>', 'state directory of `ciel up` (default: /var/lib/ciel for root)')
    .helpCommand('help [command]', 'help for a command')
    .addHelpText('after', EPILOGUE);
  const commands = [
    upCommand,
    applyCommand,
    statusCommand,
    monitorCommand,
    pauseCommand,
    resumeCommand,
    scaleCommand,
    explainCommand,
    operationCommand,
    deleteCommand,
    introspectCommand,
    doctorCommand,
    templateCommand,
  ];
  for (const make of commands) program.addCommand(make(context));
  forEachCommand(program, (command) =>
    command
      .exitOverride()
      .showHelpAfterError('(ciel --help lists the commands, ciel COMMAND --help explains one)')
      .configureHelp({ showGlobalOptions: true, helpWidth: Math.min(terminal.columns, 120) })
      .configureOutput({
        writeOut: (text) => terminal.write(text),
        writeErr: (text) => terminal.printError(text.trimEnd()),
        getOutHasColors: () => false,
        getErrHasColors: () => false,
      }),
  );
  return program;
}

function forEachCommand(command: Command, act: (command: Command) => void): void {
  act(command);
  for (const sub of command.commands) forEachCommand(sub, act);
}

export interface Surroundings {
  readonly terminal: Terminal;
  readonly env: NodeJS.ProcessEnv;
  readonly signal: AbortSignal;
}

/** Runs one command line. @param words without node and script */
export async function run(words: readonly string[], { terminal, env, signal }: Surroundings): Promise<ExitCode> {
  let exitCode: ExitCode = EXIT.ok;
  const opened: { store?: Promise<Store>; temporal?: Promise<Temporal> } = {};
  const context: CommandContext = {
    terminal,
    env,
    signal,
    now: () => new Date(),
    openStore: (options) => {
      opened.store ??= connectToStore(env, options);
      return opened.store;
    },
    openTemporal: (options) => {
      opened.temporal ??= connectToTemporal(env, options);
      return opened.temporal;
    },
    exitCode: (code) => {
      if (exitCode === EXIT.ok) exitCode = code;
    },
  };
  try {
    const program = buildProgram(context);
    program.version(await packageVersion());
    await program.parseAsync(words, { from: 'user' });
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
    const problem = problemOf(error, `ran ciel ${words[0] ?? ''}`);
    const json = words.includes('--json');
    terminal.printError(json ? safeJson({ error: problem }) : terminal.colours.red(renderProblem(problem)));
    return problem.exitCode;
  } finally {
    // What could not be opened has been reported; there is nothing to close.
    await opened.store?.then((store) => store.destroy()).catch(() => undefined);
    await opened.temporal?.then((temporal) => temporal.close()).catch(() => undefined);
  }
}

async function connectToStore(env: NodeJS.ProcessEnv, { state }: GlobalOptions): Promise<Store> {
  const target = databaseTarget(env, await findRuntime(state));
  if (target === null) throw noInstallation('the database', state);
  return openStore(target);
}

async function connectToTemporal(env: NodeJS.ProcessEnv, { state }: GlobalOptions): Promise<Temporal> {
  const target = temporalTarget(env, await findRuntime(state));
  if (target === null) throw noInstallation('Temporal', state);
  return connectTemporal(target);
}

/** package.json lies above this file, whether it runs from source or from dist/. */
async function packageVersion(): Promise<string> {
  for (const path of ['../package.json', '../../package.json']) {
    const text = await readFile(new URL(path, import.meta.url), 'utf8').catch(() => null);
    if (text !== null) return String((JSON.parse(text) as { version: unknown }).version);
  }
  return 'unknown';
}

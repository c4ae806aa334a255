/**
 * `ciel apply`: hosts, directors, networks and templates become rows; each service is given to its own workflow, which
 * accepts or refuses the change and starts what it needs. Repeating it changes nothing more. What is missing from the
 * file is left as it is.
 */
import { readFile } from 'node:fs/promises';
import { type Client, WithStartWorkflowOperation } from '@temporalio/client';
import { Command } from 'commander';
import { workflowIds } from '../model/names.ts';
import type { ServiceSpec, Spec } from '../model/spec.ts';
import { directorStart, hostStart, serviceStart, type WorkflowStart } from '../model/starts.ts';
import { type Configuration, readConfiguration, saveConfiguration } from '../store/configuration.ts';
import { readInstallationId } from '../store/installation.ts';
import { type ApplyAnswer, type ApplyRequest, applyUpdate } from '../workflows/messages.ts';
import { changesOf } from '../workflows/service-state.ts';
import { type CommandContext, type GlobalOptions, globalOptions, printResult } from './context.ts';
import { CommandError, type CommandProblem, EXIT, type ExitCode, problemOf, renderProblem } from './errors.ts';
import { safeJson } from './escape.ts';
import { askRetries } from './live.ts';
import { differences } from './spec-difference.ts';
import { type FileProblem, parseSpecFile } from './spec-file.ts';
import type { Temporal } from './temporal.ts';

/** The service's workflow brings LVS to the specification first, and gives up on that after 20 s. */
const APPLY_DEADLINE_MS = 45_000;

interface ApplyOptions {
  readonly file: string;
  readonly check?: true;
  readonly replace?: true;
}

export function applyCommand(context: CommandContext): Command {
  return new Command('apply')
    .description('bring the installation to what a ciel.yaml says')
    .requiredOption('-f, --file <file>', 'the ciel.yaml; - for standard input')
    .option('--check', 'change nothing; say what would change')
    .option('--replace', 'let a change of image, run, address or template replace the replicas that Ciel made')
    .addHelpText(
      'after',
      '\nA service that is missing from the file is left as it is; `ciel delete` ends it.\n\nExample:\n' +
        '  ciel apply -f ciel.yaml --check && ciel apply -f ciel.yaml',
    )
    .action(async (options: ApplyOptions, command: Command) => {
      const globals = globalOptions(command);
      const spec = await readSpec(options.file, context, globals);
      if (options.check === true) await check(spec, context, globals);
      else await apply(spec, options.replace === true, context, globals);
    });
}

/** @throws CommandError after all mistakes were printed, or when the file cannot be read */
export async function readSpec(file: string, { terminal }: CommandContext, { json }: GlobalOptions): Promise<Spec> {
  let text: string;
  try {
    text = file === '-' ? await readStandardInput() : await readFile(file, 'utf8');
  } catch (error) {
    const found = error instanceof Error ? error.message : String(error);
    throw new CommandError(
      {
        exitCode: EXIT.usage,
        reason: 'Unreadable',
        tried: `read ${file}`,
        found,
        remedy: 'name a readable file',
      },
      { cause: error },
    );
  }
  const parsed = parseSpecFile(text);
  if (parsed.ok) return parsed.spec;
  const { problems } = parsed;
  const name = file === '-' ? 'stdin' : file;
  if (json) terminal.print(safeJson({ ok: false, file: name, problems }, 2));
  else for (const problem of problems) terminal.printError(renderFileProblem(name, problem));
  throw new CommandError({
    exitCode: EXIT.usage,
    reason: 'InvalidFile',
    tried: `checked ${name}`,
    found: `${problems.length} ${problems.length === 1 ? 'mistake' : 'mistakes'}; nothing was changed`,
    remedy: 'correct them; docs/reference/ciel-yaml.md lists every key',
  });
}

export function renderFileProblem(file: string, { line, column, path, message }: FileProblem): string {
  return [`${file}:${line}:${column}`, ...(path === '' ? [] : [path]), message].join('  ');
}

async function readStandardInput(): Promise<string> {
  process.stdin.setEncoding('utf8');
  let text = '';
  for await (const chunk of process.stdin) text += String(chunk);
  return text;
}

/** What there is and is not in the file. */
function leftAlone(applied: Configuration, spec: Spec): string[] {
  const sections = ['hosts', 'directors', 'networks', 'templates', 'services'] as const;
  return sections.flatMap((section) => {
    const named = new Set(spec[section].map(({ name }) => name));
    return applied[section].filter(({ name }) => !named.has(name)).map(({ name }) => `${section.slice(0, -1)} ${name}`);
  });
}

async function check(spec: Spec, context: CommandContext, globals: GlobalOptions): Promise<void> {
  const { applied, why } = await readApplied(context, globals);
  const changes = applied === null ? [] : plannedChanges(applied, spec);
  const missing = applied === null ? [] : leftAlone(applied, spec);
  printResult(context, globals, { ok: true, compared: applied !== null, changes, leftAlone: missing }, () => {
    if (applied === null) return `The file is valid. Not compared with an installation: ${why}.`;
    const lines =
      changes.length === 0 ? ['Nothing would change.'] : ['Would change:', ...changes.flatMap(renderChange)];
    return [...lines, ...renderLeftAlone(missing)].join('\n');
  });
}

/** Without any installation named or running, a file can still be checked by itself; one that is down is an error. */
async function readApplied(
  context: CommandContext,
  globals: GlobalOptions,
): Promise<{ applied: Configuration | null; why: string }> {
  try {
    return { applied: await readConfiguration(await context.openStore(globals)), why: '' };
  } catch (error) {
    if (error instanceof CommandError && error.problem.reason === 'NoInstallation') {
      return { applied: null, why: error.problem.found };
    }
    throw error;
  }
}

interface Change {
  /** "service mosaic" */
  readonly subject: string;
  readonly kind: 'new' | 'changed';
  /** One line a field. */
  readonly fields: readonly string[];
  readonly needsReplace: boolean;
}

export function plannedChanges(applied: Configuration, spec: Spec): readonly Change[] {
  const sections = ['hosts', 'directors', 'networks', 'templates', 'services'] as const;
  return sections.flatMap((section) =>
    spec[section].flatMap((entry): Change[] => {
      const subject = `${section.slice(0, -1)} ${entry.name}`;
      const before = applied[section].find(({ name }) => name === entry.name)?.spec;
      if (before === undefined) return [{ subject, kind: 'new', fields: [], needsReplace: false }];
      const fields = differences(before, entry);
      const replacing = section === 'services' ? changesOf(before as ServiceSpec, entry as ServiceSpec).replacing : [];
      return fields.length === 0 ? [] : [{ subject, kind: 'changed', fields, needsReplace: replacing.length > 0 }];
    }),
  );
}

function renderChange({ subject, kind, fields, needsReplace: replaces }: Change): string[] {
  const note = replaces ? ' (needs --replace: its made replicas are rolled over)' : '';
  return [`  ${subject}  ${kind}${note}`, ...fields.map((field) => `    ${field}`)];
}

function renderLeftAlone(missing: readonly string[]): string[] {
  if (missing.length === 0) return [];
  return [`Not in the file, left as they are: ${missing.join(', ')}`];
}

interface ServiceOutcome {
  readonly service: string;
  readonly accepted: boolean;
  readonly changes: readonly string[];
  readonly generation: number | null;
  readonly operationId: string | null;
  /** Why it was not accepted. */
  readonly error: { readonly reason: string; readonly message: string } | null;
}

async function apply(spec: Spec, replace: boolean, context: CommandContext, globals: GlobalOptions): Promise<void> {
  const store = await context.openStore(globals);
  const temporal = await context.openTemporal(globals);
  const installationId = await readInstallationId(store);
  const before = await readConfiguration(store);
  const infrastructure = await saveConfiguration(store, spec);
  for (const { name } of spec.hosts) await ensureRunning(temporal, hostStart(name));
  for (const { name } of spec.directors) await ensureRunning(temporal, directorStart(name));

  // One after another, and all of them even when one is refused: services do not depend on each other.
  const services: ServiceOutcome[] = [];
  let exitCode: ExitCode = EXIT.ok;
  for (const service of spec.services) {
    try {
      services.push(accepted(service.name, await applyService(temporal, installationId, { spec: service, replace })));
    } catch (error) {
      const problem = await withCause(problemOf(error, `applied service ${service.name}`), service.name, temporal);
      context.terminal.printError(renderProblem(problem));
      services.push(notAccepted(service.name, problem.reason, problem.found));
      exitCode = exitCode === EXIT.ok ? problem.exitCode : exitCode;
      // Whoever does not answer now does not answer the next either.
      if (problem.exitCode === EXIT.unreachable) break;
    }
  }
  const missing = leftAlone(before, spec);
  const result = { ok: exitCode === EXIT.ok, infrastructure, services, leftAlone: missing };
  printResult(context, globals, result, () => renderApplied(infrastructure, services, missing));
  if (exitCode !== EXIT.ok) context.exitCode(exitCode);
}

/** Whoever waited in vain learns what the service waits for. */
async function withCause(problem: CommandProblem, service: string, temporal: Temporal): Promise<CommandProblem> {
  if (problem.reason !== 'NoAnswer') return problem;
  const retrying = await askRetries(temporal, workflowIds.service(service));
  const causes = retrying.map(({ attempt, failure }) => `; it tries again (attempt ${attempt}): ${failure}`);
  return { ...problem, found: problem.found + causes.join('') };
}

async function ensureRunning<Input>(
  temporal: Temporal,
  { workflowType, options }: WorkflowStart<Input>,
): Promise<void> {
  await temporal.ask(`started workflow ${options.workflowId}`, (client) =>
    client.workflow.start(workflowType, { ...options, workflowIdConflictPolicy: 'USE_EXISTING' }),
  );
}

async function applyService(temporal: Temporal, installationId: string, request: ApplyRequest): Promise<ApplyAnswer> {
  const { name } = request.spec;
  const { workflowType, options } = serviceStart(installationId, name);
  const work = (client: Client) =>
    client.workflow.executeUpdateWithStart(applyUpdate, {
      args: [request],
      startWorkflowOperation: new WithStartWorkflowOperation(workflowType, {
        ...options,
        workflowIdConflictPolicy: 'USE_EXISTING',
      }),
    });
  return temporal.ask(`applied service ${name}`, work, APPLY_DEADLINE_MS);
}

function accepted(service: string, { changes, generation, operationId }: ApplyAnswer): ServiceOutcome {
  return { service, accepted: true, changes, generation, operationId, error: null };
}
function notAccepted(service: string, reason: string, message: string): ServiceOutcome {
  return { service, accepted: false, changes: [], generation: null, operationId: null, error: { reason, message } };
}

function renderApplied(
  infrastructure: readonly string[],
  services: readonly ServiceOutcome[],
  missing: readonly string[],
): string {
  const lines = infrastructure.map((subject) => `  ${subject}`);
  for (const { service, changes, operationId, error } of services) {
    if (error !== null) lines.push(`  service ${service}  not applied (${error.reason})`);
    if (changes.length > 0) lines.push(`  service ${service}`, ...changes.map((change) => `    ${change}`));
    if (operationId !== null) lines.push(`    operation ${operationId}; follow it with: ciel explain ${operationId}`);
  }
  const head = lines.length === 0 ? ['Nothing changed: everything was as the file says.'] : ['Applied:', ...lines];
  return [...head, ...renderLeftAlone(missing)].join('\n');
}

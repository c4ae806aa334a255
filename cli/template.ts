/** `ciel template`: what new VMs are made from. */
import { dirname, join } from 'node:path';
import { Command, Option } from 'commander';
import { buildTemplate } from '../template/build.ts';
import { cacheDirectory } from '../template/cache.ts';
import { listTemplates, type TemplateReport, verifyTemplate } from '../template/verify.ts';
import { type CommandContext, globalOptions, printResult } from './context.ts';
import { CommandError, EXIT } from './errors.ts';
import { type Terminal, table } from './terminal.ts';
import { bytesText, durationText } from './units.ts';

interface BuildOptions {
  readonly name?: string;
  readonly directory?: string;
  readonly bridge?: string;
  readonly insecureRegistry: readonly string[];
}

export function templateCommand(context: CommandContext): Command {
  const template = new Command('template').description('what new VMs are made from');
  template
    .command('build')
    .description('build a minimal Docker host from Debian packages (root; about two minutes)')
    .option('--name <name>', 'as it calls itself')
    .option('--directory <directory>', "where to (default: the user's cache)")
    .option('--bridge <interface>', 'the bridge that its VMs join')
    .addOption(
      new Option('--insecure-registry <host:port>', 'a registry that speaks plain HTTP; may be repeated')
        .argParser((value: string, previous: readonly string[]) => [...previous, value])
        .default([], 'none'),
    )
    .addHelpText(
      'after',
      "\nAn operator's own template works too: a directory with domain.xml and a disk; see `ciel template verify`.\n\n" +
        'Example:\n  ciel template build --directory /var/lib/ciel/templates/docker-host --bridge br0',
    )
    .action((options: BuildOptions, command: Command) => build(context, options, command));
  template
    .command('list')
    .description('list the templates in a directory')
    .argument('[directory]', "default: the user's cache")
    .addHelpText('after', '\nExample:\n  ciel template list /var/lib/ciel/templates')
    .action((directory: string | undefined, _options: unknown, command: Command) => list(context, directory, command));
  template
    .command('verify')
    .description('check a template and name every mistake (exit code 1 when there is an error)')
    .argument('<directory>')
    .addHelpText('after', '\nExample:\n  ciel template verify /var/lib/ciel/templates/docker-host')
    .action((directory: string, _options: unknown, command: Command) => verify(context, directory, command));
  return template;
}

async function build(context: CommandContext, options: BuildOptions, command: Command): Promise<void> {
  const { terminal } = context;
  const { name, directory, bridge, insecureRegistry } = options;
  const built = await buildTemplate(
    {
      ...(name === undefined ? {} : { name }),
      ...(directory === undefined ? {} : { directory }),
      ...(bridge === undefined ? {} : { bridge }),
      insecureRegistries: insecureRegistry,
    },
    (step, detail) => terminal.printError(`  ${step}: ${detail}`),
  );
  printResult(context, globalOptions(command), built, () => {
    const { manifest } = built;
    return [
      `Template "${manifest.name}" is in ${built.directory}`,
      `  disk ${bytesText(manifest.disk.virtualBytes)}, ${bytesText(manifest.disk.allocatedBytes)} allocated; kernel ${manifest.kernel}`,
      `  an empty VM needs ${bytesText(manifest.baseMemoryBytes)}; Docker is ready after ${durationText(manifest.boot.dockerMs)}`,
    ].join('\n');
  });
}

async function list(context: CommandContext, directory: string | undefined, command: Command): Promise<void> {
  const where = directory ?? join(cacheDirectory(), 'template');
  let templates: readonly TemplateReport[];
  try {
    templates = await listTemplates(where);
  } catch (error) {
    throw new CommandError(
      {
        exitCode: EXIT.notFound,
        reason: 'NotFound',
        tried: `listed the templates in ${where}`,
        found: error instanceof Error ? error.message : String(error),
        remedy: `make one: ciel template build --directory ${where}/docker-host`,
      },
      { cause: error },
    );
  }
  printResult(context, globalOptions(command), { directory: where, templates }, () =>
    templates.length === 0 ? `No template in ${where}.` : renderList(templates, context.terminal),
  );
}

function renderList(templates: readonly TemplateReport[], terminal: Terminal): string {
  return table(
    [
      { head: 'NAME', flexible: true },
      { head: 'DISK', align: 'right' },
      { head: 'ALLOCATED', align: 'right' },
      { head: 'STATE' },
      { head: 'DIRECTORY', flexible: true },
    ],
    templates.map(({ name, manifest, disk, problems, directory }) => {
      const errors = problems.filter(({ severity }) => severity === 'error').length;
      return [
        manifest?.name ?? name ?? dirname(directory),
        disk === null ? '–' : bytesText(disk.virtualBytes),
        disk === null ? '–' : bytesText(disk.allocatedBytes),
        errors === 0
          ? { text: 'usable', colour: terminal.colours.green }
          : { text: `${errors} ${errors === 1 ? 'error' : 'errors'}`, colour: terminal.colours.red },
        directory,
      ];
    }),
    terminal,
  );
}

async function verify(context: CommandContext, directory: string, command: Command): Promise<void> {
  const report = await verifyTemplate(directory);
  const usable = report.problems.every(({ severity }) => severity !== 'error');
  printResult(context, globalOptions(command), { usable, ...report }, () => {
    const lines = report.problems.flatMap(({ severity, problem, remedy }) => [
      `${severity}: ${problem}`,
      `  to do: ${remedy}`,
    ]);
    return [...lines, usable ? `${report.directory} is usable.` : `${report.directory} is not usable.`].join('\n');
  });
  if (!usable) context.exitCode(EXIT.failed);
}

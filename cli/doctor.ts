/**
 * `ciel doctor`: what this machine lacks for the roles that may run on it, each with the fix. Everything is found by
 * trying, nothing by believing what is declared: a KVM device may be there and useless.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Command, InvalidArgumentError } from 'commander';
import { type CommandContext, globalOptions, printResult } from './context.ts';
import { CHECKS, type Check, type CheckResult, DOCTOR_ROLES, type DoctorRole } from './doctor-checks.ts';
import { EXIT } from './errors.ts';
import { printable } from './escape.ts';
import { type Terminal, table } from './terminal.ts';

/** A check that hangs (a dead mount, a stuck daemon) must not keep the others from being shown. */
const CHECK_TIMEOUT_MS = 15_000;

export function doctorCommand(context: CommandContext): Command {
  return new Command('doctor')
    .description('what this machine lacks, with the fix')
    .argument('[role...]', `only what these need: ${DOCTOR_ROLES.join(', ')}`, parseRoles, [])
    .option('--libvirt <uri>', "libvirt's URI (default: the one applied, else qemu:///system)")
    .addHelpText(
      'after',
      '\nExit code 1 when something lacks; a warning alone is 0. Starts nothing and changes nothing, but tries a guest of\n' +
        'five bytes to see whether KVM works.\n\nExample:\n  ciel doctor host',
    )
    .action(async (roles: readonly DoctorRole[], { libvirt }: { libvirt?: string }, command: Command) => {
      const globals = globalOptions(command);
      const wanted = CHECKS.filter(({ role }) => role === 'all' || roles.length === 0 || roles.includes(role));
      const surroundings = { context, globals, libvirtUri: libvirt ?? null };
      const results = (await Promise.all(wanted.map((check) => bounded(check, surroundings)))).flat();
      const lacking = results.filter(({ verdict }) => verdict === 'lacking').length;
      printResult(context, globals, { ok: lacking === 0, checks: results }, () => render(results, context.terminal));
      if (lacking > 0) context.exitCode(EXIT.failed);
    });
}

function parseRoles(value: string, previous: readonly DoctorRole[]): readonly DoctorRole[] {
  const role = DOCTOR_ROLES.find((candidate) => candidate === value);
  if (role === undefined) throw new InvalidArgumentError(`Roles are: ${DOCTOR_ROLES.join(', ')}.`);
  return [...previous, role];
}

async function bounded(
  { name, role, look }: Check,
  surroundings: Parameters<Check['look']>[0],
): Promise<CheckResult[]> {
  const late = sleep(CHECK_TIMEOUT_MS, null, { ref: false });
  try {
    const found = await Promise.race([look(surroundings), late]);
    if (found === null) return [{ name, role, verdict: 'lacking', found: 'no answer within 15 s', fix: null }];
    return found.map((finding) => ({ name, role, ...finding }));
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return [{ name, role, verdict: 'lacking', found: message, fix: null }];
  }
}

const MARKS = { ok: '✓', warning: '!', lacking: '✗' } as const;

function render(results: readonly CheckResult[], terminal: Terminal): string {
  const { green, yellow, red } = terminal.colours;
  const colours = { ok: green, warning: yellow, lacking: red };
  const overview = table(
    [{ head: '' }, { head: 'CHECK' }, { head: 'FOR' }, { head: 'FOUND', flexible: true }],
    results.map(({ name, role, verdict, found }) => [
      { text: MARKS[verdict], colour: colours[verdict] },
      name,
      role,
      printable(found),
    ]),
    terminal,
  );
  const fixes = results.flatMap(({ name, verdict, found, fix }) =>
    verdict === 'ok'
      ? []
      : [`${colours[verdict](`${name}: ${printable(found)}`)}${fix === null ? '' : `\n  to do: ${fix}`}`],
  );
  return [overview, ...fixes].join('\n\n');
}

/** `ciel pause` and `ciel resume`: paused means that no new operation starts; one in flight ends at a safe point. */
import { Command } from 'commander';
import { pauseUpdate, resumeUpdate } from '../workflows/messages.ts';
import { type CommandContext, globalOptions, printResult } from './context.ts';
import { askService } from './service-request.ts';

export function pauseCommand(context: CommandContext): Command {
  return new Command('pause')
    .description('let no new operation of a service start')
    .argument('<service>')
    .option('--reason <text>', 'shown by `ciel status` while it is paused', 'paused by an operator')
    .addHelpText(
      'after',
      '\nAn operation in flight ends at its next safe point. Dead replicas still leave LVS.\n\nExample:\n' +
        '  ciel pause mosaic --reason "network works until noon"',
    )
    .action(async (service: string, { reason }: { reason: string }, command: Command) => {
      const globals = globalOptions(command);
      await askService(context, globals, service, `asked service ${service} to pause`, (handle) =>
        handle.executeUpdate(pauseUpdate, { args: [{ reason }] }),
      );
      printResult(context, globals, { service, paused: reason }, () => `Service ${service} is paused: ${reason}`);
    });
}

export function resumeCommand(context: CommandContext): Command {
  return new Command('resume')
    .description('let operations of a paused service start again')
    .argument('<service>')
    .addHelpText('after', '\nExample:\n  ciel resume mosaic')
    .action(async (service: string, _options: unknown, command: Command) => {
      const globals = globalOptions(command);
      await askService(context, globals, service, `asked service ${service} to resume`, (handle) =>
        handle.executeUpdate(resumeUpdate),
      );
      printResult(context, globals, { service, paused: null }, () => `Service ${service} is no longer paused.`);
    });
}

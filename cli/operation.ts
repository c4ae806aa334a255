/** `ciel operation retry|skip`: the operator's answer to an operation whose undo, or a step after admission, fails. */
import { WorkflowNotFoundError } from '@temporalio/client';
import { Command } from 'commander';
import { describeOperationQuery, retryUpdate, skipUpdate } from '../workflows/messages.ts';
import { type CommandContext, globalOptions, printResult } from './context.ts';
import { CommandError, EXIT } from './errors.ts';
import { printable } from './escape.ts';

const ANSWERS = {
  retry: { update: retryUpdate, said: 'is tried again', description: 'try again what is stuck' },
  skip: {
    update: skipUpdate,
    said: 'is given up; the operation goes on without it, and ends as failed',
    description: 'give up what is stuck: what remains of it is yours to remove',
  },
} as const;

export function operationCommand(context: CommandContext): Command {
  const operation = new Command('operation').description('answer an operation that needs the operator');
  for (const name of ['retry', 'skip'] as const) {
    operation
      .command(name)
      .description(ANSWERS[name].description)
      .argument('<operation>', 'as in scale-out/mosaic/3')
      .addHelpText(
        'after',
        `\nRefused (exit code 3) unless the operation waits for an answer.\n\nExample:\n  ciel operation ${name} scale-out/mosaic/3`,
      )
      .action((operationId: string, _options: unknown, command: Command) =>
        answer(context, command, name, operationId),
      );
  }
  return operation;
}

async function answer(
  context: CommandContext,
  command: Command,
  name: keyof typeof ANSWERS,
  operationId: string,
): Promise<void> {
  const globals = globalOptions(command);
  const temporal = await context.openTemporal(globals);
  const tried = `asked operation ${printable(operationId)} to ${name}`;
  const stuck = await temporal.ask(tried, async (client) => {
    const handle = client.workflow.getHandle(operationId);
    try {
      const description = await handle.query(describeOperationQuery);
      await handle.executeUpdate(ANSWERS[name].update);
      return description.stuck;
    } catch (error) {
      if (!(error instanceof WorkflowNotFoundError)) throw error;
      throw new CommandError({
        exitCode: EXIT.notFound,
        reason: 'UnknownOperation',
        tried,
        found: 'no operation of that name is in flight',
        remedy: 'see `ciel status` for those in flight, `ciel explain` for those that have ended',
      });
    }
  });
  const what = stuck.length === 0 ? 'What is stuck' : stuck.map(printable).join('; ');
  printResult(context, globals, { operationId, answer: name, stuck }, () => `${what} ${ANSWERS[name].said}.`);
}

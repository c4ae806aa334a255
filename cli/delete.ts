/** `ciel delete`: ends a service. What Ciel made is drained and removed; adopted replicas stay served. */
import { setTimeout as sleep } from 'node:timers/promises';
import { WorkflowNotFoundError } from '@temporalio/client';
import { Command } from 'commander';
import { workflowIds } from '../model/names.ts';
import { removeUpdate } from '../workflows/messages.ts';
import { type CommandContext, globalOptions, printResult } from './context.ts';
import { CommandError, EXIT } from './errors.ts';
import { durationOption } from './options.ts';
import { askService } from './service-request.ts';
import type { Temporal } from './temporal.ts';
import { durationText } from './units.ts';

const POLL_MS = 1_000;

export function deleteCommand(context: CommandContext): Command {
  return new Command('delete')
    .description('end a service: drain and remove what Ciel made for it')
    .argument('<service>')
    .option('--wait', 'until everything is removed')
    .addOption(durationOption('--timeout <duration>', 'how long --wait waits', '15m'))
    .addHelpText(
      'after',
      '\nAn operation in flight ends at its safe point first. Adopted replicas stay in LVS, served as they are.\n\n' +
        'Example:\n  ciel delete mosaic --wait',
    )
    .action(async (service: string, options: { wait?: true; timeout: number }, command: Command) => {
      const globals = globalOptions(command);
      const { removing } = await askService(context, globals, service, `asked service ${service} to end`, (handle) =>
        handle.executeUpdate(removeUpdate),
      );
      if (options.wait === true)
        await waitUntilGone(context, await context.openTemporal(globals), service, options.timeout);
      printResult(context, globals, { service, removing, gone: options.wait === true }, () => {
        const replicas = removing.length === 0 ? 'no made replica' : `replicas ${removing.join(', ')}`;
        return options.wait
          ? `Service ${service} is gone (${replicas} removed).`
          : `Service ${service} ends: ${replicas} to remove.`;
      });
    });
}

async function waitUntilGone(
  context: CommandContext,
  temporal: Temporal,
  service: string,
  timeoutMs: number,
): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  const handle = temporal.client.workflow.getHandle(workflowIds.service(service));
  while (Date.now() < deadline && !context.signal.aborted) {
    const running = await temporal.ask(`waited for service ${service} to end`, async () => {
      try {
        return (await handle.describe()).status.name === 'RUNNING';
      } catch (error) {
        if (error instanceof WorkflowNotFoundError) return false;
        throw error;
      }
    });
    if (!running) return;
    await sleep(POLL_MS);
  }
  throw new CommandError({
    exitCode: EXIT.failed,
    reason: 'TimedOut',
    tried: `waited for service ${service} to end`,
    found: `it has not ended within ${durationText(timeoutMs)}; it goes on`,
    remedy: `see what it does with: ciel explain ${service}`,
  });
}

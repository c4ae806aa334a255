/**
 * `ciel scale`: asks a service for more or fewer replicas. A request names the number of replicas wanted (--to), or has an
 * id: repeating it with the same id finds the first answer instead of scaling again.
 */
import { Command, InvalidArgumentError } from 'commander';
import { v4 as uuidV4 } from 'uuid';
import { type ScaleRequest, scaleUpdate } from '../workflows/messages.ts';
import { type CommandContext, globalOptions, printResult } from './context.ts';
import { followOperation } from './operation-progress.ts';
import { durationOption } from './options.ts';
import { askService } from './service-request.ts';

interface ScaleOptions {
  readonly to?: number;
  readonly requestId?: string;
  readonly wait?: true;
  readonly timeout: number;
}

export function scaleCommand(context: CommandContext): Command {
  return new Command('scale')
    .description('make one replica more or fewer, or a number of them')
    .argument('<service>')
    .argument('<direction>', 'out or in', parseDirection)
    .option('--to <replicas>', 'how many replicas there shall be, adopted ones counted', parseCount)
    .option('--request-id <id>', 'a repeat with the same id does not scale again (default: a new one)')
    .option('--wait', 'until the operation has ended')
    .addOption(durationOption('--timeout <duration>', 'how long --wait waits', '15m'))
    .addHelpText(
      'after',
      '\nRefused (exit code 3) with the reason when the service is at its bounds, paused, or busy.\n\nExample:\n' +
        '  ciel scale mosaic out --to 3 --wait',
    )
    .action(async (service: string, direction: 'out' | 'in', options: ScaleOptions, command: Command) => {
      const globals = globalOptions(command);
      const requestId = options.requestId ?? uuidV4();
      const request: ScaleRequest = { direction, target: options.to ?? null, requestId };
      const tried = `asked service ${service} to scale ${direction} (request ${requestId})`;
      // The update bears the request's id too, so that Temporal itself finds a repeat in the same run.
      const { operationId } = await askService(context, globals, service, tried, (handle) =>
        handle.executeUpdate(scaleUpdate, { args: [request], updateId: `scale/${requestId}` }),
      );
      if (options.wait !== true) {
        printResult(context, globals, { service, operationId, requestId }, () =>
          [`Operation ${operationId} has begun.`, `Follow it with: ciel explain ${operationId}`].join('\n'),
        );
        return;
      }
      const temporal = await context.openTemporal(globals);
      const operation = await followOperation(context, temporal, operationId, options.timeout);
      printResult(
        context,
        globals,
        { service, operationId, requestId, operation },
        () => `Operation ${operationId} is completed.`,
      );
    });
}

function parseDirection(text: string): 'out' | 'in' {
  if (text === 'out' || text === 'in') return text;
  throw new InvalidArgumentError('Allowed are: out, in.');
}

function parseCount(text: string): number {
  if (/^\d{1,3}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('A number of replicas is expected.');
}

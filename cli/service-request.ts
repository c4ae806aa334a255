/** Requests to one service's workflow, and how a service is looked for. */
import { WorkflowNotFoundError } from '@temporalio/client';
import { workflowIds } from '../model/names.ts';
import { readConfiguration } from '../store/configuration.ts';
import type { CommandContext, GlobalOptions } from './context.ts';
import { CommandError, EXIT } from './errors.ts';
import { printable } from './escape.ts';
import type { Temporal } from './temporal.ts';

/** @param tried "asked service mosaic to pause" */
export async function askService<T>(
  context: CommandContext,
  globals: GlobalOptions,
  service: string,
  tried: string,
  work: (handle: ReturnType<Temporal['client']['workflow']['getHandle']>) => Promise<T>,
): Promise<T> {
  const temporal = await context.openTemporal(globals);
  return temporal.ask(tried, async (client) => {
    try {
      return await work(client.workflow.getHandle(workflowIds.service(service)));
    } catch (error) {
      if (error instanceof WorkflowNotFoundError) throw await unknownService(context, globals, service, tried);
      throw error;
    }
  });
}

async function unknownService(
  context: CommandContext,
  globals: GlobalOptions,
  service: string,
  tried: string,
): Promise<CommandError> {
  // Only to name what there is: without the store the message is shorter.
  const names = await context
    .openStore(globals)
    .then(readConfiguration)
    .then(({ services }) => services.map(({ name }) => name))
    .catch(() => null);
  const known = names === null ? '' : `; there are: ${names.length === 0 ? 'none' : names.join(', ')}`;
  return new CommandError({
    exitCode: EXIT.notFound,
    reason: 'UnknownService',
    tried,
    found: `no running service "${printable(service)}"${known}`,
    remedy: 'services come from `ciel apply -f ciel.yaml`',
  });
}

/**
 * host/<name>: one endless activity watches all VMs of the host. Its retries leave no trace in the history, so watching
 * costs no event however long it lasts and however often the host process is killed.
 *
 *   watching ──the activity ends──▶ resting (10 s) ──▶ watching
 *       └──cancelled──▶ ended
 */
import { continueAsNew, isCancellation, setCurrentDetails, sleep, workflowInfo } from '@temporalio/workflow';
import type { HostInput } from '../model/starts.ts';
import { watchingHost } from './calls.ts';
import { causeOf } from './failure.ts';

const REST = '10 s';

export async function host({ host: name }: HostInput): Promise<void> {
  setCurrentDetails(`Watches the VMs of host ${name}.`);
  while (!workflowInfo().continueAsNewSuggested) {
    try {
      await watchingHost(name).watchHost({ host: name });
    } catch (error) {
      if (isCancellation(error)) throw error;
      setCurrentDetails(`Watching host ${name} ended and begins again: ${causeOf(error).message}`);
    }
    await sleep(REST);
  }
  await continueAsNew<typeof host>({ host: name });
}

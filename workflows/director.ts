/**
 * director/<name>: one endless activity probes all real servers of the director and takes dead ones out at once. That is
 * safety, not a change: neither a pause nor an operation holds it up. As in host.ts, retries leave no trace.
 *
 *   probing ──the activity ends──▶ resting (10 s) ──▶ probing
 *       └──cancelled──▶ ended
 */
import { continueAsNew, isCancellation, setCurrentDetails, sleep, workflowInfo } from '@temporalio/workflow';
import type { DirectorInput } from '../model/starts.ts';
import { watchingDirector } from './calls.ts';
import { causeOf } from './failure.ts';

const REST = '10 s';

export async function director({ director: name }: DirectorInput): Promise<void> {
  setCurrentDetails(`Probes the real servers of director ${name}.`);
  while (!workflowInfo().continueAsNewSuggested) {
    try {
      await watchingDirector(name).watchDirector({ director: name });
    } catch (error) {
      if (isCancellation(error)) throw error;
      setCurrentDetails(`Probing from director ${name} ended and begins again: ${causeOf(error).message}`);
    }
    await sleep(REST);
  }
  await continueAsNew<typeof director>({ director: name });
}

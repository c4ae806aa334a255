/** The workflows with one deliberate mistake: a timer that recorded histories do not have. Replay must refuse it. */
import { sleep } from '@temporalio/workflow';
import type { ScaleOutInput } from '../../../workflows/scale-out.ts';
import { scaleOut as shipped } from '../../../workflows/scale-out.ts';

export async function scaleOut(input: ScaleOutInput) {
  await sleep('1 s');
  return shipped(input);
}

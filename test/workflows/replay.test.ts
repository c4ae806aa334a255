/** Recorded histories replay with the workflows of today; with a deliberately broken variant they do not. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { historyFromJSON } from '@temporalio/common/lib/proto-utils.js';
import { Worker } from '@temporalio/worker';
import { describe, expect, it } from 'vitest';
import { workflowBundle } from './environment.ts';

const folder = join(import.meta.dirname, 'histories');
const files = readdirSync(folder).filter((file) => file.endsWith('.json'));

async function replay(bundle: { codePath: string }, only: RegExp): Promise<Record<string, Error | undefined>> {
  const histories = files
    .filter((file) => only.test(file))
    .map((file) => ({
      workflowId: file,
      history: historyFromJSON(JSON.parse(readFileSync(join(folder, file), 'utf8'))),
    }));
  const results: Record<string, Error | undefined> = {};
  for await (const { workflowId, error } of Worker.runReplayHistories({ workflowBundle: bundle }, histories)) {
    results[workflowId] = error;
  }
  return results;
}

describe('replay', () => {
  it('of every recorded history passes', async () => {
    expect(files.length).toBeGreaterThanOrEqual(5);
    const results = await replay(await workflowBundle(), /./);
    expect(results).toEqual(Object.fromEntries(files.map((file) => [file, undefined])));
  });

  it('with a timer too many is a determinism violation, or it would prove nothing', async () => {
    const broken = await workflowBundle(join(import.meta.dirname, 'broken/index.ts'));
    const results = await replay(broken, /^scale-out/);
    expect(Object.values(results).map((error) => error?.name)).toEqual(
      Object.keys(results).map(() => 'DeterminismViolationError'),
    );
    expect(Object.keys(results).length).toBeGreaterThanOrEqual(2);
  });
});

/** Records the histories that replay.test.ts replays: see histories/README.md. */
import { mkdir, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { historyToJSON } from '@temporalio/common/lib/proto-utils.js';
import { startEnvironment } from './environment.ts';
import { life, undone } from './scenarios.ts';

const folder = join(import.meta.dirname, 'histories');
await mkdir(folder, { recursive: true });
/** Stack traces, identities and sticky queues name the machine on which it was recorded. */
function withoutMachine(json: string): string {
  const root = `${join(import.meta.dirname, '../..')}/`;
  return json.replaceAll(root, '').replaceAll(new RegExp(`\\d+@${hostname()}`, 'g'), 'recorded');
}

const environment = await startEnvironment();
try {
  for (const scenario of [life, undone]) {
    for (const [name, workflowId] of Object.entries(await scenario(environment))) {
      const history = await environment.env.client.workflow.getHandle(workflowId).fetchHistory();
      await writeFile(join(folder, `${name}.json`), withoutMachine(historyToJSON(history)));
      process.stdout.write(`${name}.json: ${history.events?.length ?? 0} events\n`);
    }
  }
} finally {
  await environment.stop();
}

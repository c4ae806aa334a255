/** Records the histories that replay.test.ts replays: see histories/README.md. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { historyToJSON } from '@temporalio/common/lib/proto-utils.js';
import { startEnvironment } from './environment.ts';
import { life, undone } from './scenarios.ts';

const folder = join(import.meta.dirname, 'histories');
await mkdir(folder, { recursive: true });
/** Stack traces and identities name the machine on which it was recorded. */
function withoutMachine(json: string): string {
  return json
    .replaceAll(`${join(import.meta.dirname, '../..')}/`, '')
    .replace(/("identity": )"[^"]*"/g, '$1"recorded"');
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

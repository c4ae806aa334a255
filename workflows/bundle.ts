/**
 * Run by `npm run build`: bundles the workflows into one file, which the worker loads (workflowBundle: { codePath }), so
 * that it is ready in under a second.
 */
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { bundleWorkflowCode, DefaultLogger } from '@temporalio/worker';

/** Beside the built workflows: .js there, .ts in the sources. */
const built = fileURLToPath(new URL('./index.js', import.meta.url));
const { code } = await bundleWorkflowCode({
  logger: new DefaultLogger('WARN'),
  workflowsPath: existsSync(built) ? built : fileURLToPath(new URL('./index.ts', import.meta.url)),
});
await writeFile(fileURLToPath(new URL('../workflow-bundle.js', import.meta.url)), code);

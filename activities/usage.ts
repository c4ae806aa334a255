/** What is measured of a service's replicas and of a template, for its decisions. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { ControlActivities } from '../model/activities.ts';
import { readTemplate } from '../store/configuration.ts';
import type { Store } from '../store/database.ts';
import { replicaUsage } from '../store/rollups.ts';

/** Of an operator's own template that says nothing of itself: a whole Debian with Docker, idle. */
const UNKNOWN_BASE_MEMORY_BYTES = 256 * 2 ** 20;
const MANIFEST = 'template.json';
const manifestSchema = z.object({ baseMemoryBytes: z.int().nonnegative() });

export function createUsageActivities(store: Store): Pick<ControlActivities, 'replicaUsage' | 'templateBase'> {
  return {
    replicaUsage({ service, now }) {
      return replicaUsage(store, service, new Date(now));
    },
    async templateBase({ template }) {
      const { directory } = await readTemplate(store, template);
      try {
        const { baseMemoryBytes } = manifestSchema.parse(JSON.parse(await readFile(join(directory, MANIFEST), 'utf8')));
        return { baseMemoryBytes };
      } catch {
        // None, or not on this machine: whether the template can be used at all, its host finds out.
        return { baseMemoryBytes: UNKNOWN_BASE_MEMORY_BYTES };
      }
    },
  };
}

/**
 * The runtime file of `ciel up`: where its Temporal and its database are, for other commands and for its roles; and which
 * processes it started, for the next `ciel up` to end what a kill -9 left. It lies in the state directory, readable by
 * its owner only (the database's URL has its password in it), and is replaced as a whole.
 */
import { readFile, rename, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { z } from 'zod';

/** A pid alone may be given out anew; with the start time (of /proc/<pid>/stat, in ticks since the boot) it is one process. */
const processSchema = z.object({ name: z.string(), pid: z.int().positive(), startTicks: z.string() });
export type RecordedProcess = z.output<typeof processSchema>;

const runtimeSchema = z.object({
  up: processSchema,
  temporalAddress: z.string(),
  temporalNamespace: z.string(),
  /** null: another's Temporal, whose UI we do not know, or none is wanted. */
  temporalUiUrl: z.string().nullable(),
  databaseUrl: z.string(),
  processes: z.array(processSchema),
});
export interface Runtime extends z.output<typeof runtimeSchema> {
  /** Where this was read. */
  readonly file: string;
}

/** /var/lib/ciel for root, else by the XDG base directories. */
export function defaultStateDirectory(): string {
  if (process.getuid?.() === 0) return '/var/lib/ciel';
  return join(process.env.XDG_STATE_HOME || join(homedir(), '.local', 'state'), 'ciel');
}

function runtimeFile(stateDirectory: string): string {
  return join(resolve(stateDirectory), 'runtime.json');
}

/**
 * Reads it, whether or not `ciel up` still runs: whoever connects finds out.
 * @param stateDirectory null: the default one.
 * @returns null when there is none, or when it is no runtime file of this version.
 */
export async function findRuntime(stateDirectory: string | null): Promise<Runtime | null> {
  const file = runtimeFile(stateDirectory ?? defaultStateDirectory());
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw error;
  }
  try {
    return { ...runtimeSchema.parse(JSON.parse(text)), file };
  } catch {
    return null;
  }
}

export async function writeRuntime(stateDirectory: string, runtime: Omit<Runtime, 'file'>): Promise<void> {
  const file = runtimeFile(stateDirectory);
  await writeFile(`${file}.part`, `${JSON.stringify(runtime, null, 2)}\n`, { mode: 0o600 });
  await rename(`${file}.part`, file);
}

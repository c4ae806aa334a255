/** template.json: what a template is, beside what libvirt has to know of it (domain.xml). */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';

export const DOMAIN_XML = 'domain.xml';
export const MANIFEST = 'template.json';

const whole = z.number().int().nonnegative();

export const manifestSchema = z.object({
  name: z.string().min(1),
  /** Of everything the template was built from; another build with the same inputs is the same template. */
  contentHash: z.string().regex(/^[0-9a-f]{64}$/),
  builtAt: z.iso.datetime(),
  kernel: z.string(),
  packages: z.record(z.string(), z.string()),
  disk: z.object({ virtualBytes: whole, allocatedBytes: whole }),
  /** What a booted VM without a container needs for itself, measured: its memory less what it calls available. */
  baseMemoryBytes: whole,
  /** Measured on the machine that built it, from the start of QEMU. */
  boot: z.object({ accelerator: z.enum(['kvm', 'qemu']), agentMs: whole, dockerMs: whole }),
});

export type TemplateManifest = z.infer<typeof manifestSchema>;

/** null: there is none, or it is not one. */
export async function readManifest(directory: string): Promise<TemplateManifest | null> {
  const text = await readFile(join(directory, MANIFEST), 'utf8').catch(() => null);
  if (text === null) return null;
  try {
    return manifestSchema.parse(JSON.parse(text));
  } catch {
    return null;
  }
}

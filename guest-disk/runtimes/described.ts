/**
 * What descriptions of containers are made of, whichever runtime wrote them. Everything comes from the guest: text is
 * bounded, labels are counted, control characters are refused where a person may see them, and what does not fit is
 * Malformed with a message in which the guest's words are quoted and short.
 */
import { isIP } from 'node:net';
import { z } from 'zod';
import { DiskUnreadable } from '../disk.ts';

export const MAX_CONTAINERS = 512;
export const MAX_DESCRIPTION_BYTES = 1 << 20;
const MAX_LABELS = 256;
const MAX_LABEL_BYTES = 32 << 10;

/** Go writes this for "never". */
export const ZERO_TIME = '0001-01-01T00:00:00Z';

export const text = (maxLength: number) =>
  z
    .string()
    .max(maxLength)
    .refine((value) => !/\p{Surrogate}/u.test(value), 'holds half a surrogate pair');

export const printable = (maxLength: number) =>
  text(maxLength).refine((value) => !/\p{Control}/u.test(value), 'holds a control character');

export const labels = z
  .record(text(4096), text(MAX_LABEL_BYTES))
  .nullish()
  .transform((written) => written ?? {})
  .refine((written) => Object.keys(written).length <= MAX_LABELS, `more than ${MAX_LABELS} labels`)
  .refine((written) => JSON.stringify(written).length <= MAX_LABEL_BYTES, `over ${MAX_LABEL_BYTES} bytes of labels`);

/** Limits, as every OCI runtime is given them. */
export const ociSpec = z.object({
  linux: z
    .object({
      cgroupsPath: printable(4096).default(''),
      resources: z
        .object({
          memory: z.object({ limit: z.number().nullish() }).nullish(),
          cpu: z.object({ quota: z.number().nullish(), period: z.number().nullish() }).nullish(),
        })
        .nullish(),
    })
    .nullish(),
});

export function limitsOf(spec: z.infer<typeof ociSpec>): {
  cpuLimitCores: number | null;
  memoryLimitBytes: number | null;
} {
  const { memory, cpu } = spec.linux?.resources ?? {};
  const limit = memory?.limit ?? 0;
  return { cpuLimitCores: coresOf(cpu?.quota ?? 0, cpu?.period ?? 0), memoryLimitBytes: limit > 0 ? limit : null };
}

/** 100 ms is the kernel's default period, which runtimes leave out. */
export function coresOf(quotaMicroseconds: number, periodMicroseconds: number): number | null {
  if (quotaMicroseconds <= 0) return null;
  return quotaMicroseconds / (periodMicroseconds > 0 ? periodMicroseconds : 100_000);
}

/** The address of "10.0.0.1/24"; null for what is none. */
export function addressOf(cidr: string): string | null {
  const [address = ''] = cidr.split('/');
  return isIP(address) ? address : null;
}

/** JSON. @throws DiskUnreadable Malformed; `what` is ours, e.g. "config.v2.json is not what Docker writes" */
export function parse<T extends z.ZodType>(schema: T, content: Buffer | string, what: string): z.infer<T> {
  return check(schema, parseJson(content), what);
}

export function check<T extends z.ZodType>(schema: T, value: unknown, what: string): z.infer<T> {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues
    .slice(0, 3)
    .map((issue) => `${JSON.stringify(issue.path.join('.')).slice(0, 80)} ${issue.message.slice(0, 120)}`);
  throw new DiskUnreadable('Malformed', `${what}: ${problems.join('; ')}`);
}

/** undefined for what is no JSON, or no UTF-8. */
export function parseJson(content: Buffer | string): unknown {
  try {
    return JSON.parse(
      typeof content === 'string' ? content : new TextDecoder('utf-8', { fatal: true }).decode(content),
    );
  } catch {
    return undefined;
  }
}

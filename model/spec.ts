/**
 * ciel.yaml: what an operator writes (`SpecInput`), and what it becomes once defaults are set and units are resolved
 * (`Spec`). Here are the shapes and the limits of each field; relations between fields are spec-relations.ts, parsing
 * YAML and pointing at lines is the CLI's. Unknown keys are refused, all mistakes are reported at once, each with its path.
 */
import { z } from 'zod';
import { parseAddressRange } from './addresses.ts';

const NAME = /^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$/;
const nameSchema = z.string().regex(NAME, 'lower-case letters, digits and inner hyphens, at most 40');

const SIZE_UNITS: Record<string, number> = { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 };
/** "512MiB", "1.5 GiB": binary units only, because that is how memory is sold to guests. null: not of that form. */
export function parseBytes(written: string): number | null {
  const match = /^(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|TiB)$/.exec(written);
  const unit = SIZE_UNITS[match?.[2] ?? ''];
  return match === null || unit === undefined ? null : Math.round(Number(match[1]) * unit);
}
const bytesSchema = z.string().transform((written, context) => {
  const bytes = parseBytes(written);
  if (bytes !== null) return bytes;
  context.addIssue({ code: 'custom', message: `expected a size such as 512MiB or 1.5GiB, got "${written}"` });
  return z.NEVER;
});

const DURATION_UNITS: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };
/** "500ms", "30s", "5m", "1h". Result in milliseconds. null: not of that form. */
export function parseDuration(written: string): number | null {
  const match = /^(\d+(?:\.\d+)?)\s*(ms|s|m|h)$/.exec(written);
  const unit = DURATION_UNITS[match?.[2] ?? ''];
  return match === null || unit === undefined ? null : Math.round(Number(match[1]) * unit);
}
const durationSchema = z.string().transform((written, context) => {
  const milliseconds = parseDuration(written);
  if (milliseconds !== null) return milliseconds;
  context.addIssue({ code: 'custom', message: `expected a duration such as 500ms, 30s, 5m or 1h, got "${written}"` });
  return z.NEVER;
});

const addressSchema = z.ipv4('an IPv4 address such as 10.0.0.10');
const portSchema = z.int().min(1).max(65_535);
const pathSchema = z.string().startsWith('/', 'an absolute path');

const hostSchema = z
  .strictObject({
    name: nameSchema,
    /** libvirt's connection URI, read-write, as the host role reaches it. */
    libvirt: z.string().regex(/^qemu(\+[a-z]+)?:\/\//, 'a libvirt URI such as qemu:///system'),
    /** Where the disks of the VMs that Ciel makes lie. */
    storage: pathSchema,
    /** The bridge that new VMs' first network interface joins. */
    bridge: z.string().regex(/^[A-Za-z0-9_.-]{1,15}$/, 'an interface name, at most 15 characters'),
    /** What Ciel may use of the host for VMs that it makes. */
    capacity: z.strictObject({ vcpus: z.int().min(1), memory: bytesSchema }),
  })
  .transform(({ capacity, ...host }) => ({
    ...host,
    capacity: { vcpus: capacity.vcpus, memoryBytes: capacity.memory },
  }));

const directorSchema = z.strictObject({
  name: nameSchema,
  /**
   * How ipvsadm is reached: on the machine where the director role runs, or by the guest agent of a director VM. Real
   * servers are probed by the director role itself either way.
   */
  reach: z.discriminatedUnion('kind', [
    z.strictObject({ kind: z.literal('local') }),
    z.strictObject({ kind: z.literal('agent'), host: nameSchema, vm: z.string().min(1) }),
  ]),
});

const rangeSchema = z.string().refine((written) => parseAddressRange(written) !== null, {
  error: 'a range "first-last" of IPv4 addresses such as 10.0.0.50-10.0.0.99',
});
const networkSchema = z.strictObject({
  name: nameSchema,
  subnet: z.cidrv4('an IPv4 subnet such as 10.0.0.0/24'),
  gateway: addressSchema.optional(),
  /** What Ciel may give to VMs and replicas that it makes: ranges "first-last". Two addresses are used a replica. */
  addresses: z.array(rangeSchema).min(1),
});

const templateSchema = z.strictObject({
  name: nameSchema,
  /** As `ciel template build` makes it, or an operator's own: domain.xml and a disk beside it. */
  directory: pathSchema,
});

/** The container is named by exactly one of its name and a label. */
const adoptedSchema = z.strictObject({
  vm: z.string().min(1),
  container: z.string().min(1).optional(),
  label: z
    .string()
    .regex(/^[^=]+=.*$/, 'key=value')
    .optional(),
  address: addressSchema,
});

export const DEFAULT_SIZE = { vcpus: { min: 1, max: 4 }, memory: { min: '256MiB', max: '4GiB' } } as const;

const serviceSchema = z
  .strictObject({
    name: nameSchema,
    image: z.string().regex(/^[a-z0-9][a-zA-Z0-9._:/@-]*$/, 'an image reference such as registry:5000/name:tag'),
    run: z
      .strictObject({
        command: z.array(z.string()).optional(),
        env: z.record(z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/, 'a variable name'), z.string()).default({}),
        /** The container's own limits; a replica is never sized below what it may use. */
        cpus: z.number().positive().max(256).optional(),
        memory: bytesSchema.optional(),
      })
      .prefault({}),
    /** The virtual server in LVS: direct server return, so replicas listen on the same port. */
    virtual: z.strictObject({
      director: nameSchema,
      address: addressSchema,
      port: portSchema,
      protocol: z.enum(['tcp']).default('tcp'),
      scheduler: z.enum(['rr', 'wrr', 'lc', 'wlc', 'sh', 'sed', 'nq']).default('rr'),
      /** Take over a virtual service that is already in LVS. Otherwise such a one is not ours and stays untouched. */
      adopt: z.boolean().default(false),
    }),
    network: nameSchema,
    template: nameSchema,
    min: z.int().min(0).max(100).default(1),
    max: z.int().min(1).max(100),
    targets: z
      .strictObject({ cpu: z.number().gt(0.05).max(1).default(0.8), memory: z.number().gt(0.05).max(1).default(0.9) })
      .prefault({}),
    size: z
      .strictObject({
        vcpus: z
          .strictObject({
            min: z.int().min(1).default(DEFAULT_SIZE.vcpus.min),
            max: z.int().min(1).default(DEFAULT_SIZE.vcpus.max),
          })
          .prefault({}),
        memory: z
          .strictObject({
            min: bytesSchema.prefault(DEFAULT_SIZE.memory.min),
            max: bytesSchema.prefault(DEFAULT_SIZE.memory.max),
          })
          .prefault({}),
      })
      .prefault({}),
    health: z
      .strictObject({
        /** Without a path: a TCP connection. With one: an HTTP GET that must answer 2xx or 3xx. */
        path: z.string().startsWith('/').optional(),
        interval: durationSchema.prefault('2s'),
        timeout: durationSchema.prefault('3s'),
        /** How long a new replica may take until it first answers. */
        within: durationSchema.prefault('2m'),
      })
      .prefault({}),
    cooldown: z.strictObject({ out: durationSchema.prefault('30s'), in: durationSchema.prefault('5m') }).prefault({}),
    /** How long a replica may keep its connections after it has been taken out of the rotation. */
    drain: durationSchema.prefault('30s'),
    replicas: z.array(adoptedSchema).default([]),
  })
  .transform(({ run, size, health, cooldown, drain, ...service }) => ({
    ...service,
    run: {
      command: run.command ?? null,
      env: run.env,
      cpuLimitCores: run.cpus ?? null,
      memoryLimitBytes: run.memory ?? null,
    },
    size: {
      minVcpus: size.vcpus.min,
      maxVcpus: size.vcpus.max,
      minMemoryBytes: size.memory.min,
      maxMemoryBytes: size.memory.max,
    },
    health: {
      path: health.path ?? null,
      intervalMs: health.interval,
      timeoutMs: health.timeout,
      withinMs: health.within,
    },
    cooldown: { outMs: cooldown.out, inMs: cooldown.in },
    drainMs: drain,
  }));

export const specSchema = z.strictObject({
  version: z.literal(1),
  hosts: z.array(hostSchema).min(1),
  directors: z.array(directorSchema).min(1),
  networks: z.array(networkSchema).min(1),
  templates: z.array(templateSchema).min(1),
  services: z.array(serviceSchema).default([]),
});

export type SpecInput = z.input<typeof specSchema>;
export type Spec = z.output<typeof specSchema>;
export type HostSpec = Spec['hosts'][number];
export type DirectorSpec = Spec['directors'][number];
export type NetworkSpec = Spec['networks'][number];
export type TemplateSpec = Spec['templates'][number];
export type ServiceSpec = Spec['services'][number];
export type AdoptedReplicaSpec = ServiceSpec['replicas'][number];

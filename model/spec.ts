/**
 * ciel.yaml: what an operator writes (`SpecInput`), and what it becomes once defaults are set and units are resolved
 * (`Spec`). Parsing YAML and pointing at lines is the CLI's; here are the shapes, the limits and the relations between
 * fields. Unknown keys are refused, all mistakes are reported at once, each with its path.
 */
import { z } from 'zod';

const NAME = /^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$/;
const nameSchema = z.string().regex(NAME, 'lower-case letters, digits and inner hyphens, at most 40');

const SIZE_UNITS: Record<string, number> = { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 };
/** "512MiB", "1.5 GiB": binary units only, because that is how memory is sold to guests. Result in bytes. */
const bytesSchema = z.string().transform((text, context) => {
  const match = /^(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|TiB)$/.exec(text);
  const unit = SIZE_UNITS[match?.[2] ?? ''];
  if (match === null || unit === undefined) {
    context.addIssue({ code: 'custom', message: `a size such as 512MiB or 1.5GiB, not "${text}"` });
    return z.NEVER;
  }
  return Math.round(Number(match[1]) * unit);
});

const DURATION_UNITS: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };
/** "500ms", "30s", "5m", "1h". Result in milliseconds. */
const durationSchema = z.string().transform((text, context) => {
  const match = /^(\d+(?:\.\d+)?)\s*(ms|s|m|h)$/.exec(text);
  const unit = DURATION_UNITS[match?.[2] ?? ''];
  if (match === null || unit === undefined) {
    context.addIssue({ code: 'custom', message: `a duration such as 500ms, 30s, 5m or 1h, not "${text}"` });
    return z.NEVER;
  }
  return Math.round(Number(match[1]) * unit);
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

const networkSchema = z.strictObject({
  name: nameSchema,
  subnet: z.cidrv4('an IPv4 subnet such as 10.0.0.0/24'),
  gateway: addressSchema.optional(),
  /** What Ciel may give to VMs and replicas that it makes: ranges "first-last". Two addresses are used a replica. */
  addresses: z.array(z.string().regex(/^[0-9.]+-[0-9.]+$/, 'a range "first-last"')).min(1),
});

const templateSchema = z.strictObject({
  name: nameSchema,
  /** As `ciel template build` makes it, or an operator's own: domain.xml and a disk beside it. */
  directory: pathSchema,
});

const adoptedSchema = z
  .strictObject({
    vm: z.string().min(1),
    container: z.string().min(1).optional(),
    label: z
      .string()
      .regex(/^[^=]+=.*$/, 'key=value')
      .optional(),
    address: addressSchema,
  })
  .refine((replica) => (replica.container === undefined) !== (replica.label === undefined), {
    message: 'name the container by exactly one of "container" and "label"',
  });

const serviceSchema = z
  .strictObject({
    name: nameSchema,
    image: z.string().regex(/^[a-z0-9][a-zA-Z0-9._:/@-]*$/, 'an image reference such as registry:5000/name:tag'),
    run: z
      .strictObject({
        command: z.array(z.string()).optional(),
        env: z.record(z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/), z.string()).default({}),
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
        vcpus: z.strictObject({ min: z.int().min(1).default(1), max: z.int().min(1).default(4) }).prefault({}),
        memory: z.strictObject({ min: bytesSchema.prefault('256MiB'), max: bytesSchema.prefault('4GiB') }).prefault({}),
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

export const specSchema = z
  .strictObject({
    version: z.literal(1),
    hosts: z.array(hostSchema).min(1),
    directors: z.array(directorSchema).min(1),
    networks: z.array(networkSchema).min(1),
    templates: z.array(templateSchema).min(1),
    services: z.array(serviceSchema).default([]),
  })
  .superRefine((spec, context) => {
    const fail = (path: (string | number)[], message: string) => context.addIssue({ code: 'custom', path, message });
    for (const section of ['hosts', 'directors', 'networks', 'templates', 'services'] as const) {
      const seen = new Set<string>();
      spec[section].forEach(({ name }, index) => {
        if (seen.has(name)) fail([section, index, 'name'], `"${name}" is used twice; names are unique in a section`);
        seen.add(name);
      });
    }
    const known = (
      section: 'hosts' | 'directors' | 'networks' | 'templates',
      name: string,
      path: (string | number)[],
    ) => {
      if (spec[section].some((entry) => entry.name === name)) return;
      const names = spec[section].map((entry) => entry.name).join(', ');
      fail(path, `no entry "${name}" under "${section}"; there are: ${names}`);
    };
    spec.directors.forEach((director, index) => {
      if (director.reach.kind === 'agent') known('hosts', director.reach.host, ['directors', index, 'reach', 'host']);
    });
    const virtualServers = new Map<string, string>();
    const replicaAddresses = new Map<string, string>();
    spec.services.forEach((service, index) => {
      const at = (...path: (string | number)[]) => ['services', index, ...path];
      known('directors', service.virtual.director, at('virtual', 'director'));
      known('networks', service.network, at('network'));
      known('templates', service.template, at('template'));
      if (service.min > service.max) fail(at('min'), `min ${service.min} is above max ${service.max}`);
      if (service.replicas.length > service.max) {
        fail(at('max'), `max ${service.max} is below the ${service.replicas.length} adopted replicas`);
      }
      if (service.size.minVcpus > service.size.maxVcpus) fail(at('size', 'vcpus'), 'min is above max');
      if (service.size.minMemoryBytes > service.size.maxMemoryBytes) fail(at('size', 'memory'), 'min is above max');
      const key = `${service.virtual.protocol} ${service.virtual.address}:${service.virtual.port}`;
      const other = virtualServers.get(key);
      if (other !== undefined) fail(at('virtual'), `${key} is already the virtual address of service "${other}"`);
      virtualServers.set(key, service.name);
      service.replicas.forEach((replica, replicaIndex) => {
        const address = `${replica.address}:${service.virtual.port}`;
        const owner = replicaAddresses.get(address);
        if (owner !== undefined) {
          fail(at('replicas', replicaIndex, 'address'), `${address} is already a replica of service "${owner}"`);
        }
        replicaAddresses.set(address, service.name);
      });
    });
  });

export type SpecInput = z.input<typeof specSchema>;
export type Spec = z.output<typeof specSchema>;
export type HostSpec = Spec['hosts'][number];
export type DirectorSpec = Spec['directors'][number];
export type NetworkSpec = Spec['networks'][number];
export type TemplateSpec = Spec['templates'][number];
export type ServiceSpec = Spec['services'][number];
export type AdoptedReplicaSpec = ServiceSpec['replicas'][number];

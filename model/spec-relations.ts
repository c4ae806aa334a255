/**
 * What ciel.yaml's schema cannot say of one field alone: names that must exist or be unique, bounds that must agree,
 * addresses that must not collide.
 *
 * It works on the file as written, not on the parsed specification, and skips whatever field is missing or of a wrong
 * type: so a mistake in one place (which the schema reports) hides none in another, and all are reported at once.
 */
import { z } from 'zod';
import { type AddressRange, hostAddresses, inRange, parseAddressRange } from './addresses.ts';
import { DEFAULT_SIZE, parseBytes } from './spec.ts';

export type SpecPath = readonly (string | number)[];
export interface SpecProblem {
  readonly path: SpecPath;
  readonly message: string;
}

// The outline of the file: the fields that relations concern, each with its value or undefined.
const maybe = <T extends z.ZodType>(schema: T) => schema.optional().catch(undefined);
const text = maybe(z.string());
const int = maybe(z.int());
const ipv4 = maybe(z.ipv4());
// With a default, null stands for what is of a wrong type.
const count = (byDefault: number) => z.int().nullable().default(byDefault).catch(null);
const bytes = (byDefault: string) => z.string().transform(parseBytes).prefault(byDefault).catch(null);
const outline = <T extends z.ZodRawShape>(shape: T) =>
  z.preprocess((value) => (typeof value === 'object' && !Array.isArray(value) ? (value ?? {}) : {}), z.object(shape));
const list = <T extends z.ZodType>(entry: T) => z.array(entry).catch([]);

const outlineSchema = outline({
  hosts: list(outline({ name: text })),
  directors: list(outline({ name: text, reach: outline({ kind: text, host: text }) })),
  networks: list(outline({ name: text, subnet: maybe(z.cidrv4()), gateway: ipv4, addresses: list(text) })),
  templates: list(outline({ name: text })),
  services: list(
    outline({
      name: text,
      virtual: outline({ director: text, address: ipv4, port: int, protocol: text }),
      network: text,
      template: text,
      min: int,
      max: int,
      size: outline({
        vcpus: outline({ min: count(DEFAULT_SIZE.vcpus.min), max: count(DEFAULT_SIZE.vcpus.max) }),
        memory: outline({ min: bytes(DEFAULT_SIZE.memory.min), max: bytes(DEFAULT_SIZE.memory.max) }),
      }),
      replicas: list(outline({ vm: text, container: maybe(z.unknown()), label: maybe(z.unknown()), address: ipv4 })),
    }),
  ),
});
type Outline = z.output<typeof outlineSchema>;
type Report = (path: SpecPath, message: string) => void;

export function relationProblems(written: unknown): readonly SpecProblem[] {
  const problems: SpecProblem[] = [];
  const report: Report = (path, message) => problems.push({ path, message });
  const spec = outlineSchema.parse(written);
  checkNames(spec, report);
  checkReferences(spec, report);
  const ranges = checkNetworks(spec, report);
  checkBounds(spec, report);
  checkAddresses(spec, ranges, report);
  return problems;
}

const SECTIONS = ['hosts', 'directors', 'networks', 'templates', 'services'] as const;
type Section = (typeof SECTIONS)[number];

function checkNames(spec: Outline, report: Report): void {
  for (const section of SECTIONS) {
    const seen = new Set<string>();
    spec[section].forEach(({ name }, index) => {
      if (name === undefined) return;
      if (seen.has(name)) report([section, index, 'name'], `"${name}" is used twice; names are unique in a section`);
      seen.add(name);
    });
  }
}

function checkReferences(spec: Outline, report: Report): void {
  const mustExist = (section: Section, name: string | undefined, path: SpecPath) => {
    if (name === undefined || spec[section].some((entry) => entry.name === name)) return;
    const names = spec[section].flatMap((entry) => entry.name ?? []).join(', ');
    report(path, `no entry "${name}" under "${section}"; there are: ${names === '' ? 'none' : names}`);
  };
  spec.directors.forEach(({ reach }, index) => {
    if (reach.kind === 'agent') mustExist('hosts', reach.host, ['directors', index, 'reach', 'host']);
  });
  spec.services.forEach((service, index) => {
    mustExist('directors', service.virtual.director, ['services', index, 'virtual', 'director']);
    mustExist('networks', service.network, ['services', index, 'network']);
    mustExist('templates', service.template, ['services', index, 'template']);
  });
}

function checkBounds(spec: Outline, report: Report): void {
  spec.services.forEach((service, index) => {
    const at = (...path: SpecPath): SpecPath => ['services', index, ...path];
    const ordered = (min: number | null, max: number | null, path: SpecPath) => {
      if (min !== null && max !== null && min > max) report(path, 'min is above max');
    };
    if (service.min !== undefined && service.max !== undefined && service.min > service.max) {
      report(at('min'), `min ${service.min} is above max ${service.max}`);
    }
    if (service.max !== undefined && service.replicas.length > service.max) {
      report(at('max'), `max ${service.max} is below the ${service.replicas.length} adopted replicas`);
    }
    ordered(service.size.vcpus.min, service.size.vcpus.max, at('size', 'vcpus'));
    ordered(service.size.memory.min, service.size.memory.max, at('size', 'memory'));
    service.replicas.forEach(({ vm, container, label }, replicaIndex) => {
      if (vm !== undefined && (container === undefined) === (label === undefined)) {
        report(at('replicas', replicaIndex), 'name the container by exactly one of "container" and "label"');
      }
    });
  });
}

interface OwnedRange extends AddressRange {
  readonly network: string;
  readonly written: string;
}

/** @returns the ranges that are sound, for checking other addresses against */
function checkNetworks(spec: Outline, report: Report): readonly OwnedRange[] {
  const ranges: OwnedRange[] = [];
  spec.networks.forEach(({ name, subnet, gateway, addresses }, index) => {
    const hosts = subnet === undefined ? null : hostAddresses(subnet);
    if (hosts !== null && gateway !== undefined && !inRange(hosts, gateway)) {
      report(['networks', index, 'gateway'], `${gateway} is no host address of the subnet ${subnet}`);
    }
    addresses.forEach((written, rangeIndex) => {
      const path = ['networks', index, 'addresses', rangeIndex];
      const range = written === undefined ? null : parseAddressRange(written);
      if (written === undefined || range === null) return;
      if (range.first > range.last) {
        report(path, `the first address of ${written} comes after the last`);
        return;
      }
      if (hosts !== null && (range.first < hosts.first || range.last > hosts.last)) {
        report(path, `${written} is not all host addresses of the subnet ${subnet}`);
      }
      if (gateway !== undefined && inRange(range, gateway)) {
        report(path, `${written} contains the gateway ${gateway}`);
      }
      const other = ranges.find(({ first, last }) => first <= range.last && range.first <= last);
      if (other !== undefined) {
        report(path, `${written} overlaps ${other.written} of network "${other.network}"; an address has one owner`);
      }
      ranges.push({ ...range, network: name ?? '?', written });
    });
  });
  return ranges;
}

function checkAddresses(spec: Outline, ranges: readonly OwnedRange[], report: Report): void {
  const notGivenAway = (address: string | undefined, path: SpecPath) => {
    if (address === undefined) return;
    const range = ranges.find((candidate) => inRange(candidate, address));
    if (range === undefined) return;
    report(path, `${address} is in ${range.written} of network "${range.network}", which Ciel gives to what it makes`);
  };
  const virtualServers = new Map<string, string>();
  const adopted = new Map<string, string>();
  spec.services.forEach(({ name = '?', virtual, replicas }, index) => {
    const at = (...path: SpecPath): SpecPath => ['services', index, ...path];
    notGivenAway(virtual.address, at('virtual', 'address'));
    if (virtual.address !== undefined && virtual.port !== undefined) {
      const key = `${virtual.protocol ?? 'tcp'} ${virtual.address}:${virtual.port}`;
      const other = virtualServers.get(key);
      if (other !== undefined) report(at('virtual'), `${key} is already the virtual address of service "${other}"`);
      virtualServers.set(key, name);
    }
    replicas.forEach(({ address }, replicaIndex) => {
      const path = at('replicas', replicaIndex, 'address');
      notGivenAway(address, path);
      if (address === undefined) return;
      if (address === virtual.address) report(path, `${address} is the virtual address; a replica has one of its own`);
      if (virtual.port === undefined) return;
      const key = `${address}:${virtual.port}`;
      const owner = adopted.get(key);
      if (owner !== undefined) report(path, `${key} is already a replica of service "${owner}"`);
      adopted.set(key, name);
    });
  });
}

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { renderFileProblem } from '../../cli/apply.ts';
import { parseSpecFile } from '../../cli/spec-file.ts';

const EXAMPLE = readFileSync(join(import.meta.dirname, '../../docs/examples/ciel.yaml'), 'utf8');

function problemsOf(text: string): string[] {
  const parsed = parseSpecFile(text);
  return parsed.ok ? [] : parsed.problems.map((problem) => renderFileProblem('ciel.yaml', problem));
}
/** The example with one line changed. */
function changed(from: string, to: string): string {
  expect(EXAMPLE).toContain(from);
  return EXAMPLE.replace(from, to);
}

describe('the example', () => {
  it('is valid, and defaults and units are resolved', () => {
    const parsed = parseSpecFile(EXAMPLE);
    expect(parsed).toMatchObject({
      ok: true,
      spec: {
        hosts: [{ capacity: { vcpus: 16, memoryBytes: 64 * 2 ** 30 } }],
        services: [
          {
            virtual: { protocol: 'tcp', scheduler: 'rr', adopt: false },
            health: { path: '/healthz', intervalMs: 2_000, timeoutMs: 3_000, withinMs: 120_000 },
            size: { minMemoryBytes: 512 * 2 ** 20, maxMemoryBytes: 2 * 2 ** 30 },
            cooldown: { outMs: 30_000, inMs: 300_000 },
          },
        ],
      },
    });
  });
});

describe('mistakes', () => {
  it('are all reported at once, in the order of the file, each with its place and what is allowed', () => {
    const text = `version: 2
hosts:
  - name: Rack1
    libvirt: xen:///
    storage: relative
    bridge: br0
    capacity: { vcpus: 0, memory: 64GB }
    bridge: br1
directors:
  - name: lb1
    reach: { kind: agent, hots: rack1, vm: director }
  - name: lb2
    reach: { kind: foo }
networks:
  - name: front
    subnet: 10.0.0.0/24
    gateway: 10.0.1.1
    addresses: [10.0.0.100-10.0.0.299, 10.0.0.50-10.0.0.20]
templates: []
services:
  - name: mosaic
    image: Registry
    run:
      env: { 1WORKERS: "2" }
    virtual: { director: lb3, address: 10.0.0.10, prot: 99, port: 99999 }
    network: front
    max: 4
    min: 7
    targets: { cpu: 80 }
    size:
      vcpus: { min: 8 }
    replicas:
      - { vm: shop-1, adress: 10.0.0.21 }
servces: []
`;
    expect(problemsOf(text)).toEqual([
      'ciel.yaml:1:10  version  expected 1, got 2',
      'ciel.yaml:3:11  hosts[0].name  expected lower-case letters, digits and inner hyphens, at most 40, got "Rack1"',
      'ciel.yaml:4:14  hosts[0].libvirt  expected a libvirt URI such as qemu:///system, got "xen:///"',
      'ciel.yaml:5:14  hosts[0].storage  expected an absolute path, got "relative"',
      'ciel.yaml:7:24  hosts[0].capacity.vcpus  expected a number, at least 1, got 0',
      'ciel.yaml:7:35  hosts[0].capacity.memory  expected a size such as 512MiB or 1.5GiB, got "64GB"',
      'ciel.yaml:8:5  this key is already in the same map',
      'ciel.yaml:11:5  directors[0].reach.host  is missing: expected text',
      'ciel.yaml:11:27  directors[0].reach.hots  unknown key; did you mean "host"? allowed here: kind, host, vm',
      'ciel.yaml:13:20  directors[1].reach.kind  expected one of local, agent, got "foo"',
      'ciel.yaml:17:14  networks[0].gateway  10.0.1.1 is no host address of the subnet 10.0.0.0/24',
      'ciel.yaml:18:17  networks[0].addresses[0]  expected a range "first-last" of IPv4 addresses such as 10.0.0.50-10.0.0.99, got "10.0.0.100-10.0.0.299"',
      'ciel.yaml:18:40  networks[0].addresses[1]  the first address of 10.0.0.50-10.0.0.20 comes after the last',
      'ciel.yaml:19:1  templates  expected at least 1 entry, got an empty list',
      'ciel.yaml:21:5  services[0].template  is missing: expected text',
      'ciel.yaml:22:12  services[0].image  expected an image reference such as registry:5000/name:tag, got "Registry"',
      'ciel.yaml:24:14  services[0].run.env.1WORKERS  expected a variable name as key',
      'ciel.yaml:25:26  services[0].virtual.director  no entry "lb3" under "directors"; there are: lb1, lb2',
      'ciel.yaml:25:51  services[0].virtual.prot  unknown key; did you mean "port"? allowed here: director, address, port, protocol, scheduler, adopt',
      'ciel.yaml:25:67  services[0].virtual.port  expected a number, at most 65535, got 99999',
      'ciel.yaml:28:10  services[0].min  min 7 is above max 4',
      'ciel.yaml:29:21  services[0].targets.cpu  expected a number, at most 1, got 80',
      'ciel.yaml:31:7  services[0].size.vcpus  min is above max',
      'ciel.yaml:33:9  services[0].replicas[0].address  is missing: expected an IPv4 address such as 10.0.0.10',
      'ciel.yaml:33:9  services[0].replicas[0]  name the container by exactly one of "container" and "label"',
      'ciel.yaml:33:23  services[0].replicas[0].adress  unknown key; did you mean "address"? allowed here: vm, container, label, address',
      'ciel.yaml:34:1  servces  unknown key; did you mean "services"? allowed here: version, hosts, directors, networks, templates, services',
    ]);
  });

  it.each([
    ['an empty file', '', 'ciel.yaml:1:1  expected a map, got nothing'],
    ['a list', '- 1\n', 'ciel.yaml:1:1  expected a map, got a list'],
    [
      'a broken line',
      'a: [1\nb: 2',
      'ciel.yaml:2:1  not YAML: Flow sequence in block collection must be sufficiently indented and end with a ]',
    ],
    ['two documents', 'a: 1\n---\nb: 2\n', 'ciel.yaml:2:1  a second document begins here; the file has one'],
    [
      'an alias of nothing',
      'a: *b\n',
      'ciel.yaml:1:1  not usable YAML: Unresolved alias (the anchor must be set before the alias): b',
    ],
  ])('in YAML itself: %s', (_name, text, problem) => {
    expect(problemsOf(text)).toEqual([problem]);
  });

  it.each([
    [
      'addresses: [10.0.0.100-10.0.0.199]',
      'addresses: [10.0.0.100-10.0.0.255]',
      /not all host addresses of the subnet/,
    ],
    ['addresses: [10.0.0.100-10.0.0.199]', 'addresses: [10.0.0.1-10.0.0.9]', /contains the gateway 10.0.0.1/],
    [
      'addresses: [10.0.0.100-10.0.0.199]',
      'addresses: [10.0.0.100-10.0.0.120, 10.0.0.120-10.0.0.130]',
      /overlaps 10.0.0.100-10.0.0.120 of network "front"/,
    ],
    ['address: 10.0.0.10,', 'address: 10.0.0.150,', /10.0.0.150 is in 10.0.0.100-10.0.0.199 of network "front"/],
    ['address: 10.0.0.21', 'address: 10.0.0.199', /10.0.0.199 is in 10.0.0.100-10.0.0.199/],
    ['address: 10.0.0.21', 'address: 10.0.0.10', /is the virtual address; a replica has one of its own/],
    ['container: mosaic', 'container: mosaic, label: a=b', /by exactly one of "container" and "label"/],
    ['max: 4', 'max: 400', /at most 100, got 400/],
  ])('in relations: %s → %s', (from, to, expected) => {
    const problems = problemsOf(changed(from, to));
    expect(problems).toHaveLength(1);
    expect(problems[0]).toMatch(expected);
  });

  it('keeps a mistake in one place from hiding another', () => {
    const problems = problemsOf(changed('director: lb1', 'director: lb9').replace('cpu: 0.8', 'cpu: 8'));
    expect(problems).toHaveLength(2);
  });

  it('takes two services at one virtual address for a mistake', () => {
    const service = EXAMPLE.slice(EXAMPLE.indexOf('  - name: mosaic'));
    const problems = problemsOf(EXAMPLE + service.replace('name: mosaic', 'name: other'));
    expect(problems.map((problem) => problem.replace(/^\S+ {2}/, ''))).toEqual([
      'services[1].virtual  tcp 10.0.0.10:80 is already the virtual address of service "mosaic"',
      'services[1].replicas[0].address  10.0.0.21:80 is already a replica of service "mosaic"',
    ]);
  });
});

describe('any text', () => {
  it('is parsed or refused with places, and never throws', () => {
    const lines = EXAMPLE.split('\n');
    const mutation = fc.tuple(
      fc.nat(lines.length - 1),
      fc.constantFrom('', '- ', '{', '  x: 1', '*a', '&a !!x ', '? '),
    );
    fc.assert(
      fc.property(fc.array(mutation, { maxLength: 5 }), (mutations) => {
        const mutated = [...lines];
        for (const [line, text] of mutations) mutated[line] = text + (mutated[line] ?? '').slice(text.length);
        const parsed = parseSpecFile(mutated.join('\n'));
        if (parsed.ok) return;
        expect(parsed.problems.length).toBeGreaterThan(0);
        for (const { line, column } of parsed.problems) {
          expect(line).toBeGreaterThanOrEqual(1);
          expect(line).toBeLessThanOrEqual(lines.length + 1);
          expect(column).toBeGreaterThanOrEqual(1);
        }
      }),
      { numRuns: 300 },
    );
    fc.assert(fc.property(fc.string(), (text) => void parseSpecFile(text)));
  });
});

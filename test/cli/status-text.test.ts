import { expect, it } from 'vitest';
import type { Status } from '../../cli/status.ts';
import { renderStatus } from '../../cli/status-text.ts';
import { RecordedTerminal } from './recorded-terminal.ts';

const NOW = new Date('2026-03-01T12:00:00Z');
const before = (seconds: number) => new Date(NOW.getTime() - seconds * 1_000).toISOString();
const MIB = 2 ** 20;

const container = {
  vmUuid: 'u1',
  runtime: 'docker',
  cgroupPath: '/docker/x',
  image: 'mosaic:1',
  labels: {},
  addresses: {},
  replicaId: null,
  cpuLimitCores: null,
  memoryLimitBytes: null,
  unavailable: null,
  at: before(2),
} as const;

const STATUS: Status = {
  at: NOW.toISOString(),
  services: [
    {
      name: 'mosaic',
      min: 1,
      max: 4,
      generation: 3,
      virtual: { address: '10.0.0.10', port: 80, director: 'lb1' },
      intent: { paused: null, deleting: false, operationInFlight: 'scale-out/mosaic/3', quietUntil: null, recent: [] },
      unavailable: null,
      replicas: [
        {
          replicaId: 'a',
          service: 'mosaic',
          kind: 'adopted',
          state: 'serving',
          vmName: 'shop-1',
          vmUuid: 'u1',
          host: 'rack1',
          address: '10.0.0.21',
          vcpus: null,
          memoryBytes: null,
          servingSince: before(7_300),
          weight: 1,
          healthy: true,
          healthMessage: '',
        },
      ],
    },
    {
      name: 'nginx',
      min: 1,
      max: 2,
      generation: 1,
      virtual: { address: '10.0.0.11', port: 80, director: 'lb1' },
      intent: null,
      unavailable: 'Temporal took it, but no worker serves task queue "ciel"',
      replicas: [],
    },
  ],
  vms: [
    {
      vmUuid: 'u1',
      vmName: 'shop-1',
      host: 'rack1',
      state: 'running',
      vcpus: 1,
      memoryBytes: 1024 * MIB,
      cpuCores: 0.93,
      unreadable: null,
      guestBoot: null,
      kernelRelease: '6.1.0',
      at: before(2),
      watched: true,
      containers: [
        {
          ...container,
          containerId: 'c1'.repeat(32),
          name: 'mosaic',
          service: 'mosaic',
          cpuCores: 0.83,
          memoryBytes: 120 * MIB,
          ioBytesPerSecond: 0,
        },
        {
          ...container,
          containerId: 'c2'.repeat(32),
          name: '\u001b[31mevil\nname',
          service: null,
          cpuCores: null,
          memoryBytes: 9 * MIB,
          ioBytesPerSecond: null,
          unavailable: 'Faulted: an address of the counter is not backed by RAM',
        },
      ],
    },
    {
      vmUuid: 'u2',
      vmName: 'old',
      host: 'rack1',
      state: 'running',
      vcpus: 2,
      memoryBytes: 2048 * MIB,
      cpuCores: null,
      unreadable: 'NoTypes: the kernel carries no BTF',
      guestBoot: null,
      kernelRelease: null,
      at: before(300),
      watched: true,
      containers: [],
    },
  ],
  otherVms: 2,
  operations: [
    {
      runId: 'r',
      operationId: 'scale-out/mosaic/3',
      service: 'mosaic',
      kind: 'scaleOut',
      summary: 'one replica more, because shop-1 is hot',
      state: 'open',
      message: '',
      phase: 'running',
      stuck: [],
      retrying: [],
      openedAt: before(65),
      closedAt: null,
      steps: [
        { runId: 'r', step: 'reserve', state: 'done', message: '', startedAt: before(65), endedAt: before(64) },
        { runId: 'r', step: 'startVm', state: 'started', message: '', startedAt: before(12), endedAt: null },
      ],
    },
  ],
  hosts: [
    { name: 'rack1', seenAt: before(3) },
    { name: 'rack2', seenAt: null },
  ],
};

it('shows services, replicas, operations and VMs within 80 columns, ages and reasons included', () => {
  const text = renderStatus(STATUS, new RecordedTerminal(), NOW);
  expect(text).toMatchInlineSnapshot(`
    "Services
    SERVICE  SERVED AT     SERVING  MIN–MAX  STATE
    mosaic   10.0.0.10:80   1 of 1      1–4  scale-out/mosaic/3
    nginx    10.0.0.11:80   0 of 0      1–2  unavailable

    Replicas
    SERVICE  VM      KIND     ADDRESS    STATE    LVS       SERVING SINCE
    mosaic   shop-1  adopted  10.0.0.21  serving  weight 1  2 h 01 m ago

    Operations in flight
    OPERATION           BEGUN         STEP            DOING
    scale-out/mosaic/3  1 m 05 s ago  startVm 12.0 s  one replica more, because sho…

    VMs, as seen from outside
    VM / CONTAINER       SERVICE             CPU   MEMORY          I/O  SEEN
    shop-1               watched     0.93 (93 %)    1 GiB               2 s ago
      mosaic             mosaic             0.83  120 MiB        0 B/s  2 s ago
      \\u{1b}[31mevil\\u…  –           unavailable    9 MiB  unavailable  2 s ago
    old                  unreadable            –    2 GiB               5 m 00 s ago

    2 more VMs, not watched (ciel monitor start VM)

    Hosts: rack1 seen 3 s ago, rack2 never seen: is its host role running?

    service nginx: its workflow is unavailable: Temporal took it, but no worker serves task queue "ciel"
    container \\u{1b}[31mevil\\u{a}name in shop-1: Faulted: an address of the counter is not backed by RAM
    VM old: containers unreadable: NoTypes: the kernel carries no BTF
      to do: boot a kernel with CONFIG_DEBUG_INFO_BTF, as distributions have them"
  `);
  const tables = text.split('\n').filter((line) => !/^(service|VM|container) /.test(line));
  for (const line of tables) expect(line.length).toBeLessThanOrEqual(80);
});

it('lets nothing of a guest reach the terminal unescaped (invariant 9)', () => {
  const text = renderStatus(STATUS, new RecordedTerminal(200), NOW);
  expect(text).not.toContain('\u001b');
  expect(text).toContain('\\u{1b}[31mevil\\u{a}name');
});

it('says what an operation needs of the operator, whole', () => {
  const stuck = 'clone disk: looked into /srv/disks: ENOENT. Create the directory, or correct "storage" in ciel.yaml.';
  const operations = STATUS.operations.map(
    (operation) => ({ ...operation, phase: 'needsOperator', stuck: [stuck] }) as const,
  );
  const text = renderStatus({ ...STATUS, operations }, new RecordedTerminal(), NOW);
  expect(text).toContain(`scale-out/mosaic/3 needs the operator: ${stuck}\n  to do: `);
  expect(text).toContain('ciel operation retry scale-out/mosaic/3');
});

it('says what an operation waits for while a step is tried again', () => {
  const retrying = [{ attempt: 4, failure: 'pulled registry:5000/mosaic:1: connection refused' }];
  const operations = STATUS.operations.map((operation) => ({ ...operation, retrying }));
  expect(renderStatus({ ...STATUS, operations }, new RecordedTerminal(), NOW)).toContain(
    'scale-out/mosaic/3 tries again (attempt 4): pulled registry:5000/mosaic:1: connection refused',
  );
});

it('says how to begin when there is nothing', () => {
  const empty = { ...STATUS, services: [], vms: [], operations: [], hosts: [], otherVms: 0 };
  expect(renderStatus(empty, new RecordedTerminal(), NOW)).toBe(
    'No services. They come from: ciel apply -f ciel.yaml\n\nHosts: none',
  );
});

/**
 * A world in memory, behind the activities' interface: disks, VMs, reservations, LVS. Each service under test has one of
 * its own. It can be told to fail at any activity, before or after the effect, and it notes by itself whatever breaks an
 * invariant, so that every test checks them.
 */

import { createDecideActivities, type DecisionRow } from '../../activities/decide.ts';
import type {
  ControlActivities,
  DirectorActivities,
  HostActivities,
  OperationRef,
  Reservation,
} from '../../model/activities.ts';
import type { Decision, DecisionInput, ReplicaUsage } from '../../model/decision.ts';
import { CielFailure } from '../../model/failures.ts';
import { replicaIdentity } from '../../model/identity.ts';
import type { Replica } from '../../model/replica.ts';
import type { ServiceSpec } from '../../model/spec.ts';

export const INSTALLATION = '3f0b6a2e-6d0e-4f6a-9a59-0d6f2f6b8c11';
export const MIB = 2 ** 20;

export type ActivityName = keyof ControlActivities | keyof HostActivities | keyof DirectorActivities;

interface RealServer {
  readonly address: string;
  readonly weight: number;
}

export function serviceSpec(name: string, changes: Partial<ServiceSpec> = {}): ServiceSpec {
  return {
    name,
    image: `registry:5000/${name}:1`,
    run: { command: null, env: {}, cpuLimitCores: null, memoryLimitBytes: null },
    virtual: { director: 'd1', address: '10.0.0.10', port: 80, protocol: 'tcp', scheduler: 'rr', adopt: false },
    network: 'lan',
    template: 'minimal',
    min: 1,
    max: 3,
    targets: { cpu: 0.8, memory: 0.9 },
    size: { minVcpus: 1, maxVcpus: 4, minMemoryBytes: 256 * MIB, maxMemoryBytes: 4096 * MIB },
    health: { path: null, intervalMs: 2_000, timeoutMs: 3_000, withinMs: 120_000 },
    cooldown: { outMs: 30_000, inMs: 300_000 },
    drainMs: 1_000,
    replicas: [{ vm: `shop-${name}`, container: name, address: '10.0.0.21' }],
    ...changes,
  };
}

export class World {
  readonly service: string;
  readonly calls: string[] = [];
  readonly violations: string[] = [];
  readonly disks = new Set<string>();
  readonly vms = new Set<string>();
  readonly reservations = new Map<string, Reservation>();
  readonly decisions: DecisionRow[] = [];
  readonly steps: string[] = [];
  readonly operations = new Map<string, string>();
  /** Addresses that have answered to a probe. */
  readonly answering = new Set<string>();
  hosts: string[] = ['h1'];
  desired = new Map<string, RealServer>();
  inLvs = new Map<string, RealServer>();
  virtualServer: ServiceSpec | null = null;
  replicas: readonly Replica[] = [];
  usage: readonly ReplicaUsage[] = [];
  readonly #hooks: { name: ActivityName; when: 'before' | 'after'; hook: () => unknown }[] = [];

  constructor(service: string) {
    this.service = service;
  }

  /** Once, at the next call of that activity. */
  once(name: ActivityName, hook: () => unknown, when: 'before' | 'after' = 'before'): void {
    this.#hooks.push({ name, when, hook });
  }

  async called<T>(name: ActivityName, effect: () => T): Promise<T> {
    this.calls.push(name);
    await this.#run(name, 'before');
    const result = effect();
    await this.#run(name, 'after');
    return result;
  }
  async #run(name: ActivityName, when: 'before' | 'after'): Promise<void> {
    const index = this.#hooks.findIndex((entry) => entry.name === name && entry.when === when);
    if (index >= 0) await this.#hooks.splice(index, 1)[0]?.hook();
  }

  /** Everything that Ciel made and that is still there. */
  get left(): string[] {
    return [
      ...[...this.disks].map((disk) => `disk ${disk}`),
      ...[...this.vms].map((vm) => `VM ${vm}`),
      ...[...this.reservations.keys()].map((id) => `reservation ${id}`),
      ...[...this.inLvs.values()].filter(({ address }) => address.startsWith('10.0.1.')).map((s) => `LVS ${s.address}`),
    ];
  }
  get openOperations(): string[] {
    return [...this.operations].filter(([, state]) => state === 'open').map(([runId]) => runId);
  }

  reserve(operation: OperationRef, ordinal: number, size: Reservation['size'], avoid: readonly string[]): Reservation {
    const identity = replicaIdentity(INSTALLATION, this.service, operation.runId, ordinal);
    const existing = this.reservations.get(identity.replicaId);
    if (existing !== undefined) return existing;
    const host = this.hosts.find((name) => !avoid.includes(name));
    if (host === undefined) throw new CielFailure('HostFull', 'no host has room');
    const last = 50 + this.reservations.size;
    const reservation: Reservation = {
      ...identity,
      host,
      size,
      replicaAddress: `10.0.1.${last}`,
      vmAddress: `10.0.2.${last}`,
      subnet: '10.0.0.0/16',
      gateway: null,
      template: 'minimal',
    };
    this.reservations.set(identity.replicaId, reservation);
    return reservation;
  }

  converge(): { changes: string[] } {
    for (const { address, weight } of this.desired.values()) {
      const made = address.startsWith('10.0.1.');
      if (made && weight > 0 && !this.answering.has(address)) this.violations.push(`2: ${address} has not answered`);
    }
    this.inLvs = new Map(this.virtualServer === null ? [] : this.desired);
    return { changes: [] };
  }

  removeVm({ vmName, replicaAddress }: Reservation): void {
    const inLvs = [...this.inLvs.values()].some(({ address }) => address === replicaAddress);
    if (inLvs) this.violations.push(`2: ${vmName} is removed while it has traffic`);
    this.vms.delete(vmName);
    this.answering.delete(replicaAddress);
  }
  release(replicaId: string): void {
    const reservation = this.reservations.get(replicaId);
    if (reservation === undefined) return;
    if (this.vms.has(reservation.vmName) || this.disks.has(reservation.diskFileName)) {
      this.violations.push(`3: ${reservation.vmName} is released while it is there`);
    }
    this.reservations.delete(replicaId);
  }
}

/** Watching is by VM, not by service: one for all tests. */
export const watches = new Map<string, string | null>();
export const watchCalls: string[] = [];
export const locations = new Map<
  string,
  { vmUuid: string; vmName: string; host: string; vcpus: number; memoryBytes: number }
>();

const worlds = new Map<string, World>();
export function createWorld(service: string): World {
  const world = new World(service);
  worlds.set(service, world);
  return world;
}
function worldOf(service: string): World {
  const world = worlds.get(service);
  if (world === undefined) throw new Error(`no world for service ${service}`);
  return world;
}

const recordedRows = new Map<string, Decision>();
export const monitorDecisions: DecisionRow[] = [];
async function recordDecision(row: DecisionRow): Promise<Decision> {
  const key = `${row.workflowId} ${row.runId} ${row.number}`;
  const decision = recordedRows.get(key) ?? {
    decisionId: String(recordedRows.size + 1),
    policyVersion: row.policyVersion,
    outcome: row.outcome,
  };
  recordedRows.set(key, decision);
  const world = worlds.get(row.subject);
  if (world === undefined) monitorDecisions.push(row);
  else world.decisions.push(row);
  return decision;
}
const { decide } = createDecideActivities({ recordDecision });

/** offerPressure needs a client; the environment gives it. */
export type OfferPressure = ControlActivities['offerPressure'];

export function controlActivities(offerPressure: OfferPressure): ControlActivities {
  return {
    async decide(request) {
      const world = worlds.get(request.subject);
      const decided = () => decide(request as Parameters<typeof decide>[0]) as Promise<never>;
      return world === undefined ? decided() : world.called('decide', decided);
    },
    reserve: ({ operation, ordinal, size, avoidHosts }) =>
      worldOf(operation.service).called('reserve', () =>
        worldOf(operation.service).reserve(operation, ordinal, size, avoidHosts),
      ),
    release: ({ operation, replicaId }) =>
      worldOf(operation.service).called('release', () => worldOf(operation.service).release(replicaId)),
    openOperation: ({ operation }) =>
      worldOf(operation.service).called('openOperation', () => {
        worldOf(operation.service).operations.set(operation.runId, 'open');
      }),
    closeOperation: ({ operation, outcome }) =>
      worldOf(operation.service).called('closeOperation', () => {
        worldOf(operation.service).operations.set(operation.runId, outcome);
      }),
    recordStep: ({ operation, step, state }) =>
      worldOf(operation.service).called('recordStep', () => {
        worldOf(operation.service).steps.push(`${step} ${state}`);
      }),
    setVirtualServer: ({ service }) =>
      worldOf(service.name).called('setVirtualServer', () => {
        worldOf(service.name).virtualServer = service;
      }),
    setRealServer: ({ service, replicaId, address, weight }) =>
      worldOf(service).called('setRealServer', () => {
        worldOf(service).desired.set(replicaId, { address, weight });
      }),
    removeRealServer: ({ service, replicaId }) =>
      worldOf(service).called('removeRealServer', () => {
        worldOf(service).desired.delete(replicaId);
      }),
    removeVirtualServer: ({ service }) =>
      worldOf(service).called('removeVirtualServer', () => {
        worldOf(service).desired.clear();
        worldOf(service).virtualServer = null;
      }),
    saveReplicas: ({ service, replicas }) =>
      worldOf(service).called('saveReplicas', () => {
        worldOf(service).replicas = replicas;
      }),
    async setWatch({ vmUuid, quietUntil }) {
      watches.set(vmUuid, quietUntil);
      watchCalls.push(`setWatch ${vmUuid}`);
    },
    async clearWatch({ vmUuid }) {
      watches.delete(vmUuid);
    },
    offerPressure,
    replicaUsage: ({ service }) => worldOf(service).called('replicaUsage', () => worldOf(service).usage),
    async templateBase() {
      return { baseMemoryBytes: 128 * MIB };
    },
    async locateVm({ vm }) {
      return locations.get(vm) ?? null;
    },
  };
}

export function hostActivities(): HostActivities {
  const at = <T>(name: keyof HostActivities, service: string, effect: (world: World) => T) =>
    worldOf(service).called(name, () => effect(worldOf(service)));
  return {
    cloneDisk: ({ operation, reservation }) =>
      at('cloneDisk', operation.service, (world) => {
        world.disks.add(reservation.diskFileName);
        return { virtualBytes: 50 * 2 ** 30, allocatedBytes: 700 * MIB };
      }),
    removeDisk: ({ operation, reservation }) =>
      at('removeDisk', operation.service, (world) => void world.disks.delete(reservation.diskFileName)),
    startVm: ({ operation, reservation }) =>
      at('startVm', operation.service, (world) => void world.vms.add(reservation.vmName)),
    removeVm: ({ operation, reservation }) => at('removeVm', operation.service, (world) => world.removeVm(reservation)),
    prepareGuest: ({ operation }) => at('prepareGuest', operation.service, () => {}),
    installImage: ({ operation }) => at('installImage', operation.service, () => ({ imageId: 'sha256:1' })),
    startContainer: ({ operation }) => at('startContainer', operation.service, () => ({ containerId: 'c1' })),
    stopContainer: ({ operation }) => at('stopContainer', operation.service, () => {}),
  };
}

export function directorActivities(): Omit<DirectorActivities, 'watchDirector'> {
  return {
    probeReplica: ({ spec, address }) =>
      worldOf(spec.name).called('probeReplica', () => {
        worldOf(spec.name).answering.add(address);
        return { latencyMs: 3 };
      }),
    convergeVirtualServer: ({ service }) =>
      worldOf(service).called('convergeVirtualServer', () => worldOf(service).converge()),
    waitDrained: ({ service }) => worldOf(service).called('waitDrained', () => ({ activeConnections: 0 })),
  };
}

export type AttributeInput = Extract<DecisionInput, { kind: 'attribute' }>;

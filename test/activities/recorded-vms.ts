/** A host whose VMs use what a test says: a CounterSource and a clock that moves by the second, without any waiting. */
import type { CounterSource } from '../../activities/counters.ts';
import type { Instant } from '../../activities/watched-vm.ts';
import { available, type Reading, unavailable } from '../../model/reading.ts';
import type { ContainerCounters, ContainerIdentity, VmCounters, VmIntrospection } from '../../model/usage.ts';

const GIB = 2 ** 30;

export interface RecordedContainer {
  readonly id: string;
  readonly name: string;
  /** In cores, from now on. */
  cpuCores: number;
  cpuNanoseconds: bigint;
  /** Another after it was started anew. */
  run?: string;
}
export interface RecordedVm {
  readonly uuid: string;
  readonly name: string;
  libvirtId: number;
  state: VmCounters['state'];
  guestBoot: string;
  /** Beside its containers', in cores. */
  otherCores: number;
  cpuNanoseconds: bigint;
  readonly containers: RecordedContainer[];
  /** What a look into its memory answers instead. */
  unreadable: Reading<never> | null;
  present: boolean;
}

export class RecordedHost implements CounterSource {
  readonly list: RecordedVm[] = [];
  bootMs = 1_000_000;
  wallMs = Date.parse('2026-01-02T03:04:05.000Z');
  down: Error | null = null;
  introspections = 0;
  lookUps = 0;

  add(uuid: string, name: string, containers: readonly string[]): RecordedVm {
    const vm: RecordedVm = {
      uuid,
      name,
      libvirtId: 1,
      state: 'running',
      guestBoot: 'boot-1',
      otherCores: 0.02,
      cpuNanoseconds: 5n * 10n ** 9n,
      containers: containers.map((container, index) => ({
        id: `${index}`.repeat(64),
        name: container,
        cpuCores: 0.01,
        cpuNanoseconds: 10n ** 9n,
      })),
      unreadable: null,
      present: true,
    };
    this.list.push(vm);
    return vm;
  }

  readonly clock = {
    now: (): Instant => ({ bootMs: this.bootMs, wallMs: this.wallMs }),
    tick: async (): Promise<void> => this.advance(1),
  };

  advance(seconds: number): void {
    this.bootMs += seconds * 1_000;
    this.wallMs += seconds * 1_000;
    for (const vm of this.list) {
      if (vm.state !== 'running') continue;
      let cores = vm.otherCores;
      for (const container of vm.containers) {
        container.cpuNanoseconds += BigInt(Math.round(container.cpuCores * seconds * 1e9));
        cores += container.cpuCores;
      }
      vm.cpuNanoseconds += BigInt(Math.round(Math.min(cores, 1) * seconds * 1e9));
    }
  }

  async vms(): Promise<readonly VmCounters[]> {
    if (this.down !== null) throw this.down;
    return this.list
      .filter(({ present }) => present)
      .map((vm) => ({
        uuid: vm.uuid,
        name: vm.name,
        libvirtId: vm.state === 'shutoff' ? null : vm.libvirtId,
        state: vm.state,
        atNanoseconds: this.#atNanoseconds(),
        cpuNanoseconds: vm.state === 'shutoff' ? null : vm.cpuNanoseconds,
        vcpus: 1,
        memoryBytes: GIB,
      }));
  }

  async introspect(vmUuids: readonly string[]): Promise<ReadonlyMap<string, Reading<VmIntrospection>>> {
    this.introspections += vmUuids.length;
    return new Map(vmUuids.map((uuid) => [uuid, this.#introspection(uuid)]));
  }

  async identities(vmUuid: string): Promise<Reading<readonly ContainerIdentity[]>> {
    this.lookUps += 1;
    const vm = this.list.find(({ uuid }) => uuid === vmUuid);
    return available(
      (vm?.containers ?? []).map(({ id, name }) => ({
        id,
        runtime: 'docker' as const,
        within: [],
        name,
        image: `registry:5000/${name}:1`,
        imageId: `sha256:${id}`,
        labels: {},
        addresses: {},
        running: true,
        startedAt: null,
        cpuLimitCores: null,
        memoryLimitBytes: null,
      })),
    );
  }

  forget(): void {}

  #atNanoseconds(): bigint {
    return BigInt(this.bootMs) * 1_000_000n;
  }

  #introspection(vmUuid: string): Reading<VmIntrospection> {
    const vm = this.list.find(({ uuid }) => uuid === vmUuid);
    if (vm === undefined) return unavailable('ProcessGone', 'no such VM');
    if (vm.unreadable !== null) return vm.unreadable;
    return available({
      atNanoseconds: this.#atNanoseconds(),
      guestBoot: vm.guestBoot,
      kernelRelease: '6.1.0-test',
      nodename: vm.name,
      possibleCpus: 1,
      jiffies: 0n,
      containers: vm.containers.map((container): ContainerCounters => {
        return {
          id: container.id,
          runtime: 'docker',
          cgroupPath: `/system.slice/docker-${container.id}.scope`,
          run: container.run ?? '1',
          cpuNanoseconds: available(container.cpuNanoseconds),
          cpuUserNanoseconds: available(container.cpuNanoseconds),
          cpuSystemNanoseconds: available(0n),
          perCpuNanoseconds: available([container.cpuNanoseconds]),
          memoryBytes: available(64 * 2 ** 20),
          memoryAnonBytes: available(32 * 2 ** 20),
          memoryFileBytes: available(32 * 2 ** 20),
          memorySwapCacheBytes: available(0),
          memoryLimitBytes: available(null),
          ioReadBytes: available(0n),
          ioWriteBytes: available(0n),
          details: null,
        };
      }),
    });
  }
}

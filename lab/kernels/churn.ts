/**
 * Containers of a matrix guest that come and go at random, by a seed: made, removed, made again under the same name, with
 * other limits and other loads, in every shape that runtimes give to cgroups; now and then a storm of cgroups that live for
 * milliseconds. One of them is never touched, and one holds others.
 *
 * What happens is decided by the seed alone; when it happens, also by the machine.
 */
import { cgroupFile, idOf, type MatrixContainer, POD, removalScript, roots, startScript } from './containers.ts';
import type { KernelGuest } from './guest.ts';

export interface ChurnContainer extends MatrixContainer {
  /** Another number for every container that was made, also under a known name. */
  readonly incarnation: number;
  readonly kind: LoadKind;
}

const LOADS = {
  idle: () => '/load idle',
  half: () => '/load half',
  burn: () => '/load burn',
  throttled: () => '/load burn',
  disk: () => '/load disk',
  memory: (random) => `/load memory ${random.below(24) + 1}`,
  /** Larger than its limit: killed, again and again. */
  greedy: () => "sh -c 'while :; do /load memory 40; sleep 0.2; done'",
  tasks: (random) =>
    `sh -c 'while :; do for i in ${'x '.repeat(random.below(12) + 1)}; do sleep 0.${random.below(9) + 1} & done; wait; done'`,
  cache: (random) =>
    `sh -c 'n=0; while :; do n=$(((n+37)%16000)); dd if=/dev/vda of=/dev/null bs=64k count=${random.below(32) + 1} skip=$n; sleep 0.3; done'`,
  files: (random) =>
    `sh -c 'while :; do dd if=/dev/zero of=/tmp/$$ bs=64k count=${random.below(64) + 1}; sleep 0.3; rm /tmp/$$; done'`,
} as const satisfies Record<string, (random: Random) => string>;
type LoadKind = keyof typeof LOADS;
const LOAD_KINDS = Object.keys(LOADS) as LoadKind[];
/** Of those that would take all of a CPU. */
const MAX_BURNING = 2;
/** What is charged to these does not move up and down. */
const CALM: ReadonlySet<LoadKind> = new Set(['idle', 'half', 'burn', 'throttled', 'disk']);
export const isCalm = ({ kind }: ChurnContainer): boolean => CALM.has(kind);

const NAMES = 9;
const FEWEST = 3;
const GREEDY_LIMIT_MIB = 16;
const STORM_ROUNDS = 60;

const OUTER: ChurnContainer = {
  ...{ name: 'outer', runtime: 'docker', id: idOf('outer'), cgroupPath: `/docker/${idOf('outer')}` },
  ...{ processPath: '/init', load: 'idle', incarnation: 0, kind: 'idle' },
};
const STILL: ChurnContainer = {
  ...{ name: 'still', runtime: 'docker', id: idOf('still'), cgroupPath: `/docker/${idOf('still')}` },
  ...{ load: 'idle', incarnation: 1, kind: 'idle' },
};

const SHAPES: readonly ((name: string) => Pick<MatrixContainer, 'runtime' | 'id' | 'cgroupPath'>)[] = [
  (name) => ({ runtime: 'docker', id: idOf(name), cgroupPath: `/docker/${idOf(name)}` }),
  (name) => ({ runtime: 'docker', id: idOf(name), cgroupPath: `/system.slice/docker-${idOf(name)}.scope` }),
  (name) => ({ runtime: 'podman', id: idOf(name), cgroupPath: `/machine.slice/libpod-${idOf(name)}.scope` }),
  (name) => ({ runtime: 'containerd', id: idOf(name), cgroupPath: `/${POD}/cri-containerd-${idOf(name)}.scope` }),
  (name) => ({ runtime: 'lxc', id: name, cgroupPath: `/lxc.payload.${name}` }),
  (name) => ({ runtime: 'docker', id: idOf(name), cgroupPath: `${OUTER.cgroupPath}/docker/${idOf(name)}` }),
];

/** mulberry32 */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** In [0, 1). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  below(limit: number): number {
    return Math.floor(this.next() * limit);
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)] as T;
  }
}

/** What one step has done: the containers that are not as they were, by name. */
export interface ChurnStep {
  readonly touched: ReadonlySet<string>;
  readonly what: readonly string[];
}

const ACTIONS = [
  'make',
  'make',
  'remove',
  'remake',
  'remake',
  'limit',
  'limit',
  'limit',
  'load',
  'load',
  'storm',
] as const;

export class Churn {
  readonly #guest: KernelGuest;
  readonly #random: Random;
  readonly #living = new Map<string, ChurnContainer>();
  #incarnations = 2;

  constructor(guest: KernelGuest, seed: number) {
    this.#guest = guest;
    this.#random = new Random(seed);
  }

  get containers(): readonly ChurnContainer[] {
    return [...this.#living.values()];
  }

  /** Of cgroups that come and go by themselves, which nothing can be said of. */
  static isOfStorm(cgroupPath: string): boolean {
    return cgroupPath.startsWith('/docker/') && cgroupPath.slice('/docker/'.length) === idOf('storm');
  }

  async start(): Promise<void> {
    for (const container of [OUTER, STILL]) this.#living.set(container.name, container);
    const scripts = [OUTER, STILL].map((container) => startScript(this.#guest.cgroups, container));
    while (this.#living.size < FEWEST + 2) scripts.push(this.#make(this.#freeName(), []));
    await this.#guest.run(['set -e', ...scripts].join('\n'));
  }

  /** One to three things happen, one right after the other. */
  async step(): Promise<ChurnStep> {
    const touched = new Set<string>();
    const what: string[] = [];
    const scripts = ['set -e'];
    for (let left = this.#random.below(3) + 1; left > 0; left--) scripts.push(this.#act(touched, what));
    await this.#guest.run(scripts.join('\n'));
    return { touched, what };
  }

  /** All processes of all containers stand still, or go on. */
  async stop(isStopped: boolean): Promise<void> {
    const where = this.#processRoot;
    const directories = this.containers.map(({ cgroupPath }) => where + cgroupPath).join(' ');
    const signal = isStopped ? 'STOP' : 'CONT';
    // What a process forks while it is being stopped is found by the second pass.
    await this.#guest.run(
      `for pass in 1 2; do for pid in $(find ${directories} -name cgroup.procs -exec cat {} +); do kill -${signal} $pid || true; done; done 2>/dev/null`,
    );
  }

  get #processRoot(): string {
    return this.#guest.cgroups === 'v2' ? '/sys/fs/cgroup' : '/sys/fs/cgroup/pids';
  }

  #act(touched: Set<string>, what: string[]): string {
    const changeable = this.containers.filter(({ name }) => name !== OUTER.name && name !== STILL.name);
    const container = this.#random.pick(changeable);
    let action: (typeof ACTIONS)[number] = this.#random.pick(ACTIONS);
    if (action === 'make' && changeable.length === NAMES) action = 'remake';
    if (action === 'remove' && changeable.length <= FEWEST) action = 'make';
    if (action === 'storm') {
      what.push('storm');
      return this.#storm();
    }
    const name = action === 'make' ? this.#freeName() : container.name;
    touched.add(name);
    what.push(`${action} ${name}`);
    // What is in it is changed, and what it is part of.
    touched.add(OUTER.name);
    switch (action) {
      case 'make':
        return this.#make(name, what);
      case 'remove':
        return this.#remove(container);
      case 'remake':
        return `${this.#remove(container)}\n${this.#make(name, what)}`;
      case 'limit':
        return this.#limit(container, what);
      case 'load':
        return this.#load(container, what);
    }
  }

  #freeName(): string {
    const names = Array.from({ length: NAMES }, (_, index) => `c${index}`).filter((name) => !this.#living.has(name));
    return this.#random.pick(names);
  }

  #pickLoad(): LoadKind {
    const burning = this.containers.filter(({ kind }) => kind === 'burn').length;
    const kind = this.#random.pick(LOAD_KINDS);
    return kind === 'burn' && burning >= MAX_BURNING ? 'half' : kind;
  }

  #make(name: string, what: string[]): string {
    const kind = this.#pickLoad();
    const container: ChurnContainer = {
      ...{ name, ...this.#random.pick(SHAPES)(name) },
      ...{ load: 'idle', kind, command: LOADS[kind](this.#random), incarnation: this.#incarnations++ },
      ...(kind === 'greedy' ? { memoryLimitMiB: GREEDY_LIMIT_MIB } : {}),
    };
    what.push(`${kind} in ${container.cgroupPath}`);
    this.#living.set(name, container);
    const limits =
      kind === 'throttled'
        ? this.#set(container, 'cpu', ['cpu.max', '10000 50000'], ['cpu.cfs_quota_us', '20000'])
        : '';
    return `${startScript(this.#guest.cgroups, container)}\n${limits}`;
  }

  #remove(container: ChurnContainer): string {
    this.#living.delete(container.name);
    return `(set +e\n${removalScript(this.#guest.cgroups, container)}\n)`;
  }

  /** Its processes end, and others begin. */
  #load(container: ChurnContainer, what: string[]): string {
    const kind = this.#pickLoad();
    what.push(kind);
    const changed = { ...container, kind, command: LOADS[kind](this.#random) };
    this.#living.set(container.name, changed);
    const where = this.#processRoot;
    return `
      for attempt in 1 2 3 4 5; do for pid in $(cat ${where}${container.cgroupPath}/cgroup.procs); do kill -9 $pid 2>/dev/null || true; done; done
      ${startScript(this.#guest.cgroups, changed)}`;
  }

  #limit(container: ChurnContainer, what: string[]): string {
    const mebibytes = this.#random.below(64) + 64;
    const quota = (this.#random.below(20) + 1) * 5000;
    const weight = this.#random.below(500) + 1;
    const tasks = this.#random.below(100) + 50;
    const [which, script] = this.#random.pick([
      [
        'memory',
        this.#set(container, 'memory', ['memory.max', `${mebibytes}M`], ['memory.limit_in_bytes', `${mebibytes}M`]),
      ],
      ['memory off', this.#set(container, 'memory', ['memory.max', 'max'], ['memory.limit_in_bytes', '-1'])],
      ['quota', this.#set(container, 'cpu', ['cpu.max', `${quota} 100000`], ['cpu.cfs_quota_us', String(quota)])],
      ['quota off', this.#set(container, 'cpu', ['cpu.max', 'max 100000'], ['cpu.cfs_quota_us', '-1'])],
      ['weight', this.#set(container, 'cpu', ['cpu.weight', String(weight)], ['cpu.shares', String(weight * 10)])],
      ['tasks', this.#set(container, 'pids', ['pids.max', String(tasks)], ['pids.max', String(tasks)])],
    ] as const);
    what.push(which);
    return script;
  }

  #set(
    { cgroupPath }: ChurnContainer,
    controller: Parameters<typeof cgroupFile>[1],
    v2: readonly [string, string],
    v1: readonly [string, string],
  ): string {
    const [file, value] = this.#guest.cgroups === 'v2' ? v2 : v1;
    // A limit below what is used, and cannot be given up, is refused.
    return `echo '${value}' > ${cgroupFile(this.#guest, controller, cgroupPath, file)} || true`;
  }

  /** The same cgroup made and removed, over and over, with a process in it for a moment; while the guest is looked at. */
  #storm(): string {
    const directories = roots(this.#guest.cgroups).map((root) => `${root}/docker/${idOf('storm')}`);
    const enter = directories.map((directory) => `echo 0 > ${directory}/cgroup.procs`).join('; ');
    return `
      (n=0; while [ $n -lt ${STORM_ROUNDS} ]; do
        n=$((n+1))
        mkdir ${directories.join(' ')}
        sh -c '${enter}; i=0; while [ $i -lt 300 ]; do i=$((i+1)); done'
        rmdir ${directories.join(' ')} || { sleep 0.02; rmdir ${directories.join(' ')}; }
        [ $((n%3)) -ne 0 ] || sleep 0.01
      done) >/dev/null 2>&1 </dev/null &`;
  }
}

/**
 * Containers in a guest of the kernel matrix: cgroups, named and nested as runtimes name them, with a process in each that
 * idles, burns CPU, takes and gives back memory, or does block I/O (guest/init.c). No runtime runs; what is read from
 * outside are cgroups, and these are the kernel's own.
 */
import { createHash } from 'node:crypto';
import type { CgroupSetup, KernelGuest } from './guest.ts';

/** What the container's process does: /load's arguments. */
export type Load = 'idle' | 'burn' | 'half' | 'disk' | `memory ${number}`;

export interface MatrixContainer {
  readonly name: string;
  /** As introspection names it. */
  readonly runtime: 'docker' | 'podman' | 'containerd' | 'lxc';
  readonly id: string;
  readonly cgroupPath: string;
  /** Below `cgroupPath`, where its process is: a cgroup with children has none of its own on version 2. */
  readonly processPath?: string;
  readonly load: Load;
  /** A shell command instead of /load. */
  readonly command?: string;
  readonly memoryLimitMiB?: number;
}

export const idOf = (name: string): string => createHash('sha256').update(name).digest('hex');

export const POD =
  'kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod8f4c5a0e_1f3a_4f0e_8b55_3f1d2c6b7a90.slice';

export const CONTAINERS: readonly MatrixContainer[] = [
  { name: 'idle', runtime: 'docker', id: idOf('idle'), cgroupPath: `/docker/${idOf('idle')}`, load: 'idle' },
  {
    name: 'busy',
    runtime: 'docker',
    id: idOf('busy'),
    cgroupPath: `/system.slice/docker-${idOf('busy')}.scope`,
    load: 'half',
  },
  {
    name: 'breathing',
    runtime: 'podman',
    id: idOf('breathing'),
    cgroupPath: `/machine.slice/libpod-${idOf('breathing')}.scope`,
    load: 'memory 8',
    memoryLimitMiB: 64,
  },
  {
    name: 'writer',
    runtime: 'containerd',
    id: idOf('writer'),
    cgroupPath: `/${POD}/cri-containerd-${idOf('writer')}.scope`,
    load: 'disk',
  },
  { name: 'system', runtime: 'lxc', id: 'web', cgroupPath: '/lxc.payload.web', load: 'idle' },
  {
    name: 'outer',
    runtime: 'docker',
    id: idOf('outer'),
    cgroupPath: `/docker/${idOf('outer')}`,
    processPath: '/init',
    load: 'idle',
  },
  {
    name: 'inner',
    runtime: 'docker',
    id: idOf('inner'),
    cgroupPath: `/docker/${idOf('outer')}/docker/${idOf('inner')}`,
    load: 'half',
  },
];

/** Of version 1: each in a hierarchy of its own, save cpu and cpuacct. */
export type Controller = 'cpu' | 'memory' | 'blkio' | 'pids';
const V1_HIERARCHIES: Readonly<Record<Controller | 'systemd', string>> = {
  cpu: 'cpu,cpuacct',
  memory: 'memory',
  blkio: 'blkio',
  pids: 'pids',
  systemd: 'systemd',
};

/** Where a container's file is: by controller on version 1, all in one place on version 2. */
export function cgroupFile(guest: KernelGuest, controller: Controller, cgroupPath: string, file: string): string {
  const hierarchy = guest.cgroups === 'v2' ? '' : `/${V1_HIERARCHIES[controller]}`;
  return `/sys/fs/cgroup${hierarchy}${cgroupPath}/${file}`;
}

/** The hierarchies that a container is put into, of those that the guest's kernel has. */
export function roots(cgroups: CgroupSetup): string[] {
  if (cgroups === 'v2') return ['/sys/fs/cgroup'];
  const hierarchies = Object.values(V1_HIERARCHIES).map((name) => `/sys/fs/cgroup/${name}`);
  return cgroups === 'v1' ? hierarchies : [...hierarchies, '/sys/fs/cgroup/unified'];
}

export async function startContainers(
  guest: Pick<KernelGuest, 'cgroups' | 'run'>,
  containers: readonly MatrixContainer[] = CONTAINERS,
): Promise<void> {
  await guest.run(['set -e', ...containers.map((container) => startScript(guest.cgroups, container))].join('\n'));
}

export async function removeContainer(guest: KernelGuest, container: MatrixContainer): Promise<void> {
  await guest.run(removalScript(guest.cgroups, container));
}

const REMOVAL_ATTEMPTS = 200;

/** Ends a container's processes and removes its cgroups, and those below. */
export function removalScript(cgroups: CgroupSetup, container: MatrixContainer): string {
  return `
    for root in ${roots(cgroups).join(' ')}; do
      directory=$root${container.cgroupPath}
      [ -e $directory ] || continue
      attempt=0
      # A process that is throttled takes its time to end.
      while [ $attempt -lt ${REMOVAL_ATTEMPTS} ]; do
        attempt=$((attempt+1))
        for pid in $(find $directory -name cgroup.procs -exec cat {} +); do kill -9 $pid; done
        find $directory -depth -type d -exec rmdir {} + 2>/dev/null
        [ -e $directory ] || break
        sleep 0.1
      done
      [ ! -e $directory ] || { for pid in $(find $directory -name cgroup.procs -exec cat {} +); do cat /proc/$pid/stat; done; exit 1; }
    done`;
}

/** Makes its cgroups, sets its limit and starts its process. */
export function startScript(cgroups: CgroupSetup, container: MatrixContainer): string {
  const path = `${container.cgroupPath}${container.processPath ?? ''}`;
  const limits =
    container.memoryLimitMiB === undefined
      ? []
      : [
          `/sys/fs/cgroup${container.cgroupPath}/memory.max`,
          `/sys/fs/cgroup/memory${container.cgroupPath}/memory.limit_in_bytes`,
        ];
  return `
    directories=
    for root in ${roots(cgroups).join(' ')}; do
      [ -d $root ] || continue
      mkdir -p $root${path}
      directories="$directories $root${path}"
    done
    ${cgroups === 'v2' ? ancestors(path).map(delegate).join('\n') : ''}
    for file in ${limits.join(' ')}; do [ ! -e $file ] || echo ${container.memoryLimitMiB}M > $file; done
    (for directory in $directories; do echo 0 > $directory/cgroup.procs; done
     exec ${container.command ?? `/load ${container.load}`}) >/dev/null 2>&1 </dev/null &`;
}

const delegate = (parent: string): string =>
  `echo '+cpu +memory +io +pids' > /sys/fs/cgroup${parent}/cgroup.subtree_control`;

/** '', '/a', '/a/b' of '/a/b/c'. */
function ancestors(path: string): string[] {
  const parts = path.split('/').slice(0, -1);
  return parts.map((_, index) => parts.slice(0, index + 1).join('/'));
}

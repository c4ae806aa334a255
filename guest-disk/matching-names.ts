/**
 * Which of the containers that disks describe is which of those that the kernel shows. An id alone does not tell: a tenant
 * may give a container of containerd the id of one of Docker's, and whoever is root in a container may write a description
 * of any id on a volume of it. So runtimes must be the same, and so must be the containers around it: those on the disk by
 * whose volume holds the description, those of the kernel by whose cgroup is above.
 */
import type { ContainerCounters, ContainerIdentity } from '../model/usage.ts';

type Shown = Pick<ContainerCounters, 'id' | 'runtime' | 'cgroupPath'>;

export class NamesOfContainers {
  readonly #shown: ReadonlyMap<string, Shown>;
  readonly #described = new Map<string, ContainerIdentity | null>();
  readonly #describedById = new Map<string, ContainerIdentity[]>();

  /** @param shown all of one VM, at one instant */
  constructor(shown: readonly Shown[], described: readonly ContainerIdentity[]) {
    this.#shown = new Map(shown.map((container) => [container.cgroupPath, container]));
    for (const identity of described) {
      const key = keyOf([...identity.within, identity]);
      const other = this.#described.get(key);
      this.#described.set(key, other === undefined ? identity : other && theOne(other, identity));
      const ofId = keyOf([...identity.within, { runtime: null, id: identity.id }]);
      this.#describedById.set(ofId, [...(this.#describedById.get(ofId) ?? []), identity]);
    }
  }

  of(container: Shown): ContainerIdentity | null {
    const around = this.#around(container);
    const exact = this.#described.get(keyOf([...around, container]));
    if (exact !== undefined) return exact;
    if (!isRuntimeGuessed(container)) return null;
    const [first, ...more] = this.#describedById.get(keyOf([...around, { runtime: null, id: container.id }])) ?? [];
    return first === undefined
      ? null
      : more.reduce<ContainerIdentity | null>((one, next) => one && theOne(one, next), first);
  }

  /** The containers whose cgroups are above, outermost first. */
  #around({ cgroupPath }: Shown): Named[] {
    const around: Named[] = [];
    for (let end = cgroupPath.indexOf('/', 1); end > 0; end = cgroupPath.indexOf('/', end + 1)) {
      const outer = this.#shown.get(cgroupPath.slice(0, end));
      if (outer !== undefined) around.push(outer);
    }
    return around;
  }
}

type Named = { readonly runtime: string | null; readonly id: string };

const keyOf = (chain: readonly Named[]): string => JSON.stringify(chain.map(({ runtime, id }) => [runtime, id]));

/**
 * Of two descriptions of one container: a copy (a snapshot, a backup) is older. Those that say different things contradict
 * each other, and neither is believed: a container may write to the root of a disk, where a runtime could keep its state.
 */
function theOne(a: ContainerIdentity, b: ContainerIdentity): ContainerIdentity | null {
  const says = ({ name, image, imageId, labels }: ContainerIdentity) =>
    JSON.stringify([name, image, imageId, Object.entries(labels).sort()]);
  if (says(a) !== says(b)) return null;
  return (b.startedAt ?? '') > (a.startedAt ?? '') ? b : a;
}

/**
 * A hash below a cgroup of any name is taken for Docker's, of --cgroup-parent, and one below a pod's for containerd's; either
 * may be any runtime's (Docker makes pods by cri-dockerd).
 */
function isRuntimeGuessed({ runtime, id, cgroupPath }: Shown): boolean {
  const [name, parent = ''] = cgroupPath.split('/').reverse();
  if (name !== id) return false;
  return runtime === 'docker' ? parent !== 'docker' : runtime === 'containerd' && parent.startsWith('pod');
}

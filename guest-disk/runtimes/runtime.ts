/** A container runtime, as it describes its containers on disk. Another runtime is one file beside docker.ts. */
import type { UnavailableReason } from '../../model/reading.ts';
import type { ContainerIdentity, ContainerRuntime } from '../../model/usage.ts';
import type { FileSystem } from '../file-system.ts';

export interface ContainerOnDisk extends ContainerIdentity {
  readonly state: 'running' | 'paused' | 'restarting' | 'created' | 'exited' | 'dead' | 'unknown';
  /** In the guest's process namespace; null when it does not run. */
  readonly pid: number | null;
  /** As given to --cgroup-parent; null for the runtime's default. */
  readonly cgroupParent: string | null;
  readonly restartPolicy: string;
}

/** A container that is there but cannot be described, and why: it must not look like one that is not there. */
export interface UnreadableContainer {
  readonly id: string;
  readonly reason: UnavailableReason;
  readonly message: string;
}

export interface ContainerListing {
  readonly containers: ContainerOnDisk[];
  readonly unreadable: UnreadableContainer[];
  /** What of this file system containers see elsewhere: another runtime in a container keeps its state there. */
  readonly mounts?: readonly Mount[];
}

export interface Mount {
  readonly containerId: string;
  readonly source: string;
  readonly destination: string;
}

export interface RuntimeOnDisk {
  readonly name: ContainerRuntime;
  /** null when this runtime keeps nothing on this file system. */
  list(fileSystem: FileSystem): Promise<ContainerListing | null>;
}

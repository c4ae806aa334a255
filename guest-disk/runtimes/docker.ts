/**
 * Docker: one folder per container below its data root, written by dockerd at every change of state, each file under
 * another name first, fsynced and renamed. So a description is on disk (or in the journal) before the container runs.
 *
 *   <data root>/containers/<id>/config.v2.json     name, image, labels, state, addresses
 *   <data root>/containers/<id>/hostconfig.json    limits, restart policy
 *
 * The data root is /var/lib/docker, or what /etc/docker/daemon.json says, or lies elsewhere on a disk of its own.
 */
import { isIP } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { asDiskUnreadable, DiskUnreadable } from '../disk.ts';
import type { FileSystem } from '../file-system.ts';
import {
  coresOf,
  labels,
  MAX_CONTAINERS,
  MAX_DESCRIPTION_BYTES,
  parse,
  parseJson,
  printable,
  text,
  ZERO_TIME,
} from './described.ts';
import { placesInHomes, placesOf } from './places.ts';
import type { ContainerListing, ContainerOnDisk, Mount, RuntimeOnDisk, UnreadableContainer } from './runtime.ts';

const DAEMON_CONFIG = '/etc/docker/daemon.json';
/** Where data roots lie: on the root file system, or on one that is mounted at /var, /var/lib or the data root itself. */
const USUAL_DATA_ROOTS = [...placesOf('/var/lib/docker'), '/var/snap/docker/common/var-lib-docker'];
const DATA_ROOT_IN_HOME = '.local/share/docker';
/** userns-remap: a data root below the data root, by the ids that the container's root is mapped to. */
const REMAPPED = /^\d{1,10}\.\d{1,10}$/;

const MAX_DAEMON_CONFIG_BYTES = 64 << 10;
const MAX_NETWORKS = 64;
const MAX_MOUNTS = 64;
const MAX_REMAPPED = 16;
const VOLUME_NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;

/** What was met half written is whole a moment later: so often, and so much later, all that failed is read again. */
const RETRIES = 2;
const RETRY_AFTER_MS = 50;

const CONTAINER_ID = /^[0-9a-f]{64}$/;
const CONTAINER_NAME = /^\/?[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}$/;

const daemonConfig = z.object({ 'data-root': text(4096).optional(), graph: text(4096).optional() });

const config = z.object({
  ID: z.string().regex(CONTAINER_ID),
  Name: z.string().regex(CONTAINER_NAME),
  Image: printable(512).default(''),
  State: z
    .object({
      Running: z.boolean().default(false),
      Paused: z.boolean().default(false),
      Restarting: z.boolean().default(false),
      Dead: z.boolean().default(false),
      Pid: z.number().int().nonnegative().default(0),
      StartedAt: printable(64).default(ZERO_TIME),
    })
    .prefault({}),
  Config: z.object({
    Image: printable(512),
    Labels: labels,
  }),
  MountPoints: z
    .record(
      text(4096),
      z.object({ Source: text(4096).default(''), Destination: text(4096), Name: text(255).default('') }).nullable(),
    )
    .nullish()
    .transform((mounts) => Object.values(mounts ?? {}).slice(0, MAX_MOUNTS)),
  NetworkSettings: z
    .object({
      Networks: z
        .record(
          printable(255),
          z.object({ IPAddress: z.string().default(''), GlobalIPv6Address: z.string().default('') }).nullable(),
        )
        .nullish()
        .refine((networks) => Object.keys(networks ?? {}).length <= MAX_NETWORKS, `more than ${MAX_NETWORKS} networks`),
    })
    .prefault({}),
});

const hostConfig = z.object({
  NanoCpus: z.number().default(0),
  CpuQuota: z.number().default(0),
  CpuPeriod: z.number().default(0),
  Memory: z.number().default(0),
  CgroupParent: printable(4096).default(''),
  RestartPolicy: z.object({ Name: printable(64).default('') }).prefault({}),
});

export const docker: RuntimeOnDisk = {
  name: 'docker',
  async list(fileSystem) {
    const roots = await fileSystem.coherently(() => findDataRoots(fileSystem));
    if (roots.length === 0) return null;
    const listing = { containers: [], unreadable: [], mounts: [] };
    for (const root of roots) await listDataRoot(fileSystem, root, listing);
    return listing;
  },
};

async function listDataRoot(
  fileSystem: FileSystem,
  { path: root, ids }: DataRoot,
  listing: ContainerListing & { mounts: Mount[] },
): Promise<void> {
  let pending = ids.slice(0, MAX_CONTAINERS);
  for (let retries = RETRIES; pending.length > 0; retries--) {
    const failed: UnreadableContainer[] = [];
    for (const id of pending) {
      const container = await readContainer(fileSystem, root, id);
      if (container === null) continue;
      if ('reason' in container) {
        failed.push(container);
        continue;
      }
      listing.containers.push(container.described);
      listing.mounts.push(...container.mounts);
    }
    const isPassing = ({ reason }: UnreadableContainer) => retries > 0 && (reason === 'Malformed' || reason === 'Torn');
    pending = failed.filter(isPassing).map(({ id }) => id);
    listing.unreadable.push(...failed.filter((container) => !isPassing(container)));
    if (pending.length > 0) await sleep(RETRY_AFTER_MS);
  }
  for (const id of ids.slice(MAX_CONTAINERS)) {
    listing.unreadable.push({ id, reason: 'Exhausted', message: `only ${MAX_CONTAINERS} containers are read` });
  }
}

interface DataRoot {
  readonly path: string;
  readonly ids: readonly string[];
}

async function findDataRoots(fileSystem: FileSystem): Promise<DataRoot[]> {
  const candidates = [...(await listDataRoots(fileSystem)), ...(await placesInHomes(fileSystem, DATA_ROOT_IN_HOME))];
  const found = new Map<string, DataRoot>();
  for (const path of new Set(candidates)) {
    const root = await dataRootAt(fileSystem, path);
    if (!root) continue;
    found.set(path, root);
    for (const { name, type } of await fileSystem.readDirectory(path)) {
      if (type === 'file' || !REMAPPED.test(name) || found.size > MAX_REMAPPED) continue;
      const remapped = await dataRootAt(fileSystem, `${path}/${name}`);
      if (remapped) found.set(remapped.path, remapped);
    }
  }
  return [...found.values()];
}

async function dataRootAt(fileSystem: FileSystem, path: string): Promise<DataRoot | null> {
  const directory = `${path}/containers`;
  if ((await fileSystem.stat(directory))?.type !== 'directory') return null;
  const entries = await fileSystem.readDirectory(directory);
  return { path, ids: entries.map((entry) => entry.name).filter((name) => CONTAINER_ID.test(name)) };
}

async function listDataRoots(fileSystem: FileSystem): Promise<string[]> {
  if ((await fileSystem.stat(DAEMON_CONFIG))?.type !== 'file') return USUAL_DATA_ROOTS;
  const content = await fileSystem.readFile(DAEMON_CONFIG, MAX_DAEMON_CONFIG_BYTES);
  const parsed = daemonConfig.safeParse(parseJson(content));
  const root = parsed.success ? (parsed.data['data-root'] ?? parsed.data.graph) : undefined;
  return root ? [root.replace(/\/+$/, ''), ...USUAL_DATA_ROOTS] : USUAL_DATA_ROOTS;
}

/** null: the container was removed since it was listed. */
async function readContainer(
  fileSystem: FileSystem,
  root: string,
  id: string,
): Promise<{ described: ContainerOnDisk; mounts: Mount[] } | UnreadableContainer | null> {
  const directory = `${root}/containers/${id}`;
  try {
    const files = await fileSystem.coherently(async () => {
      if ((await fileSystem.stat(`${directory}/config.v2.json`)) === null) return null;
      const hasHostConfig = (await fileSystem.stat(`${directory}/hostconfig.json`)) !== null;
      return {
        config: await fileSystem.readFile(`${directory}/config.v2.json`, MAX_DESCRIPTION_BYTES),
        hostConfig: hasHostConfig
          ? await fileSystem.readFile(`${directory}/hostconfig.json`, MAX_DESCRIPTION_BYTES)
          : null,
      };
    });
    if (!files) return null;
    const described = parseContainer(id, files.config, files.hostConfig);
    return { described, mounts: mountsOf(id, files.config, root) };
  } catch (error) {
    const { reason, message } = asDiskUnreadable(error);
    return { id, reason, message };
  }
}

/** A volume has a name and lies below the data root; what is bound has a path. */
function mountsOf(id: string, configFile: Buffer, root: string): Mount[] {
  return parse(config, configFile, 'config.v2.json is not what Docker writes').MountPoints.flatMap((mount) => {
    const { Source = '', Destination = '', Name = '' } = mount ?? {};
    const source = Source !== '' || !VOLUME_NAME.test(Name) ? Source : `${root}/volumes/${Name}/_data`;
    return source === '' ? [] : [{ containerId: id, source, destination: Destination }];
  });
}

/** The two files of a container, as its folder's name says it is. Throws DiskUnreadable (Malformed). */
export function parseContainer(id: string, configFile: Buffer, hostConfigFile: Buffer | null): ContainerOnDisk {
  const described = parse(config, configFile, 'config.v2.json is not what Docker writes');
  const host = parse(hostConfig, hostConfigFile ?? '{}', 'hostconfig.json is not what Docker writes');
  if (described.ID !== id) throw new DiskUnreadable('Malformed', `config.v2.json of ${id} names another container`);
  const { State: state } = described;
  const addresses = Object.entries(described.NetworkSettings.Networks ?? {}).flatMap(([network, settings]) => {
    const address = settings?.IPAddress || settings?.GlobalIPv6Address || '';
    return isIP(address) ? [[network, address] as const] : [];
  });
  return {
    runtime: 'docker',
    id,
    name: described.Name.replace('/', ''),
    image: described.Config.Image,
    imageId: described.Image,
    labels: described.Config.Labels,
    addresses: Object.fromEntries(addresses),
    running: state.Running,
    state: stateOf(state),
    pid: state.Running && state.Pid > 0 ? state.Pid : null,
    startedAt: state.StartedAt === ZERO_TIME ? null : state.StartedAt,
    cpuLimitCores: host.NanoCpus > 0 ? host.NanoCpus / 1e9 : coresOf(host.CpuQuota, host.CpuPeriod),
    memoryLimitBytes: host.Memory > 0 ? host.Memory : null,
    cgroupParent: host.CgroupParent || null,
    restartPolicy: host.RestartPolicy.Name || 'no',
    within: [],
  };
}

/** In dockerd's own order: a paused container is also running, a restarting one may be. */
function stateOf(state: z.infer<typeof config>['State']): ContainerOnDisk['state'] {
  if (state.Running) return state.Paused ? 'paused' : state.Restarting ? 'restarting' : 'running';
  if (state.Dead) return 'dead';
  return state.StartedAt === ZERO_TIME ? 'created' : 'exited';
}

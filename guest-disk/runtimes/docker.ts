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
import type { ContainerListing, ContainerOnDisk, RuntimeOnDisk, UnreadableContainer } from './runtime.ts';

const DAEMON_CONFIG = '/etc/docker/daemon.json';
/** Where data roots lie: on the root file system, or on one that is mounted at /var, /var/lib or the data root itself. */
const USUAL_DATA_ROOTS = ['/var/lib/docker', '/lib/docker', '/docker', ''];

const MAX_DAEMON_CONFIG_BYTES = 64 << 10;
const MAX_CONFIG_BYTES = 1 << 20;
const MAX_CONTAINERS = 512;
const MAX_LABELS = 256;
const MAX_LABEL_BYTES = 32 << 10;
const MAX_NETWORKS = 64;

/** What was met half written is whole a moment later: so often, and so much later, all that failed is read again. */
const RETRIES = 2;
const RETRY_AFTER_MS = 50;

const CONTAINER_ID = /^[0-9a-f]{64}$/;
const CONTAINER_NAME = /^\/?[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}$/;
/** Docker writes this for "never". */
const ZERO_TIME = '0001-01-01T00:00:00Z';

const text = (maxLength: number) =>
  z
    .string()
    .max(maxLength)
    .refine((value) => !/\p{Surrogate}/u.test(value), 'holds half a surrogate pair');
const printable = (maxLength: number) =>
  text(maxLength).refine((value) => !/\p{Control}/u.test(value), 'holds a control character');

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
    Labels: z
      .record(text(4096), text(MAX_LABEL_BYTES))
      .nullish()
      .transform((labels) => labels ?? {})
      .refine((labels) => Object.keys(labels).length <= MAX_LABELS, `more than ${MAX_LABELS} labels`)
      .refine((labels) => JSON.stringify(labels).length <= MAX_LABEL_BYTES, `over ${MAX_LABEL_BYTES} bytes of labels`),
  }),
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
    const found = await fileSystem.coherently(() => findContainerIds(fileSystem));
    if (!found) return null;
    const listing: ContainerListing = { containers: [], unreadable: [] };
    let pending = found.ids.slice(0, MAX_CONTAINERS);
    for (let retries = RETRIES; pending.length > 0; retries--) {
      const failed: UnreadableContainer[] = [];
      for (const id of pending) {
        const container = await readContainer(fileSystem, `${found.directory}/${id}`, id);
        if (container === null) continue;
        if ('reason' in container) failed.push(container);
        else listing.containers.push(container);
      }
      const isPassing = ({ reason }: UnreadableContainer) =>
        retries > 0 && (reason === 'Malformed' || reason === 'Torn');
      pending = failed.filter(isPassing).map(({ id }) => id);
      listing.unreadable.push(...failed.filter((container) => !isPassing(container)));
      if (pending.length > 0) await sleep(RETRY_AFTER_MS);
    }
    for (const id of found.ids.slice(MAX_CONTAINERS)) {
      listing.unreadable.push({ id, reason: 'Exhausted', message: `only ${MAX_CONTAINERS} containers are read` });
    }
    return listing;
  },
};

async function findContainerIds(fileSystem: FileSystem): Promise<{ directory: string; ids: string[] } | null> {
  for (const root of await listDataRoots(fileSystem)) {
    const directory = `${root}/containers`;
    if ((await fileSystem.stat(directory))?.type !== 'directory') continue;
    const entries = await fileSystem.readDirectory(directory);
    return { directory, ids: entries.map((entry) => entry.name).filter((name) => CONTAINER_ID.test(name)) };
  }
  return null;
}

async function listDataRoots(fileSystem: FileSystem): Promise<string[]> {
  if ((await fileSystem.stat(DAEMON_CONFIG))?.type !== 'file') return USUAL_DATA_ROOTS;
  const content = await fileSystem.readFile(DAEMON_CONFIG, MAX_DAEMON_CONFIG_BYTES);
  const parsed = daemonConfig.safeParse(parseJson(content));
  const root = parsed.success ? (parsed.data['data-root'] ?? parsed.data.graph) : undefined;
  return root ? [root, ...USUAL_DATA_ROOTS] : USUAL_DATA_ROOTS;
}

/** null: the container was removed since it was listed. */
async function readContainer(
  fileSystem: FileSystem,
  directory: string,
  id: string,
): Promise<ContainerOnDisk | UnreadableContainer | null> {
  try {
    const files = await fileSystem.coherently(async () => {
      if ((await fileSystem.stat(`${directory}/config.v2.json`)) === null) return null;
      const hasHostConfig = (await fileSystem.stat(`${directory}/hostconfig.json`)) !== null;
      return {
        config: await fileSystem.readFile(`${directory}/config.v2.json`, MAX_CONFIG_BYTES),
        hostConfig: hasHostConfig ? await fileSystem.readFile(`${directory}/hostconfig.json`, MAX_CONFIG_BYTES) : null,
      };
    });
    return files && parseContainer(id, files.config, files.hostConfig);
  } catch (error) {
    const { reason, message } = asDiskUnreadable(error);
    return { id, reason, message };
  }
}

/** The two files of a container, as its folder's name says it is. Throws DiskUnreadable (Malformed). */
export function parseContainer(id: string, configFile: Buffer, hostConfigFile: Buffer | null): ContainerOnDisk {
  const described = parse(config, configFile, 'config.v2.json');
  const host = parse(hostConfig, hostConfigFile ?? Buffer.from('{}'), 'hostconfig.json');
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
    cpuLimitCores: cpuLimitOf(host),
    memoryLimitBytes: host.Memory > 0 ? host.Memory : null,
    cgroupParent: host.CgroupParent || null,
    restartPolicy: host.RestartPolicy.Name || 'no',
  };
}

/** In dockerd's own order: a paused container is also running, a restarting one may be. */
function stateOf(state: z.infer<typeof config>['State']): ContainerOnDisk['state'] {
  if (state.Running) return state.Paused ? 'paused' : state.Restarting ? 'restarting' : 'running';
  if (state.Dead) return 'dead';
  return state.StartedAt === ZERO_TIME ? 'created' : 'exited';
}

function cpuLimitOf(host: z.infer<typeof hostConfig>): number | null {
  if (host.NanoCpus > 0) return host.NanoCpus / 1e9;
  // The kernel's default period, which Docker leaves out.
  return host.CpuQuota > 0 ? host.CpuQuota / (host.CpuPeriod > 0 ? host.CpuPeriod : 100_000) : null;
}

function parse<T extends z.ZodType>(schema: T, content: Buffer, what: string): z.infer<T> {
  const parsed = schema.safeParse(parseJson(content));
  if (parsed.success) return parsed.data;
  // A path may hold the guest's words: quoted, so that they stay words, and short.
  const problems = parsed.error.issues
    .slice(0, 3)
    .map((issue) => `${JSON.stringify(issue.path.join('.')).slice(0, 80)} ${issue.message.slice(0, 120)}`);
  throw new DiskUnreadable('Malformed', `${what} is not what Docker writes: ${problems.join('; ')}`);
}

/** undefined for what is no JSON, or no UTF-8. */
function parseJson(content: Buffer): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(content));
  } catch {
    return undefined;
  }
}

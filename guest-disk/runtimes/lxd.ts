/**
 * LXD and Incus: beside each container's root lies backup.yaml, which the daemon writes when the container's configuration
 * changes, and just before it starts it: so a container that runs is often "Stopped" there, with the time of the start
 * before. "Running" is true, and its start is the last one.
 *
 *   <root>/containers/<[project_]name> → <root>/storage-pools/<pool>/containers/<[project_]name>/backup.yaml
 *   <root>/networks/<bridge>/dnsmasq.leases
 *
 * It is on this file system when the pool is of the kind dir; a pool of ZFS, btrfs or LVM is a file system of its own.
 * The cgroup is called as the folder is, so that is the id; the runtime that the kernel shows is LXC.
 */
import { parse as parseYaml } from 'yaml';
import { z } from 'zod';
import { asDiskUnreadable, DiskUnreadable } from '../disk.ts';
import type { FileSystem } from '../file-system.ts';
import { addressOf, check, labels, MAX_CONTAINERS, printable, text } from './described.ts';
import { readLeases } from './leases.ts';
import { placesOf } from './places.ts';
import type { ContainerListing, ContainerOnDisk, RuntimeOnDisk } from './runtime.ts';

const ROOTS = [
  ...placesOf('/var/lib/lxd').slice(0, -1),
  ...placesOf('/var/lib/incus').slice(0, -1),
  '/var/snap/lxd/common/lxd',
];
const MAX_BACKUP_BYTES = 256 << 10;
const USER_KEY = 'user.';

const record = z
  .record(text(255), text(64 << 10))
  .nullish()
  .transform((written) => written ?? {});

const instance = z.object({
  name: printable(255),
  type: printable(64).default('container'),
  status: printable(64).default(''),
  last_used_at: printable(64).default(''),
  config: record,
  expanded_config: record,
  expanded_devices: z
    .record(printable(255), z.record(printable(255), printable(64 << 10)))
    .nullish()
    .transform((written) => written ?? {}),
});
/** `container` since LXD 2, `instance` since 6 and in Incus; the other is then null. */
const backup = z.object({ container: instance.nullish(), instance: instance.nullish() });

const STATES: Readonly<Record<string, ContainerOnDisk['state']>> = {
  Running: 'running',
  Ready: 'running',
  Frozen: 'paused',
};

export const lxd: RuntimeOnDisk = {
  name: 'lxc',
  async list(fileSystem) {
    const found = await fileSystem.coherently(() => findBackups(fileSystem));
    if (found.length === 0) return null;
    const listing: ContainerListing = { containers: [], unreadable: [] };
    for (const { id, root, path } of found) {
      try {
        const container = await fileSystem.coherently(() => readContainer(fileSystem, id, root, path));
        if (container) listing.containers.push(container);
      } catch (error) {
        const { reason, message } = asDiskUnreadable(error);
        if (reason !== 'NotFound') listing.unreadable.push({ id, reason, message });
      }
    }
    return listing;
  },
};

async function findBackups(fileSystem: FileSystem): Promise<{ id: string; root: string; path: string }[]> {
  const found: { id: string; root: string; path: string }[] = [];
  for (const root of ROOTS) {
    const directory = `${root}/containers`;
    if ((await fileSystem.stat(`${root}/storage-pools`))?.type !== 'directory') continue;
    if ((await fileSystem.stat(directory))?.type !== 'directory') continue;
    for (const { name } of await fileSystem.readDirectory(directory)) {
      const path = `${directory}/${name}/backup.yaml`;
      if (found.length === MAX_CONTAINERS || (await fileSystem.stat(path))?.type !== 'file') continue;
      found.push({ id: name, root, path });
    }
  }
  return found;
}

async function readContainer(
  fileSystem: FileSystem,
  id: string,
  root: string,
  path: string,
): Promise<ContainerOnDisk | null> {
  const what = 'backup.yaml is not what LXD writes';
  const content = await fileSystem.readFile(path, MAX_BACKUP_BYTES);
  // It is written in place, and for some seconds its length is on the disk and its content not yet.
  if (content.every((byte) => byte === 0)) return null;
  const written = check(backup, parseBackup(content), what);
  const described = written.instance ?? written.container;
  if (!described) throw new DiskUnreadable('Malformed', `${what}: it describes no container`);
  if (described.type !== 'container') return null;
  if (id !== described.name && !id.endsWith(`_${described.name}`)) {
    throw new DiskUnreadable('Malformed', `${what}: it describes another container`);
  }
  const { expanded_config: settings, config } = described;
  const own = Object.entries(settings).filter(([key]) => key.startsWith(USER_KEY));
  const system = settings['image.os'] ?? '';
  const image = [system, settings['image.release'] ?? ''].filter((part) => part !== '').join('/');
  const state = STATES[described.status] ?? 'unknown';
  const running = state === 'unknown' ? null : true;
  return {
    runtime: 'lxc',
    id: check(printable(255), id, what),
    name: described.name,
    image: check(printable(512), image.toLowerCase() || (settings['image.description'] ?? ''), what),
    imageId: check(printable(512), config['volatile.base_image'] ?? '', what),
    labels: check(labels, Object.fromEntries(own.map(([key, value]) => [key.slice(USER_KEY.length), value])), what),
    addresses: await addressesOf(fileSystem, root, described),
    running,
    state,
    pid: null,
    startedAt: running && Date.parse(described.last_used_at) > 0 ? described.last_used_at : null,
    cpuLimitCores: coresOfLimit(settings),
    memoryLimitBytes: bytesOf(settings['limits.memory'] ?? ''),
    cgroupParent: null,
    restartPolicy: settings['boot.autostart'] === 'true' ? 'always' : 'no',
    within: [],
  };
}

function parseBackup(content: Buffer): unknown {
  try {
    return parseYaml(content.toString('utf8'), { maxAliasCount: 0, logLevel: 'silent', schema: 'core' });
  } catch {
    return undefined;
  }
}

async function addressesOf(
  fileSystem: FileSystem,
  root: string,
  { expanded_devices: devices, config }: z.infer<typeof instance>,
): Promise<Record<string, string>> {
  const found: [string, string][] = [];
  for (const [name, device] of Object.entries(devices)) {
    if (device.type !== 'nic') continue;
    const network = device.network ?? device.parent ?? name;
    const hardware = (device.hwaddr ?? config[`volatile.${name}.hwaddr`] ?? '').toLowerCase();
    const isPlain = /^[\w.-]{1,15}$/.test(network);
    const fixed = addressOf(device['ipv4.address'] ?? '') ?? addressOf(device['ipv6.address'] ?? '');
    const leases =
      fixed === null && isPlain ? await readLeases(fileSystem, `${root}/networks/${network}/dnsmasq.leases`) : null;
    const address = fixed ?? leases?.get(hardware);
    if (address) found.push([network, address]);
  }
  return Object.fromEntries(found);
}

/** `limits.cpu` is a number of CPUs, or a list of which; `limits.cpu.allowance` a quota ("25ms/100ms") or mere weight. */
function coresOfLimit(settings: Readonly<Record<string, string>>): number | null {
  const [, quota, period] = /^(\d{1,6})ms\/(\d{1,6})ms$/.exec(settings['limits.cpu.allowance'] ?? '') ?? [];
  if (quota !== undefined && period !== undefined && Number(period) > 0) return Number(quota) / Number(period);
  const cpus = settings['limits.cpu'] ?? '';
  return /^[1-9]\d{0,3}$/.test(cpus) ? Number(cpus) : null;
}

const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  B: 1,
  kB: 1000,
  MB: 1000 ** 2,
  GB: 1000 ** 3,
  KiB: 1024,
  MiB: 1024 ** 2,
  GiB: 1024 ** 3,
  TiB: 1024 ** 4,
};

/** null: no limit, or a share of the host's memory. */
function bytesOf(limit: string): number | null {
  const [, digits, unit = ''] = /^(\d{1,12})([a-zA-Z]*)$/.exec(limit) ?? [];
  const factor = UNITS[unit];
  return digits === undefined || factor === undefined ? null : Number(digits) * factor;
}

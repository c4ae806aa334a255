/**
 * LXC: a folder per container with its configuration, as whoever made the container wrote it.
 *
 *   /var/lib/lxc/<name>/config        and in homes: .local/share/lxc/<name>/config
 *   /var/lib/misc/dnsmasq.<bridge>.leases   addresses given by lxc-net
 *
 * The name is the id: cgroups are called after it. Nothing on disk says whether a container runs, or since when. Included
 * files are not read: they are the distribution's defaults.
 */
import { z } from 'zod';
import { asDiskUnreadable } from '../disk.ts';
import type { FileSystem } from '../file-system.ts';
import { addressOf, check, coresOf, MAX_CONTAINERS, printable } from './described.ts';
import { readLeases } from './leases.ts';
import { placesInHomes, placesOf } from './places.ts';
import type { ContainerListing, ContainerOnDisk, RuntimeOnDisk } from './runtime.ts';

const ROOTS = placesOf('/var/lib/lxc').slice(0, -1);
const ROOT_IN_HOME = '.local/share/lxc';
const LEASES = '/var/lib/misc';
const MAX_CONFIG_BYTES = 256 << 10;
const MAX_LINES = 10_000;
const MAX_NICS = 32;

const identity = z.object({ id: printable(255), image: printable(512) });

export const lxc: RuntimeOnDisk = {
  name: 'lxc',
  async list(fileSystem) {
    const found = await fileSystem.coherently(() => findConfigs(fileSystem));
    if (found.size === 0) return null;
    const listing: ContainerListing = { containers: [], unreadable: [] };
    for (const [name, path] of found) {
      try {
        listing.containers.push(await fileSystem.coherently(() => readContainer(fileSystem, name, path)));
      } catch (error) {
        const { reason, message } = asDiskUnreadable(error);
        if (reason !== 'NotFound') listing.unreadable.push({ id: name, reason, message });
      }
    }
    return listing;
  },
};

/** Names and where their configurations are. */
async function findConfigs(fileSystem: FileSystem): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for (const root of [...ROOTS, ...(await placesInHomes(fileSystem, ROOT_IN_HOME))]) {
    if ((await fileSystem.stat(root))?.type !== 'directory') continue;
    for (const { name, type } of await fileSystem.readDirectory(root)) {
      const path = `${root}/${name}/config`;
      if (type === 'file' || found.size === MAX_CONTAINERS || found.has(name)) continue;
      if ((await fileSystem.stat(path))?.type === 'file') found.set(name, path);
    }
  }
  return found;
}

interface Nic {
  link?: string;
  hardware?: string;
  addresses: string[];
}

async function readContainer(fileSystem: FileSystem, name: string, path: string): Promise<ContainerOnDisk> {
  const lines = (await fileSystem.readFile(path, MAX_CONFIG_BYTES)).toString('utf8').split('\n', MAX_LINES);
  const nics = new Map<string, Nic>();
  let image = '';
  let template = '';
  let memory: number | null = null;
  let quota = 0;
  let period = 0;
  for (const line of lines) {
    template = /^# Template used to create this container: (?:.*\/)?(?:lxc-)?(\S+)$/.exec(line)?.[1] ?? template;
    const parameters = /^# Parameters passed to the template: ?(.*)$/.exec(line)?.[1];
    if (parameters !== undefined) image = imageOf(template, parameters);
    const [, key = '', written = ''] = /^\s*(lxc\.[\w.]+)\s*=\s*(.*?)\s*$/.exec(line) ?? [];
    const value = written.replace(/^"(.*)"$/, '$1');
    if (/^lxc\.cgroup2?\.memory\.(max|limit_in_bytes)$/.test(key)) memory = bytesOf(value);
    if (key === 'lxc.cgroup2.cpu.max') [quota = 0, period = 0] = value.split(' ').map((part) => Number(part) || 0);
    if (key === 'lxc.cgroup.cpu.cfs_quota_us') quota = Number(value) || 0;
    if (key === 'lxc.cgroup.cpu.cfs_period_us') period = Number(value) || 0;
    // lxc.net.0.link, and before LXC 2.1 lxc.network.link, whose every .type begins another one.
    const [, number = '', property = ''] = /^lxc\.(?:net\.(\d+)|network)\.([\w.]+)$/.exec(key) ?? [];
    if (property === '') continue;
    const before = number === '' && property === 'type' ? `old-${nics.size}` : [...nics.keys()].at(-1);
    const nicKey = number === '' ? (before ?? 'old-0') : number;
    const nic = nics.get(nicKey) ?? { addresses: [] };
    if (nics.size < MAX_NICS) nics.set(nicKey, nic);
    if (property === 'link') nic.link = value;
    if (property === 'hwaddr') nic.hardware = value.toLowerCase();
    if (/^ipv[46](\.address)?$/.test(property)) nic.addresses.push(value);
  }
  return {
    runtime: 'lxc',
    ...check(identity, { id: name, image: image || template }, 'a container of LXC'),
    name,
    imageId: '',
    labels: {},
    addresses: await addressesOf(fileSystem, nics),
    running: null,
    state: 'unknown',
    pid: null,
    startedAt: null,
    cpuLimitCores: coresOf(quota, period),
    memoryLimitBytes: memory,
    cgroupParent: null,
    restartPolicy: 'no',
    within: [],
  };
}

/** `--dist debian --release bookworm` of the download template: debian/bookworm; for others the template's name. */
function imageOf(template: string, parameters: string): string {
  const distribution = /(?:^|\s)(?:-d|--dist)[ =](\S+)/.exec(parameters)?.[1];
  const release = /(?:^|\s)(?:-r|--release)[ =](\S+)/.exec(parameters)?.[1];
  if (distribution === undefined) return release === undefined ? template : `${template}/${release}`;
  return release === undefined ? distribution : `${distribution}/${release}`;
}

function bytesOf(value: string): number | null {
  const [, digits, unit = ''] = /^(\d{1,15})([kmgt]?)b?$/i.exec(value) ?? [];
  if (digits === undefined) return null;
  const bytes = Number(digits) * 1024 ** ' kmgt'.indexOf(unit.toLowerCase() || ' ');
  return Number.isSafeInteger(bytes) && bytes > 0 ? bytes : null;
}

async function addressesOf(fileSystem: FileSystem, nics: ReadonlyMap<string, Nic>): Promise<Record<string, string>> {
  const found: [string, string][] = [];
  for (const [key, { link, hardware, addresses }] of nics) {
    const isPlain = link !== undefined && /^[\w.:-]{1,15}$/.test(link);
    const network = isPlain ? link : `net-${key}`;
    const given = addresses.map(addressOf).find((address) => address !== null);
    const leases =
      !given && isPlain && hardware ? await readLeases(fileSystem, `${LEASES}/dnsmasq.${link}.leases`) : null;
    const address = given ?? leases?.get(hardware ?? '');
    if (address) found.push([network, address]);
  }
  return Object.fromEntries(found);
}

/**
 * Podman: a database of its own, written and synced before a container's processes start. Both kinds hold the same JSON.
 *
 *   <root>/db.sql                  SQLite, since podman 4.8: tables ContainerConfig and ContainerState
 *   <root>/libpod/bolt_state.db    bbolt, before: ctr / <id> / config, state, networks / <network>
 *
 * The root is /var/lib/containers/storage, and for each user who runs containers without being root
 * ~/.local/share/containers/storage. After an upgrade from one kind to the other both are there; SQLite's is then in use.
 */
import { z } from 'zod';
import { type Bucket, readBolt } from '../databases/bbolt.ts';
import { readSqlite, type SqliteDatabase, type SqliteValue } from '../databases/sqlite.ts';
import { asDiskUnreadable, DiskUnreadable } from '../disk.ts';
import { addressOf, labels, limitsOf, MAX_CONTAINERS, ociSpec, parse, printable, ZERO_TIME } from './described.ts';
import { firstOf, placesInHomes, placesOf } from './places.ts';
import type { ContainerListing, ContainerOnDisk, RuntimeOnDisk } from './runtime.ts';

const ROOTS = placesOf('/var/lib/containers/storage');
const ROOT_IN_HOME = '.local/share/containers/storage';
const SQLITE = 'db.sql';
const BOLT = 'libpod/bolt_state.db';
const MAX_DATABASE_BYTES = 1 << 30;
const MAX_NETWORKS = 64;

const CONTAINER_ID = /^[0-9a-f]{64}$/;

const config = z.object({
  id: z.string().regex(CONTAINER_ID),
  name: printable(255),
  rootfsImageName: printable(512).default(''),
  rootfsImageID: printable(512).default(''),
  labels,
  spec: ociSpec.prefault({}),
  restart_policy: printable(64).default(''),
  cgroupParent: printable(4096).default(''),
});

const status = z.object({
  interfaces: z
    .record(z.string(), z.object({ subnets: z.array(z.object({ ipnet: z.string().default('') })).nullish() }))
    .nullish(),
});

const state = z.object({
  state: z.number().int().default(0),
  pid: z.number().int().nonnegative().default(0),
  startedTime: printable(64).default(ZERO_TIME),
  networkStatus: z
    .record(printable(255), status)
    .nullish()
    .refine((networks) => Object.keys(networks ?? {}).length <= MAX_NETWORKS, `more than ${MAX_NETWORKS} networks`),
});

/** By libpod's number of a state. */
const STATES: readonly ContainerOnDisk['state'][] = [
  'unknown',
  'created', // configured
  'created',
  'running',
  'exited', // stopped
  'paused',
  'exited',
  'dead', // being removed
  'running', // being stopped
];

interface Row {
  readonly id: string;
  readonly config: Buffer;
  readonly state: Buffer | null;
}

export const podman: RuntimeOnDisk = {
  name: 'podman',
  async list(fileSystem) {
    const databases = await fileSystem.coherently(async () => {
      const found: string[] = [];
      for (const root of [...ROOTS, ...(await placesInHomes(fileSystem, ROOT_IN_HOME))]) {
        const path = await firstOf(fileSystem, [`${root}/${SQLITE}`, `${root}/${BOLT}`], 'file');
        if (path !== null) found.push(path);
      }
      return found;
    });
    if (databases.length === 0) return null;
    const listing: ContainerListing = { containers: [], unreadable: [] };
    for (const path of databases) {
      const rows = await fileSystem.coherently(async () => {
        const file = await fileSystem.openFile(path, MAX_DATABASE_BYTES);
        return path.endsWith(SQLITE) ? readSqlite(file, readTables) : readBolt(file, readBuckets);
      });
      for (const row of rows) describeInto(listing, row);
    }
    return listing;
  },
};

async function readTables(database: SqliteDatabase): Promise<Row[]> {
  const states = new Map<string, Buffer>();
  for await (const { ID, JSON: written } of database.rows('ContainerState')) {
    const state = bytesOf(written);
    if (typeof ID === 'string' && state) states.set(ID, state);
    if (states.size > MAX_CONTAINERS) break;
  }
  const rows: Row[] = [];
  for await (const { ID, JSON: written } of database.rows('ContainerConfig')) {
    const config = bytesOf(written);
    if (typeof ID !== 'string' || !config) continue;
    rows.push({ id: ID, config, state: states.get(ID) ?? null });
    if (rows.length > MAX_CONTAINERS) break;
  }
  return rows;
}

/** Declared as TEXT, and written as a BLOB. */
function bytesOf(value: SqliteValue | undefined): Buffer | null {
  return typeof value === 'string' ? Buffer.from(value) : Buffer.isBuffer(value) ? value : null;
}

async function readBuckets(database: Bucket): Promise<Row[]> {
  const rows: Row[] = [];
  const containers = await database.bucket('ctr');
  if (!containers) return rows;
  for await (const { key } of containers.entries()) {
    const id = key.toString('utf8');
    const container = await containers.bucket(id);
    const written = await container?.get('config');
    if (!container || !written) continue;
    rows.push({ id, config: written, state: await container.get('state') });
    if (rows.length > MAX_CONTAINERS) break;
  }
  return rows;
}

function describeInto(listing: ContainerListing, row: Row): void {
  const id = CONTAINER_ID.test(row.id) ? row.id : JSON.stringify(row.id).slice(0, 80);
  if (listing.containers.length === MAX_CONTAINERS) {
    listing.unreadable.push({ id, reason: 'Exhausted', message: `only ${MAX_CONTAINERS} containers are read` });
    return;
  }
  try {
    listing.containers.push(describe(row));
  } catch (error) {
    const { reason, message } = asDiskUnreadable(error);
    listing.unreadable.push({ id, reason, message });
  }
}

function describe(row: Row): ContainerOnDisk {
  const what = 'the description of a container is not what podman writes';
  const described = parse(config, row.config, what);
  if (described.id !== row.id) throw new DiskUnreadable('Malformed', `${what}: it names another container`);
  const now = parse(state, row.state ?? '{}', what);
  const addresses = Object.entries(now.networkStatus ?? {}).flatMap(([network, { interfaces }]) => {
    const [first] = Object.values(interfaces ?? {}).flatMap(({ subnets }) => subnets ?? []);
    const address = first ? addressOf(first.ipnet) : null;
    return address ? [[network, address] as const] : [];
  });
  const name = STATES[now.state] ?? 'unknown';
  const running = name === 'running' || name === 'paused';
  return {
    runtime: 'podman',
    id: described.id,
    name: described.name,
    image: described.rootfsImageName,
    imageId: described.rootfsImageID === '' ? '' : `sha256:${described.rootfsImageID}`,
    labels: described.labels,
    addresses: Object.fromEntries(addresses),
    running,
    state: name,
    pid: running && now.pid > 0 ? now.pid : null,
    startedAt: now.startedTime === ZERO_TIME ? null : now.startedTime,
    ...limitsOf(described.spec),
    cgroupParent: described.cgroupParent || null,
    restartPolicy: described.restart_policy || 'no',
    within: [],
  };
}

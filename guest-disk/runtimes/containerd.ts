/**
 * containerd, also as Kubernetes' (CRI) and nerdctl's: one bbolt database, committed and synced before a container's
 * processes start, and beside it what the CRI plugin notes of each container.
 *
 *   <root>/io.containerd.metadata.v1.bolt/meta.db
 *     v1 / <namespace> / containers / <id>    image, labels, spec (OCI), extensions (CRI's own metadata)
 *     v1 / <namespace> / images / <name> / target / digest
 *   <root>/io.containerd.grpc.v1.cri/containers/<id>/status     pid, started, finished
 *   /var/lib/cni/networks/<network>/<address>                   which container has it (the host-local plugin)
 *
 * Whether a container that the CRI plugin does not know runs is in nobody's file: containerd asks its shims. Docker's
 * namespace is left to docker.ts, which knows more of them.
 */
import protobuf from 'protobufjs/minimal.js';
import { z } from 'zod';
import { type Bucket, readBolt } from '../databases/bbolt.ts';
import { asDiskUnreadable, DiskUnreadable } from '../disk.ts';
import type { FileSystem } from '../file-system.ts';
import {
  addressOf,
  check,
  labels as labelsSchema,
  limitsOf,
  MAX_CONTAINERS,
  MAX_DESCRIPTION_BYTES,
  ociSpec,
  parse,
  printable,
} from './described.ts';
import { firstOf, placesOf } from './places.ts';
import type { ContainerListing, ContainerOnDisk, RuntimeOnDisk } from './runtime.ts';

const ROOTS = [
  ...placesOf('/var/lib/containerd'),
  '/var/lib/rancher/k3s/agent/containerd',
  '/var/lib/rancher/rke2/agent/containerd',
  '/var/lib/k0s/containerd',
  '/var/snap/microk8s/common/var/lib/containerd',
];
const DATABASE = 'io.containerd.metadata.v1.bolt/meta.db';
const CRI_CONTAINERS = 'io.containerd.grpc.v1.cri/containers';
const SCHEMA = 'v1';
const DOCKER_NAMESPACES: readonly string[] = ['moby', 'plugins.moby'];
const CNI_NETWORKS = placesOf('/var/lib/cni/networks').slice(0, -1);

const MAX_DATABASE_BYTES = 1 << 30;
const MAX_NAMESPACES = 64;
const MAX_STATUS_BYTES = 64 << 10;
const MAX_NETWORKS = 64;
const MAX_ADDRESSES = 1024;
const MAX_ADDRESS_FILE_BYTES = 1024;

const CRI_CONTAINER = 'io.cri-containerd.container.metadata';
const CRI_SANDBOX = 'io.cri-containerd.sandbox.metadata';

/** What the kubelet, or whoever calls the plugin, asked for: without the labels that containerd adds. */
const criConfig = z
  .object({
    metadata: z.object({ name: printable(255).default(''), namespace: printable(255).default('') }).prefault({}),
    labels: labelsSchema,
  })
  .nullish();
const criContainer = z.object({
  Metadata: z.object({
    SandboxID: printable(255).default(''),
    Config: criConfig,
    /** The image's id, where the record of the container has the name that it was asked for by. */
    ImageRef: printable(512).default(''),
  }),
});
const criSandbox = z.object({
  Metadata: z.object({
    Config: criConfig,
    IP: printable(64).default(''),
    AdditionalIPs: z
      .array(printable(64))
      .nullish()
      .transform((written) => written ?? []),
  }),
});
/** Nanoseconds since 1970, for which a number of JSON has too few digits. */
const CRI_TIME = /"(StartedAt|FinishedAt)":(\d{1,19})/g;
const time = z.string().regex(/^\d+$/).default('0').transform(BigInt);
const criStatus = z.object({ Pid: z.number().int().nonnegative().default(0), StartedAt: time, FinishedAt: time });

const identity = z.object({
  id: printable(255),
  name: printable(1024),
  image: printable(512),
  imageId: printable(512),
  labels: labelsSchema,
});

/** As the database has it, in one transaction's state. */
interface Record {
  readonly namespace: string;
  readonly id: string;
  readonly image: string;
  readonly imageId: string;
  readonly labels: { readonly [key: string]: string };
  readonly spec: Buffer | null;
  readonly container: Buffer | null;
  readonly sandbox: Buffer | null;
}

export const containerd: RuntimeOnDisk = {
  name: 'containerd',
  async list(fileSystem) {
    const roots = await fileSystem.coherently(async () => {
      const found: string[] = [];
      for (const root of ROOTS) if (await firstOf(fileSystem, [`${root}/${DATABASE}`], 'file')) found.push(root);
      return found;
    });
    if (roots.length === 0) return null;
    const listing: ContainerListing = { containers: [], unreadable: [] };
    for (const root of roots) await listRoot(fileSystem, root, listing);
    return listing;
  },
};

async function listRoot(fileSystem: FileSystem, root: string, listing: ContainerListing): Promise<void> {
  const { records, more } = await fileSystem.coherently(async () =>
    readBolt(await fileSystem.openFile(`${root}/${DATABASE}`, MAX_DATABASE_BYTES), readRecords),
  );
  listing.unreadable.push(
    ...more.map((id) => ({ id, reason: 'Exhausted' as const, message: `only ${MAX_CONTAINERS} containers are read` })),
  );
  const leased = await fileSystem.coherently(() => readLeasedAddresses(fileSystem));
  const sandboxes = new Map(records.map((record) => [record.id, sandboxOf(record)] as const));
  for (const record of records) {
    try {
      const { id, namespace } = record;
      const container = record.container
        ? parse(criContainer, valueOfAny(record.container), `CRI's metadata of ${id}`).Metadata
        : null;
      const sandbox = sandboxes.get(container?.SandboxID ?? id) ?? null;
      const addresses = sandbox ? addressesOf(sandbox) : (leased.get(id) ?? leased.get(`${namespace}-${id}`) ?? {});
      const status = container ? await readStatus(fileSystem, `${root}/${CRI_CONTAINERS}/${id}/status`) : null;
      listing.containers.push(describe(record, { container, sandbox }, addresses, status));
    } catch (error) {
      const { reason, message } = asDiskUnreadable(error);
      listing.unreadable.push({ id: record.id, reason, message });
    }
  }
}

/** What is wrong with one container's fields must not hide the others: they are checked later, one by one. */
async function readRecords(database: Bucket): Promise<{ records: Record[]; more: string[] }> {
  const records: Record[] = [];
  const more: string[] = [];
  const namespaces = await database.bucket(SCHEMA);
  let count = 0;
  if (!namespaces) return { records, more };
  for await (const { key, value } of namespaces.entries()) {
    const namespace = key.toString('utf8');
    if (value !== null || DOCKER_NAMESPACES.includes(namespace)) continue;
    if (++count > MAX_NAMESPACES) throw new DiskUnreadable('Exhausted', `more than ${MAX_NAMESPACES} namespaces`);
    const containers = await namespaces.bucket(namespace, 'containers');
    if (!containers) continue;
    const images = await namespaces.bucket(namespace, 'images');
    for await (const entry of containers.entries()) {
      const id = entry.key.toString('utf8');
      const container = await containers.bucket(id);
      if (!container) continue;
      if (records.length === MAX_CONTAINERS) {
        if (more.length < MAX_CONTAINERS) more.push(id);
        continue;
      }
      const image = (await container.text('image')) ?? '';
      const extensions = await container.bucket('extensions');
      records.push({
        namespace,
        id,
        image,
        imageId: (await (await images?.bucket(image, 'target'))?.text('digest')) ?? '',
        labels: await readLabels(container),
        spec: (await container.get('spec')) ?? null,
        container: (await extensions?.get(CRI_CONTAINER)) ?? null,
        sandbox: (await extensions?.get(CRI_SANDBOX)) ?? null,
      });
    }
  }
  return { records, more };
}

async function readLabels(container: Bucket): Promise<{ [key: string]: string }> {
  const found: [string, string][] = [];
  const written = await container.bucket('labels');
  for await (const { key, value } of written?.entries() ?? []) {
    if (value) found.push([key.toString('utf8'), value.toString('utf8')]);
    // One more than the schema allows, so that it refuses them.
    if (found.length > 256) break;
  }
  return Object.fromEntries(found);
}

/** google.protobuf.Any: 1 is the type's name, 2 its encoding, which is JSON for all that is read here. */
function valueOfAny(any: Buffer): Buffer {
  if (any.length > MAX_DESCRIPTION_BYTES) throw new DiskUnreadable('Exhausted', `a value of ${any.length} bytes`);
  const reader = protobuf.Reader.create(any);
  let value = Buffer.alloc(0);
  try {
    while (reader.pos < reader.len) {
      const tag = reader.uint32();
      if (tag === ((2 << 3) | 2)) value = Buffer.from(reader.bytes());
      else reader.skipType(tag & 7);
    }
  } catch (error) {
    throw new DiskUnreadable('Malformed', `a value is no protobuf: ${(error as Error).message}`, { cause: error });
  }
  return value;
}

interface CriMetadata {
  readonly container: z.infer<typeof criContainer>['Metadata'] | null;
  readonly sandbox: z.infer<typeof criSandbox>['Metadata'] | null;
}

/** null for what is none, or cannot be read: its containers are described without their pod. */
function sandboxOf({ id, sandbox }: Record): CriMetadata['sandbox'] {
  try {
    return sandbox && parse(criSandbox, valueOfAny(sandbox), `CRI's metadata of ${id}`).Metadata;
  } catch (error) {
    asDiskUnreadable(error);
    return null;
  }
}

function addressesOf({ IP, AdditionalIPs }: NonNullable<CriMetadata['sandbox']>): { [key: string]: string } {
  const addresses = [IP, ...AdditionalIPs].flatMap((written, index) => {
    const address = addressOf(written);
    return address ? [[index === 0 ? 'pod' : `pod-${index + 1}`, address] as const] : [];
  });
  return Object.fromEntries(addresses);
}

async function readStatus(fileSystem: FileSystem, path: string): Promise<z.infer<typeof criStatus> | null> {
  const content = await fileSystem.coherently(async () =>
    (await fileSystem.stat(path)) === null ? null : fileSystem.readFile(path, MAX_STATUS_BYTES),
  );
  const exact = content?.toString('latin1').replace(CRI_TIME, '"$1":"$2"');
  return exact === undefined ? null : parse(criStatus, exact, 'status is not what containerd writes');
}

/** The host-local plugin keeps a file per address; its first line is the container's id as the plugin's caller says it. */
async function readLeasedAddresses(fileSystem: FileSystem): Promise<Map<string, { [network: string]: string }>> {
  const leased = new Map<string, { [network: string]: string }>();
  const directory = await firstOf(fileSystem, CNI_NETWORKS, 'directory');
  if (directory === null) return leased;
  let count = 0;
  for (const network of (await fileSystem.readDirectory(directory)).slice(0, MAX_NETWORKS)) {
    if (network.type !== 'directory') continue;
    for (const { name } of await fileSystem.readDirectory(`${directory}/${network.name}`)) {
      if (addressOf(name) === null || name.includes('/') || ++count > MAX_ADDRESSES) continue;
      const content = await fileSystem.readFile(`${directory}/${network.name}/${name}`, MAX_ADDRESS_FILE_BYTES);
      const [id = ''] = content.toString('utf8').split(/\r?\n/);
      leased.set(id, { ...leased.get(id), [network.name]: name });
    }
  }
  return leased;
}

function describe(
  record: Record,
  cri: CriMetadata,
  addresses: { [key: string]: string },
  status: z.infer<typeof criStatus> | null,
): ContainerOnDisk {
  const { id } = record;
  const what = `the description of ${JSON.stringify(id).slice(0, 80)} is not what containerd writes`;
  const { Config: asked } = cri.container ?? cri.sandbox ?? {};
  const named = check(
    identity,
    {
      ...record,
      name: nameOf(record, cri),
      imageId: cri.container?.ImageRef || record.imageId,
      labels: asked ? asked.labels : record.labels,
    },
    what,
  );
  const spec = record.spec ? parse(ociSpec, valueOfAny(record.spec), what) : {};
  const running = status ? status.StartedAt > 0n && status.FinishedAt === 0n : null;
  return {
    runtime: 'containerd',
    ...named,
    addresses,
    running,
    state: status ? (running ? 'running' : status.FinishedAt > 0n ? 'exited' : 'created') : 'unknown',
    pid: running && status && status.Pid > 0 ? status.Pid : null,
    startedAt: status && status.StartedAt > 0n ? timeOf(status.StartedAt) : null,
    ...limitsOf(spec),
    cgroupParent: null,
    restartPolicy: 'no',
    within: [],
  };
}

/** Kubernetes: namespace/pod/container, and namespace/pod for the sandbox that holds the pod's network. */
function nameOf({ id, labels }: Record, { container, sandbox }: CriMetadata): string {
  const { namespace, name } = sandbox?.Config?.metadata ?? { namespace: '', name: '' };
  const pod = name || labels['io.kubernetes.pod.name'];
  if (!pod) return labels['nerdctl/name'] ?? id;
  const own = container?.Config?.metadata.name || labels['io.kubernetes.container.name'];
  return [namespace || (labels['io.kubernetes.pod.namespace'] ?? 'default'), pod, ...(own ? [own] : [])].join('/');
}

/** As Go writes it: the fraction without zeros at its end. */
function timeOf(unixNanoseconds: bigint): string | null {
  const seconds = new Date(Number(unixNanoseconds / 1_000_000_000n) * 1_000);
  if (Number.isNaN(seconds.getTime())) return null;
  const fraction = String(unixNanoseconds % 1_000_000_000n)
    .padStart(9, '0')
    .replace(/0+$/, '');
  return `${seconds.toISOString().slice(0, -'.000Z'.length)}${fraction && `.${fraction}`}Z`;
}

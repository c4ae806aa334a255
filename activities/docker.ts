/**
 * Docker inside a VM that Ciel made, by its guest agent: network identity, the one image, the one container. Nothing of
 * it needs more in the guest than a shell, `ip`, `docker` and `nsenter`.
 *
 * Each container has an address of its own on the segment (macvlan on the VM's interface), and the virtual address on its
 * lo, where it answers no ARP: so LVS sends it packets by its MAC, and it answers clients directly. ipvlan would not do:
 * its containers share the MAC.
 */
import { z } from 'zod';
import type { Reservation } from '../model/activities.ts';
import { CielFailure } from '../model/failures.ts';
import type { ServiceSpec } from '../model/spec.ts';
import { type GuestAgent, type GuestResult, quoteGuest } from './agent.ts';

export const REPLICA_LABEL = 'ciel.replica';
const NETWORK = 'ciel';
/** A docker command on a busy guest under software emulation takes seconds. */
const COMMAND_WITHIN_MS = 90_000;
const PULL_WITHIN_MS = 600_000;
const PULL_PROGRESS_MS = 2_000;
const STOP_SECONDS = 10;
const LOG_LINES = 20;
/** docker run's exit code when the daemon, not the container, failed. 126 and 127 are the container's command. */
const DAEMON_REFUSED = 125;

/**
 * Finds the interface by its MAC (a virtual one, such as a macvlan, has no device link), and prints its name.
 * $1: the MAC.
 */
const FIND_INTERFACE = `nic=
for entry in /sys/class/net/*; do
  if [ -e "$entry/device" ] && [ "$(cat "$entry/address")" = "$1" ]; then nic=\${entry##*/}; fi
done
if [ -z "$nic" ]; then echo "no network interface has the address $1" >&2; exit 3; fi`;

/** $1 MAC, $2 address/prefix, $3 gateway or "", $4 host name, $5 machine id. Running it again changes nothing. */
const SET_IDENTITY = `set -eu
${FIND_INTERFACE}
printf '%s\\n' "$4" >/etc/hostname
printf '%s' "$4" >/proc/sys/kernel/hostname
printf '%s\\n' "$5" >/etc/machine-id
ip link set dev lo up
ip link set dev "$nic" up
ip address replace "$2" dev "$nic"
if [ -n "$3" ]; then ip route replace default via "$3" dev "$nic"; fi`;

/**
 * Our own template's init notes what is ready; asking Docker costs a second of an emulated processor each time, in which
 * it would be starting.
 */
const DOCKER_ANSWERS = `if [ -d /run/ready ]; then [ -e /run/ready/dockerd ]; else docker version >/dev/null 2>&1; fi`;

/** $1: the MAC of the parent interface; the rest: further arguments. That it exists already is no failure. */
const CREATE_NETWORK = `${FIND_INTERFACE}
shift
message=$(docker network create --driver macvlan --opt parent="$nic" "$@" 2>&1) && exit 0
case $message in *"already exists"*) exit 0 ;; esac
echo "$message" >&2
exit 1`;

/**
 * Puts the virtual address on the container's lo, entering its network namespace from the guest: the image needs no `ip`,
 * the container no NET_ADMIN. A restarted container has a new namespace without it, and would swallow the traffic that LVS
 * sends: so a loop follows its process id, which containerd keeps in a file, and costs a shell and a look a second.
 *
 * From here on the container may restart by itself; until now its end was to be seen. on-failure, not unless-stopped: after
 * a reboot of the VM, which loses the addresses, it must not come back without them.
 * $1: the container's id, $2: the address.
 */
const KEEP_VIRTUAL_ADDRESS = `set -eu
file=/run/containerd/io.containerd.runtime.v2.task/moby/$1/init.pid
pid=$(cat "$file" 2>/dev/null || docker inspect --format '{{.State.Pid}}' "$1")
nsenter -t "$pid" -n ip address replace "$2/32" dev lo
keeper=/run/ciel-address.pid
if [ -e "$keeper" ]; then kill "$(cat "$keeper")" 2>/dev/null || true; fi
setsid sh -c '
  docker update --restart on-failure "$1"
  last=$4
  while sleep 1; do
    pid=$(cat "$3" 2>/dev/null) || continue
    if [ "$pid" != "$last" ] && nsenter -t "$pid" -n ip address replace "$2/32" dev lo; then last=$pid; fi
  done' sh "$1" "$2" "$file" "$pid" </dev/null >/dev/null 2>&1 &
echo $! >"$keeper"`;

const containerIdSchema = z.string().regex(/^[0-9a-f]{64}$/);
const containerSchema = z.object({
  id: containerIdSchema,
  running: z.boolean(),
  exitCode: z.int(),
  error: z.string().max(4_096),
  replica: z.string().max(256),
});
type Container = z.output<typeof containerSchema>;
const CONTAINER_FORMAT = `{"id":{{json .Id}},"running":{{.State.Running}},"exitCode":{{.State.ExitCode}},"error":{{json .State.Error}},"replica":{{json (or (index .Config.Labels "${REPLICA_LABEL}") "")}}}`;
const imageIdSchema = z.string().regex(/^sha256:[0-9a-f]{64}$/);

export interface PullProgress {
  readonly layers: number;
  readonly pulled: number;
}

export class GuestDocker {
  readonly #agent: GuestAgent;
  readonly #reservation: Reservation;
  readonly #signal: AbortSignal;

  constructor(agent: GuestAgent, reservation: Reservation, signal: AbortSignal) {
    this.#agent = agent;
    this.#reservation = reservation;
    this.#signal = signal;
  }

  /** Host name, machine id and address. */
  async setIdentity(): Promise<void> {
    const { mac, vmAddress, subnet, gateway, vmName, vmUuid } = this.#reservation;
    const prefix = subnet.split('/')[1];
    const args = [mac, `${vmAddress}/${prefix}`, gateway ?? '', vmName, vmUuid.replaceAll('-', '')];
    const result = await this.#run('sh', ['-c', SET_IDENTITY, 'sh', ...args]);
    if (result.exitCode !== 0) throw this.#notReady(`set the address ${vmAddress}`, result);
  }

  async answers(): Promise<boolean> {
    return (await this.#run('sh', ['-c', DOCKER_ANSWERS])).exitCode === 0;
  }

  /**
   * The image's id; pulls it when it is missing. Final: ImageMissing, StorageFull.
   * Pulling first is looking first: it fetches nothing that is there, and a new VM has nothing. Each docker command costs
   * about a second of an emulated processor.
   */
  async install(image: string, progress: (progress: PullProgress) => void): Promise<string> {
    const failure = await this.#pull(image, progress);
    const imageId = await this.#imageId(image);
    if (imageId !== null) return imageId;
    if (failure !== null) throw failure;
    throw new CielFailure(
      'GuestNotReady',
      `pulled ${image} in ${this.#where}: docker pull succeeded, but the image is not there. It is tried again.`,
    );
  }

  /**
   * The service's container, started or found; with the virtual address. Final: ContainerExited, NotOurs.
   * The name decides whether there is one already, so that looking costs nothing in the usual case.
   */
  async start(spec: ServiceSpec): Promise<string> {
    await this.#createNetwork();
    const containerId = (await this.#create(spec)) ?? (await this.#findOrReplace(spec));
    const kept = await this.#run('sh', ['-c', KEEP_VIRTUAL_ADDRESS, 'sh', containerId, spec.virtual.address]);
    const now = await this.#container(spec.name);
    if (now?.id !== containerId) throw this.#notReady(`find the container ${containerId} again`, kept);
    if (!now.running) throw await this.#exited(spec, now, kept);
    if (kept.exitCode !== 0) throw this.#notReady(`set ${spec.virtual.address} on lo of the container`, kept);
    return containerId;
  }

  /** Stops and removes the service's container. No error when there is none. */
  async stop(spec: ServiceSpec): Promise<void> {
    const container = await this.#container(spec.name);
    if (container === null) return;
    this.#requireOurs(spec, container);
    await this.#run('docker', ['stop', '--time', String(STOP_SECONDS), container.id]);
    await this.#remove(container.id);
  }

  /** @returns why it failed. */
  async #pull(image: string, progress: (progress: PullProgress) => void): Promise<CielFailure | null> {
    // The agent gives output at the end only, so it goes to a file that can be looked at meanwhile.
    const log = '/run/ciel-pull.log';
    let nextLook = performance.now() + PULL_PROGRESS_MS;
    const pull = await this.#agent.run(this.#reservation.vmUuid, {
      command: 'sh',
      args: ['-c', 'exec docker pull "$1" >"$2" 2>&1', 'sh', image, log],
      withinMs: PULL_WITHIN_MS,
      signal: this.#signal,
      meanwhile: async () => {
        if (performance.now() < nextLook) return;
        nextLook = performance.now() + PULL_PROGRESS_MS;
        progress(pullProgress((await this.#run('cat', [log])).stdout));
      },
    });
    if (pull.exitCode === 0) return null;
    return pullFailure(image, this.#where, (await this.#run('tail', ['-n', '5', log])).stdout);
  }

  async #createNetwork(): Promise<void> {
    const { mac, subnet, gateway } = this.#reservation;
    const options = ['--subnet', subnet, ...(gateway === null ? [] : ['--gateway', gateway]), NETWORK];
    const created = await this.#run('sh', ['-c', CREATE_NETWORK, 'sh', mac, ...options]);
    if (created.exitCode !== 0) throw this.#notReady(`create the Docker network ${NETWORK} on ${subnet}`, created);
  }

  /** @returns the new container's id; null when there is one of that name. */
  async #create(spec: ServiceSpec): Promise<string | null> {
    const { replicaId, replicaAddress } = this.#reservation;
    const run = await this.#run('docker', containerArguments(spec, replicaId, replicaAddress));
    if (run.exitCode === 0) {
      const id = containerIdSchema.safeParse(run.stdout.trim());
      if (id.success) return id.data;
      throw this.#notReady(`read the id of the container of ${spec.image}`, run);
    }
    if (/Conflict\. The container name/.test(run.stderr)) return null;
    const container = await this.#container(spec.name);
    if (container === null) throw this.#notReady(`create the container of ${spec.image}`, run);
    if (run.exitCode !== DAEMON_REFUSED) throw await this.#exited(spec, container, run);
    await this.#remove(container.id);
    throw this.#notReady(`start the container of ${spec.image}`, run);
  }

  /** Of a former attempt: taken as it is when it runs. */
  async #findOrReplace(spec: ServiceSpec): Promise<string> {
    const found = await this.#container(spec.name);
    if (found !== null) {
      this.#requireOurs(spec, found);
      if (found.running) return found.id;
      await this.#remove(found.id);
    }
    const created = await this.#create(spec);
    if (created !== null) return created;
    throw new CielFailure(
      'GuestNotReady',
      `made the container "${spec.name}" in ${this.#where}, but another attempt made it in between. It is tried again.`,
    );
  }

  async #exited(spec: ServiceSpec, container: Container, { stderr }: GuestResult): Promise<CielFailure> {
    const logs = await this.#run('docker', ['logs', '--tail', String(LOG_LINES), container.id]);
    await this.#remove(container.id);
    const sources = [`${logs.stdout}\n${logs.stderr}`, stderr, container.error];
    const words = sources.map(quoteGuest).find((text) => text !== '');
    return new CielFailure(
      'ContainerExited',
      `started the container of service "${spec.name}" (image ${spec.image}) in ${this.#where}: it ended at once with exit ` +
        `code ${container.exitCode}; its last words: ${words ?? 'none'}. Correct the image or "run" in ciel.yaml.`,
    );
  }

  #requireOurs(spec: ServiceSpec, container: Container): void {
    if (container.replica === this.#reservation.replicaId) return;
    throw new CielFailure(
      'NotOurs',
      `wanted a container "${spec.name}" in ${this.#where}, but one of that name is there without the label ` +
        `${REPLICA_LABEL}=${this.#reservation.replicaId}. Remove it from the template.`,
    );
  }

  async #container(name: string): Promise<Container | null> {
    const result = await this.#run('docker', ['container', 'inspect', '--format', CONTAINER_FORMAT, name]);
    if (result.exitCode !== 0) {
      if (/No such container/i.test(result.stderr)) return null;
      throw this.#notReady(`look for the container ${name}`, result);
    }
    const parsed = containerSchema.safeParse(jsonOrNull(result.stdout));
    if (parsed.success) return parsed.data;
    throw this.#notReady(`read the state of the container ${name}`, result);
  }

  async #imageId(image: string): Promise<string | null> {
    const result = await this.#run('docker', ['image', 'inspect', '--format', '{{.Id}}', image]);
    if (result.exitCode !== 0) {
      if (/No such image/i.test(result.stderr)) return null;
      throw this.#notReady(`look for the image ${image}`, result);
    }
    return imageIdSchema.safeParse(result.stdout.trim()).data ?? null;
  }

  async #remove(containerId: string): Promise<void> {
    const result = await this.#run('docker', ['rm', '--force', containerId]);
    if (result.exitCode !== 0 && !/No such container/i.test(result.stderr)) {
      throw this.#notReady(`remove the container ${containerId}`, result);
    }
  }

  #run(command: string, args: readonly string[]): Promise<GuestResult> {
    return this.#agent.run(this.#reservation.vmUuid, {
      command,
      args,
      withinMs: COMMAND_WITHIN_MS,
      signal: this.#signal,
    });
  }

  get #where(): string {
    return `VM ${this.#reservation.vmName} (${this.#reservation.vmUuid})`;
  }

  #notReady(tried: string, { exitCode, stdout, stderr }: GuestResult): CielFailure {
    return new CielFailure(
      'GuestNotReady',
      `wanted to ${tried} in ${this.#where}: exit code ${exitCode}: ${quoteGuest(stderr) || quoteGuest(stdout)}. ` +
        'It is tried again; if it goes on, look into the guest.',
    );
  }
}

export function containerArguments(spec: ServiceSpec, replicaId: string, address: string): string[] {
  const { command, env, cpuLimitCores, memoryLimitBytes } = spec.run;
  return [
    ...['run', '--detach', '--pull', 'never', '--name', spec.name],
    ...['--network', NETWORK, '--ip', address],
    // The virtual address on lo is not announced, nor asked from: it is the director's on this segment.
    ...['--sysctl', 'net.ipv4.conf.all.arp_ignore=1', '--sysctl', 'net.ipv4.conf.all.arp_announce=2'],
    ...['--label', `${REPLICA_LABEL}=${replicaId}`, '--label', `ciel.service=${spec.name}`],
    ...(cpuLimitCores === null ? [] : ['--cpus', String(cpuLimitCores)]),
    ...(memoryLimitBytes === null ? [] : ['--memory', `${memoryLimitBytes}b`]),
    ...Object.entries(env).flatMap(([name, value]) => ['--env', `${name}=${value}`]),
    spec.image,
    ...(command ?? []),
  ];
}

/** docker pull without a terminal writes a line for each change of a layer. */
export function pullProgress(log: string): PullProgress {
  const count = (pattern: RegExp) => new Set(Array.from(log.matchAll(pattern), ([, layer]) => layer)).size;
  return {
    layers: count(/^([0-9a-f]{12}): (?:Pulling fs layer|Already exists|Pull complete)/gm),
    pulled: count(/^([0-9a-f]{12}): (?:Already exists|Pull complete)/gm),
  };
}

export function pullFailure(image: string, where: string, log: string): CielFailure {
  const found = `pulled ${image} in ${where}: ${quoteGuest(log)}.`;
  if (/no space left on device/i.test(log)) {
    return new CielFailure('StorageFull', `${found} The template's disk is too small for this image.`);
  }
  const missing =
    /manifest unknown|manifest for .* not found|name unknown|not known to registry|access denied|invalid reference/i;
  if (missing.test(log)) {
    return new CielFailure(
      'ImageMissing',
      `${found} Push the image, or correct "image" of the service; a private registry needs credentials in the template.`,
    );
  }
  return new CielFailure(
    'RegistryUnreachable',
    `${found} Is the registry up, and reachable from the network of the VM? It is tried again.`,
  );
}

function jsonOrNull(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

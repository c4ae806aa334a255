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
 * Puts the virtual address on the container's lo, entering its network namespace from the guest: the image needs no `ip`,
 * the container no NET_ADMIN. A restarted container has a new namespace without it, and would swallow the traffic that LVS
 * sends: so a loop follows its process id, which containerd keeps in a file, and costs a shell and a look a second.
 *
 * From here on the container may restart by itself; until now its end was to be seen. on-failure, not unless-stopped: after
 * a reboot of the VM, which loses the addresses, it must not come back without them.
 * $1: the container's process id, $2: the address, $3: the container's id.
 */
const KEEP_VIRTUAL_ADDRESS = `set -eu
nsenter -t "$1" -n ip address replace "$2/32" dev lo
docker update --restart on-failure "$3" >/dev/null
keeper=/run/ciel-address.pid
if [ -e "$keeper" ]; then kill "$(cat "$keeper")" 2>/dev/null || true; fi
setsid sh -c '
  last=$1
  while sleep 1; do
    pid=$(cat "/run/containerd/io.containerd.runtime.v2.task/moby/$3/init.pid" 2>/dev/null) || continue
    if [ "$pid" != "$last" ] && nsenter -t "$pid" -n ip address replace "$2/32" dev lo; then last=$pid; fi
  done' sh "$1" "$2" "$3" </dev/null >/dev/null 2>&1 &
echo $! >"$keeper"`;

const containerSchema = z.object({
  id: z.string().regex(/^[0-9a-f]{64}$/),
  running: z.boolean(),
  exitCode: z.int(),
  pid: z.int().nonnegative(),
  error: z.string().max(4_096),
  replica: z.string().max(256),
});
type Container = z.output<typeof containerSchema>;
const CONTAINER_FORMAT = `{"id":{{json .Id}},"running":{{.State.Running}},"exitCode":{{.State.ExitCode}},"pid":{{.State.Pid}},"error":{{json .State.Error}},"replica":{{json (or (index .Config.Labels "${REPLICA_LABEL}") "")}}}`;
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

  /** null while Docker does not answer. */
  async version(): Promise<string | null> {
    const result = await this.#run('docker', ['version', '--format', '{{.Server.Version}}']);
    return result.exitCode === 0 ? result.stdout.trim() : null;
  }

  /** The image's id; pulls it when it is missing. Final: ImageMissing, StorageFull. */
  async install(image: string, progress: (progress: PullProgress) => void): Promise<string> {
    const present = await this.#imageId(image);
    if (present !== null) return present;
    await this.#pull(image, progress);
    const pulled = await this.#imageId(image);
    if (pulled !== null) return pulled;
    throw new CielFailure(
      'GuestNotReady',
      `pulled ${image} in ${this.#where}: docker pull succeeded, but the image is not there. It is tried again.`,
    );
  }

  /** The service's container, started or found; with the virtual address. Final: ContainerExited, NotOurs. */
  async start(spec: ServiceSpec): Promise<string> {
    const found = await this.#container(spec.name);
    if (found !== null) this.#requireOurs(spec, found);
    let container = found;
    if (container === null || !container.running) {
      if (container !== null) await this.#remove(container.id);
      await this.#createNetwork();
      container = await this.#create(spec);
    }
    await this.#keepVirtualAddress(spec, container);
    return container.id;
  }

  /** Stops and removes the service's container. No error when there is none. */
  async stop(spec: ServiceSpec): Promise<void> {
    const container = await this.#container(spec.name);
    if (container === null) return;
    this.#requireOurs(spec, container);
    await this.#run('docker', ['stop', '--time', String(STOP_SECONDS), container.id]);
    await this.#remove(container.id);
  }

  async #pull(image: string, progress: (progress: PullProgress) => void): Promise<void> {
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
    if (pull.exitCode === 0) return;
    throw pullFailure(image, this.#where, (await this.#run('tail', ['-n', '5', log])).stdout);
  }

  async #createNetwork(): Promise<void> {
    const { mac, subnet, gateway } = this.#reservation;
    const found = await this.#run('sh', ['-c', `${FIND_INTERFACE}; echo "$nic"`, 'sh', mac]);
    if (found.exitCode !== 0) throw this.#notReady('find the network interface', found);
    const created = await this.#run('docker', [
      ...['network', 'create', '--driver', 'macvlan', '--subnet', subnet],
      ...(gateway === null ? [] : ['--gateway', gateway]),
      ...['--opt', `parent=${found.stdout.trim()}`, NETWORK],
    ]);
    if (created.exitCode !== 0 && !/already exists/.test(created.stderr)) {
      throw this.#notReady(`create the Docker network ${NETWORK} on ${subnet}`, created);
    }
  }

  async #create(spec: ServiceSpec): Promise<Container> {
    const { replicaId, replicaAddress } = this.#reservation;
    const run = await this.#run('docker', containerArguments(spec, replicaId, replicaAddress));
    const container = await this.#container(spec.name);
    if (run.exitCode === 0 && container?.running) return container;
    if (container === null) throw this.#notReady(`create the container of ${spec.image}`, run);
    if (run.exitCode === DAEMON_REFUSED) {
      await this.#remove(container.id);
      throw this.#notReady(`start the container of ${spec.image}`, run);
    }
    throw await this.#exited(spec, container, run);
  }

  async #keepVirtualAddress(spec: ServiceSpec, container: Container): Promise<void> {
    const args = [String(container.pid), spec.virtual.address, container.id];
    const kept = await this.#run('sh', ['-c', KEEP_VIRTUAL_ADDRESS, 'sh', ...args]);
    const now = await this.#container(spec.name);
    if (now === null || !now.running) throw await this.#exited(spec, now ?? container, null);
    if (kept.exitCode !== 0) throw this.#notReady(`set ${spec.virtual.address} on lo of the container`, kept);
  }

  async #exited(spec: ServiceSpec, container: Container, run: GuestResult | null): Promise<CielFailure> {
    const logs = await this.#run('docker', ['logs', '--tail', String(LOG_LINES), container.id]);
    await this.#remove(container.id);
    const sources = [`${logs.stdout}\n${logs.stderr}`, run?.stderr ?? '', container.error];
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

/**
 * Builds the template: a minimal Docker host from Debian packages, in the spirit of Barge. Kernel, Docker, the guest agent
 * and a small init; what is not needed to run containers is cut away. Nothing in it knows a network address: a VM made
 * from it gets one through the guest agent.
 *
 * Docker's default bridge is off, and with it iptables: each container that Ciel starts has an address of its own, on a
 * macvlan network, and dockerd is ready sooner. Cgroups are made by Docker itself (cgroupfs), since the other driver
 * needs systemd.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Accelerator, workingAccelerator } from '../native/accelerator.ts';
import { buildOnce, contentHash, type Progress } from './cache.ts';
import { RELEASE } from './debian.ts';
import { domainXml, kernelCommandLine, TEMPLATE_FILES } from './domain-xml.ts';
import { type GuestImage, guestImageSources, makeGuestImage } from './guest-image.ts';
import { DOMAIN_XML, MANIFEST, readManifest, type TemplateManifest } from './manifest.ts';
import { Trial } from './trial.ts';

export interface TemplateOptions {
  readonly name?: string;
  /** Where to; by default the user's cache. What is there is replaced when it was built from other inputs. */
  readonly directory?: string;
  /** The host's bridge that VMs join. */
  readonly bridge?: string;
  /** Registries that speak plain HTTP, for dockerd: host:port or CIDR. */
  readonly insecureRegistries?: readonly string[];
  readonly diskBytes?: number;
  /** Of the domain XML; a clone's are set for its service. */
  readonly vcpus?: number;
  readonly memoryMiB?: number;
}

export interface BuiltTemplate {
  readonly directory: string;
  readonly manifest: TemplateManifest;
}

const DEFAULTS = {
  name: 'minimal',
  bridge: 'br0',
  insecureRegistries: [] as readonly string[],
  diskBytes: 50e9,
  vcpus: 1,
  memoryMiB: 1024,
};

/** Small enough to show what the guest itself takes, large enough that it is not short. */
const TRIAL_MEMORY_MIB = 512;
const BOOT_LIMIT_MS = 240_000;
/** dockerd still allocates a little after it said that it is ready. */
const SETTLE_MS = 2_000;

export async function buildTemplate(options: TemplateOptions, progress: Progress): Promise<BuiltTemplate> {
  const { directory: target, ...wanted } = { ...DEFAULTS, ...options };
  const accelerator = await workingAccelerator();
  const image = dockerHost(wanted.insecureRegistries, wanted.diskBytes);
  const sources = await guestImageSources();
  const inputs = { ...wanted, release: RELEASE, accelerator, image: { ...image }, sources };
  const hash = contentHash(inputs);
  const request = {
    name: 'template',
    hash,
    ...(target === undefined ? {} : { directory: target }),
    isCurrent: async (directory: string) => (await readManifest(directory))?.contentHash === hash,
  };
  let built = false;
  const directory = await buildOnce(request, async (work, final) => {
    built = true;
    const { packages, kernel, disk } = await makeGuestImage(work, image, progress);
    await writeFile(join(work, DOMAIN_XML), domainXml({ ...wanted, directory: final, accelerator }));
    progress('trial boot', `${TRIAL_MEMORY_MIB} MiB, by ${accelerator === 'kvm' ? 'KVM' : 'emulation'}`);
    const measured = await measure(work, accelerator);
    const manifest: TemplateManifest = {
      name: wanted.name,
      contentHash: hash,
      builtAt: new Date().toISOString(),
      kernel,
      packages,
      disk,
      ...measured,
    };
    await writeFile(join(work, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
  });
  const manifest = await readManifest(directory);
  if (manifest === null)
    throw new Error(`${join(directory, MANIFEST)} is missing or damaged. Remove ${directory} and build again.`);
  progress('template', `${directory} ${built ? 'built' : 'is current'}`);
  return { directory, manifest };
}

function dockerHost(insecureRegistries: readonly string[], diskBytes: number): GuestImage {
  const daemon = {
    bridge: 'none',
    iptables: false,
    ip6tables: false,
    'userland-proxy': false,
    'exec-opts': ['native.cgroupdriver=cgroupfs'],
    'storage-driver': 'overlay2',
    'log-level': 'warn',
    'log-opts': { 'max-size': '10m', 'max-file': '2' },
    'shutdown-timeout': 10,
    'insecure-registries': insecureRegistries,
  };
  // What Docker does not use: each plugin probes for its file system or runs modprobe at every start.
  const unused = ['aufs', 'btrfs', 'devmapper', 'native', 'zfs'].map((name) => `io.containerd.snapshotter.v1.${name}`);
  const disabled = [
    'io.containerd.grpc.v1.cri',
    'io.containerd.internal.v1.opt',
    'io.containerd.internal.v1.restart',
    ...unused,
  ];
  return {
    packages: ['docker.io', 'ca-certificates', 'iptables', 'util-linux'],
    modules: ['overlay', 'macvlan'],
    // Networks that a tenant may make: bridge with NAT, ipvlan, overlay.
    modulesOnDemand: [
      ...['bridge', 'br_netfilter', 'veth', 'ipvlan', 'vxlan', 'dummy', 'tun'],
      ...['nf_tables', 'nft_compat', 'nft_chain_nat', 'nf_conntrack_netlink'],
      ...['xt_addrtype', 'xt_conntrack', 'xt_MASQUERADE', 'xt_nat', 'xt_mark', 'xt_tcpudp'],
    ],
    settings: { 'net/ipv4/ip_forward': '1', 'vm/overcommit_memory': '1' },
    services: {
      containerd: ['/usr/bin/containerd'],
      dockerd: ['/usr/sbin/dockerd', '--containerd=/run/containerd/containerd.sock'],
    },
    files: {
      '/etc/docker/daemon.json': `${JSON.stringify(daemon, null, 2)}\n`,
      '/etc/containerd/config.toml': `version = 2\ndisabled_plugins = ${JSON.stringify(disabled)}\n[debug]\nlevel = "warn"\n`,
    },
    diskBytes,
  };
}

async function measure(
  directory: string,
  accelerator: Accelerator,
): Promise<Pick<TemplateManifest, 'baseMemoryBytes' | 'boot'>> {
  const trial = await Trial.start({
    kernel: join(directory, TEMPLATE_FILES.kernel),
    initrd: join(directory, TEMPLATE_FILES.initrd),
    commandLine: kernelCommandLine(accelerator),
    disk: join(directory, TEMPLATE_FILES.disk),
    keepWrites: false,
    accelerator,
    memoryMiB: TRIAL_MEMORY_MIB,
  });
  try {
    const agentMs = await trial.agentAnswers(BOOT_LIMIT_MS);
    const dockerMs = await trial.consoleShows(DOCKER_READY, BOOT_LIMIT_MS);
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
    const available = /^MemAvailable:\s+(\d+) kB$/m.exec(await trial.succeed(['/usr/bin/cat', '/proc/meminfo']))?.[1];
    if (available === undefined) throw new Error('/proc/meminfo of the guest has no MemAvailable');
    const baseMemoryBytes = TRIAL_MEMORY_MIB * 2 ** 20 - Number(available) * 1024;
    return { baseMemoryBytes, boot: { accelerator, agentMs, dockerMs } };
  } finally {
    await trial.stop();
  }
}

/** What init.c prints when dockerd has told it that it is ready. */
export const DOCKER_READY = /init: .*: dockerd is ready/;

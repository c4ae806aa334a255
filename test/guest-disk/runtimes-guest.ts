/**
 * A small guest with podman, containerd, LXC and LXD on it, beside what makes LVM volumes and XFS in it: what the readers
 * of guest-disk/runtimes are tested on. Its init is the template's, so that it boots in seconds, also emulated.
 */
import { join } from 'node:path';
import { workingAccelerator } from '../../native/accelerator.ts';
import { buildOnce, contentHash } from '../../template/cache.ts';
import { RELEASE } from '../../template/debian.ts';
import { kernelCommandLine, TEMPLATE_FILES } from '../../template/domain-xml.ts';
import { type GuestImage, guestImageSources, makeGuestImage } from '../../template/guest-image.ts';
import { Trial } from '../../template/trial.ts';

const GUEST: GuestImage = {
  packages: [
    ...['podman', 'crun', 'conmon', 'netavark', 'iptables', 'catatonit', 'containerd', 'runc', 'lxc', 'lxd'],
    ...['xfsprogs', 'lvm2', 'dmsetup', 'e2fsprogs', 'util-linux', 'ca-certificates'],
  ],
  modules: ['overlay', 'bridge', 'veth', 'xfs', 'dm-mod', 'loop', 'nf_tables', 'nft_compat', 'nft_chain_nat'],
  modulesOnDemand: [
    ...['br_netfilter', 'nf_conntrack_netlink', 'xt_addrtype', 'xt_conntrack', 'xt_MASQUERADE', 'xt_nat', 'xt_mark'],
    ...['xt_tcpudp', 'xt_comment', 'xt_multiport', 'macvlan', 'dummy', 'tun'],
  ],
  settings: { 'net/ipv4/ip_forward': '1', 'vm/overcommit_memory': '1' },
  services: {},
  files: {
    '/etc/containers/containers.conf':
      '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nnetwork_backend = "netavark"\nruntime = "crun"\n',
    '/etc/containers/policy.json': '{"default": [{"type": "insecureAcceptAnything"}]}\n',
    '/etc/containerd/config.toml': 'version = 2\n[debug]\nlevel = "warn"\n',
    '/etc/subuid': 'root:1000000:65536\n',
    '/etc/subgid': 'root:1000000:65536\n',
  },
  diskBytes: 4e9,
};
const BOOT_LIMIT_MS = 240_000;

/** The image's directory, named as a template's. */
export async function runtimesGuestImage(): Promise<string> {
  const sources = await guestImageSources();
  const hash = contentHash({ image: { ...GUEST }, release: RELEASE, sources });
  return buildOnce({ name: 'runtimes-guest', hash }, async (work) => {
    await makeGuestImage(work, GUEST, () => undefined);
  });
}

/** Boots it; nothing that it writes on its system disk stays. `dataDisk` is its /dev/vdb. */
export async function startRuntimesGuest(options: { monitor: string; dataDisk: string }): Promise<Trial> {
  return bootImage(await runtimesGuestImage(), { memoryMiB: 1024, ...options });
}

type ImageOptions = Pick<Parameters<typeof Trial.start>[0], 'memoryMiB' | 'monitor' | 'dataDisk'>;

/** From the files of an image's directory, until its agent answers. */
export async function bootImage(image: string, options: ImageOptions): Promise<Trial> {
  const accelerator = await workingAccelerator();
  const guest = await Trial.start({
    kernel: join(image, TEMPLATE_FILES.kernel),
    initrd: join(image, TEMPLATE_FILES.initrd),
    commandLine: kernelCommandLine(accelerator),
    disk: join(image, TEMPLATE_FILES.disk),
    keepWrites: false,
    accelerator,
    ...options,
  });
  await guest.agentAnswers(BOOT_LIMIT_MS);
  return guest;
}

/** Imports nothing: an OCI-less root with busybox, at /root/image, and as /root/image.tar. */
export async function makeRootInGuest(guest: Trial): Promise<void> {
  await guest.succeed(['mkdir', '-p', '/root/image/bin', '/root/image/tmp', '/root/image/etc', '/root/image/proc']);
  await guest.succeed(['cp', '/bin/busybox', '/root/image/bin/busybox']);
  for (const name of ['sh', 'sleep', 'dd', 'true']) {
    await guest.succeed(['ln', '-s', 'busybox', `/root/image/bin/${name}`]);
  }
  await guest.succeed(['tar', '-C', '/root/image', '-cf', '/root/image.tar', '.']);
}

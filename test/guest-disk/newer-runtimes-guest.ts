/**
 * A guest of Debian 13, whose runtimes are newer than runtimes-guest.ts's: Docker 26, podman 5 (SQLite), containerd 1.7 with
 * the CRI plugin and CNI, LXC 6, Incus 6, LXD 5. Kernel, modules and init are those of runtimes-guest.ts.
 */
import { copyFile, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { execa } from 'execa';
import { buildOnce, contentHash } from '../../template/cache.ts';
import { linkBusybox, machinesArchives, prune, writeFiles } from '../../template/debian.ts';
import { makeDisk } from '../../template/disk.ts';
import { TEMPLATE_FILES } from '../../template/domain-xml.ts';
import type { Trial } from '../../template/trial.ts';
import { bootImage, runtimesGuestImage } from './runtimes-guest.ts';

const RELEASE = 'trixie';
const CRICTL = 'sigs.k8s.io/cri-tools/cmd/crictl@v1.34.0';
const ARCHIVE_KEYS = '/usr/share/keyrings/debian-archive-keyring.gpg';
const PACKAGES = [
  ...['busybox-static', 'iproute2', 'kmod', 'qemu-guest-agent', 'ca-certificates', 'iptables', 'e2fsprogs'],
  ...['containerd', 'runc', 'containernetworking-plugins', 'docker.io', 'docker-cli'],
  ...['podman', 'crun', 'conmon', 'netavark', 'catatonit', 'lxc', 'incus', 'incus-client', 'dnsmasq-base'],
  ...['lxd', 'lxd-client'],
];
const CRI = `version = 2
[debug]
  level = "warn"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.test/box:1"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
`;
const CNI = {
  cniVersion: '0.4.0',
  name: 'pods',
  plugins: [
    {
      type: 'bridge',
      bridge: 'cni0',
      isGateway: true,
      ipam: { type: 'host-local', ranges: [[{ subnet: '10.78.0.0/24' }]], routes: [{ dst: '0.0.0.0/0' }] },
    },
  ],
};
const FILES = {
  '/etc/containerd/config.toml': CRI,
  '/etc/cni/net.d/10-pods.conflist': JSON.stringify(CNI),
  '/etc/containers/containers.conf':
    '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "crun"\n[network]\nfirewall_driver = "iptables"\n',
  '/etc/containers/policy.json': '{"default": [{"type": "insecureAcceptAnything"}]}\n',
  '/etc/crictl.yaml': 'runtime-endpoint: unix:///run/containerd/containerd.sock\ntimeout: 120\n',
  '/etc/subuid': 'root:1000000:65536\n',
  '/etc/subgid': 'root:1000000:65536\n',
  '/etc/hosts': '127.0.0.1 localhost\n',
  '/etc/resolv.conf': '',
};
const DISK_BYTES = 6e9;

/** Debian has no package of it. @returns a directory with the program. */
async function crictl(): Promise<string> {
  return buildOnce({ name: 'crictl', hash: contentHash({ module: CRICTL }) }, async (work) => {
    const env = { GOBIN: work, CGO_ENABLED: '0' };
    await execa('nice', ['go', 'install', '-ldflags=-s -w', CRICTL], { env });
  });
}

export async function newerRuntimesGuestImage(): Promise<string> {
  const base = await runtimesGuestImage();
  const inputs = { base: basename(base), packages: PACKAGES, files: FILES, release: RELEASE, crictl: CRICTL };
  const hash = contentHash({ ...inputs, diskBytes: DISK_BYTES });
  return buildOnce({ name: 'newer-runtimes-guest', hash }, async (work) => {
    const tree = join(work, 'tree');
    const { archive } = await machinesArchives();
    const options = ['--mode=root', '--variant=essential', `--include=${PACKAGES.join(',')}`];
    const aptOptions = ['--aptopt=APT::Install-Recommends "false"', '--aptopt=Acquire::Check-Valid-Until "false"'];
    const excluded = ['doc', 'man', 'locale', 'info'].map((name) => `--dpkgopt=path-exclude=/usr/share/${name}/*`);
    const source = `deb [signed-by=${ARCHIVE_KEYS}] ${archive} ${RELEASE} main`;
    await execa('nice', ['mmdebstrap', ...options, ...aptOptions, ...excluded, RELEASE, tree, source]);
    const disk = join(base, TEMPLATE_FILES.disk);
    for (const [from, to] of [
      ['/usr/lib/modules', 'usr/lib'],
      ['/etc/init', 'etc'],
    ] as const) {
      await execa('debugfs', ['-R', `rdump ${from} ${join(tree, to)}`, disk]);
    }
    await rm(join(tree, 'usr/sbin/init'), { force: true });
    await execa('debugfs', ['-R', `dump -p /usr/sbin/init ${join(tree, 'usr/sbin/init')}`, disk]);
    await prune(tree);
    await linkBusybox(tree);
    await writeFiles(tree, FILES);
    await copyFile(join(await crictl(), 'crictl'), join(tree, 'usr/bin/crictl'));
    await makeDisk(join(work, TEMPLATE_FILES.disk), tree, DISK_BYTES);
    for (const file of [TEMPLATE_FILES.kernel, TEMPLATE_FILES.initrd])
      await copyFile(join(base, file), join(work, file));
    await rm(tree, { recursive: true });
  });
}

/** Boots it; nothing that it writes on its system disk stays. */
export async function startNewerRuntimesGuest(options: { monitor: string }): Promise<Trial> {
  return bootImage(await newerRuntimesGuestImage(), { memoryMiB: 2048, ...options });
}

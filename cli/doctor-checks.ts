/** What `ciel doctor` looks at, one function a subject. Each looks for itself and says what it found and what to do. */
import { access, constants, readFile, readlink, statfs } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { execa } from 'execa';
import { workingAccelerator } from '../native/accelerator.ts';
import { type Configuration, readConfiguration } from '../store/configuration.ts';
import { verifyTemplate } from '../template/verify.ts';
import type { CommandContext, GlobalOptions } from './context.ts';
import { problemOf } from './errors.ts';
import { defaultStateDirectory } from './runtime.ts';
import { bytesText } from './units.ts';

export const DOCTOR_ROLES = ['control', 'host', 'director'] as const;
export type DoctorRole = (typeof DOCTOR_ROLES)[number];

export interface Finding {
  /** A warning costs speed, or matters in some set-ups only. */
  readonly verdict: 'ok' | 'warning' | 'lacking';
  readonly found: string;
  readonly fix: string | null;
}
export interface CheckResult extends Finding {
  readonly name: string;
  readonly role: DoctorRole | 'all';
}
interface Surroundings {
  readonly context: CommandContext;
  readonly globals: GlobalOptions;
  readonly libvirtUri: string | null;
}
export interface Check {
  readonly name: string;
  readonly role: DoctorRole | 'all';
  look(surroundings: Surroundings): Promise<readonly Finding[]>;
}

const ok = (found: string): Finding[] => [{ verdict: 'ok', found, fix: null }];
const warning = (found: string, fix: string): Finding[] => [{ verdict: 'warning', found, fix }];
const lacking = (found: string, fix: string): Finding[] => [{ verdict: 'lacking', found, fix }];

const PATH_OF_ADMINISTRATORS = { PATH: `${process.env.PATH}:/usr/sbin:/sbin` };
const OLDEST_NODE = [20, 3] as const;
const CAP_NET_ADMIN = 12n;
const CAP_SYS_PTRACE = 19n;
/** A clone of a template takes half of this. */
const LOW_DISK_BYTES = 2 * 2 ** 30;
/** Inode number of the initial PID namespace: PROC_PID_INIT_INO of include/linux/proc_ns.h. */
const INITIAL_PID_NAMESPACE = 'pid:[4026531836]';

export const CHECKS: readonly Check[] = [
  { name: 'Node.js', role: 'all', look: node },
  { name: 'Temporal', role: 'all', look: temporal },
  { name: 'database', role: 'all', look: database },
  { name: 'state directory', role: 'all', look: ({ globals }) => diskSpace(globals.state ?? defaultStateDirectory()) },
  { name: 'libvirt', role: 'host', look: libvirt },
  { name: 'QEMU', role: 'host', look: qemu },
  { name: 'KVM', role: 'host', look: kvm },
  { name: 'reading guests', role: 'host', look: ptrace },
  { name: 'reader', role: 'host', look: reader },
  { name: 'process ids', role: 'host', look: processIds },
  { name: 'storage', role: 'host', look: storage },
  { name: 'templates', role: 'host', look: templates },
  { name: 'ipvsadm', role: 'director', look: ipvsadm },
  { name: 'ip_vs', role: 'director', look: ipVs },
];

async function node(): Promise<readonly Finding[]> {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const [wantedMajor, wantedMinor] = OLDEST_NODE;
  if (major > wantedMajor || (major === wantedMajor && minor >= wantedMinor)) return ok(process.version);
  return lacking(process.version, `install Node.js ${OLDEST_NODE.join('.')} or later`);
}

async function temporal({ context, globals }: Surroundings): Promise<readonly Finding[]> {
  try {
    const { target } = await context.openTemporal(globals);
    return ok(`answers at ${target.address}, namespace ${target.namespace} (${target.source})`);
  } catch (error) {
    return connectionFinding(error);
  }
}

async function database({ context, globals }: Surroundings): Promise<readonly Finding[]> {
  try {
    const { hosts, services } = await readConfiguration(await context.openStore(globals));
    return ok(`answers; applied: hosts ${hosts.length}, services ${services.length}`);
  } catch (error) {
    return connectionFinding(error);
  }
}

/** Nothing named and nothing running is where everybody begins; something named that is down is a fault. */
function connectionFinding(error: unknown): readonly Finding[] {
  const { reason, tried, found, remedy } = problemOf(error, 'connected');
  if (reason === 'NoInstallation') return warning(found, remedy ?? 'start `ciel up`');
  return lacking(`${tried}: ${found}`, remedy ?? 'see its log');
}

async function appliedConfiguration({ context, globals }: Surroundings): Promise<Configuration | null> {
  return context
    .openStore(globals)
    .then(readConfiguration)
    .catch(() => null);
}

async function libvirt(surroundings: Surroundings): Promise<readonly Finding[]> {
  const hosts = (await appliedConfiguration(surroundings))?.hosts ?? [];
  const applied = hosts.length === 1 ? hosts[0]?.spec.libvirt : undefined;
  const uri = surroundings.libvirtUri ?? applied ?? 'qemu:///system';
  const libraries = await execa('ldconfig', ['-p'], {
    reject: false,
    env: PATH_OF_ADMINISTRATORS,
  });
  if (libraries.exitCode === 0 && !libraries.stdout.includes('libvirt.so.0')) {
    return lacking(
      'libvirt.so.0 is not installed',
      'apt-get install libvirt0 libvirt-daemon-driver-qemu libvirt-daemon',
    );
  }
  const { Libvirt } = await import('../native/libvirt.ts');
  try {
    const connection = await Libvirt.connect(uri);
    try {
      const stats = await connection.allStats();
      const running = stats.filter(({ state }) => state === 'running').length;
      return ok(`${uri} answers: ${stats.length} VMs, ${running} running`);
    } finally {
      await connection.close();
    }
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    const fix =
      'start libvirtd (systemctl start libvirtd), or name the right URI by --libvirt; the user needs its rw socket (group libvirt)';
    return lacking(`${uri}: ${message}`, fix);
  }
}

async function qemu(): Promise<readonly Finding[]> {
  const missing: string[] = [];
  let version = '';
  for (const command of ['qemu-system-x86_64', 'qemu-img']) {
    const { exitCode, stdout } = await execa(command, ['--version'], { reject: false });
    if (exitCode === 0) version ||= stdout.split('\n')[0] ?? '';
    else missing.push(command);
  }
  if (missing.length === 0) return ok(version);
  return lacking(`${missing.join(' and ')} not found`, 'apt-get install qemu-system-x86 qemu-utils');
}

async function kvm(): Promise<readonly Finding[]> {
  const device = await accessible('/dev/kvm', constants.F_OK);
  const permitted = await accessible('/dev/kvm', constants.R_OK | constants.W_OK);
  if ((await workingAccelerator()) === 'kvm') return ok('a guest ran with it');
  const slow = 'VMs are emulated, ten times slower';
  if (!device) {
    return warning(
      `no /dev/kvm: ${slow}`,
      'switch virtualization on in the firmware, or nesting on in the hypervisor below; modprobe kvm_intel or kvm_amd',
    );
  }
  if (!permitted) return warning(`/dev/kvm may not be opened: ${slow}`, 'add the user to group kvm');
  return warning(
    `/dev/kvm is there, but a guest does not run with it: ${slow}`,
    'use a machine with hardware virtualization; Ciel does not use this device',
  );
}

/** process_vm_readv(2) needs PTRACE_MODE_ATTACH: the capability, where QEMU runs as another user or Yama restricts it. */
async function ptrace(): Promise<readonly Finding[]> {
  if (!(await hasCapability(CAP_SYS_PTRACE))) {
    return lacking(
      'no CAP_SYS_PTRACE: guest memory that is not shared cannot be read',
      'run the host role as root, or AmbientCapabilities=CAP_SYS_PTRACE in its unit (docs/how-to/real-host.md)',
    );
  }
  const scope = (await readFile('/proc/sys/kernel/yama/ptrace_scope', 'utf8').catch(() => '0')).trim();
  if (scope === '3')
    return lacking('Yama forbids it to everybody (ptrace_scope 3)', 'set kernel.yama.ptrace_scope below 3 and reboot');
  return ok('CAP_SYS_PTRACE');
}

/** The child process that reads guests, with the mapper's library in it. */
async function reader(): Promise<readonly Finding[]> {
  const { loadMapper } = await import('../native/mapper.ts');
  try {
    loadMapper();
  } catch (error) {
    return lacking(error instanceof Error ? error.message : String(error), 'npm run build:native');
  }
  const { Introspection } = await import('../native/introspection.ts');
  const introspection = new Introspection({ cacheDirectory: null });
  try {
    await introspection.start();
    return ok('starts, and loads the mapper');
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return lacking(message, "see the message above it, which is the child process's own");
  } finally {
    await introspection.close();
  }
}

async function processIds(): Promise<readonly Finding[]> {
  const namespace = await readlink('/proc/self/ns/pid');
  if (namespace === INITIAL_PID_NAMESPACE) return ok('those of the machine');
  return warning(
    `a PID namespace of its own (${namespace})`,
    "QEMU processes must be seen from here: in a container, run the host role with the host's PIDs (--pid=host)",
  );
}

async function storage(surroundings: Surroundings): Promise<readonly Finding[]> {
  const hosts = (await appliedConfiguration(surroundings))?.hosts ?? [];
  if (hosts.length === 0) return ok('no host is applied yet');
  const findings = await Promise.all(
    hosts.map(async ({ name, spec }) => {
      if (!(await accessible(spec.storage, constants.W_OK))) {
        return warning(
          `${spec.storage} of host ${name} is not writable here`,
          `on that host: mkdir -p ${spec.storage}; on others this does not matter`,
        );
      }
      return diskSpace(spec.storage);
    }),
  );
  return findings.flat();
}

async function templates(surroundings: Surroundings): Promise<readonly Finding[]> {
  const applied = (await appliedConfiguration(surroundings))?.templates ?? [];
  if (applied.length === 0) return ok('no template is applied yet');
  const findings = await Promise.all(
    applied.map(async ({ name, spec }) => {
      const { problems } = await verifyTemplate(spec.directory);
      const errors = problems.filter(({ severity }) => severity === 'error');
      if (errors.length === 0) return ok(`${name} in ${spec.directory} is usable`);
      return errors.flatMap(({ problem, remedy }) => lacking(`${name}: ${problem}`, remedy));
    }),
  );
  return findings.flat();
}

async function ipvsadm(): Promise<readonly Finding[]> {
  // Its exit code says more about the kernel than about itself: that it runs is enough.
  const result = await execa('ipvsadm', ['--version'], { reject: false, env: PATH_OF_ADMINISTRATORS });
  if (result.code !== 'ENOENT') return ok('found');
  const needed = 'needed where a director is "reach: local", not for a director VM';
  return warning(`not found (${needed})`, 'apt-get install ipvsadm');
}

async function ipVs(): Promise<readonly Finding[]> {
  const needed = 'needed where a director is "reach: local"';
  if (!(await accessible('/proc/net/ip_vs', constants.R_OK))) {
    return warning(
      `this kernel has no IP_VS loaded (${needed})`,
      'modprobe ip_vs, or use a director VM (reach: agent)',
    );
  }
  if (!(await hasCapability(CAP_NET_ADMIN))) {
    return warning(
      `no CAP_NET_ADMIN, so LVS cannot be changed (${needed})`,
      'run the director role as root, or AmbientCapabilities=CAP_NET_ADMIN',
    );
  }
  return ok('loaded, and may be changed');
}

async function diskSpace(directory: string): Promise<readonly Finding[]> {
  const there = await nearestExisting(resolve(directory));
  const { bavail, bsize } = await statfs(there);
  const free = bavail * bsize;
  if (free >= LOW_DISK_BYTES) return ok(`${directory}: ${bytesText(free)} free`);
  return lacking(`${directory}: only ${bytesText(free)} free`, `make room; ${bytesText(LOW_DISK_BYTES)} at least`);
}

async function nearestExisting(directory: string): Promise<string> {
  let at = directory;
  while (!(await accessible(at, constants.F_OK)) && dirname(at) !== at) at = dirname(at);
  return at;
}

async function accessible(path: string, mode: number): Promise<boolean> {
  return access(path, mode).then(
    () => true,
    () => false,
  );
}

/** Of the effective set, as /proc/self/status gives it (proc(5)). */
async function hasCapability(bit: bigint): Promise<boolean> {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(await readFile('/proc/self/status', 'utf8'))?.[1];
  return effective !== undefined && ((BigInt(`0x${effective}`) >> bit) & 1n) === 1n;
}

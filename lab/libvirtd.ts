/**
 * A libvirtd of the lab's own, beside whatever the machine runs: a mount namespace in which the lab's directory lies over
 * every path that libvirtd writes to (/etc/libvirt, /run, /var/{lib,log,cache}/libvirt), optionally inside a network
 * namespace, so that bridges and taps stay there too. Clients outside reach it by a socket in the directory.
 *
 *     DIR/etc  libvirtd.conf, qemu.conf, domain definitions      DIR/log   QEMU's logs
 *     DIR/run  pid files, and libvirt's own sockets              DIR/sock  the socket for clients
 *     DIR/lib  monitor and agent sockets                         DIR/cache QEMU's capabilities: 4 s to probe, worth keeping
 *
 * libvirtd daemonizes and outlives its starter, as a real one does; its guests outlive it, and the next start adopts them.
 */
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { execa } from 'execa';

export interface LibvirtdOptions {
  /** Kept short: the path of a UNIX socket below it must fit into 108 bytes. */
  readonly directory: string;
  /** A network namespace by name, as `ip netns` knows it. */
  readonly namespace?: string;
  /** Where QEMU's probed capabilities are kept; DIR/cache without it. */
  readonly cache?: string;
}

export interface Libvirtd {
  readonly directory: string;
  /** libvirt's connection URI for clients outside the namespaces. */
  readonly uri: string;
  readonly pid: number;
}

/** Longest path that libvirt makes below DIR/lib and QEMU binds: it sees it as /var/lib/libvirt, so only sock/ counts. */
const LONGEST_DIRECTORY = 108 - '/sock/libvirt-admin-sock'.length - 1;
const READY_WITHIN_MS = 15_000;

/** Lays "$1" over what libvirtd writes to, then becomes the command that follows. Runs in a mount namespace of its own. */
const OVERLAY = `set -eu
directory=$1 cache=$2
shift 2
mount --bind "$directory/etc" /etc/libvirt
mount --bind "$directory/lib" /var/lib/libvirt
mount --bind "$directory/log" /var/log/libvirt
mount --bind "$cache" /var/cache/libvirt
mount --bind "$directory/run" /run
exec "$@"`;

function confFile(entries: Readonly<Record<string, string | number>>): string {
  return Object.entries(entries)
    .map(([key, value]) => `${key} = ${typeof value === 'number' || value === '[]' ? value : JSON.stringify(value)}\n`)
    .join('');
}

/** Starts it, or returns the one that runs already on that directory. */
export async function startLibvirtd(options: LibvirtdOptions): Promise<Libvirtd> {
  const directory = resolve(options.directory);
  if (directory.length > LONGEST_DIRECTORY) {
    throw new Error(`${directory} is too long for libvirtd's sockets: at most ${LONGEST_DIRECTORY} characters`);
  }
  const running = await runningPid(directory);
  const uri = `qemu+unix:///system?socket=${join(directory, 'sock', 'libvirt-sock')}`;
  if (running !== null) return { directory, uri, pid: running };

  const cache = resolve(options.cache ?? join(directory, 'cache'));
  for (const part of ['etc/qemu/networks', 'run/libvirt', 'lib', 'log/qemu', 'sock']) {
    await mkdir(join(directory, part), { recursive: true });
  }
  await mkdir(cache, { recursive: true });
  await writeFile(
    join(directory, 'etc/libvirtd.conf'),
    confFile({ unix_sock_dir: join(directory, 'sock'), auth_unix_rw: 'none', unix_sock_rw_perms: '0700' }),
  );
  await writeFile(
    join(directory, 'etc/qemu.conf'),
    // QEMU runs as root without confinement: namespaces and cgroups of a development machine's container allow no more.
    // stdio_handler "file" needs no virtlogd.
    confFile({
      user: 'root',
      group: 'root',
      security_driver: 'none',
      cgroup_controllers: '[]',
      namespaces: '[]',
      remember_owner: 0,
      stdio_handler: 'file',
    }),
  );
  await rm(pidFile(directory), { force: true });
  const daemon = ['libvirtd', '-d', '-f', join(directory, 'etc/libvirtd.conf'), '-p', pidFile(directory)];
  const isolated = [
    'unshare',
    '-m',
    '--propagation',
    'private',
    'sh',
    '-c',
    OVERLAY,
    'sh',
    directory,
    cache,
    ...daemon,
  ];
  const inNamespace = options.namespace === undefined ? [] : ['ip', 'netns', 'exec', options.namespace];
  const [file, ...args] = [...inNamespace, ...isolated];
  const start = await execa(file as string, args, { reject: false, stdin: 'ignore' });
  if (start.exitCode !== 0) {
    throw new Error(
      `libvirtd did not start in ${directory} (exit ${start.exitCode}): ${start.stderr}. ` +
        'It needs root, unshare and the packages libvirt-daemon-driver-qemu and libvirt-daemon-system.',
    );
  }
  const deadline = Date.now() + READY_WITHIN_MS;
  for (;;) {
    const pid = await runningPid(directory);
    if (pid !== null && existsSync(join(directory, 'sock', 'libvirt-sock'))) return { directory, uri, pid };
    if (Date.now() > deadline) throw new Error(`libvirtd in ${directory} gave no socket within ${READY_WITHIN_MS} ms`);
    await new Promise((wake) => setTimeout(wake, 20));
  }
}

/** As a crash would: guests go on running, clients lose their connection. */
export async function killLibvirtd(directory: string): Promise<void> {
  const pid = await runningPid(resolve(directory));
  if (pid === null) return;
  process.kill(pid, 'SIGKILL');
  await gone(pid);
}

/** Ends it and every guest that it started. Definitions and the cache stay; no error when nothing runs. */
export async function stopLibvirtd(directory: string): Promise<void> {
  const home = resolve(directory);
  const daemon = await runningPid(home);
  if (daemon !== null) {
    process.kill(daemon, 'SIGTERM');
    await gone(daemon);
  }
  for (const pid of await guestPids(home)) {
    process.kill(pid, 'SIGKILL');
    await gone(pid);
  }
}

/** QEMU's process ids by the pid files of the guests that this libvirtd started. */
export async function guestPids(directory: string): Promise<number[]> {
  const files = join(resolve(directory), 'run/libvirt/qemu');
  const names = existsSync(files) ? (await readdir(files)).filter((name) => name.endsWith('.pid')) : [];
  const pids: number[] = [];
  for (const name of names) {
    const pid = Number((await readFile(join(files, name), 'utf8')).trim());
    if (name !== 'driver.pid' && (await commandLine(pid)).includes(`guest=${name.slice(0, -'.pid'.length)},`))
      pids.push(pid);
  }
  return pids;
}

function pidFile(directory: string): string {
  return join(directory, 'libvirtd.pid');
}

async function runningPid(directory: string): Promise<number | null> {
  if (!existsSync(pidFile(directory))) return null;
  const pid = Number((await readFile(pidFile(directory), 'utf8')).trim());
  // A pid file outlives a killed daemon, and the number may be somebody else's by now.
  return pid > 0 && (await commandLine(pid)).includes(pidFile(directory)) ? pid : null;
}

async function commandLine(pid: number): Promise<string> {
  return readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
}

async function gone(pid: number): Promise<void> {
  const deadline = Date.now() + 10_000;
  for (;;) {
    const state = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => null);
    // A zombie has ended; it waits only for a parent that may be us.
    if (state === null || /\) Z /.test(state)) return;
    if (Date.now() > deadline) throw new Error(`process ${pid} did not end within 10 s`);
    await new Promise((wake) => setTimeout(wake, 20));
  }
}

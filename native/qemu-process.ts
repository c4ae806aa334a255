/**
 * The QEMU process of a VM, from /proc alone: which process it is, and what its command line says of the machine.
 *
 * A pid names a process only together with its start time. The command line is QEMU's own (libvirt's or a user's), not the
 * guest's; what the layout made from it predicts is proved by the mapper against the guest's memory.
 */
import { readdir, readFile, readlink } from 'node:fs/promises';
import { basename } from 'node:path';
import type { GuestRam, Machine } from './mapper.ts';

export interface QemuCommandLine {
  readonly uuid: string | null;
  readonly name: string | null;
  /** null: a machine whose RAM layout is not known. */
  readonly machine: Machine | null;
  readonly ramBytes: number | null;
  readonly maxRamBelow4gBytes: number | null;
  /** Where NUMA nodes have RAM blocks of their own: the blocks' sizes, in the nodes' order. Empty: all RAM is one block. */
  readonly numaNodeBytes: readonly number[];
  /** The guest's RAM is encrypted (SEV, TDX): it cannot be read from outside. */
  readonly isConfidential: boolean;
}

export interface QemuProcess extends QemuCommandLine {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat, in clock ticks since boot. */
  readonly startTime: bigint;
}

const DEFAULT_RAM_BYTES = 128 * 1024 * 1024;
const UNITS: Readonly<Record<string, number>> = { '': 1, b: 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };
const TICKS_PER_SECOND = 100;

/** A size as QEMU reads it; `unit` is what a bare number counts. */
function parseSize(text: string, unit: number): number | null {
  const match = /^(\d+(?:\.\d+)?)([bkmgt]?)$/i.exec(text);
  if (!match) return null;
  const suffix = (match[2] ?? '').toLowerCase();
  const bytes = Number(match[1]) * (suffix === '' ? unit : (UNITS[suffix] ?? Number.NaN));
  return Number.isSafeInteger(bytes) ? bytes : null;
}

/** An option's value "a,b=c,d": its first bare word, and its settings. A doubled comma is a comma. */
function parseOption(value: string): { first: string; settings: Map<string, string> } {
  const parts = value.split(/(?<!,),(?!,)/).map((part) => part.replaceAll(',,', ','));
  const settings = new Map<string, string>();
  let first = '';
  parts.forEach((part, index) => {
    const equals = part.indexOf('=');
    if (equals >= 0) settings.set(part.slice(0, equals), part.slice(equals + 1));
    else if (index === 0) first = part;
  });
  return { first, settings };
}

/** An -object that is a memory backend: "memory-backend-memfd,id=ram-node0,size=2G", or the same as JSON, as libvirt writes it. */
function memoryBackend(value: string): { id: string; bytes: number | null } | null {
  if (value.startsWith('{')) {
    // QEMU has parsed it before us.
    const { 'qom-type': type, id, size } = JSON.parse(value) as Readonly<Record<string, unknown>>;
    if (!String(type).startsWith('memory-backend-') || typeof id !== 'string') return null;
    return { id, bytes: typeof size === 'number' ? size : null };
  }
  const { first, settings } = parseOption(value);
  const id = settings.get('id');
  if (!first.startsWith('memory-backend-') || id === undefined) return null;
  return { id, bytes: parseSize(settings.get('size') ?? '', 1) };
}

function machineOf(type: string): Machine | null {
  if (/^(q35|pc-q35-.*)$/.test(type)) return 'q35';
  if (/^(pc|pc-i440fx-.*|pc-\d.*)$/.test(type)) return 'i440fx';
  return null;
}

/** What the arguments of a QEMU say. The last of a repeated option wins, as in QEMU. */
export function parseQemuCommandLine(args: readonly string[]): QemuCommandLine {
  let uuid: string | null = null;
  let name: string | null = null;
  let machine: Machine | null = 'i440fx';
  let ramBytes: number | null = DEFAULT_RAM_BYTES;
  let maxRamBelow4gBytes: number | null = null;
  let isConfidential = false;
  const backends = new Map<string, number | null>();
  const nodes: { readonly id: number; readonly backend: string }[] = [];

  for (let i = 1; i < args.length - 1; i++) {
    const option = args[i]?.replace(/^--?/, '');
    const value = args[i + 1] ?? '';
    if (!args[i]?.startsWith('-')) continue;
    if (option === 'uuid') uuid = value.toLowerCase();
    if (option === 'name') {
      const { first, settings } = parseOption(value);
      name = settings.get('guest') ?? first;
    }
    if (option === 'm') {
      const { first, settings } = parseOption(value);
      const size = first || (settings.get('size') ?? '');
      ramBytes = parseSize(size, 2 ** 20);
    }
    if (option === 'object') {
      const backend = memoryBackend(value);
      if (backend) backends.set(backend.id, backend.bytes);
    }
    if (option === 'numa') {
      const { first, settings } = parseOption(value);
      const backend = settings.get('memdev');
      if (first === 'node' && backend) nodes.push({ id: Number(settings.get('nodeid') ?? nodes.length), backend });
    }
    if (option === 'machine' || option === 'M') {
      const { first, settings } = parseOption(value);
      const type = first || settings.get('type');
      if (type) machine = machineOf(type);
      const limit = settings.get('max-ram-below-4g');
      if (limit) maxRamBelow4gBytes = parseSize(limit, 1);
      if (settings.has('confidential-guest-support') || settings.has('memory-encryption')) isConfidential = true;
    }
  }
  const sizes = nodes.sort((a, b) => a.id - b.id).map(({ backend }) => backends.get(backend) ?? null);
  const numaNodeBytes = sizes.length > 1 ? sizes.map((bytes) => bytes ?? 0) : [];
  return { uuid, name, machine, ramBytes, maxRamBelow4gBytes, numaNodeBytes, isConfidential };
}

/** Fields of /proc/PID/stat behind the command, which may contain anything but a last parenthesis. */
async function readStat(pid: number): Promise<string[] | null> {
  const text = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => null);
  return text === null ? null : text.slice(text.lastIndexOf(')') + 2).split(' ');
}

async function readStartTime(pid: number): Promise<bigint | null> {
  const field = (await readStat(pid))?.[19];
  return field === undefined ? null : BigInt(field);
}

/** CPU time that a process has used, to tell a guest that stands still from one that burns CPU. */
export async function processCpuNanoseconds(pid: number): Promise<bigint | null> {
  const stat = await readStat(pid);
  if (!stat) return null;
  return ((BigInt(stat[11] ?? 0) + BigInt(stat[12] ?? 0)) * 1_000_000_000n) / BigInt(TICKS_PER_SECOND);
}

/** How long a process has run, by the host's CLOCK_BOOTTIME. */
export async function processAgeMs(process: { readonly startTime: bigint }): Promise<number> {
  const uptime = Number((await readFile('/proc/uptime', 'latin1')).split(' ')[0]);
  return uptime * 1000 - (Number(process.startTime) * 1000) / TICKS_PER_SECOND;
}

/** What is attached to; null: the command line names no machine type or size of RAM that is known. */
export function ramOf(process: QemuProcess): GuestRam | null {
  const { pid, startTime, machine, ramBytes, numaNodeBytes, maxRamBelow4gBytes } = process;
  if (machine === null || ramBytes === null) return null;
  return { pid, startTime, machine, ramBytes, numaNodeBytes, maxRamBelow4gBytes };
}

/** The QEMU at a pid, or null when no QEMU is there. */
export async function readQemu(pid: number): Promise<QemuProcess | null> {
  const startTime = await readStartTime(pid);
  const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
  // Whose executable we may not see, we may not read either; what it calls itself is enough to say so.
  const executable = await readlink(`/proc/${pid}/exe`).catch((error: NodeJS.ErrnoException) =>
    error.code === 'EACCES' ? (commandLine.split('\0')[0] ?? '') : '',
  );
  if (startTime === null || !/^(qemu-system-x86_64|qemu-kvm|kvm)/.test(basename(executable))) return null;
  // Read again: between the first read and now the pid may have gone to another process.
  if ((await readStartTime(pid)) !== startTime) return null;
  return { pid, startTime, ...parseQemuCommandLine(commandLine.split('\0')) };
}

/** The QEMU process of the VM with that UUID, or null when none runs on this host. */
export async function findQemu(uuid: string): Promise<QemuProcess | null> {
  const wanted = uuid.toLowerCase();
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const qemu = await readQemu(Number(entry));
    if (qemu?.uuid === wanted) return qemu;
  }
  return null;
}

/**
 * Boots a guest of the kernel matrix under QEMU, without libvirt, and speaks with the program that is its init
 * (guest/init.c): files as the guest's kernel prints them, and shell scripts.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { createConnection, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { type Accelerator, workingAccelerator } from '../../native/accelerator.ts';
import { type KernelFlavour, type KernelImage, type KernelName, kernelImage } from './kernels.ts';

export const CGROUP_SETUPS = ['v2', 'v1', 'hybrid'] as const;
export type CgroupSetup = (typeof CGROUP_SETUPS)[number];

const MEMORY_BACKENDS = {
  shared: 'memory-backend-memfd,share=on',
  private: 'memory-backend-memfd,share=off',
  anonymous: 'memory-backend-ram',
  huge: 'memory-backend-memfd,share=on,hugetlb=on,hugetlbsize=2M',
} as const;
export type GuestMemory = keyof typeof MEMORY_BACKENDS;

export interface KernelGuestOptions {
  readonly kernel: KernelName;
  readonly flavour?: KernelFlavour;
  readonly cgroups?: CgroupSetup;
  /** QEMU's -cpu; `max` has five-level page tables, `qemu64` four. */
  readonly cpu?: string;
  readonly memoryMiB?: number;
  /** What follows in -m: "slots=4,maxmem=4G". */
  readonly memoryOptions?: string;
  readonly vcpus?: number;
  /** So many NUMA nodes of equal size, each a RAM block of its own; default: all RAM is one block. */
  readonly numaNodes?: number;
  readonly machine?: 'q35' | 'pc';
  /** What follows in -machine: "max-ram-below-4g=1G". */
  readonly machineOptions?: string;
  /**
   * Shared memory is what Ciel maps; private memory, of a file of its own or of none, is what it reads from the process; of
   * huge pages, which the machine must have set apart, it reads the file.
   */
  readonly memory?: GuestMemory;
  /** More of the kernel's command line: "nokaslr". */
  readonly append?: string;
  /** More of QEMU's. */
  readonly qemu?: readonly string[];
  /** How long an answer may take. */
  readonly answerLimitMs?: number;
}

export interface KernelGuest {
  readonly image: KernelImage;
  readonly cgroups: CgroupSetup;
  /** QEMU's process. */
  readonly pid: number;
  readonly uuid: string;
  /** The socket of QEMU's monitor (QMP). */
  readonly monitor: string;
  /** Contents of the guest's files, read in one go by its first process; null for one that cannot be read. */
  files(paths: readonly string[]): Promise<Map<string, string | null>>;
  file(path: string): Promise<string>;
  /** Runs a shell script and returns its output; throws when it fails. What it leaves running must close its outputs. */
  run(script: string): Promise<string>;
  /** After a reboot: waits until it answers again. */
  answersAgain(): Promise<void>;
  stop(): Promise<void>;
}

/** Of the guest's virtio-serial port. */
export const PORT_NAME = 'ciel.matrix';
const BOOT_LIMIT_MS = 180_000;
const ANSWER_LIMIT_MS = 60_000;
/** A question asked before the guest's port is open is lost. */
const FIRST_ANSWER_LIMIT_MS = 1_000;
const RETRY_MS = 100;
const DISK_BYTES = 2 ** 30;
const CONSOLE_LINES_KEPT = 40;

export async function bootKernelGuest(options: KernelGuestOptions): Promise<KernelGuest> {
  const image = await kernelImage(options.kernel, options.flavour ?? 'cloud');
  const accelerator = await workingAccelerator();
  const directory = await mkdtemp(join(tmpdir(), 'ciel-kernel-'));
  const disk = join(directory, 'disk');
  await writeFile(disk, '');
  await truncate(disk, DISK_BYTES);
  const uuid = randomUUID();
  const command = ['--pdeathsig', 'KILL', ...qemuCommand(options, { image, accelerator, directory, disk, uuid })];
  // The guest ends with us, also when we are killed.
  const qemu = spawn('setpriv', command, { stdio: ['ignore', 'pipe', 'pipe'] });
  const terminal = new Terminal(qemu);
  const exited = new Promise<void>((resolve) => {
    qemu.once('close', () => resolve());
    qemu.once('error', () => resolve());
  });
  const guest = guestAt(join(directory, 'port'), options.answerLimitMs);
  const stop = async () => {
    guest.close();
    if (qemu.exitCode === null && qemu.signalCode === null) qemu.kill('SIGKILL');
    await exited;
    await rm(directory, { recursive: true, force: true });
  };
  const answersAgain = async () => {
    const deadline = performance.now() + BOOT_LIMIT_MS;
    while (!(await guest.answers(FIRST_ANSWER_LIMIT_MS))) {
      if (qemu.exitCode === null && qemu.signalCode === null && performance.now() < deadline) continue;
      const state = qemu.exitCode === null && qemu.signalCode === null ? 'still runs' : 'has ended';
      throw new Error(`the guest did not answer; QEMU ${state}:\n${terminal.lastLines()}`);
    }
  };
  try {
    await answersAgain();
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    ...guest,
    image,
    cgroups: options.cgroups ?? 'v2',
    pid: qemu.pid as number,
    uuid,
    monitor: join(directory, 'monitor'),
    answersAgain,
    stop,
  };
}

export interface GuestAtPort extends Pick<KernelGuest, 'files' | 'file' | 'run'> {
  /** Whether the guest is up. */
  answers(withinMs: number): Promise<boolean>;
  close(): void;
}

/** A guest of this folder, whoever started it: `socket` is the other end of its port, PORT_NAME. */
export function guestAt(socket: string, answerLimitMs = ANSWER_LIMIT_MS): GuestAtPort {
  const port = new Port(socket, answerLimitMs);
  const files = async (paths: readonly string[]) => parseFiles((await port.ask(`read ${paths.join(' ')}\n`)).output);
  return {
    files,
    file: async (path) => {
      const content = (await files([path])).get(path);
      if (content === null || content === undefined) throw new Error(`the guest cannot read ${path}`);
      return content;
    },
    run: async (script) => {
      const { status, output } = await port.ask(runQuestion(script));
      if (status !== 0) throw new Error(`in the guest, "${script}" ended with ${status}: ${output}`);
      return output.toString();
    },
    answers: (withinMs) => port.answers(withinMs),
    close: () => port.close(),
  };
}

export function kernelArguments({ cgroups, append }: Pick<KernelGuestOptions, 'cgroups' | 'append'>): string {
  return [
    // The clock of an emulated processor is unreliable, and its mitigations are slow for nothing.
    ...['console=ttyS0', 'quiet', 'mitigations=off', 'tsc=reliable', 'panic=-1'],
    `ciel.cgroups=${cgroups ?? 'v2'}`,
    ...(append ? [append] : []),
  ].join(' ');
}

interface Machine {
  readonly image: KernelImage;
  readonly accelerator: Accelerator;
  readonly directory: string;
  readonly disk: string;
  readonly uuid: string;
}

function qemuCommand(options: KernelGuestOptions, { image, accelerator, directory, disk, uuid }: Machine): string[] {
  const memory = `${options.memoryMiB ?? 512}M`;
  const { numaNodes = 0 } = options;
  const ownBackend = numaNodes === 0 ? 'memory-backend=ram' : '';
  const machine = [options.machine ?? 'q35', ownBackend, options.machineOptions].filter(Boolean).join(',');
  const backend = (id: string, size: string) => [
    '-object',
    `${MEMORY_BACKENDS[options.memory ?? 'shared']},id=${id},size=${size}`,
  ];
  const nodeSize = `${(options.memoryMiB ?? 512) / (numaNodes || 1)}M`;
  const nodes = Array.from({ length: numaNodes }, (_, node) => [
    ...backend(`node${node}`, nodeSize),
    ...['-numa', `node,nodeid=${node},memdev=node${node}`],
  ]);
  return [
    'qemu-system-x86_64',
    ...['-accel', accelerator === 'kvm' ? 'kvm' : 'tcg', '-cpu', options.cpu ?? 'max', '-uuid', uuid],
    ...['-machine', machine, '-m', [memory, options.memoryOptions].filter(Boolean).join(',')],
    ...(numaNodes === 0 ? backend('ram', memory) : nodes.flat()),
    ...['-smp', String(options.vcpus ?? 1)],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'stdio'],
    ...['-kernel', image.kernel, '-initrd', image.initramfs, '-append', kernelArguments(options)],
    ...['-drive', `file=${disk},format=raw,if=none,id=disk`, '-device', 'virtio-blk-pci,drive=disk'],
    ...['-qmp', `unix:${join(directory, 'monitor')},server=on,wait=off`],
    ...['-chardev', `socket,id=port,path=${join(directory, 'port')},server=on,wait=off`],
    ...['-device', 'virtio-serial-pci', '-device', `virtserialport,chardev=port,name=${PORT_NAME}`],
    ...(options.qemu ?? []),
  ];
}

/** "PATH BYTES\n" and so many bytes, again and again; -1 bytes for a file that could not be read. */
function parseFiles(answer: Buffer): Map<string, string | null> {
  const files = new Map<string, string | null>();
  for (let at = 0; at < answer.length; ) {
    const end = answer.indexOf('\n', at);
    const [path, length] = answer.toString('utf8', at, end).split(' ') as [string, string];
    const bytes = Number(length);
    files.set(path, bytes < 0 ? null : answer.toString('utf8', end + 1, end + 1 + bytes));
    at = end + 1 + Math.max(0, bytes);
  }
  return files;
}

const runQuestion = (script: string): string => `run ${Buffer.byteLength(script)}\n${script}`;

class Terminal {
  readonly #lines: string[] = [];

  constructor(qemu: ChildProcess) {
    for (const stream of [qemu.stdout, qemu.stderr])
      createInterface({ input: stream as NodeJS.ReadableStream }).on('line', (line) => {
        this.#lines.push(line);
        if (this.#lines.length > CONSOLE_LINES_KEPT) this.#lines.shift();
      });
  }

  lastLines(): string {
    return this.#lines.join('\n');
  }
}

interface Answer {
  readonly status: number;
  readonly output: Buffer;
}

/** The guest's port: one question at a time. */
class Port {
  readonly #path: string;
  readonly #answerLimitMs: number;
  #socket: Socket | null = null;
  #received = Buffer.alloc(0);
  #wake: () => void = () => undefined;
  #queue: Promise<unknown> = Promise.resolve();

  constructor(path: string, answerLimitMs: number) {
    this.#path = path;
    this.#answerLimitMs = answerLimitMs;
  }

  ask(question: string): Promise<Answer> {
    const answer = this.#queue.then(async () => {
      await this.#send(question);
      return this.#nextAnswer(performance.now() + this.#answerLimitMs);
    });
    this.#queue = answer.catch(() => undefined);
    return answer;
  }

  /** Whether the guest is up: a question of its own. Answers to earlier ones, from before it was, are passed over. */
  async answers(withinMs: number): Promise<boolean> {
    const deadline = performance.now() + withinMs;
    const question = randomUUID();
    try {
      await this.#send(runQuestion(`echo ${question}`));
      while ((await this.#nextAnswer(deadline)).output.toString() !== `${question}\n`);
      return true;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      return false;
    }
  }

  close(): void {
    this.#socket?.destroy();
    this.#socket = null;
    this.#received = Buffer.alloc(0);
  }

  async #send(question: string): Promise<void> {
    this.#socket ??= await this.#open();
    this.#socket.write(question);
  }

  async #nextAnswer(deadline: number): Promise<Answer> {
    for (;;) {
      const end = this.#received.indexOf('\n');
      if (end >= 0) {
        const [status, bytes] = this.#received.toString('utf8', 0, end).split(' ').map(Number) as [number, number];
        const next = end + 1 + bytes;
        if (this.#received.length >= next) {
          const output = this.#received.subarray(end + 1, next);
          this.#received = this.#received.subarray(next);
          return { status, output };
        }
      }
      const leftMs = deadline - performance.now();
      if (leftMs <= 0 || this.#socket === null || this.#socket.destroyed) {
        this.close();
        throw new Error('the guest did not answer in time');
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, leftMs);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  async #open(): Promise<Socket> {
    const socket = createConnection(this.#path);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    socket.on('error', () => undefined);
    socket.on('close', () => this.#wake());
    socket.on('data', (bytes) => {
      this.#received = Buffer.concat([this.#received, bytes]);
      this.#wake();
    });
    return socket;
  }
}

/**
 * Boots an image once, under QEMU without libvirt: to measure a template, to test it, to fill a disk. The same devices as
 * in the domain XML; when something shows on the console is noted, and the guest's agent takes commands.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { createConnection, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import type { Accelerator } from '../native/accelerator.ts';
import { AGENT_CHANNEL } from './domain-xml.ts';

export interface TrialOptions {
  readonly kernel: string;
  readonly initrd: string;
  readonly commandLine: string;
  /** Raw. */
  readonly disk: string;
  /** Whether what the guest writes stays on the disk. */
  readonly keepWrites: boolean;
  /** A second disk, raw; writes stay on it. */
  readonly dataDisk?: string;
  readonly accelerator: Accelerator;
  readonly memoryMiB: number;
  /** 1 unless told. */
  readonly vcpus?: number;
  /** A command that QEMU's is appended to, to run it in another network namespace. */
  readonly wrapper?: readonly string[];
  /** QEMU's -netdev value without its id; none: a NIC without a network. */
  readonly network?: string;
  /** Where QEMU's monitor (QMP) shall listen. */
  readonly monitor?: string;
}

export interface CommandResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

const CONSOLE_LINES_KEPT = 40;
const SYNC_EVERY_MS = 200;
const LONGEST_POLL_MS = 500;

export class Trial {
  readonly #qemu: ChildProcess;
  readonly #directory: string;
  readonly #startedAt = performance.now();
  readonly #console: { readonly atMs: number; readonly line: string }[] = [];
  readonly #exited: Promise<void>;
  #wake: () => void = () => {};
  #errors = '';
  #agent: AgentConnection | null = null;

  /** Starts the guest; what follows waits for it. */
  static async start(options: TrialOptions): Promise<Trial> {
    return new Trial(options, await mkdtemp(join(tmpdir(), 'ciel-trial-')));
  }

  private constructor(options: TrialOptions, directory: string) {
    this.#directory = directory;
    // The guest ends with us, also when we are killed.
    const args = ['--pdeathsig', 'KILL', ...(options.wrapper ?? []), ...qemuCommand(options, this.#agentPath)];
    this.#qemu = spawn('setpriv', args, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#exited = new Promise<void>((resolve) => {
      this.#qemu.once('error', (error) => {
        this.#errors += error.message;
        resolve();
      });
      this.#qemu.once('exit', () => resolve());
    }).then(() => this.#wake());
    this.#qemu.stderr?.on('data', (data) => {
      this.#errors += data;
    });
    createInterface({ input: this.#qemu.stdout as NodeJS.ReadableStream }).on('line', (line) => {
      this.#console.push({ atMs: Math.round(performance.now() - this.#startedAt), line });
      this.#wake();
    });
  }

  /** QEMU's process, for reading the guest's memory. */
  get pid(): number {
    if (this.#qemu.pid === undefined) throw this.#failure('QEMU did not start');
    return this.#qemu.pid;
  }

  /** @returns milliseconds from the start until a line of the console matched. */
  async consoleShows(pattern: RegExp, withinMs: number): Promise<number> {
    const deadline = performance.now() + withinMs;
    for (;;) {
      const found = this.#console.find(({ line }) => pattern.test(line));
      if (found !== undefined) return found.atMs;
      const leftMs = deadline - performance.now();
      if (this.#ended || leftMs <= 0) throw this.#failure(`the console did not show ${pattern} within ${withinMs} ms`);
      await this.#nextEvent(leftMs);
    }
  }

  /** @returns milliseconds from the start until the agent answered. */
  async agentAnswers(withinMs: number): Promise<number> {
    const deadline = performance.now() + withinMs;
    while (!this.#ended && performance.now() < deadline) {
      this.#agent ??= await AgentConnection.open(this.#agentPath).catch(() => null);
      if (this.#agent !== null && (await this.#agent.isAlive(SYNC_EVERY_MS)))
        return Math.round(performance.now() - this.#startedAt);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    throw this.#failure(`the guest agent did not answer within ${withinMs} ms`);
  }

  /** Runs a command in the guest, as root. Call after `agentAnswers`. */
  async run(command: readonly string[], withinMs = 60_000): Promise<CommandResult> {
    if (this.#agent === null) throw new Error('the agent has not answered yet');
    const [path, ...arg] = command;
    const deadline = performance.now() + withinMs;
    const { pid } = (await this.#agent.call('guest-exec', {
      path,
      arg,
      env: ['PATH=/usr/sbin:/usr/bin:/sbin:/bin', 'HOME=/root'],
      'capture-output': true,
    })) as { pid: number };
    for (let pollMs = 20; performance.now() < deadline; pollMs = Math.min(pollMs * 1.5, LONGEST_POLL_MS)) {
      const status = (await this.#agent.call('guest-exec-status', { pid })) as ExecStatus;
      if (status.exited) {
        const text = (data: string | undefined) => Buffer.from(data ?? '', 'base64').toString();
        return { exitCode: status.exitcode ?? -1, stdout: text(status['out-data']), stderr: text(status['err-data']) };
      }
      await new Promise((resolve) => setTimeout(resolve, pollMs));
    }
    throw this.#failure(`"${command.join(' ')}" did not end in the guest within ${withinMs} ms`);
  }

  /** As `run`, and throws when the command failed. @returns its output. */
  async succeed(command: readonly string[], withinMs?: number): Promise<string> {
    const { exitCode, stdout, stderr } = await this.run(command, withinMs);
    if (exitCode !== 0)
      throw new Error(`in the guest, "${command.join(' ')}" ended with ${exitCode}: ${stderr || stdout}`);
    return stdout;
  }

  /** Asks the guest to power off, and waits until it has: its disk is consistent then. */
  async powerOff(withinMs: number): Promise<void> {
    this.#agent?.send('guest-shutdown', { mode: 'powerdown' });
    const deadline = performance.now() + withinMs;
    while (!this.#ended) {
      const leftMs = deadline - performance.now();
      if (leftMs <= 0) throw this.#failure(`the guest did not power off within ${withinMs} ms`);
      await this.#nextEvent(leftMs);
    }
    await this.stop();
  }

  /** Ends the guest at once, as if the power had failed, and removes what the trial made. */
  async stop(): Promise<void> {
    this.#agent?.close();
    if (!this.#ended) this.#qemu.kill('SIGKILL');
    await this.#exited;
    await rm(this.#directory, { recursive: true, force: true });
  }

  get #agentPath(): string {
    return join(this.#directory, 'agent');
  }

  get #ended(): boolean {
    return this.#qemu.exitCode !== null || this.#qemu.signalCode !== null || this.#qemu.pid === undefined;
  }

  #nextEvent(withinMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, withinMs);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  #failure(what: string): Error {
    const state = this.#ended
      ? `QEMU has ended (${this.#qemu.exitCode ?? this.#qemu.signalCode}): ${this.#errors}`
      : 'QEMU still runs';
    const lines = this.#console.slice(-CONSOLE_LINES_KEPT).map(({ line }) => line);
    return new Error(`${what}; ${state}. The console's last lines:\n${lines.join('\n')}`);
  }
}

interface ExecStatus {
  readonly exited: boolean;
  readonly exitcode?: number;
  readonly 'out-data'?: string;
  readonly 'err-data'?: string;
}

function qemuCommand(options: TrialOptions, agentPath: string): string[] {
  const { accelerator, memoryMiB, monitor, network } = options;
  const memory = `${memoryMiB}M`;
  const device = (...values: string[]) => values.flatMap((value) => ['-device', value]);
  return [
    'qemu-system-x86_64',
    ...['-accel', accelerator === 'kvm' ? 'kvm' : 'tcg', '-cpu', accelerator === 'kvm' ? 'host' : 'max'],
    ...['-machine', 'q35,memory-backend=ram', '-m', memory, '-smp', String(options.vcpus ?? 1), '-uuid', randomUUID()],
    ...['-object', `memory-backend-memfd,id=ram,size=${memory},share=on`],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-serial', 'stdio'],
    ...['-kernel', options.kernel, '-initrd', options.initrd, '-append', options.commandLine],
    ...[
      '-drive',
      `file=${options.disk},format=raw,if=none,id=disk,discard=unmap,snapshot=${options.keepWrites ? 'off' : 'on'}`,
    ],
    ...device('virtio-blk-pci,drive=disk', 'virtio-rng-pci', 'virtio-serial-pci'),
    ...(options.dataDisk === undefined
      ? []
      : [
          ...['-drive', `file=${options.dataDisk},format=raw,if=none,id=data,discard=unmap`],
          ...device('virtio-blk-pci,drive=data'),
        ]),
    ...(monitor === undefined ? [] : ['-qmp', `unix:${monitor},server=on,wait=off`]),
    ...['-chardev', `socket,id=agent,path=${agentPath},server=on,wait=off`],
    ...device(`virtserialport,chardev=agent,name=${AGENT_CHANNEL}`),
    ...(network === undefined
      ? device('virtio-net-pci,romfile=')
      : ['-netdev', `${network},id=net`, ...device('virtio-net-pci,netdev=net,romfile=')]),
  ];
}

/** QEMU's guest agent over its own socket: one call at a time, JSON lines. */
class AgentConnection {
  readonly #socket: Socket;
  readonly #lines: Interface;
  #answer: (answer: unknown) => void = () => {};
  #syncId = 0;

  static async open(path: string): Promise<AgentConnection> {
    const socket = createConnection(path);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    return new AgentConnection(socket);
  }

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('error', () => {});
    this.#lines = createInterface({ input: socket });
    this.#lines.on('line', (line) => {
      try {
        this.#answer(JSON.parse(line));
      } catch {
        // The rest of an answer that was cut by a reset: the next synchronization finds the beginning of a new one.
      }
    });
  }

  send(execute: string, args: Readonly<Record<string, unknown>>): void {
    this.#socket.write(`${JSON.stringify({ execute, arguments: args })}\n`);
  }

  async call(execute: string, args: Readonly<Record<string, unknown>>): Promise<unknown> {
    const answered = new Promise<{ return?: unknown; error?: { desc: string } }>((resolve) => {
      this.#answer = resolve as (answer: unknown) => void;
    });
    this.send(execute, args);
    const answer = await answered;
    if (answer.error !== undefined) throw new Error(`the guest agent refused ${execute}: ${answer.error.desc}`);
    return answer.return;
  }

  /** Asks for an echo of a number that was not used before: answers to earlier questions are passed over. */
  async isAlive(withinMs: number): Promise<boolean> {
    this.#syncId += 1;
    const id = this.#syncId;
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), withinMs);
      this.#answer = (answer) => {
        if ((answer as { return?: unknown }).return !== id) return;
        clearTimeout(timer);
        resolve(true);
      };
      this.send('guest-sync', { id });
    });
  }

  close(): void {
    this.#lines.close();
    this.#socket.destroy();
  }
}

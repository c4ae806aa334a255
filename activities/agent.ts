/**
 * The guest agent: commands inside a guest, through libvirt and QEMU's channel, without a network. The guest is hostile
 * input: it may answer anything, late or never. Each answer is checked against a schema and bounded; what it says goes
 * into messages only cut and escaped (`quoteGuest`).
 *
 * qemu-ga runs a command in the background (guest-exec) and is asked until it has ended (guest-exec-status). libvirt
 * answers one agent command at a time for each domain, so they are serialised here instead of failing there.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { z } from 'zod';
import { CielFailure } from '../model/failures.ts';
import { LIBVIRT_ERRORS, type Libvirt, LibvirtError, LibvirtStuck } from '../native/libvirt.ts';

/** For one agent command, which only starts something or reads a state. */
const ANSWER_WITHIN_SECONDS = 10;
const FIRST_POLL_MS = 20;
const SLOWEST_POLL_MS = 500;
/** qemu-ga itself stops capturing at 16 MiB. */
const MOST_OUTPUT_BYTES = 256 * 1024;
const MOST_OUTPUT_BASE64 = Math.ceil(MOST_OUTPUT_BYTES / 3) * 4;
const QUOTED_CHARACTERS = 400;
/** qemu-ga's own environment may lack the directories that administration needs. */
const GUEST_ENVIRONMENT = [
  'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  'HOME=/root',
  'LC_ALL=C',
];

export interface GuestCommand {
  readonly command: string;
  readonly args: readonly string[];
  readonly input?: string;
  readonly withinMs: number;
  readonly signal: AbortSignal;
  /** Called between two polls, for progress. */
  readonly meanwhile?: () => Promise<void>;
}
export interface GuestResult {
  /** null: ended by a signal. */
  readonly exitCode: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

interface AgentCommand {
  readonly execute: string;
  readonly arguments?: object;
}

const output = z.string().max(MOST_OUTPUT_BASE64).optional();
const startedSchema = z.object({ return: z.object({ pid: z.int().nonnegative() }) });
const statusSchema = z.object({
  return: z.object({
    exited: z.boolean(),
    exitcode: z.int().optional(),
    'out-data': output,
    'err-data': output,
  }),
});
const pongSchema = z.object({ return: z.object({}) });

export class GuestAgent {
  readonly #libvirt: Pick<Libvirt, 'agentCommand'>;
  /** The last command of each domain, settled or not. */
  readonly #lines = new Map<string, Promise<unknown>>();

  constructor(libvirt: Pick<Libvirt, 'agentCommand'>) {
    this.#libvirt = libvirt;
  }

  /** Fails with AgentUnreachable unless the agent answers. */
  async ping(uuid: string): Promise<void> {
    await this.#ask(uuid, { execute: 'guest-ping' }, pongSchema);
  }

  /**
   * Runs a command in the guest as root and waits for its end; its exit code is the caller's to judge.
   * Failures: AgentUnreachable, HypervisorUnreachable, GuestNotReady (not ended in time), TemplateBroken (no such command).
   */
  async run(uuid: string, { command, args, input, withinMs, signal, meanwhile }: GuestCommand): Promise<GuestResult> {
    const deadline = performance.now() + withinMs;
    const { pid } = await this.#ask(
      uuid,
      {
        execute: 'guest-exec',
        arguments: {
          path: command,
          arg: args,
          env: GUEST_ENVIRONMENT,
          'capture-output': true,
          ...(input === undefined ? {} : { 'input-data': Buffer.from(input).toString('base64') }),
        },
      },
      startedSchema,
    );
    for (let wait = FIRST_POLL_MS; ; wait = Math.min(wait * 1.5, SLOWEST_POLL_MS)) {
      await pause(wait, undefined, { signal });
      const status = await this.#ask(uuid, { execute: 'guest-exec-status', arguments: { pid } }, statusSchema);
      if (status.exited) {
        return {
          exitCode: status.exitcode ?? null,
          stdout: decode(status['out-data']),
          stderr: decode(status['err-data']),
        };
      }
      if (performance.now() > deadline) {
        throw new CielFailure(
          'GuestNotReady',
          `ran "${command}" in domain ${uuid} by its guest agent: it did not end within ${withinMs} ms. ` +
            'The guest is overloaded or hangs; it is tried again.',
        );
      }
      await meanwhile?.();
    }
  }

  async #ask<T>(uuid: string, command: AgentCommand, schema: z.ZodType<{ return: T }>): Promise<T> {
    const answer = await this.#inLine(uuid, () =>
      this.#libvirt.agentCommand(uuid, command, ANSWER_WITHIN_SECONDS),
    ).catch((error: unknown) => {
      throw agentFailure(uuid, command, error);
    });
    const checked = schema.safeParse(answer);
    if (checked.success) return checked.data.return;
    const problem = checked.error.issues[0];
    throw new CielFailure(
      'AgentUnreachable',
      `the guest agent of domain ${uuid} answered ${command.execute} with something else than the protocol allows ` +
        `(${problem?.path.join('.')}: ${problem?.message}). Look at the guest; it is tried again.`,
    );
  }

  #inLine<T>(uuid: string, act: () => Promise<T>): Promise<T> {
    const before = this.#lines.get(uuid) ?? Promise.resolve();
    const mine = before.then(act, act);
    const settled = mine.catch(() => {});
    this.#lines.set(uuid, settled);
    settled.then(() => {
      if (this.#lines.get(uuid) === settled) this.#lines.delete(uuid);
    });
    return mine;
  }
}

/** Text that a guest gave, fit for messages: one line, printable, short. */
export function quoteGuest(text: string): string {
  const printable = text
    .trim()
    .replace(/[\r\n]+/g, ' / ')
    .replace(/[^\x20-\x7e]/g, '?');
  return printable.length > QUOTED_CHARACTERS ? `…${printable.slice(-QUOTED_CHARACTERS)}` : printable;
}

function decode(base64: string | undefined): string {
  return Buffer.from(base64 ?? '', 'base64').toString('utf8');
}

function agentFailure(uuid: string, command: AgentCommand, error: unknown): unknown {
  const tried = `asked the guest agent of domain ${uuid} for ${command.execute}`;
  if (error instanceof LibvirtStuck || (error instanceof LibvirtError && error.connectionLost)) {
    return new CielFailure(
      'HypervisorUnreachable',
      `${tried}: ${error.message}. Is libvirtd running? It is tried again.`,
      { cause: error },
    );
  }
  if (!(error instanceof LibvirtError)) return error;
  const found = quoteGuest(error.message);
  if (/Failed to execute child process.*No such file|has been disabled/i.test(error.message)) {
    return new CielFailure(
      'TemplateBroken',
      `${tried}: ${found}. The template must have ip, docker and nsenter, and its qemu-guest-agent must allow guest-exec.`,
      { cause: error },
    );
  }
  const off = error.code === LIBVIRT_ERRORS.noDomain || error.code === LIBVIRT_ERRORS.operationInvalid;
  return new CielFailure(
    'AgentUnreachable',
    off
      ? `${tried}, but the domain is not running: ${found}.`
      : `${tried}: ${found}. The guest is still booting, or qemu-guest-agent does not run in it; it is tried again.`,
    { cause: error },
  );
}

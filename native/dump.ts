/**
 * One look into a dump: an ELF core, a kdump file, a libvirt save image, a QEMU migration stream.
 *
 * Whoever made the dump, its pages are a guest's, so it is read in a child process, like a running guest's memory: what
 * crashes or hangs the mapper ends the child, and this answers with the reason.
 */
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { type Reading, unavailable } from '../model/reading.ts';
import type { VmIntrospection } from '../model/usage.ts';

export interface DumpReading {
  /** "ELF core", "kdump", … */
  readonly format: string;
  readonly introspection: VmIntrospection;
}

/** What the child sends, once. */
export type DumpReply =
  | { readonly kind: 'reading'; readonly reading: Reading<DumpReading> }
  | { readonly kind: 'failed'; readonly message: string };

/** A terabyte from a disk takes a while; a dump that keeps the child busy without end does not get it. */
const DEFAULT_DEADLINE_MS = 15 * 60_000;

export async function readDump(
  path: string,
  {
    deadlineMs = DEFAULT_DEADLINE_MS,
    btfDirectory = null,
    signal,
  }: {
    readonly deadlineMs?: number;
    /** Of detached BTF files, for a kernel that carries no types. */
    readonly btfDirectory?: string | null;
    readonly signal?: AbortSignal;
  } = {},
): Promise<Reading<DumpReading>> {
  const compiled = import.meta.url.endsWith('.js');
  const file = fileURLToPath(new URL(`./dump-child.${compiled ? 'js' : 'ts'}`, import.meta.url));
  const child = fork(file, [path, btfDirectory ?? ''], {
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    execArgv: compiled ? ['--enable-source-maps'] : ['--import', 'tsx'],
  });
  let reply: DumpReply | null = null;
  child.once('message', (message: DumpReply) => {
    reply = message;
  });
  const stop = (): void => {
    child.kill('SIGKILL');
  };
  const late = setTimeout(stop, deadlineMs);
  signal?.addEventListener('abort', stop, { once: true });
  const ended = await new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('exit', (code, name) => resolve(name ?? `exit ${code}`));
  });
  clearTimeout(late);
  signal?.removeEventListener('abort', stop);
  return readingOf(reply, ended, deadlineMs);
}

function readingOf(reply: DumpReply | null, ended: string, deadlineMs: number): Reading<DumpReading> {
  if (reply?.kind === 'reading') return reply.reading;
  if (reply?.kind === 'failed') return unavailable('ReaderDown', `the reader failed: ${reply.message}`);
  if (ended === 'SIGKILL')
    return unavailable('Exhausted', `reading the dump was not done in ${deadlineMs} ms, or killed`);
  return unavailable('ReaderDown', `the reader ended (${ended}) while it read the dump`);
}

/**
 * Opens a running QEMU's own view of a guest's disk, read only, for as long as it is read.
 *
 * QEMU has one NBD server per process, which libvirt's pull backups and storage migration want too. So it runs only
 * around a look-up, and a server that is not ours is never used and never stopped: the reading is then NbdBusy. What is
 * ours is told by name: exports are called ciel-<random>, and the server listens at ciel-nbd.sock in a directory that
 * belongs to this one VM (the domain's own, where a confined QEMU may make sockets). A look-up first removes the
 * exports that a crash left, and takes over a server that still listens at our path: an export with a fresh random name
 * is found there only if it is this QEMU's.
 *
 *   query-block, query-block-exports      nothing of others is exported
 *   nbd-server-start                      or taken over
 *   block-export-add ciel-<random>        … the look-up …  block-export-del, awaited
 *   nbd-server-stop
 */
import { randomBytes } from 'node:crypto';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { available, type Reading, unavailable } from '../model/reading.ts';
import { asDiskUnreadable, type DiskSource, DiskUnreadable } from './disk.ts';

/** Gives QEMU one command and returns its whole answer: `{ return: … }` or `{ error: { desc, … } }`. */
export type Monitor = (command: { execute: string; arguments?: object }) => Promise<unknown>;

export interface ExportedDisk {
  /** QEMU's name for the disk's topmost node, whatever its image format and snapshots. */
  readonly nodeName: string;
  readonly source: DiskSource & { kind: 'nbd' };
}

const OURS = 'ciel-';
const SOCKET_NAME = 'ciel-nbd.sock';
/** The limit of sun_path, its closing zero included. */
const MAX_SOCKET_PATH_BYTES = 108;
/** An export ends when its connections are gone, which takes QEMU a turn of its main loop. */
const EXPORT_GONE_ATTEMPTS = 50;
const EXPORT_GONE_POLL_MS = 20;

const answerSchema = z.union([z.object({ return: z.unknown() }), z.object({ error: z.object({ desc: z.string() }) })]);
const blockSchema = z.array(
  z.object({
    removable: z.boolean(),
    inserted: z
      .object({ 'node-name': z.string().optional(), image: z.object({ 'virtual-size': z.number() }) })
      .optional(),
  }),
);
const exportsSchema = z.array(z.object({ id: z.string(), type: z.string() }));

/** The nodes of a VM's fixed disks, in the order in which QEMU lists them; the first is usually the system's. */
export async function listDiskNodes(monitor: Monitor): Promise<string[]> {
  const devices = await ask(monitor, blockSchema, 'query-block');
  return devices.flatMap(({ removable, inserted }) => {
    const nodeName = inserted?.['node-name'];
    return !removable && nodeName && inserted.image['virtual-size'] > 0 ? [nodeName] : [];
  });
}

/**
 * Exports one disk (the first, unless `nodeName` says which), calls `use`, and takes the export back whatever happens.
 * One call at a time per VM; `directory` belongs to that VM alone. `seenAs` is the same directory as this process sees it,
 * when QEMU lives in a mount namespace where the path means something else.
 */
export async function withQemuExport<T>(
  monitor: Monitor,
  options: { readonly directory: string; readonly seenAs?: string; readonly nodeName?: string },
  use: (disk: ExportedDisk) => Promise<Reading<T>>,
): Promise<Reading<T>> {
  const socketPath = join(options.directory, SOCKET_NAME);
  const seenSocketPath = join(options.seenAs ?? options.directory, SOCKET_NAME);
  try {
    for (const path of [socketPath, seenSocketPath]) {
      if (Buffer.byteLength(path) < MAX_SOCKET_PATH_BYTES) continue;
      throw new DiskUnreadable('Unsupported', `${path} is too long for a socket; choose a shorter directory`);
    }
    const nodeName = options.nodeName ?? (await listDiskNodes(monitor))[0];
    if (nodeName === undefined) throw new DiskUnreadable('NotFound', 'the VM has no fixed disk');
    await openServer(monitor, socketPath, seenSocketPath);
    const exportName = `${OURS}${randomBytes(8).toString('hex')}`;
    try {
      await ask(monitor, z.unknown(), 'block-export-add', {
        type: 'nbd',
        id: exportName,
        name: exportName,
        'node-name': nodeName,
        writable: false,
      });
      return await use({ nodeName, source: { kind: 'nbd', socketPath: seenSocketPath, exportName } });
    } finally {
      // What cannot be closed now (the VM went away, the monitor hangs) is a leftover, which the next look-up removes. It
      // must not hide what this one found.
      await closeServer(monitor).catch(() => undefined);
    }
  } catch (error) {
    const { reason, message } = asDiskUnreadable(error);
    return unavailable(reason, message);
  }
}

/** Removes what a crash left: exports of ours, and the server if it is ours. What is not ours stays. */
export async function removeLeftoverExport(monitor: Monitor, directory: string): Promise<Reading<boolean>> {
  try {
    const { ours, others } = await listExports(monitor);
    const listens = await isListening(join(directory, SOCKET_NAME));
    if (others.length > 0 || (ours.length === 0 && !listens)) return available(false);
    await closeServer(monitor);
    return available(true);
  } catch (error) {
    const { reason, message } = asDiskUnreadable(error);
    return unavailable(reason, message);
  }
}

async function openServer(monitor: Monitor, socketPath: string, seenSocketPath: string): Promise<void> {
  const { ours, others } = await listExports(monitor);
  if (others.length > 0) {
    throw new DiskUnreadable(
      'NbdBusy',
      `QEMU's NBD server exports ${others.map((id) => JSON.stringify(id)).join(', ')} for others`,
    );
  }
  if (ours.length > 0) await removeExports(monitor, ours);
  try {
    await ask(monitor, z.unknown(), 'nbd-server-start', { addr: { type: 'unix', data: { path: socketPath } } });
  } catch (error) {
    const isRunning = error instanceof DiskUnreadable && error.message.includes('already running');
    if (!isRunning) throw error;
    if (!(await isListening(seenSocketPath))) {
      throw new DiskUnreadable('NbdBusy', "QEMU's NBD server was started by somebody else (a backup or a migration)");
    }
  }
}

async function closeServer(monitor: Monitor): Promise<void> {
  const { ours } = await listExports(monitor);
  await removeExports(monitor, ours);
  // Somebody may have added an export to our server meanwhile; it is then theirs to stop.
  const { others } = await listExports(monitor);
  if (others.length === 0) await ask(monitor, z.unknown(), 'nbd-server-stop');
}

async function removeExports(monitor: Monitor, ids: readonly string[]): Promise<void> {
  for (const id of ids) await ask(monitor, z.unknown(), 'block-export-del', { id, mode: 'hard' });
  for (let attempt = 0; (await listExports(monitor)).ours.length > 0; attempt++) {
    if (attempt === EXPORT_GONE_ATTEMPTS) throw new DiskUnreadable('Unreachable', 'QEMU does not end its export');
    await sleep(EXPORT_GONE_POLL_MS);
  }
}

async function listExports(monitor: Monitor): Promise<{ ours: string[]; others: string[] }> {
  const ids = (await ask(monitor, exportsSchema, 'query-block-exports'))
    .filter(({ type }) => type === 'nbd')
    .map(({ id }) => id);
  return { ours: ids.filter((id) => id.startsWith(OURS)), others: ids.filter((id) => !id.startsWith(OURS)) };
}

async function ask<T extends z.ZodType>(
  monitor: Monitor,
  schema: T,
  execute: string,
  args?: object,
): Promise<z.infer<T>> {
  const raw = await monitor(args ? { execute, arguments: args } : { execute }).catch((cause: unknown) => {
    throw new DiskUnreadable('Unreachable', `QEMU's monitor did not take ${execute}: ${String(cause)}`, { cause });
  });
  const answer = answerSchema.safeParse(raw);
  if (!answer.success) throw new DiskUnreadable('Malformed', `QEMU answered ${execute} with neither return nor error`);
  if ('error' in answer.data) {
    throw new DiskUnreadable('Unreachable', `QEMU refused ${execute}: ${answer.data.error.desc}`);
  }
  const value = schema.safeParse(answer.data.return);
  if (!value.success)
    throw new DiskUnreadable('Malformed', `QEMU answered ${execute} unexpectedly: ${value.error.message}`);
  return value.data;
}

function isListening(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection({ path: socketPath });
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

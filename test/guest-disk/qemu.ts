/** A QEMU's monitor over its QMP socket, as tests talk to it; the product talks through libvirt. */
import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import type { Monitor } from '../../guest-disk/qemu-export.ts';

export interface QmpConnection {
  readonly monitor: Monitor;
  close(): void;
}

const STARTING_MS = 20_000;
const RETRY_MS = 20;

/** Waits for a QEMU that is starting: its socket's file is there a moment before it listens. */
export async function connectQmp(socketPath: string): Promise<QmpConnection> {
  const socket = await openSocket(socketPath);
  const lines = createInterface({ input: socket })[Symbol.asyncIterator]();
  const nextAnswer = async (): Promise<unknown> => {
    for (;;) {
      const { value, done } = await lines.next();
      if (done) throw new Error(`QEMU closed ${socketPath}`);
      const message = JSON.parse(value) as Record<string, unknown>;
      if ('return' in message || 'error' in message) return message;
    }
  };
  const monitor: Monitor = (command) => {
    socket.write(`${JSON.stringify(command)}\n`);
    return nextAnswer();
  };
  await monitor({ execute: 'qmp_capabilities' });
  return { monitor, close: () => socket.destroy() };
}

async function openSocket(path: string): Promise<Socket> {
  const deadline = Date.now() + STARTING_MS;
  for (;;) {
    const socket = createConnection({ path });
    try {
      await once(socket, 'connect');
      return socket;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if ((code !== 'ENOENT' && code !== 'ECONNREFUSED') || Date.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

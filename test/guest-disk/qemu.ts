/** A QEMU's monitor over its QMP socket, as tests talk to it; the product talks through libvirt. */
import { createConnection } from 'node:net';
import { createInterface } from 'node:readline';
import type { Monitor } from '../../guest-disk/qemu-export.ts';

export interface QmpConnection {
  readonly monitor: Monitor;
  close(): void;
}

export async function connectQmp(socketPath: string): Promise<QmpConnection> {
  const socket = createConnection({ path: socketPath });
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

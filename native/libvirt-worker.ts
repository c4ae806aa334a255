/**
 * One thread that calls libvirt, one call at a time, over a connection of its own. It opens the connection when a call
 * needs one, and drops it when it is lost.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { calls, openConnection } from './libvirt-calls.ts';
import { LibvirtError } from './libvirt-errors.ts';
import { C, type ConnectionPointer } from './libvirt-ffi.ts';
import type { CallAnswer, CallRequest, WorkerStart } from './libvirt-protocol.ts';

const port = parentPort;
if (port === null) throw new Error('libvirt-worker runs in a worker thread only');
const { uri } = workerData as WorkerStart;

let connection: ConnectionPointer | null = null;

function run({ call, args }: CallRequest): unknown {
  if (call === 'openForEvents') return openConnection(uri);
  if (connection !== null && C.isAlive(connection) !== 1) drop(connection);
  connection ??= openConnection(uri);
  const act = calls[call] as (connection: ConnectionPointer, ...args: readonly unknown[]) => unknown;
  try {
    return act(connection, ...args);
  } catch (error) {
    if (error instanceof LibvirtError && error.connectionLost) drop(connection);
    throw error;
  }
}

function drop(lost: ConnectionPointer): void {
  C.close(lost);
  connection = null;
}

port.on('message', (request: CallRequest | 'close') => {
  if (request === 'close') {
    if (connection !== null) C.close(connection);
    port.close();
    return;
  }
  let answer: CallAnswer;
  try {
    answer = { id: request.id, ok: true, value: run(request) };
  } catch (error) {
    answer =
      error instanceof LibvirtError
        ? {
            id: request.id,
            ok: false,
            libvirt: {
              message: error.message,
              code: error.code,
              domain: error.domain,
              connectionLost: error.connectionLost,
            },
          }
        : { id: request.id, ok: false, message: error instanceof Error ? error.message : String(error) };
  }
  port.postMessage(answer);
});

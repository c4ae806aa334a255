/**
 * The one thread of a process that runs libvirt's event loop. libvirt has a single loop a process: it delivers the
 * lifecycle events of every connection, and answers the keepalives of all of them, those of the call threads included.
 *
 * The loop blocks this thread, so requests are taken between two rounds (at most TICK_MS apart); reports leave at once.
 */
import { parentPort, receiveMessageOnPort } from 'node:worker_threads';
import {
  C,
  type Callback,
  type ConnectionPointer,
  callback,
  type DomainPointer,
  domainUuid,
  lastError,
  releaseCallback,
} from './libvirt-ffi.ts';
import { DOMAIN_EVENTS, type EventReport, type EventRequest } from './libvirt-protocol.ts';

const port = parentPort;
if (port === null) throw new Error('libvirt-events runs in a worker thread only');
const report = (event: EventReport) => port.postMessage(event);

const TICK_MS = 100;
const LIFECYCLE = 0;

interface Watch {
  readonly connection: ConnectionPointer;
  readonly registration: number;
  readonly listener: Callback;
}
const watches = new Map<number, Watch>();
const LIFECYCLE_PROTOTYPE = 'int ciel_lifecycle(void *connection, void *domain, int event, int detail, void *data)';

/** @param connection this thread's from now on. */
function watch(number: number, connection: ConnectionPointer): void {
  const listener = callback(
    LIFECYCLE_PROTOTYPE,
    (_connection: ConnectionPointer, domain: DomainPointer, event: number, detail: number) => {
      const name = DOMAIN_EVENTS[event];
      // A kind that this libvirt has and we do not know.
      if (name === undefined) return 0;
      report({
        kind: 'lifecycle',
        watch: number,
        event: { uuid: domainUuid(domain), name: C.name(domain), event: name, detail },
      });
      return 0;
    },
  );
  const registration = C.registerDomainEvent(connection, null, LIFECYCLE, listener, null, null);
  if (registration < 0) {
    const error = lastError(connection);
    C.close(connection);
    releaseCallback(listener);
    report({ kind: 'lost', watch: number, message: error.message });
    return;
  }
  watches.set(number, { connection, registration, listener });
  report({ kind: 'watching', watch: number });
}

function unwatch(number: number): void {
  const watched = watches.get(number);
  if (watched === undefined) return;
  watches.delete(number);
  C.deregisterDomainEvent(watched.connection, watched.registration);
  C.close(watched.connection);
  releaseCallback(watched.listener);
}

function reportLost(): void {
  for (const [number, { connection }] of watches) {
    if (C.isAlive(connection) === 1) continue;
    unwatch(number);
    report({ kind: 'lost', watch: number, message: 'libvirtd closed the connection or stopped answering' });
  }
}

C.registerEventLoop();
const timer = C.addTimeout(
  TICK_MS,
  callback('void ciel_tick(int timer, void *data)', () => {}),
  null,
  null,
);
report({ kind: 'ready' });

let running = true;
while (running) {
  for (let received = receiveMessageOnPort(port); received !== undefined; received = receiveMessageOnPort(port)) {
    const request = received.message as EventRequest;
    if (request.kind === 'watch') watch(request.watch, request.connection);
    else if (request.kind === 'unwatch') unwatch(request.watch);
    else running = false;
  }
  if (C.runEventLoop() < 0) throw lastError(null);
  reportLost();
}
// The loop outlives this thread: what it would call back into must be gone.
for (const number of [...watches.keys()]) unwatch(number);
C.runEventLoop();
C.removeTimeout(timer);
port.close();

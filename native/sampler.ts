/**
 * The child process that introspects. It holds the attaches and makes the blocking native calls, so that a guest that
 * crashes or hangs the mapper takes down nothing but this: the parent (introspection.ts) kills and restarts it, and it
 * attaches again from its cache files.
 *
 * VMs of a request are read one after the other, and each answer is sent before the next VM is touched: so the parent
 * knows which VM was being read when the process died or stopped answering.
 */
import { GuestWatch } from './guest-watch.ts';
import type { SamplerReply, SamplerRequest } from './sampler-protocol.ts';

const cacheDirectory = process.argv[2] || null;
const watches = new Map<string, GuestWatch>();
let newest = 0;

function send(reply: SamplerReply): void {
  process.send?.(reply);
}

function watchOf(vm: ConstructorParameters<typeof GuestWatch>[0]): GuestWatch {
  const known = watches.get(vm.uuid);
  if (known?.isFor(vm)) return known;
  known?.close();
  const watch = new GuestWatch(vm, cacheDirectory);
  watches.set(vm.uuid, watch);
  return watch;
}

async function sample(request: Extract<SamplerRequest, { kind: 'sample' }>): Promise<void> {
  for (const vm of request.vms) {
    if (newest !== request.id) return;
    try {
      send({ kind: 'reading', id: request.id, uuid: vm.uuid, reading: await watchOf(vm).sample() });
    } catch (error) {
      send({ kind: 'failed', id: request.id, uuid: vm.uuid, message: String(error) });
    }
  }
}

let busy: Promise<void> = Promise.resolve();
process.on('message', (request: SamplerRequest) => {
  if (request.kind === 'sample') {
    newest = request.id;
    busy = busy.then(() => sample(request));
    return;
  }
  busy = busy.then(() => {
    watches.get(request.uuid)?.close();
    watches.delete(request.uuid);
  });
});
process.on('disconnect', () => process.exit(0));
// Ctrl-C reaches the whole process group; the parent decides when this process ends.
process.on('SIGINT', () => {});
send({ kind: 'ready' });

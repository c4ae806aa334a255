/**
 * The child process that finds kernels in RAM for the sampler (attach-pool.ts): one attach at a time, whose result is the
 * cache file that it leaves. So neither the time of an attach nor what a guest does to it costs the other VMs anything.
 */
import { type AttachRequest, attach, MapperError } from './mapper.ts';
import type { AttachReply } from './sampler-protocol.ts';

function answer(request: AttachRequest): AttachReply {
  try {
    attach(request).detach();
    return { kind: 'attached' };
  } catch (error) {
    if (error instanceof MapperError) return { kind: 'failed', reason: error.reason, message: error.message };
    return { kind: 'failed', reason: 'ReaderDown', message: `the attacher failed: ${error}` };
  }
}

process.on('message', (request: AttachRequest) => {
  process.send?.(answer(request));
});
process.on('disconnect', () => process.exit(0));
// Ctrl-C reaches the whole process group; the parent decides when this process ends.
process.on('SIGINT', () => {});

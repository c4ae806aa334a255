/** The child process behind dump.ts: reads one dump, answers, ends. */
import { available, unavailable } from '../model/reading.ts';
import type { DumpReply } from './dump.ts';
import { attachDump, MapperError } from './mapper.ts';

function read(path: string, btfDirectory: string | null): DumpReply {
  try {
    const { guest, format } = attachDump(path, btfDirectory);
    return { kind: 'reading', reading: available({ format, introspection: guest.sample() }) };
  } catch (error) {
    if (error instanceof MapperError) return { kind: 'reading', reading: unavailable(error.reason, error.message) };
    return { kind: 'failed', message: String(error) };
  }
}

// Ctrl-C reaches the whole process group; the parent decides when this process ends.
process.on('SIGINT', () => {});
process.send?.(read(process.argv[2] ?? '', process.argv[3] || null), () => process.disconnect());

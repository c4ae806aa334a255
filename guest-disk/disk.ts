/**
 * The room guest-disk reads a running guest's virtual disk from outside, to learn who its containers are.
 *
 *   vm-containers.ts the door for a running VM: through qemu-export.ts, which asks its QEMU for a view of the disk, to
 *   reader.ts        the door for a disk: a worker thread with limits of time and memory; everything below runs in it
 *   runtimes/        what a container runtime keeps on disk; one file per runtime
 *   file-system.ts   what a runtime sees: paths; one file per file system (ext4.ts, its journal in journal.ts)
 *   partitions.ts    where on the disk file systems are
 *   disk.ts          a block source, and its implementations: nbd.ts (QEMU's own export), raw-file.ts
 *
 * The guest wrote every byte that is read here, and may be writing it now. Each parser checks what it reads before it
 * uses it, every loop has a named bound, and every failure is a DiskUnreadable with a reason that a caller can switch on.
 */
import type { UnavailableReason } from '../model/reading.ts';

/** Bytes addressed from 0: a disk, a partition. */
export interface BlockSource {
  readonly sizeBytes: number;
  /** Exactly `length` bytes from `offset`; rejects with DiskUnreadable when they are not all there. */
  read(offset: number, length: number): Promise<Buffer>;
}

/** A block source that holds something to be given back. */
export interface OpenBlockSource extends BlockSource {
  close(): Promise<void>;
}

/** Where a disk is found; plain data, so that it can be sent to the reader's thread. */
export type DiskSource =
  | { readonly kind: 'nbd'; readonly socketPath: string; readonly exportName: string }
  | { readonly kind: 'raw'; readonly path: string };

export class DiskUnreadable extends Error {
  readonly reason: UnavailableReason;
  constructor(reason: UnavailableReason, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'DiskUnreadable';
    this.reason = reason;
  }
}

/**
 * What a parser threw, as a reason. A length or offset that leaves its buffer is refused by Node with a RangeError,
 * whatever number the guest wrote: parsers need not check again what the buffer checks.
 */
export function asDiskUnreadable(error: unknown): DiskUnreadable {
  if (error instanceof DiskUnreadable) return error;
  if (error instanceof RangeError) {
    return new DiskUnreadable('Malformed', `a number on the disk is out of range: ${error.message}`, { cause: error });
  }
  throw error;
}

/** The largest single read; longer ones are a mistake of ours. */
export const MAX_READ_BYTES = 4 << 20;

/** A part of another source. A slice that reaches beyond its source is refused when it is made. */
export function slice(source: BlockSource, start: number, sizeBytes: number): BlockSource {
  checkRange(source, start, sizeBytes);
  const part: BlockSource = {
    sizeBytes,
    read: async (offset, length) => {
      checkRange(part, offset, length);
      return source.read(start + offset, length);
    },
  };
  return part;
}

/** Ends a look-up that reads more than any honest disk makes it read, whatever loop the guest has led us into. */
export function withReadBudget(source: BlockSource, budget: { bytes: number; reads: number }): BlockSource {
  let bytes = 0;
  let reads = 0;
  return {
    sizeBytes: source.sizeBytes,
    read: async (offset, length) => {
      checkRange(source, offset, length);
      if (length > MAX_READ_BYTES) {
        throw new DiskUnreadable('Exhausted', `a read of ${length} bytes is more than ${MAX_READ_BYTES}`);
      }
      bytes += length;
      reads += 1;
      if (bytes > budget.bytes || reads > budget.reads) {
        throw new DiskUnreadable('Exhausted', `one look-up read ${bytes} bytes in ${reads} reads, and was stopped`);
      }
      return source.read(offset, length);
    },
  };
}

function checkRange(source: BlockSource, offset: number, length: number): void {
  const sane = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0;
  if (!sane || offset + length > source.sizeBytes) {
    throw new DiskUnreadable('Malformed', `bytes ${offset} to ${offset + length} of a disk of ${source.sizeBytes}`);
  }
}

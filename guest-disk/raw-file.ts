/**
 * A raw image, read directly. It is coherent with the QEMU that writes it, since both go through (or, with cache=none,
 * invalidate) the host's page cache. Other formats cannot be read this way: a second opener of a live qcow2 caches its
 * tables and does not see what the guest adds.
 */
import { open } from 'node:fs/promises';
import { DiskUnreadable, type OpenBlockSource } from './disk.ts';

export async function openRawFile(path: string): Promise<OpenBlockSource> {
  const file = await open(path, 'r').catch((cause: NodeJS.ErrnoException) => {
    const reason = cause.code === 'ENOENT' ? 'NotFound' : cause.code === 'EACCES' ? 'PermissionDenied' : 'Unreachable';
    throw new DiskUnreadable(reason, `cannot open the image ${path}: ${cause.message}`, { cause });
  });
  const status = await file.stat();
  if (!status.isFile()) {
    await file.close();
    throw new DiskUnreadable('Unsupported', `${path} is no regular file; read it through QEMU's export instead`);
  }
  return {
    sizeBytes: status.size,
    read: async (offset, length) => {
      const buffer = Buffer.alloc(length);
      let filled = 0;
      while (filled < length) {
        const { bytesRead } = await file.read(buffer, filled, length - filled, offset + filled);
        if (bytesRead === 0) throw new DiskUnreadable('Torn', `the image ${path} ends at byte ${offset + filled}`);
        filled += bytesRead;
      }
      return buffer;
    },
    close: () => file.close(),
  };
}

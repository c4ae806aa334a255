/** Files in memory as a file system, for what is tested of runtimes without a disk. */
import { DiskUnreadable, slice } from '../../guest-disk/disk.ts';
import type { DirectoryEntry, FileSystem } from '../../guest-disk/file-system.ts';
import { bufferSource } from './images.ts';

/** @param files by their paths, without a slash at the beginning; read anew at each call */
export function memoryFiles(files: Readonly<Record<string, Buffer>>): FileSystem {
  const fileAt = (path: string): Buffer | undefined => files[path.slice(1)];
  const below = (path: string) =>
    Object.keys(files).flatMap((name) =>
      `/${name}`.startsWith(`${path}/`) ? [`/${name}`.slice(path.length + 1)] : [],
    );
  const readFile = async (path: string, maxBytes: number): Promise<Buffer> => {
    const content = fileAt(path);
    if (!content) throw new DiskUnreadable('NotFound', `there is no ${path}`);
    if (content.length > maxBytes) throw new DiskUnreadable('Exhausted', `${path} is too large`);
    return content;
  };
  return {
    stat: async (path) => {
      const content = fileAt(path);
      if (content) return { type: 'file', sizeBytes: content.length };
      return below(path).length > 0 ? { type: 'directory', sizeBytes: 0 } : null;
    },
    readFile,
    openFile: async (path, maxBytes) => {
      const content = await readFile(path, maxBytes);
      return slice(bufferSource(content), 0, content.length);
    },
    readDirectory: async (path) => {
      const entries = new Map<string, DirectoryEntry['type']>();
      for (const name of below(path)) entries.set(name.split('/')[0] ?? '', name.includes('/') ? 'directory' : 'file');
      return [...entries].map(([name, type]) => ({ name, type }));
    },
    coherently: (read) => read(),
    forget: () => undefined,
    age: { journalledBlocks: 0, journalSequence: null, committedAtUnixMs: null, hasNewer: false },
  };
}

/** What a container runtime sees of a disk: paths. A file system is one file beside this one and a line in partitions.ts. */
import type { BlockSource } from './disk.ts';

export interface DirectoryEntry {
  readonly name: string;
  readonly type: 'file' | 'directory' | 'symlink' | 'other';
}

export interface FileStatus {
  readonly type: DirectoryEntry['type'];
  readonly sizeBytes: number;
}

/** Paths are absolute, `/` is the file system's own root; symlinks are followed, and never lead out of it. */
export interface FileSystem {
  /** null when there is nothing of that name. */
  stat(path: string): Promise<FileStatus | null>;
  /** Fails with NotFound, and with Exhausted when the file is larger than `maxBytes`. */
  readFile(path: string, maxBytes: number): Promise<Buffer>;
  /**
   * Parts of a file that is too large to be read whole; within the same `coherently` only. Fails as readFile does. Content
   * that the guest overwrites in place is in nobody's journal: who reads such a file (a database) checks it by its own
   * format.
   */
  openFile(path: string, maxBytes: number): Promise<BlockSource>;
  readDirectory(path: string): Promise<DirectoryEntry[]>;

  /**
   * Runs `read` against one state of the file system that the guest had committed, again when the guest changed what
   * was read meanwhile; Torn when that happens too often. One at a time. The functions above work only within it.
   */
  coherently<T>(read: () => Promise<T>): Promise<T>;

  /** Lets go of what can be read again; what a later `open` takes over stays. */
  forget(): void;

  /** How new what was read is. */
  readonly age: FileSystemAge;
}

export interface FileSystemAge {
  /** How many blocks are newer in the journal than at home. */
  readonly journalledBlocks: number;
  /** The newest transaction of the journal that was taken into account; null without a journal. */
  readonly journalSequence: number | null;
  /** When the guest committed it, by the guest's clock. */
  readonly committedAtUnixMs: number | null;
  /** There is something newer in a form that is not read here (ext4's fast commits). */
  readonly hasNewer: boolean;
}

export interface FileSystemFormat {
  readonly name: string;
  /**
   * null when the source holds another format. `previous` is the same file system as it was opened for an earlier
   * look-up: what was learned from it may be kept, where it is still true.
   */
  open(source: BlockSource, previous: FileSystem | undefined): Promise<FileSystem | null>;
}

/**
 * A file system as a container sees a part of it: what a volume holds, under the path where the container has it. So a
 * runtime in a container (Docker in Docker, kind) is read by the same code as one on the guest.
 */
import type { BlockSource } from './disk.ts';
import { DiskUnreadable } from './disk.ts';
import type { DirectoryEntry, FileStatus, FileSystem, FileSystemAge } from './file-system.ts';

export class MountedFileSystem implements FileSystem {
  readonly #outer: FileSystem;
  readonly #source: string;
  readonly #destination: string;

  /** Absolute symlinks in the volume lead into the guest's own tree: harmless, and of no use. */
  constructor(outer: FileSystem, mount: { readonly source: string; readonly destination: string }) {
    this.#outer = outer;
    this.#source = mount.source;
    this.#destination = mount.destination.replace(/\/+$/, '');
  }

  get age(): FileSystemAge {
    return this.#outer.age;
  }

  coherently<T>(read: () => Promise<T>): Promise<T> {
    return this.#outer.coherently(read);
  }

  forget(): void {}

  async stat(path: string): Promise<FileStatus | null> {
    const there = this.#outside(path);
    return there === null ? null : this.#outer.stat(there);
  }

  async readFile(path: string, maxBytes: number): Promise<Buffer> {
    return this.#outer.readFile(this.#outsideOrFail(path), maxBytes);
  }

  async openFile(path: string, maxBytes: number): Promise<BlockSource> {
    return this.#outer.openFile(this.#outsideOrFail(path), maxBytes);
  }

  async readDirectory(path: string): Promise<DirectoryEntry[]> {
    return this.#outer.readDirectory(this.#outsideOrFail(path));
  }

  /** null: not below the mount, and so not on this volume. */
  #outside(path: string): string | null {
    const isBelow = path === this.#destination || path.startsWith(`${this.#destination}/`);
    const leadsOut = path.split('/').includes('..');
    return isBelow && !leadsOut ? `${this.#source}${path.slice(this.#destination.length)}` : null;
  }

  #outsideOrFail(path: string): string {
    const there = this.#outside(path);
    if (there === null) throw new DiskUnreadable('NotFound', `there is no ${path} on the volume`);
    return there;
  }
}

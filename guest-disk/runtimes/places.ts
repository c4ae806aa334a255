/** Where runtimes keep their state: paths on a root file system, and on one that is mounted further down. */
import type { FileSystem } from '../file-system.ts';

const HOMES = '/home';
const MAX_HOMES = 64;

/** `/var/lib/docker` lies at /lib/docker of a file system that is mounted at /var, and is itself the root of one. */
export function placesOf(path: string): string[] {
  const names = path.split('/').slice(1);
  return [...names.map((_, index) => `/${names.slice(index).join('/')}`), ''];
}

/** A path below the homes of root and of those who may run containers without being root. */
export async function placesInHomes(fileSystem: FileSystem, path: string): Promise<string[]> {
  const isThere = (await fileSystem.stat(HOMES))?.type === 'directory';
  const homes = isThere ? await fileSystem.readDirectory(HOMES) : [];
  const names = homes.filter(({ type }) => type !== 'file').slice(0, MAX_HOMES);
  return [...names.map(({ name }) => `${HOMES}/${name}/${path}`)];
}

/** The first of these paths at which there is a file, or a directory. */
export async function firstOf(
  fileSystem: FileSystem,
  paths: readonly string[],
  type: 'file' | 'directory',
): Promise<string | null> {
  for (const path of paths) if ((await fileSystem.stat(path))?.type === type) return path;
  return null;
}

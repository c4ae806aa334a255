/** Files of this package as they are in the repository: found from the sources and from dist/ alike. */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** @param path from the package's root, as in the repository. */
export function sourceFile(path: string): string {
  let directory = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(directory, 'package.json'))) directory = dirname(directory);
  return join(directory, path);
}

export function sourceTexts(paths: readonly string[]): Promise<readonly string[]> {
  return Promise.all(paths.map((path) => readFile(sourceFile(path), 'utf8')));
}

/**
 * Benches: `npm run bench -- NAME [ARGUMENTS]` runs bench/NAME.ts. Each measures medians with spread, beside its peer in
 * the same run, prints a table and writes bench/results/NAME.json. Nothing here asserts: the machine is noisy.
 */
import { readdir } from 'node:fs/promises';

export type Bench = (args: readonly string[]) => Promise<void>;

const NOT_BENCHES = ['run', 'measure', 'crowd'];
const names = (await readdir(import.meta.dirname))
  .filter((file) => file.endsWith('.ts'))
  .map((file) => file.slice(0, -'.ts'.length))
  .filter((name) => !NOT_BENCHES.includes(name));
const [name, ...args] = process.argv.slice(2);
if (name === undefined || !names.includes(name)) {
  console.error(
    `${name === undefined ? 'Which bench?' : `There is no bench "${name}".`} There are: ${names.join(', ')}`,
  );
  process.exit(2);
}
const { default: bench } = (await import(`./${name}.ts`)) as { default: Bench };
await bench(args);

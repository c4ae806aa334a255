/**
 * `npm run bench -- introspect [PART …]`: what a look into guests costs, and whether it is right.
 *
 *   attach   the first attach to guests of 1 and of 16 GiB, and from the cache; drgn on the same RAM
 *   live     a real guest with three containers, by mapping its RAM and by process_vm_readv: attaches, samples, how far
 *            they are from the guest's own cgroup files, what reading does to the guest's memory
 *   hundred  100 containers with 2 and with 8 CPUs, both ways: first walk, repeats
 *   host     1,000 VMs with 20 containers each, once a second: CPU and memory of the sampler and of its parent
 *   agreement  ten minutes of random churn in each kernel of the matrix, figure by figure against the guest's own files
 *   memory     what an attach and an hour of samples do to the guest's memory, by each way of reading
 *   peers    CPU time a minute of Ciel, of cAdvisor and of `docker stats` for the same guest
 *   drag     how much a busy loop in a guest is slowed down by 10 samples a second
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { agreement } from './introspect/agreement.ts';
import { attaches } from './introspect/attach.ts';
import { drag } from './introspect/drag.ts';
import { wholeHost } from './introspect/host.ts';
import { hundred } from './introspect/hundred.ts';
import { live } from './introspect/live.ts';
import { memoryGrowth } from './introspect/memory.ts';
import { peers } from './introspect/peers.ts';
import { writeResults } from './measure.ts';

const PARTS = ['attach', 'live', 'hundred', 'host', 'agreement', 'memory', 'drag', 'peers'] as const;

const RESULTS = join(import.meta.dirname, 'results/introspect.json');

export default async function introspect(args: readonly string[]): Promise<void> {
  const first = args.findIndex((arg) => arg.startsWith('--'));
  const named = first < 0 ? args : args.slice(0, first);
  const options = first < 0 ? [] : args.slice(first);
  for (const part of named.length > 0 ? named : PARTS) {
    if (part === 'attach') await record(part, await attaches());
    else if (part === 'live') await record(part, await live());
    else if (part === 'hundred') await record(part, await hundred());
    else if (part === 'host') await record(part, await wholeHost());
    else if (part === 'agreement') await record(part, await agreement(options, (results) => record(part, results)));
    else if (part === 'memory') await record(part, await memoryGrowth());
    else if (part === 'drag') await record(part, await drag(options));
    else if (part === 'peers') await record(part, await peers(options));
    else throw new Error(`there is no part "${part}": ${PARTS.join(', ')}`);
    console.log(`${part}: written to ${RESULTS}`);
  }
}

/** Beside what other parts, and other guests of this part, have measured: runs of an hour go on meanwhile. */
async function record(part: string, result: Readonly<Record<string, unknown>>): Promise<void> {
  const text = await readFile(RESULTS, 'utf8').catch(() => '{}');
  const known = Object.entries(JSON.parse(text) as Record<string, unknown>);
  const results = Object.fromEntries(known.filter(([name]) => PARTS.some((one) => one === name)));
  const before = part === 'agreement' ? (results[part] as object | undefined) : undefined;
  results[part] = { ...before, ...result };
  await writeResults('introspect', results);
}

/**
 * `introspect hundred`: 100 containers with 2 and with 8 CPUs, RAM shared, private and forked by copy on write: first walk, repeats.
 *
 * The stand-in of a guest is read: the RAM is a real guest's, at a moment at which it stands still.
 */
import { join } from 'node:path';
import { requestOf } from '../../lab/attach-request.ts';
import { attach, type Guest, type SourceChoice } from '../../native/mapper.ts';
import { imageOfGuest, startCrowd } from '../crowd.ts';
import { spread } from '../measure.ts';
import { inDirectory, shown, sleep, WARM_UP_SAMPLES } from './part.ts';

const WALKS = 15;
const SAMPLES = 1000;

export async function hundred() {
  const results: Record<string, unknown> = {};
  for (const cpus of [2, 8]) {
    await inDirectory(async (directory) => {
      const image = join(directory, 'ram');
      console.log(`making a guest with 100 containers and ${cpus} CPUs`);
      await imageOfGuest(image, cpus, 100);
      for (const [source, memory] of [
        ['mapped', 'shared'],
        ['process', 'private'],
        ['process', 'forked'],
      ] as const) {
        const cache = join(directory, `${memory}.attach`);
        const crowd = await startCrowd(image, 1, memory, cache);
        try {
          const result = await measureHundred(crowd.vms[0]?.pid as number, source, cache);
          results[`${cpus} CPUs, ${memory}`] = result;
          console.log(
            `${cpus} CPUs, RAM ${memory}, read by ${source}: ${result.containers} containers; repeat ${shown(result.repeatMicroseconds)} µs, first walk ${shown(result.firstWalkMicroseconds)} µs, second ${shown(result.secondWalkMicroseconds)} µs`,
          );
        } finally {
          await crowd.end();
        }
      }
    });
  }
  return results;
}

async function measureHundred(pid: number, source: SourceChoice, cachePath: string) {
  const request = await requestOf(pid, { source, cachePath });
  const walks: number[][] = [];
  for (let i = 0; i < WALKS; i++) {
    const reader = attach(request);
    walks.push([1, 2].map(() => timed(reader)));
    if (reader.lastWork.viewsRepeated > 0) throw new Error('the second sample was no walk');
    reader.detach();
  }
  const reader = attach(request);
  const repeats: number[] = [];
  let repeated = 0;
  let run = 0;
  let containers = 0;
  for (let i = 0; i < SAMPLES + WARM_UP_SAMPLES; i++) {
    containers = reader.sample().containers.length;
    if (i < WARM_UP_SAMPLES) continue;
    repeats.push(Number(reader.lastElapsedNanoseconds) / 1000);
    repeated += reader.lastWork.viewsRepeated;
    run += reader.lastWork.viewsRun;
    await sleep(1);
  }
  reader.detach();
  return {
    containers,
    firstWalkMicroseconds: spread(walks.map(([first]) => first as number)),
    secondWalkMicroseconds: spread(walks.map(([, second]) => second as number)),
    repeatMicroseconds: spread(repeats),
    viewsRunOfAll: run / (run + repeated),
  };
}

function timed(reader: Guest): number {
  reader.sample();
  return Number(reader.lastElapsedNanoseconds) / 1000;
}

/**
 * `introspect drag`: how much a busy loop in a guest is slowed down by 10 samples a second.
 *
 * The loop counts how often it goes round in two seconds, while the guest is sampled and while it is not, in turn. Its
 * clock is the guest's.
 */
import { join } from 'node:path';
import { attach, type Guest } from '../../native/mapper.ts';
import type { Trial } from '../../template/trial.ts';
import { bootGuest } from '../../test/native/live-guest.ts';
import { inDirectory, percent } from './part.ts';
import { requestOf } from './request.ts';

const ROUNDS = 30;
const ROUND_MS = 2000;
const SAMPLES_A_SECOND = 10;

export async function drag() {
  return inDirectory(async (directory) => {
    const trial = await bootGuest(join(directory, 'qmp.sock'));
    try {
      const reader = attach(await requestOf(trial.pid));
      const loop = `end=$(($(date +%s%N) / 1000000 + ${ROUND_MS})); n=0; while [ $(($(cut -d. -f1 /proc/uptime))) -ge 0 ]; do i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; n=$((n+1)); [ $(($(date +%s%N) / 1000000)) -ge $end ] && break; done; echo $n`;
      const ratios: number[] = [];
      for (let i = 0; i < ROUNDS; i++) {
        const alone = await rounds(trial, loop, null);
        const sampled = await rounds(trial, loop, reader);
        ratios.push(1 - sampled / alone);
      }
      reader.detach();
      const mean = ratios.reduce((sum, ratio) => sum + ratio, 0) / ratios.length;
      const deviation = Math.sqrt(ratios.reduce((sum, ratio) => sum + (ratio - mean) ** 2, 0) / (ratios.length - 1));
      const half = (2.045 * deviation) / Math.sqrt(ratios.length); // Student's t, 29 degrees of freedom, 95 %
      const result = {
        rounds: ROUNDS,
        samplesASecond: SAMPLES_A_SECOND,
        slowdown: mean,
        interval: [mean - half, mean + half],
      };
      console.log(
        `sampled ${SAMPLES_A_SECOND} times a second, a loop is slower by ${percent(mean)} (95 %: ${percent(mean - half)} to ${percent(mean + half)})`,
      );
      return result;
    } finally {
      await trial.stop();
    }
  });
}

async function rounds(trial: Trial, loop: string, reader: Guest | null): Promise<number> {
  const timer = reader && setInterval(() => reader.sample(), 1000 / SAMPLES_A_SECOND);
  try {
    return Number(await trial.succeed(['sh', '-c', loop]));
  } finally {
    if (timer) clearInterval(timer);
  }
}

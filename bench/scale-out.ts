/**
 * From load to relief: how long until a hot VM is decided upon, each step of the scale-out, and the first request that the new
 * replica answers; beside it, in the same run, what a VM-level autoscaler does: a copy of the whole VM with its three
 * services, until each of them answers.
 *
 *     npm run bench -- scale-out [RUNS]
 */
import { setTimeout as pause } from 'node:timers/promises';
import type { Explanation } from '../cli/explain.ts';
import type { Status } from '../cli/status.ts';
import { Ciel } from '../lab/ciel.ts';
import { table } from '../lab/demo-report.ts';
import { buildImages } from '../lab/images/images.ts';
import { Lab } from '../lab/lab.ts';
import { startLoad } from '../lab/load-client.ts';
import { bootGuests, copyOfShop, SHOP_VM, startContainers, virtualUrl, writeSpec } from '../lab/shop.ts';
import { announce } from '../lab/terminal.ts';
import { spread, writeResults } from './measure.ts';

const CLIENTS = 3;
const WITHIN_MS = 600_000;
/** So that the copy and Ciel's own scale-out meet a machine and a guest at rest. */
const REST_MS = 20_000;

interface Run {
  /** From the first request of the load to the recorded decision. */
  readonly detectMs: number;
  readonly stepsMs: Readonly<Record<string, number>>;
  /** From the decision to the first answer of the new replica, as the client saw it. */
  readonly firstAnswerMs: number;
}

export default async function benchScaleOut(args: readonly string[]): Promise<void> {
  const runs = Number(args[0] ?? 3);
  const images = await buildImages(announce);
  const lab = await Lab.up('bench', images);
  const ciel = new Ciel(lab.segment, `${lab.directory}/ciel`);
  try {
    const { vm } = await bootGuests(lab, images);
    await startContainers(lab, vm, images);
    await ciel.up();
    await ciel.json('apply', '-f', await writeSpec(lab, images, `${lab.directory}/storage`));
    const copies: number[] = [];
    const measured: Run[] = [];
    for (let run = 0; run < runs; run += 1) {
      await pause(REST_MS);
      copies.push(await copyOfShop(lab, images, vm));
      announce('whole VM', `copied and answering after ${Math.round(copies.at(-1) as number)} ms`);
      await pause(REST_MS);
      await ciel.json('monitor', 'start', SHOP_VM);
      measured.push(await scaleOut(lab, ciel));
      announce('scale-out', JSON.stringify(measured.at(-1)));
      await ciel.json('monitor', 'stop', SHOP_VM);
      await ciel.json('scale', 'mosaic', 'in', '--wait');
    }
    await report(measured, copies);
  } finally {
    await ciel.down();
    await lab.down();
  }
}

async function scaleOut(lab: Lab, ciel: Ciel): Promise<Run> {
  let status: Status | null = null;
  const stopWatching = ciel.watchStatus((next) => {
    status = next;
  });
  const load = startLoad(lab.segment, virtualUrl('mosaic'), CLIENTS);
  const loadAt = Date.now();
  try {
    const operation = await until(() =>
      (status as Status | null)?.operations.find(({ service }) => service === 'mosaic'),
    );
    const first = await until(() =>
      load.seconds.find(({ byReplica }) => Object.keys(byReplica).some((name) => name !== 'mosaic')),
    );
    const explained = await until(async () => {
      const [found] = (await ciel.json<Explanation>('explain', operation.operationId)).operations;
      return found?.state === 'completed' ? found : undefined;
    });
    const decisions = (await ciel.json<Explanation>('explain', 'mosaic', '--last', '5')).decisions;
    const decision = decisions.find(
      ({ kind, at, outcome }) => kind === 'scaleOut' && outcome.act && new Date(at).getTime() >= loadAt,
    );
    if (decision === undefined) throw new Error('the decision of this run is not recorded');
    const decidedAt = new Date(decision.at).getTime();
    return {
      detectMs: decidedAt - loadAt,
      stepsMs: Object.fromEntries(
        explained.steps.map(({ step, startedAt, endedAt }) => [
          step,
          new Date(endedAt ?? Number.NaN).getTime() - new Date(startedAt).getTime(),
        ]),
      ),
      firstAnswerMs: new Date(first.at).getTime() - decidedAt,
    };
  } finally {
    stopWatching();
    await load.stop();
  }
}

async function report(measured: readonly Run[], copies: readonly number[]): Promise<void> {
  const detectMs = spread(measured.map((run) => run.detectMs));
  const firstAnswerMs = spread(measured.map((run) => run.firstAnswerMs));
  const wholeVmMs = spread(copies);
  const names = Object.keys(measured[0]?.stepsMs ?? {});
  const stepsMs = Object.fromEntries(
    names.map((name) => [name, spread(measured.map((run) => run.stepsMs[name] ?? Number.NaN))]),
  );
  const ratio = firstAnswerMs.median / wholeVmMs.median;
  const rows = Object.entries({
    'load → decision': detectMs,
    ...stepsMs,
    'decision → first answer': firstAnswerMs,
    'whole VM, three services': wholeVmMs,
  });
  console.log(
    table(
      ['', 'median ms', 'min', 'max'],
      rows.map(([name, { median, min, max }]) => [name, ...[median, min, max].map((value) => value.toFixed(0))]),
    ),
  );
  console.log(`ratio to the whole VM: ${ratio.toFixed(2)}`);
  console.log(
    await writeResults('scale-out', { runs: measured.length, detectMs, stepsMs, firstAnswerMs, wholeVmMs, ratio }),
  );
}

async function until<T>(look: () => T | undefined | Promise<T | undefined>): Promise<T> {
  const deadline = Date.now() + WITHIN_MS;
  for (;;) {
    const found = await look();
    if (found !== undefined) return found;
    if (Date.now() > deadline) throw new Error(`waited ${WITHIN_MS} ms in vain`);
    await pause(200);
  }
}

/**
 * `npm run demo`: Ciel's main job, end to end, on real VMs, and the proof that it was done. It brings the shop up, applies
 * ciel.yaml, drives load at mosaic, lets Ciel find the cause and give it a VM of its own, kills the worker in the middle,
 * and checks every claim by what libvirt, LVS, the disks and the client say. Exits 1 and names what did not hold.
 *
 *     npm run demo                run it, and leave nothing
 *     npm run demo -- --keep      leave everything up to play with
 *     npm run demo -- down        remove what --keep left
 */
import { spawn } from 'node:child_process';
import { readdir, rm, stat } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { execa } from 'execa';
import pc from 'picocolors';
import type { Explanation } from '../cli/explain.ts';
import type { Runtime } from '../cli/runtime.ts';
import type { OperationStatus, Status } from '../cli/status.ts';
import { Ciel } from './ciel.ts';
import {
  type Claim,
  chart,
  claimLines,
  figuresTable,
  type Look,
  liveLine,
  loadFigures,
  loadTable,
  lookOf,
  mebibytes,
  table,
} from './demo-report.ts';
import { cloneTo } from './disk-copy.ts';
import { buildImages, type LabImages } from './images/images.ts';
import { Lab, labDirectory, removeLab } from './lab.ts';
import { type LoadClient, startLoad } from './load-client.ts';
import { bootGuests, SHOP_VM, type Shop, startContainers, virtualUrl, writeSpec } from './shop.ts';
import { announce, seconds, timed } from './terminal.ts';

const NAME = 'demo';
const CLIENTS = 3;
/** The step in which the worker is killed: the VM is there, the service is not. */
const KILL_IN_STEP = 'prepare guest';
const DETECTED_WITHIN_MS = 120_000;
const SCALED_OUT_WITHIN_MS = 420_000;
const SCALED_IN_WITHIN_MS = 120_000;
const MEASURE_AFTER_MS = 40_000;
const IDLE_BEFORE_LOAD_MS = 15_000;
const LINE_EVERY_MS = 4_000;

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { keep: { type: 'boolean', default: false } },
  });
  if (positionals[0] === 'down') {
    await takeDown();
    announce('down', 'the demo is removed');
    return;
  }
  if (positionals.length > 0) throw new Error(`unknown argument "${positionals[0]}"; there are: down, --keep`);
  const startedAt = performance.now();
  await takeDown();
  const interrupted = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => interrupted.abort());

  let claims: Claim[] = [];
  let kept = false;
  try {
    claims = await Promise.race([run(startedAt), rejectWhen(interrupted.signal)]);
    kept = values.keep;
  } finally {
    if (!kept) await timed('down', takeDown, () => 'guests, daemons, namespace and files are removed');
  }
  if (!kept) claims.push(await nothingLeft());
  console.log(`\n${pc.bold('Claims')}\n${claimLines(claims)}`);
  const failed = claims.filter(({ holds }) => !holds);
  console.log(`\nThe demo took ${seconds(performance.now() - startedAt)}.`);
  if (kept) {
    const prefix = `ip netns exec ciel-${NAME} node dist/cli/main.js --state ${join(labDirectory(NAME), 'ciel')}`;
    console.log(
      `Everything is left up. Try:\n  ${prefix} status\n  ${prefix} explain mosaic\nRemove it: npm run demo -- down`,
    );
  }
  if (failed.length > 0) {
    console.error(
      pc.red(
        `\n${failed.length} of ${claims.length} claims did not hold: ${failed.map(({ what }) => what).join('; ')}`,
      ),
    );
    process.exitCode = 1;
  }
}

async function run(startedAt: number): Promise<Claim[]> {
  console.log(pc.bold('\nCiel: a service in a VM becomes hot and gets a VM of its own\n'));
  const images = await buildImages(() => {});
  const lab = await timed(
    'lab',
    () => Lab.up(NAME, images),
    ({ segment, registry }) => `namespace ${segment.namespace}, bridge, libvirtd, registry ${registry.endpoint}`,
  );
  try {
    const guests = await timed(
      'guests',
      () => bootGuests(lab, images),
      () => `director (IP_VS) and ${SHOP_VM} (1 vCPU, 1 GiB) are booted`,
    );
    const ciel = new Ciel(lab.segment, join(lab.directory, 'ciel'));
    const [, runtime] = await Promise.all([
      timed(
        'containers',
        () => startContainers(lab, guests.vm, images),
        () => `mosaic, nginx and jvm run in ${SHOP_VM}, each with an address of its own`,
      ),
      timed(
        'ciel up',
        () => ciel.up(),
        () => 'Temporal, PostgreSQL and the worker are up',
      ),
    ]);
    const ui = await forwardUi(lab, runtime);
    announce('temporal ui', pc.underline(ui));
    const storage = join(lab.directory, 'storage');
    const specFile = await writeSpec(lab, images, storage);
    await timed(
      'ciel apply',
      () => ciel.json('apply', '-f', specFile),
      () => 'three services, adopted as they run, each a virtual server in LVS',
    );
    await timed(
      'ciel monitor',
      () => ciel.json('monitor', 'start', SHOP_VM),
      () => `${SHOP_VM} is watched from outside`,
    );
    const claims = await scaleOutUnderLoad({ lab, ciel, images, storage, shop: { ...guests, specFile } });
    announce('temporal ui', `${pc.underline(ui)} (while the demo runs, or with --keep)`);
    announce('total', seconds(performance.now() - startedAt));
    return claims;
  } finally {
    await lab.libvirt.close();
  }
}

interface Stage {
  readonly lab: Lab;
  readonly ciel: Ciel;
  readonly images: LabImages;
  readonly storage: string;
  readonly shop: Shop;
}

/** The job itself. @returns the claims, each with what was seen. */
async function scaleOutUnderLoad(stage: Stage): Promise<Claim[]> {
  const { lab, ciel, storage, shop } = stage;
  const looks: Look[] = [];
  let status: Status | null = null;
  let load: LoadClient | null = null;
  const stopWatching = ciel.watchStatus((next) => {
    status = next;
    looks.push(lookOf(next, SHOP_VM));
  });
  const operation = (): OperationStatus | null =>
    status?.operations.find(({ service }) => service === 'mosaic') ?? null;
  const live = setInterval(() => {
    const look = looks.at(-1);
    if (look === undefined) return;
    const running = operation()?.steps.find(({ state }) => state === 'started');
    const recent = load === null ? null : loadFigures(load.seconds.slice(-5));
    console.log(liveLine(look, SHOP_VM, recent, running === undefined ? null : `${running.step} …`));
  }, LINE_EVERY_MS);

  try {
    await until('containers are read from outside, with names', DETECTED_WITHIN_MS, () =>
      looks.some(({ cores }) => `${SHOP_VM}/mosaic` in cores),
    );
    const looksBeforeLoad = looks.length;
    await pause(IDLE_BEFORE_LOAD_MS);
    announce('load', `${CLIENTS} clients at ${virtualUrl('mosaic')}, the virtual address`);
    const client = startLoad(lab.segment, virtualUrl('mosaic'), CLIENTS);
    load = client;
    const loadAt = Date.now();

    await until('mosaic is decided to be scaled out', DETECTED_WITHIN_MS, () => operation() !== null);
    const detectedAfterMs = Date.now() - loadAt;
    const operationId = (operation() as OperationStatus).operationId;
    announce('decision', `${operationId}, ${seconds(detectedAfterMs)} after the load began`);

    await until(
      `step "${KILL_IN_STEP}" has begun`,
      SCALED_OUT_WITHIN_MS,
      () => operation()?.steps.some(({ step }) => step === KILL_IN_STEP) ?? false,
    );
    const loadSecondsBefore = client.seconds.length;
    const killed = await workerPids(ciel);
    for (const pid of killed) process.kill(pid, 'SIGKILL');
    const killedAt = Date.now();
    announce('kill -9', `every worker process (${killed.join(', ')}) is killed in the middle of "${KILL_IN_STEP}"`);

    await until('the new replica serves', SCALED_OUT_WITHIN_MS, () => served(status) >= 2);
    const workersAfter = await workerPids(ciel);
    announce('served', `mosaic has two replicas, ${seconds(Date.now() - killedAt)} after the kill`);
    const loadSecondsServed = client.seconds.length + 5;
    await pause(MEASURE_AFTER_MS);
    const before = loadFigures(client.seconds.slice(3, loadSecondsBefore));
    const after = loadFigures(client.seconds.slice(loadSecondsServed));

    const made = (await lab.libvirt.allStats()).filter(({ name }) => name.startsWith('ciel-'));
    const disks = (await readdir(storage)).filter((name) => name.endsWith('.img'));
    const lvsRules = await lab.run(shop.director.uuid, 'ipvsadm -S -n');
    const realServers = lvsRules.split('\n').filter((line) => line.startsWith('-a') && line.includes('10.77.0.11:80'));
    const newVm = made[0];
    const disk = disks[0] === undefined ? 0 : (await stat(join(storage, disks[0]))).blocks * 512;
    const copy = await weighCopy(stage);
    const explained = await ciel.cli('explain', 'mosaic');
    const [steps] = (await ciel.json<Explanation>('explain', operationId)).operations;
    if (steps === undefined) throw new Error(`ciel explain ${operationId} shows no operation`);

    client.setClients(0);
    await client.stop();
    load = null;
    const inAt = Date.now();
    announce('ciel scale', 'mosaic in again: drain, take out of LVS, remove the VM');
    const scaledIn = await ciel.cli('scale', 'mosaic', 'in', '--wait');
    await until(
      'the VM that was made is gone',
      SCALED_IN_WITHIN_MS,
      async () => !(await lab.libvirt.allStats()).some(({ name }) => name.startsWith('ciel-')),
    );
    const inMs = Date.now() - inAt;
    const filesAfter = await readdir(storage);
    const all = loadFigures(client.seconds);
    clearInterval(live);
    stopWatching();

    console.log(
      `\n${pc.bold('CPU per container, as read from outside')}\n${chart(looks.slice(Math.max(0, looksBeforeLoad - 2)))}`,
    );
    console.log(
      `\n${pc.bold('Figures per container, as read from outside, over the whole time')}\n${figuresTable(looks)}`,
    );
    console.log(`\n${pc.bold('The operation')}\n${stepsTable(steps)}`);
    console.log(`\n${pc.bold('Why')}  (ciel explain mosaic)\n${explained.stdout}`);
    console.log(`\n${pc.bold('Load at the virtual address')}\n${loadTable(before, after)}`);
    console.log(
      `\n${pc.bold('What it weighs')}\n${table(
        ['', 'vCPUs', 'memory', 'disk', 'time to copy the disk'],
        [
          [
            'the new VM, for mosaic only',
            String(newVm?.vcpus ?? '?'),
            mebibytes(newVm?.memoryBytes ?? 0),
            mebibytes(disk),
            stepSeconds(steps, 'clone disk'),
          ],
          [
            `a copy of ${SHOP_VM}, with all three`,
            '1',
            mebibytes(1024 * 2 ** 20),
            mebibytes(copy.bytes),
            seconds(copy.ms),
          ],
        ],
      )}`,
    );

    return [
      {
        what: 'three containers were read from outside',
        holds: ['mosaic', 'nginx', 'jvm'].every((name) =>
          looks.some(({ cores }) => typeof cores[`${SHOP_VM}/${name}`] === 'number'),
        ),
        seen: Object.keys(looks.at(-1)?.cores ?? {}).join(', '),
      },
      {
        what: 'mosaic, and only mosaic, was scaled out',
        holds: made.length === 1 && (newVm?.name.startsWith('ciel-mosaic-') ?? false),
        seen: made.map(({ name }) => name).join(', ') || 'no VM',
      },
      {
        what: 'the workers were killed in the middle, and others went on',
        holds: killed.length > 0 && workersAfter.length > 0 && killed.every((pid) => !workersAfter.includes(pid)),
        seen: `pids ${killed.join(', ')}, then ${workersAfter.join(', ')}`,
      },
      {
        what: 'nothing was made twice',
        holds: made.length === 1 && disks.length === 1 && realServers.length === 2,
        seen: `${made.length} VM, ${disks.length} disk, ${realServers.length} real servers of mosaic`,
      },
      {
        what: 'both replicas answered',
        holds: Object.keys(after.byReplica).length === 2,
        seen: Object.entries(after.byReplica)
          .map(([name, count]) => `${name} ${count}`)
          .join(', '),
      },
      {
        what: 'no request failed',
        holds: all.failed === 0 && all.answered > 0,
        seen: `${all.answered} answered, ${all.failed} failed${client.seconds.find(({ failure }) => failure !== null)?.failure ?? ''}`,
      },
      {
        what: 'scale-in removed what was made',
        holds: scaledIn.exitCode === 0 && filesAfter.length === 0,
        seen: `${seconds(inMs)}; ${filesAfter.length} files left`,
      },
    ];
  } finally {
    clearInterval(live);
    stopWatching();
    if (load !== null) await (load as LoadClient).stop();
  }
}

function served(status: Status | null): number {
  const mosaic = status?.services.find(({ name }) => name === 'mosaic');
  return mosaic?.replicas.filter(({ state }) => state === 'serving').length ?? 0;
}

function stepsTable(operation: Explanation['operations'][number]): string {
  const rows = operation.steps.map(({ step, state }) => [step, state, stepSeconds(operation, step)]);
  return table(['step', 'state', 'took'], rows);
}
function stepSeconds(operation: Explanation['operations'][number], name: string): string {
  const step = operation.steps.find((candidate) => candidate.step === name);
  if (step === undefined || step.endedAt === null) return '–';
  return seconds(new Date(step.endedAt).getTime() - new Date(step.startedAt).getTime());
}

/** What a VM-level autoscaler would do to the disk: copy all of the hot VM. */
async function weighCopy({ shop, storage }: Stage): Promise<{ bytes: number; ms: number }> {
  const target = join(storage, 'whole-vm.raw');
  const startedAt = performance.now();
  await cloneTo(shop.vm.diskFile, target);
  const ms = performance.now() - startedAt;
  const bytes = (await stat(target)).blocks * 512;
  await rm(target);
  return { bytes, ms };
}

/** The worker processes of `ciel up`, a process a role; the rest of what it supervises are Temporal and PostgreSQL. */
async function workerPids(ciel: Ciel): Promise<number[]> {
  const processes = (await ciel.runtime())?.processes ?? [];
  return processes.filter(({ name }) => name !== 'temporal' && name !== 'postgres').map(({ pid }) => pid);
}

/** The UI listens on the namespace's loopback; socat makes it this machine's. @returns its URL here. */
async function forwardUi(lab: Lab, runtime: Runtime): Promise<string> {
  if (runtime.temporalUiUrl === null) throw new Error('ciel up runs without the Temporal UI');
  const inside = new URL(runtime.temporalUiUrl);
  const port = await freePort(8233);
  const command = [
    'ip',
    'netns',
    'exec',
    lab.segment.namespace,
    'socat',
    'STDIO',
    `TCP:${inside.hostname}:${inside.port}`,
  ];
  const listen = `TCP-LISTEN:${port},bind=127.0.0.1,reuseaddr,fork`;
  // Detached: it stays with --keep, and takeDown finds it by the label, which socat only puts into its log. A colon ends an
  // option in socat's addresses, hence the backslashes.
  spawn('socat', ['-lp', FORWARD_LABEL, listen, `EXEC:${command.join(' ').replaceAll(':', String.raw`\:`)}`], {
    detached: true,
    stdio: 'ignore',
  }).unref();
  return `http://127.0.0.1:${port}`;
}
const FORWARD_LABEL = `ciel-${NAME}-ui`;

async function freePort(wanted: number): Promise<number> {
  for (let port = wanted; port < wanted + 50; port += 1) {
    const free = await new Promise<boolean>((resolve) => {
      const server = createServer()
        .once('error', () => resolve(false))
        .once('listening', () => server.close(() => resolve(true)))
        .listen(port, '127.0.0.1');
    });
    if (free) return port;
  }
  throw new Error(`no free port from ${wanted} to ${wanted + 49} on 127.0.0.1`);
}

async function takeDown(): Promise<void> {
  for (const pid of await processesWith(FORWARD_LABEL)) process.kill(pid, 'SIGTERM');
  await new Ciel(
    { namespace: `ciel-${NAME}`, bridge: '', address: '', subnet: '' },
    join(labDirectory(NAME), 'ciel'),
  ).down();
  await removeLab(NAME);
}

async function nothingLeft(): Promise<Claim> {
  const { stdout: namespaces } = await execa('ip', ['netns', 'list']);
  const left = [
    ...namespaces.split('\n').filter((line) => line.startsWith(`ciel-${NAME} `) || line === `ciel-${NAME}`),
    ...(await processesWith(labDirectory(NAME))).map((pid) => `process ${pid}`),
    ...(await processesWith(FORWARD_LABEL)).map((pid) => `process ${pid}`),
    ...(await mountsUnder(labDirectory(NAME))),
    ...((await stat(labDirectory(NAME)).catch(() => null)) === null ? [] : [labDirectory(NAME)]),
  ];
  return {
    what: 'nothing is left behind',
    holds: left.length === 0,
    seen: left.join(', ') || 'no process, namespace, mount or file',
  };
}

async function processesWith(text: string): Promise<number[]> {
  const { stdout } = await execa('pgrep', ['--full', '--', text], { reject: false });
  return stdout
    .split('\n')
    .filter(Boolean)
    .map(Number)
    .filter((pid) => pid !== process.pid);
}
async function mountsUnder(directory: string): Promise<string[]> {
  const { stdout } = await execa('findmnt', ['--noheadings', '--list', '--output', 'TARGET']);
  return stdout.split('\n').filter((target) => target.startsWith(directory));
}

async function until(what: string, withinMs: number, holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + withinMs;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`waited ${seconds(withinMs)} in vain until ${what}`);
    await pause(250);
  }
}
function rejectWhen(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) =>
    signal.addEventListener('abort', () => reject(new Error('interrupted')), { once: true }),
  );
}

await main();

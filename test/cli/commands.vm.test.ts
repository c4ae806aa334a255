/**
 * The commands against a real Temporal dev server and a real PostgreSQL, with the workflows as shipped; only what the
 * activities do to hosts and directors is a world in memory, as in the tests of the workflows.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { msToTs } from '@temporalio/common/lib/time.js';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import type { Status } from '../../cli/status.ts';
import { connectTemporal } from '../../cli/temporal.ts';
import type { OperationRef } from '../../model/activities.ts';
import type { VmEvidence } from '../../model/evidence.ts';
import { CielFailure } from '../../model/failures.ts';
import { taskQueues, workflowIds } from '../../model/names.ts';
import { saveService } from '../../store/configuration.ts';
import { recordDecision } from '../../store/decisions.ts';
import { saveContainers, saveVms } from '../../store/observations.ts';
import { closeOperation, openOperation, recordStep } from '../../store/operations.ts';
import { saveReplicas } from '../../store/replicas.ts';
import { describeServiceQuery, pauseUpdate, type ServiceDescription } from '../../workflows/messages.ts';
import { type StoreForTest, startStoreForTest } from '../store/store-for-test.ts';
import { type StartedEnvironment, startEnvironment, temporalBinary } from '../workflows/environment.ts';
import { createWorld, INSTALLATION, serviceSpec } from '../workflows/world.ts';
import { ciel, type Ran } from './recorded-terminal.ts';

const SHOP = '6a1c1d51-7e0e-4b6c-9a30-1c2d3e4f5a6b';
const MIB = 2 ** 20;

let temporal: StartedEnvironment;
let stored: StoreForTest;
let directory: string;
let env: NodeJS.ProcessEnv;

beforeAll(async () => {
  [temporal, stored] = await Promise.all([startEnvironment(), startStoreForTest()]);
  directory = await mkdtemp(join(tmpdir(), 'ciel-cli-'));
  // The world in memory derives names from its own installation's id.
  await stored.store.updateTable('installation').set({ id: INSTALLATION }).execute();
  // `apply` finds it running: the world in memory has no endless watching for it to call.
  await temporal.env.client.workflow.start('director', {
    workflowId: workflowIds.director('d1'),
    taskQueue: 'nobody-serves-this',
    args: [{ director: 'd1' }],
  });
  env = { TEMPORAL_ADDRESS: temporal.env.address, DATABASE_URL: stored.url };
}, 120_000);
afterAll(async () => {
  await Promise.all([temporal.stop(), stored.end()]);
  await rm(directory, { recursive: true, force: true });
}, 60_000);

const run = (...words: string[]): Promise<Ran> => ciel(words, env);
async function json<T>(...words: string[]): Promise<T> {
  const { exitCode, out, error } = await run(...words, '--json');
  expect(exitCode, error).toBe(0);
  return JSON.parse(out) as T;
}

async function fileWith(service: string, changes = ''): Promise<string> {
  const file = join(directory, `${service}.yaml`);
  await writeFile(
    file,
    `version: 1
hosts: [{ name: h1, libvirt: "qemu:///system", storage: /srv, bridge: br0, capacity: { vcpus: 4, memory: 8GiB } }]
directors: [{ name: d1, reach: { kind: local } }]
networks: [{ name: lan, subnet: 10.0.0.0/16, addresses: [10.0.1.1-10.0.1.99] }]
templates: [{ name: minimal, directory: /srv/minimal }]
services:
  - name: ${service}
    image: registry:5000/${service}:1
    virtual: { director: d1, address: 10.0.0.10, port: 80 }
    network: lan
    template: minimal
    max: 3
    drain: 1s
    replicas: [{ vm: shop-${service}, container: ${service}, address: 10.0.0.21 }]
${changes}`,
  );
  return file;
}

describe('a service from its first apply to its end', () => {
  it('is applied once, changed by a changed file, paused, scaled and deleted', async () => {
    const world = createWorld('mosaic');
    const file = await fileWith('mosaic');

    const check = await run('apply', '-f', file, '--check');
    expect(check.exitCode).toBe(0);
    expect(check.out).toContain('service mosaic  new');
    expect(world.calls).toEqual([]);

    const applied = await run('apply', '-f', file);
    expect(applied.exitCode, applied.error).toBe(0);
    expect(applied.out).toContain('host h1');
    expect(applied.out).toContain('service mosaic\n    created');
    expect((await run('apply', '-f', file)).out).toContain('Nothing changed');

    const changed = await fileWith('mosaic', '    min: 0\n');
    expect((await run('apply', '-f', changed)).out).toContain('min: 1 -> 0');
    const image = await fileWith('mosaic', '    min: 0\n    run: { memory: 1GiB }\n');
    const refused = await run('apply', '-f', image);
    expect(refused.exitCode).toBe(3);
    expect(refused.error).toContain('--replace');

    expect((await run('pause', 'mosaic', '--reason', 'works')).exitCode).toBe(0);
    const paused = await run('scale', 'mosaic', 'out', '--json');
    expect(paused.exitCode).toBe(3);
    expect(JSON.parse(paused.error)).toMatchObject({ error: { exitCode: 3, reason: 'Paused' } });
    expect((await run('pause', 'mosaic')).exitCode).toBe(3);
    expect((await run('resume', 'mosaic')).exitCode).toBe(0);

    const scaled = await run('scale', 'mosaic', 'out', '--wait', '--request-id', 'r1', '--json');
    expect(scaled.exitCode, scaled.error).toBe(0);
    const answer = JSON.parse(scaled.out) as { operationId: string; operation: { phase: string } };
    expect(answer).toMatchObject({ operationId: 'scale-out/mosaic/1', operation: { phase: 'completed' } });
    expect(world.vms.size).toBe(1);
    // The same request again finds its first answer.
    expect(await json('scale', 'mosaic', 'out', '--request-id', 'r1')).toMatchObject({
      operationId: answer.operationId,
    });
    expect(world.vms.size).toBe(1);

    const deleted = await run('delete', 'mosaic', '--wait');
    expect(deleted.exitCode, deleted.error).toBe(0);
    expect(deleted.out).toContain('Service mosaic is gone');
    expect(world.vms.size).toBe(0);
    expect(world.violations).toEqual([]);
    const gone = await run('pause', 'mosaic');
    expect(gone.exitCode).toBe(5);
    expect(gone.error).toContain('no running service "mosaic"');
  }, 120_000);

  it('an operation that was undone is a failure with its reason', async () => {
    const world = createWorld('broken');
    await run('apply', '-f', await fileWith('broken'));
    world.once('installImage', () => {
      throw new CielFailure('ImageMissing', 'no such image');
    });
    const scaled = await run('scale', 'broken', 'out', '--wait');
    expect(scaled.exitCode).toBe(1);
    expect(scaled.error).toMatch(/found: it ended undone; step .*no such image/);
    expect(world.left).toEqual([]);
  }, 120_000);
});

describe('what the store tells', () => {
  beforeAll(async () => {
    const { store, installationId } = stored;
    const at = new Date().toISOString();
    await saveService(store, serviceSpec('stored'));
    await saveVms(store, 'h1', [
      {
        vmUuid: SHOP,
        vmName: 'shop-stored',
        state: 'running',
        vcpus: 1,
        memoryBytes: 1024 * MIB,
        cpuCores: 0.93,
        unreadable: null,
        guestBoot: null,
        kernelRelease: null,
        at,
      },
    ]);
    await saveContainers(
      store,
      [SHOP],
      [
        {
          vmUuid: SHOP,
          containerId: 'c'.repeat(64),
          runtime: 'docker',
          cgroupPath: '/docker/c',
          name: 'evil\u001b[2J',
          image: 'i',
          labels: {},
          addresses: {},
          service: 'stored',
          replicaId: null,
          cpuCores: 0.8,
          memoryBytes: 100 * MIB,
          ioBytesPerSecond: 0,
          cpuLimitCores: null,
          memoryLimitBytes: null,
          unavailable: null,
          at,
        },
      ],
    );
    const replica = {
      replicaId: '0e7f1b5a-3c0a-5b1f-8a55-6d7d0a4b8f10',
      kind: 'adopted',
      state: 'serving',
      vmName: 'shop-stored',
      vmUuid: SHOP,
      host: 'h1',
      address: '10.0.0.21',
      vcpus: null,
      memoryBytes: null,
      servingSince: at,
    } as const;
    await saveReplicas(store, 'stored', [replica]);
    const operation: OperationRef = {
      installationId,
      service: 'stored',
      operationId: 'scale-out/stored/1',
      runId: 'b5e6a9d2-53a4-4d0e-9d06-0d6b9d1f4a57',
    };
    await openOperation(store, operation, 'scaleOut', 'one replica more');
    await recordStep(store, operation, 'reserve', 'done', '');
    await recordStep(store, operation, 'startVm', 'started', '');
    await recordDecision(store, {
      workflowId: 'monitor/x',
      runId: operation.runId,
      number: 1,
      subject: SHOP,
      policyVersion: '1',
      kind: 'attribute',
      input: { kind: 'attribute', now: at, evidence: evidence() },
      outcome: {
        act: true,
        explanation: 'stored uses 86 % of what the containers use',
        candidates: [
          {
            containerId: 'c',
            name: 'evil\u001b[2J',
            service: 'stored',
            by: 'level',
            share: 0.86,
            explanation: 'far ahead',
          },
        ],
      },
    });
    await recordDecision(store, {
      workflowId: 'service/stored',
      runId: operation.runId,
      number: 1,
      subject: 'stored',
      policyVersion: '1',
      kind: 'scaleOut',
      input: {
        kind: 'scaleOut',
        now: at,
        spec: serviceSpec('stored'),
        state: {
          paused: false,
          deleting: false,
          operationInFlight: null,
          replicas: [replica],
          lastScaleOutAt: null,
          lastScaleInAt: null,
          failedScaleOuts: null,
        },
        trigger: { kind: 'operator', requestId: 'r7' },
        templateBaseMemoryBytes: 90 * MIB,
      },
      outcome: { act: false, reason: 'AtMax', explanation: 'there are 3 of 3', retryAt: null },
    });
  });

  it('status shows it, and that the workflow cannot be asked, with the reason', async () => {
    const status = await json<Status>('status', 'stored');
    expect(status.services).toMatchObject([
      {
        name: 'stored',
        intent: null,
        unavailable: expect.stringContaining('no running workflow'),
        replicas: [{ state: 'serving' }],
      },
    ]);
    expect(status.vms).toMatchObject([{ vmName: 'shop-stored', containers: [{ cpuCores: 0.8 }] }]);
    expect(status.operations).toMatchObject([
      { operationId: 'scale-out/stored/1', steps: [{ step: 'reserve' }, { step: 'startVm' }] },
    ]);
    const { out } = await run('status', 'stored');
    expect(out).toContain('evil\\u{1b}[2J');
    expect(out).not.toContain('\u001b');
    expect(out).toMatch(/scale-out\/stored\/1 .* startVm \d/);
  });

  it('explain tells who was considered, the numbers and the reason', async () => {
    const ofVm = await run('explain', 'shop-stored');
    expect(ofVm.exitCode).toBe(0);
    expect(ofVm.out).toContain('1. evil\\u{1b}[2J (service stored): 86 % of the use. far ahead');
    expect(ofVm.out).toContain('VM shop-stored: CPU 93 % of 1 vCPU, target 80 %');
    const ofService = await run('explain', 'stored');
    expect(ofService.out).toContain('No: AtMax. there are 3 of 3');
    expect(ofService.out).toContain('Asked by: an operator, request r7');
    expect(ofService.out).toMatch(/Operation scale-out\/stored\/1: one replica more/);
    const { decisions } = await json<{ decisions: { decisionId: string }[] }>('explain', 'stored');
    const id = decisions[0]?.decisionId ?? '';
    expect((await run('explain', id)).out).toContain(`Decision ${id}: service stored. Scale out?`);
    const operation = await run('explain', 'scale-out/stored/1');
    expect(operation.out).toMatch(/reserve +done/);
  });

  it('an operation that has ended is explained with its outcome', async () => {
    const operation = {
      installationId: stored.installationId,
      service: 'stored',
      operationId: 'scale-in/stored/1',
      runId: 'f0f6a9d2-53a4-4d0e-9d06-0d6b9d1f4a57',
    };
    await openOperation(stored.store, operation, 'scaleIn', 'one replica fewer');
    await closeOperation(stored.store, operation, 'failed', 'the director does not answer');
    const { out } = await run('explain', 'scale-in/stored/1');
    expect(out).toMatch(/failed after .*\n {2}the director does not answer/);
  });

  it.each([
    ['explain', '999999'],
    ['explain', 'scale-out/nobody/1'],
    ['explain', 'nobody'],
    ['status', 'nobody'],
    ['monitor', 'start', 'nobody'],
    ['operation', 'retry', 'scale-out/nobody/1'],
    ['scale', 'nobody', 'out'],
  ])('ciel %s %s: exit code 5 for what does not exist', async (...words) => {
    const { exitCode, error } = await run(...words.filter((word) => word !== undefined));
    expect(exitCode).toBe(5);
    expect(error).toMatch(/found: .*\n {2}to do: /);
  });

  it('monitor start is idempotent, list shows it, stop ends it', async () => {
    expect(await json('monitor', 'start', 'shop-stored')).toMatchObject({
      vms: [{ vmUuid: SHOP, outcome: 'started' }],
    });
    expect(await json('monitor', 'start', SHOP)).toMatchObject({ vms: [{ outcome: 'already watched' }] });
    expect(await json('monitor', 'stop', 'shop-stored')).toMatchObject({ vms: [{ outcome: 'stopped' }] });
    expect(await json('monitor', 'stop', 'shop-stored')).toMatchObject({ vms: [{ outcome: 'was not watched' }] });
  });
});

describe("Temporal's own command line", () => {
  it('does what docs/how-to/temporal-cli.md shows', async () => {
    const world = createWorld('mosaic');
    await run('apply', '-f', await fileWith('mosaic'));
    const page = await readFile(join(import.meta.dirname, '../../docs/how-to/temporal-cli.md'), 'utf8');
    const commands = page.split('\n').filter((line) => line.startsWith('temporal workflow '));
    expect(commands.length).toBeGreaterThan(8);
    for (const command of commands) {
      // As a shell splits them: the page quotes by ' only.
      const words = [...command.matchAll(/'([^']*)'|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain ?? '');
      const isScaling = command.includes('--name scale');
      const result = await execa(temporalBinary(), [...words.slice(1), '--address', temporal.env.address], {
        reject: false,
      });
      expect(result.exitCode, `${command}\n${result.stderr}`).toBe(0);
      if (command.includes('pauseService')) expect((await describeService()).paused).toBe('network works');
      if (isScaling) {
        const wanted = command.includes('"out"') ? 2 : 1;
        const settled = async () => {
          const { operationInFlight, replicas } = await describeService();
          expect([operationInFlight, replicas.length]).toEqual([null, wanted]);
        };
        await vi.waitFor(settled, { timeout: 60_000, interval: 300 });
      }
    }
    expect(world.calls.filter((call) => call === 'startVm')).toHaveLength(1);
  }, 120_000);

  function describeService(): Promise<ServiceDescription> {
    return temporal.env.client.workflow.getHandle(workflowIds.service('mosaic')).query(describeServiceQuery);
  }
});

describe('a workflow that does not answer', () => {
  it.each([
    [
      'a worker serves its queue, and takes too long',
      'default',
      'nobody-serves-this',
      'NoAnswer',
      /look at `ciel status`/,
    ],
    ['no worker serves the control queue', 'forsaken', taskQueues.control, 'NoWorker', /start the control role/],
  ])('is told within the deadline: %s', async (_name, namespace, taskQueue, reason, remedy) => {
    const { address, connection } = temporal.env;
    if (namespace !== 'default')
      await connection.workflowService.registerNamespace({
        namespace,
        workflowExecutionRetentionPeriod: msToTs('1 day'),
      });
    const { ask, client, close } = await connectTemporal({
      address,
      namespace,
      source: 'the test',
      connectionOptions: { address },
    });
    const workflowId = workflowIds.service('silent');
    const args = [{ installationId: INSTALLATION, service: 'silent' }];
    const start = () => client.workflow.start('service', { workflowId, taskQueue, args });
    const handle = await vi.waitFor(start, { timeout: 15_000 });
    const update = () => handle.executeUpdate(pauseUpdate, { args: [{ reason: 'test' }] });
    await expect(ask('asked service silent to pause', update, 1_500)).rejects.toMatchObject({
      problem: { exitCode: 4, reason, remedy: expect.stringMatching(remedy) },
    });
    await handle.terminate();
    await close();
  });
});

function evidence(): VmEvidence {
  const steady = { samples: 10, mean: 0.1, deviation: 0.01, p90: 0.1, max: 0.12 };
  const high = { samples: 10, mean: 0.93, deviation: 0.01, p90: 0.95, max: 0.97 };
  const windows = { before: steady, since: high, unavailable: null };
  return {
    vmUuid: SHOP,
    vmName: 'shop-stored',
    host: 'h1',
    vcpus: 1,
    memoryBytes: 1024 * MIB,
    target: { cpu: 0.8, memory: 0.9 },
    cause: 'vmCpu',
    onset: '2026-03-01T12:00:00.000Z',
    cpuCores: windows,
    containers: [
      {
        containerId: 'c'.repeat(64),
        runtime: 'docker',
        name: 'evil\u001b[2J',
        service: 'stored',
        cpuCores: windows,
        memoryBytes: windows,
        ioBytesPerSecond: { before: null, since: null, unavailable: 'NoField: the io controller is off' },
        cpuLimitCores: null,
        memoryLimitBytes: null,
      },
    ],
    others: { count: 0, cpuCores: windows },
    unreadable: null,
  };
}

/** The tenant's disk as the lab starts it: the three services' images are there, run, and answer with their names. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildImages, type LabImages } from '../../lab/images/images.ts';
import { SERVICE_NAMES } from '../../lab/images/services.ts';
import { workingAccelerator } from '../../native/accelerator.ts';
import { DOCKER_READY } from '../../template/build.ts';
import { kernelCommandLine, TEMPLATE_FILES } from '../../template/domain-xml.ts';
import { Trial } from '../../template/trial.ts';

const BOOT_LIMIT_MS = 240_000;
const ANSWER_LIMIT_MS = 180_000;

let images: LabImages;

async function boot(kernelOf: string, disk: string, memoryMiB: number): Promise<Trial> {
  const accelerator = await workingAccelerator();
  const guest = await Trial.start({
    kernel: join(kernelOf, TEMPLATE_FILES.kernel),
    initrd: join(kernelOf, TEMPLATE_FILES.initrd),
    commandLine: kernelCommandLine(accelerator),
    disk,
    keepWrites: false,
    accelerator,
    memoryMiB,
  });
  await guest.agentAnswers(BOOT_LIMIT_MS);
  return guest;
}

beforeAll(async () => {
  images = await buildImages(() => undefined);
});

describe('the tenant VM', () => {
  let guest: Trial;
  beforeAll(async () => {
    guest = await boot(images.template.directory, images.tenantDisk, 1024);
    await guest.consoleShows(DOCKER_READY, BOOT_LIMIT_MS);
  });
  afterAll(() => guest?.stop());

  it.each(SERVICE_NAMES)('runs %s from the image on its disk, which answers with its name', async (name) => {
    const reference = `10.77.0.1:5000/${images.registry.images[name]}`;
    const run = ['docker', 'run', '--detach', '--name', name, '--hostname', `${name}-replica`, '--network', 'none'];
    await guest.succeed([...run, '--pull', 'never', reference]);
    const pid = (await guest.succeed(['docker', 'inspect', '--format', '{{.State.Pid}}', name])).trim();
    const wget = ['nsenter', '-t', pid, '-n', 'wget', '-S', '-q', '-O', '-', 'http://127.0.0.1/healthz'];
    await expect
      .poll(() => guest.run(wget), { timeout: ANSWER_LIMIT_MS, interval: 1_000 })
      .toMatchObject({
        exitCode: 0,
        stdout: 'ok\n',
        stderr: expect.stringMatching(new RegExp(`X-Replica: ${name}-replica`, 'i')),
      });
  });

  it('pixelates a picture by mosaic', async () => {
    const pid = (await guest.succeed(['docker', 'inspect', '--format', '{{.State.Pid}}', 'mosaic'])).trim();
    const inMosaic = (...command: string[]) => guest.succeed(['nsenter', '-t', pid, '-n', ...command], ANSWER_LIMIT_MS);
    await inMosaic('wget', '-q', '-O', '/root/mosaic.png', 'http://127.0.0.1/?block=16');
    expect(await guest.succeed(['head', '-c', '4', '/root/mosaic.png'])).toContain('PNG');
  });
});

describe('the director', () => {
  it('balances by the real IP_VS, with every scheduler that a spec may name', async () => {
    const guest = await boot(images.director, join(images.director, TEMPLATE_FILES.disk), 256);
    try {
      const schedulers = ['rr', 'wrr', 'lc', 'wlc', 'sh', 'sed', 'nq'];
      for (const [index, scheduler] of schedulers.entries())
        await guest.succeed(['ipvsadm', '-A', '-t', `10.77.0.100:${80 + index}`, '-s', scheduler]);
      await guest.succeed(['ipvsadm', '-a', '-t', '10.77.0.100:80', '-r', '10.77.0.40:80', '-g', '-w', '1']);
      const table = await guest.succeed(['ipvsadm', '-S', '-n']);
      expect(table).toContain('-a -t 10.77.0.100:80 -r 10.77.0.40:80 -g -w 1');
      expect(table.match(/^-A /gm)).toHaveLength(schedulers.length);
    } finally {
      await guest.stop();
    }
  });
});

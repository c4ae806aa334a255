/** The template as built (from the cache when it is current): how long until Docker is ready, and what the guest can do. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { workingAccelerator } from '../../native/accelerator.ts';
import { type BuiltTemplate, buildTemplate, DOCKER_READY } from '../../template/build.ts';
import { kernelCommandLine, TEMPLATE_FILES } from '../../template/domain-xml.ts';
import { Trial } from '../../template/trial.ts';
import { verifyTemplate } from '../../template/verify.ts';

const BOOT_LIMIT_MS = 240_000;
const LARGEST_ALLOCATION_BYTES = 700e6;

let template: BuiltTemplate;
let guest: Trial;

beforeAll(async () => {
  template = await buildTemplate({ insecureRegistries: ['10.77.0.0/24'] }, () => undefined);
  const accelerator = await workingAccelerator();
  guest = await Trial.start({
    kernel: join(template.directory, TEMPLATE_FILES.kernel),
    initrd: join(template.directory, TEMPLATE_FILES.initrd),
    commandLine: kernelCommandLine(accelerator),
    disk: join(template.directory, TEMPLATE_FILES.disk),
    keepWrites: false,
    accelerator,
    memoryMiB: 512,
  });
  await guest.agentAnswers(BOOT_LIMIT_MS);
  await guest.consoleShows(DOCKER_READY, BOOT_LIMIT_MS);
});
afterAll(() => guest?.stop());

describe('the template', () => {
  it('is sound, small and sparse', async () => {
    const report = await verifyTemplate(template.directory);
    expect(report.problems).toEqual([]);
    expect(report.disk?.virtualBytes).toBe(50e9);
    expect(report.disk?.allocatedBytes).toBeLessThan(LARGEST_ALLOCATION_BYTES);
  });

  it('is built once', async () => {
    const steps: string[] = [];
    const again = await buildTemplate({ insecureRegistries: ['10.77.0.0/24'] }, (step, detail) =>
      steps.push(`${step} ${detail}`),
    );
    expect(again).toEqual(template);
    expect(steps).toEqual([expect.stringContaining('is current')]);
  });

  it('says what an empty VM needs', () => {
    expect(template.manifest.baseMemoryBytes).toBeGreaterThan(30e6);
    expect(template.manifest.baseMemoryBytes).toBeLessThan(300e6);
    expect(template.manifest.packages).toHaveProperty(['docker.io']);
  });
});

describe('the guest', () => {
  it('has Docker on cgroup v2, with the registries that were asked for', async () => {
    const info = await guest.succeed([
      'docker',
      'info',
      '--format',
      '{{.CgroupVersion}} {{.CgroupDriver}} {{.RegistryConfig.InsecureRegistryCIDRs}}',
    ]);
    expect(info).toMatch(/^2 cgroupfs .*10\.77\.0\.0\/24/);
  });

  it('has no address until the agent gives it one', async () => {
    expect(await guest.succeed(['ip', '-4', '-brief', 'address', 'show', 'dev', 'eth0'])).not.toMatch(
      /\d+\.\d+\.\d+\.\d+/,
    );
    await guest.succeed(['ip', 'link', 'set', 'eth0', 'up']);
    await guest.succeed(['ip', 'address', 'add', '10.77.0.40/24', 'dev', 'eth0']);
    expect(await guest.succeed(['ip', '-4', '-brief', 'address', 'show', 'dev', 'eth0'])).toContain('10.77.0.40/24');
  });

  it('runs a container with an address of its own, and a virtual address on its lo from outside', async () => {
    await guest.succeed(['mkdir', '-p', '/root/image/bin']);
    await guest.succeed(['cp', '/usr/bin/busybox', '/root/image/bin/sleep']);
    await guest.succeed(['tar', '-C', '/root/image', '-cf', '/root/image.tar', '.']);
    await guest.succeed(['docker', 'import', '/root/image.tar', 'sleep:1']);
    await guest.succeed([
      'docker',
      'network',
      'create',
      '-d',
      'macvlan',
      '--subnet',
      '10.77.0.0/24',
      '-o',
      'parent=eth0',
      'segment',
    ]);
    const run = ['docker', 'run', '-d', '--name', 'sleeper', '--network', 'segment', '--ip', '10.77.0.41'];
    await guest.succeed([
      ...run,
      '--memory',
      '32m',
      '--sysctl',
      'net.ipv4.conf.all.arp_ignore=1',
      'sleep:1',
      '/bin/sleep',
      '1000',
    ]);
    const pid = (await guest.succeed(['docker', 'inspect', '--format', '{{.State.Pid}}', 'sleeper'])).trim();
    await guest.succeed(['nsenter', '-t', pid, '-n', 'ip', 'address', 'add', '10.77.0.100/32', 'dev', 'lo']);
    const addresses = await guest.succeed(['nsenter', '-t', pid, '-n', 'ip', '-4', '-brief', 'address']);
    expect(addresses).toMatch(/eth0.*10\.77\.0\.41\/24/);
    expect(addresses).toMatch(/lo.*10\.77\.0\.100\/32/);
  });

  it("takes its identity from the VM's UUID, not from the disk", async () => {
    const uuid = await guest.succeed(['cat', '/sys/class/dmi/id/product_uuid']);
    expect(await guest.succeed(['cat', '/etc/machine-id'])).toBe(uuid.replaceAll('-', ''));
  });

  it('restarts a service that died', async () => {
    const before = (await guest.succeed(['pidof', 'dockerd'])).trim();
    await guest.succeed(['kill', '-KILL', before]);
    await expect
      .poll(async () => (await guest.run(['docker', 'info', '--format', '{{.ID}}'])).exitCode, {
        timeout: 60_000,
        interval: 1_000,
      })
      .toBe(0);
    expect((await guest.succeed(['pidof', 'dockerd'])).trim()).not.toBe(before);
  });

  it('powers off when the host asks', async () => {
    await guest.powerOff(60_000);
  });
});

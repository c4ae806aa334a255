import { describe, expect, it } from 'vitest';
import { containerArguments, pullFailure, pullProgress } from '../../activities/docker.ts';
import type { ServiceSpec } from '../../model/spec.ts';

const spec = (run: Partial<ServiceSpec['run']> = {}) =>
  ({
    name: 'mosaic',
    image: 'registry:5000/mosaic:1',
    run: { command: null, env: {}, cpuLimitCores: null, memoryLimitBytes: null, ...run },
  }) as ServiceSpec;

describe('containerArguments', () => {
  it('names, places and marks the container', () => {
    const line = containerArguments(spec(), 'r-1', '10.0.0.21').join(' ');
    expect(line).toMatch(/^run --detach --pull never --name mosaic --network ciel --ip 10\.0\.0\.21 /);
    expect(line).toContain('--sysctl net.ipv4.conf.all.arp_ignore=1 --sysctl net.ipv4.conf.all.arp_announce=2');
    expect(line).toContain('--label ciel.replica=r-1');
    expect(line).toMatch(/ registry:5000\/mosaic:1$/);
    expect(line).not.toMatch(/--cpus|--memory|--env|--restart/);
  });

  it('passes limits, environment and command as they are, without a shell', () => {
    const args = containerArguments(
      spec({
        command: ['sh', '-c', 'echo "$A" && true'],
        env: { A: 'x y; $(z)' },
        cpuLimitCores: 0.5,
        memoryLimitBytes: 67_108_864,
      }),
      'r-1',
      '10.0.0.21',
    );
    expect(args.slice(-4)).toEqual(['registry:5000/mosaic:1', 'sh', '-c', 'echo "$A" && true']);
    expect(args).toContain('A=x y; $(z)');
    expect(args.join(' ')).toContain('--cpus 0.5 --memory 67108864b');
  });
});

it('pullProgress counts layers', () => {
  const log = `1: Pulling from mosaic
0123456789ab: Pulling fs layer
abcdef012345: Pulling fs layer
ffffffffffff: Already exists
0123456789ab: Verifying Checksum
0123456789ab: Download complete
0123456789ab: Pull complete
Digest: sha256:00`;
  expect(pullProgress(log)).toEqual({ layers: 3, pulled: 2 });
  expect(pullProgress('')).toEqual({ layers: 0, pulled: 0 });
});

describe('pullFailure', () => {
  it.each([
    [
      'Error response from daemon: manifest for r:5000/x:1 not found: manifest unknown: manifest unknown',
      'ImageMissing',
    ],
    [
      'Error response from daemon: pull access denied for x, repository does not exist or may require login',
      'ImageMissing',
    ],
    ['invalid reference format', 'ImageMissing'],
    [
      'Error response from daemon: Get "http://10.0.0.1:5000/v2/": dial tcp 10.0.0.1:5000: connect: connection refused',
      'RegistryUnreachable',
    ],
    ['Error response from daemon: Get "https://r/v2/": dial tcp: lookup r: no such host', 'RegistryUnreachable'],
    ['failed to register layer: write /x: no space left on device', 'StorageFull'],
  ])('%s is %s', (log, failure) => {
    expect(pullFailure('x', 'VM v', log)).toMatchObject({ failure, message: expect.stringContaining('VM v') });
  });
});

import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { FileSystem } from '../../../guest-disk/file-system.ts';
import { docker, parseContainer } from '../../../guest-disk/runtimes/docker.ts';
import { CONTAINER_ID, dockerFiles, makeImage, openExt4, temporaryDirectory, writeTree } from '../images.ts';

const OTHER_ID = 'fbf081ffde47d6633f8771655fd9cebd6c696c81c16b9357c394996c527dc905';
const directory = await temporaryDirectory();
let images = 0;

async function fileSystemOf(files: Readonly<Record<string, string | Buffer>>): Promise<FileSystem> {
  images += 1;
  const tree = join(directory, `tree-${images}`);
  writeTree(tree, { 'etc/hostname': 'guest', ...files });
  await makeImage(join(directory, `${images}.img`), tree, 16, []);
  return openExt4(join(directory, `${images}.img`));
}

/** The two files of a container, with a change to what Docker wrote. */
function changed(change: (config: Record<string, never>, hostConfig: Record<string, never>) => void): [Buffer, Buffer] {
  const [config, hostConfig] = Object.values(dockerFiles(CONTAINER_ID, 'shop')).map((file) => JSON.parse(file));
  change(config, hostConfig);
  return [Buffer.from(JSON.stringify(config)), Buffer.from(JSON.stringify(hostConfig))];
}

describe('the containers of Docker', () => {
  it('are listed with who they are', async () => {
    const listing = await docker.list(await fileSystemOf(dockerFiles(CONTAINER_ID, 'shop')));
    expect(listing).toEqual({
      unreadable: [],
      mounts: [],
      containers: [
        {
          runtime: 'docker',
          id: CONTAINER_ID,
          name: 'shop',
          image: 'registry.test/shop:1',
          imageId: 'sha256:c01941f8687bc6fcaab5e91dcf6c8eb48e0da6a42637a1fa58a2136fe310cbb9',
          labels: { 'ciel.test': 'shop' },
          addresses: { lan: '10.77.0.21' },
          running: true,
          state: 'running',
          pid: 210,
          startedAt: '2026-11-24T23:56:19.077852376Z',
          cpuLimitCores: 1.5,
          memoryLimitBytes: 64 << 20,
          cgroupParent: null,
          restartPolicy: 'unless-stopped',
          within: [],
        },
      ],
    });
  });

  it.each([
    ['in the usual place', {}, 'var/lib/docker'],
    [
      'where daemon.json puts them',
      { 'etc/docker/daemon.json': '{"data-root": "/srv/images", "debug": true}' },
      'srv/images',
    ],
    ['although daemon.json is broken', { 'etc/docker/daemon.json': '{' }, 'var/lib/docker'],
    ['on a disk of their own', {}, '.'],
  ])('are found %s', async (_name, files, root) => {
    const listing = await docker.list(await fileSystemOf({ ...files, ...dockerFiles(CONTAINER_ID, 'shop', root) }));
    expect(listing?.containers.map(({ name }) => name)).toEqual(['shop']);
  });

  it('that cannot be read are told apart from those that are not there', async () => {
    const listing = await docker.list(
      await fileSystemOf({
        ...dockerFiles(CONTAINER_ID, 'shop'),
        [`var/lib/docker/containers/${OTHER_ID}/config.v2.json`]: '{"ID": "cut in the mid',
        'var/lib/docker/containers/not-an-id/config.v2.json': '{}',
        [`var/lib/docker/containers/${'a'.repeat(64)}/empty-folder`]: '',
      }),
    );
    expect(listing?.containers.map(({ id }) => id)).toEqual([CONTAINER_ID]);
    expect(listing?.unreadable).toMatchObject([{ id: OTHER_ID, reason: 'Malformed' }]);
  });

  it('are none where Docker never was', async () => {
    expect(await docker.list(await fileSystemOf({}))).toBeNull();
  });
});

describe('what a container was given', () => {
  type Json = Record<string, Record<string, unknown>>;
  const limits: [name: string, hostConfig: object, cores: number | null, memory: number | null][] = [
    ['nothing', { NanoCpus: 0, Memory: 0 }, null, null],
    ['a quota', { NanoCpus: 0, CpuQuota: 50_000, CpuPeriod: 25_000, Memory: 1 }, 2, 1],
    ['a quota of the default period', { NanoCpus: 0, CpuQuota: 50_000 }, 0.5, 64 << 20],
    ['no limit, as -1', { NanoCpus: 0, CpuQuota: -1, Memory: -1 }, null, null],
  ];
  it.each(limits)('%s', (_name, hostConfig, cores, memory) => {
    const [config, host] = changed((_config, written) => Object.assign(written, hostConfig));
    const container = parseContainer(CONTAINER_ID, config, host);
    expect([container.cpuLimitCores, container.memoryLimitBytes]).toEqual([cores, memory]);
  });

  const states: [state: string, written: object, pid: number | null][] = [
    ['running', {}, 210],
    ['paused', { Paused: true }, 210],
    ['restarting', { Restarting: true, Pid: 0 }, null],
    ['exited', { Running: false, Pid: 0 }, null],
    ['created', { Running: false, Pid: 0, StartedAt: '0001-01-01T00:00:00Z' }, null],
    ['dead', { Running: false, Dead: true }, null],
  ];
  it.each(states)('state %s', (state, written, pid) => {
    const [config, host] = changed((value) => Object.assign((value as Json).State as object, written));
    expect(parseContainer(CONTAINER_ID, config, host)).toMatchObject({ state, pid });
  });

  it('an IPv6 address where there is no other', () => {
    const [config, host] = changed((value) => {
      (value as Json).NetworkSettings = {
        Networks: { six: { IPAddress: '', GlobalIPv6Address: 'fd00::21' }, host: null },
      };
    });
    expect(parseContainer(CONTAINER_ID, config, host).addresses).toEqual({ six: 'fd00::21' });
  });

  it('no hostconfig.json means no limits', () => {
    const [config] = changed(() => undefined);
    expect(parseContainer(CONTAINER_ID, config, null)).toMatchObject({ cpuLimitCores: null, restartPolicy: 'no' });
  });
});

describe('a description that Docker would not write is refused', () => {
  type Json = Record<string, Record<string, unknown>>;
  const cases: [name: string, change: (config: Json) => void][] = [
    ['of another container', (config) => Object.assign(config, { ID: OTHER_ID })],
    ['with a name that is none', (config) => Object.assign(config, { Name: '/../shop' })],
    [
      'with an escape sequence for a terminal in the image',
      (config) => Object.assign(config.Config as object, { Image: 'a\u001b[2J' }),
    ],
    [
      'with half a surrogate in a label',
      (config) => Object.assign(config.Config as object, { Labels: { a: '\ud800' } }),
    ],
    [
      'with labels without end',
      (config) => Object.assign(config.Config as object, { Labels: { a: 'x'.repeat(40_000) } }),
    ],
    [
      'with networks without end',
      (config) => {
        const networks = Array.from({ length: 100 }, (_, n) => [`net-${n}`, { IPAddress: '10.0.0.1' }]);
        config.NetworkSettings = { Networks: Object.fromEntries(networks) };
      },
    ],
    ['with a number for a name', (config) => Object.assign(config, { Name: 7 })],
  ];
  it.each(cases)('%s', (_name, change) => {
    const [config, host] = changed((value) => change(value as Json));
    expect(() => parseContainer(CONTAINER_ID, config, host)).toThrowError(
      /names another container|not what Docker writes/,
    );
  });

  it('as bytes that are no UTF-8', () => {
    const [config, host] = changed(() => undefined);
    config.writeUInt8(0xff, config.indexOf('shop'));
    expect(() => parseContainer(CONTAINER_ID, config, host)).toThrowError(/not what Docker writes/);
  });

  it('as ten thousand brackets', () => {
    expect(() => parseContainer(CONTAINER_ID, Buffer.alloc(1 << 20, '['), null)).toThrowError(/not what Docker writes/);
  });

  it('with what its message repeats quoted and short', () => {
    const [config, host] = changed((value) => {
      (value as Json).NetworkSettings = { Networks: { [`\u001b]0;${'x'.repeat(250)}`]: 3 } };
    });
    try {
      parseContainer(CONTAINER_ID, config, host);
      expect.unreachable();
    } catch (error) {
      const { message } = error as Error;
      expect(message).not.toMatch(/\p{Control}/u);
      expect(message.length).toBeLessThan(1000);
    }
  });

  it('but a label called __proto__ is only a label', () => {
    const [config, host] = changed(() => undefined);
    const poisoned = Buffer.from(String(config).replace('"ciel.test"', '"__proto__"'));
    const { labels } = parseContainer(CONTAINER_ID, poisoned, host);
    expect(Object.getPrototypeOf(labels)).toBe(Object.prototype);
    expect(({} as Record<string, unknown>).shop).toBeUndefined();
  });

  it('and an address that is none is left out', () => {
    const [config, host] = changed((value) => {
      (value as Json).NetworkSettings = { Networks: { lan: { IPAddress: '10.0.0.1; rm -rf /' } } };
    });
    expect(parseContainer(CONTAINER_ID, config, host).addresses).toEqual({});
  });
});

/**
 * What runtimes keep, by mutation, without a disk around it, so that many more inputs are tried in the same time: databases
 * (targets bbolt and sqlite), and JSON, YAML and LXC's configuration (target json).
 */
import { describe, expect, it } from 'vitest';
import { parse as parseYaml, stringify } from 'yaml';
import { DiskUnreadable } from '../../guest-disk/disk.ts';
import { containerd } from '../../guest-disk/runtimes/containerd.ts';
import { docker, parseContainer } from '../../guest-disk/runtimes/docker.ts';
import { lxc } from '../../guest-disk/runtimes/lxc.ts';
import { lxd } from '../../guest-disk/runtimes/lxd.ts';
import { podman } from '../../guest-disk/runtimes/podman.ts';
import type { RuntimeOnDisk } from '../../guest-disk/runtimes/runtime.ts';
import { CONTAINER_ID, dockerFiles, inflated, stateOf } from '../guest-disk/images.ts';
import { memoryFiles } from '../guest-disk/memory-files.ts';
import { blocksInUse, Mutable, mutateJson, mutateText, random } from '../guest-disk/mutations.ts';
import { checkText, forSeeds, IS_LONG, isWanted, type Outcome, TEST_LIMIT_MS } from './fuzzing.ts';

const SHORT = { bbolt: 100, sqlite: 60, json: 800 } as const;
const META = 'var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db';

/** What a mutated state says: a listing, or a refusal with its reason. Anything else is a mistake of the parsers. */
async function listed(runtime: RuntimeOnDisk, files: Readonly<Record<string, Buffer>>, what: string): Promise<Outcome> {
  try {
    const listing = await runtime.list(memoryFiles(files));
    checkText(listing?.containers, what);
    for (const { name, image, imageId } of listing?.containers ?? []) checkVisible(`${name}${image}${imageId}`, what);
    return { outcome: listing === null || listing.unreadable.length > 0 ? 'unreadable' : 'read' };
  } catch (error) {
    if (error instanceof DiskUnreadable || error instanceof RangeError) return { outcome: 'refused' };
    throw new Error(what, { cause: error });
  }
}

function checkVisible(text: string, what: string): void {
  if (/\p{Control}/u.test(text)) throw new Error(`${what}: a control character in ${JSON.stringify(text)}`);
}

describe('a database', () => {
  const DATABASES = {
    bbolt: [
      [containerd, META, 'containerd-1.6.db'],
      [containerd, META, 'cri-1.7.db'],
      [containerd, META, 'kubernetes.db'],
      [podman, 'var/lib/containers/storage/libpod/bolt_state.db', 'podman-4.db'],
    ],
    sqlite: [[podman, 'var/lib/containers/storage/db.sql', 'podman-5.sql']],
  } as const;

  it.for(['bbolt', 'sqlite'] as const)(
    '%s gives containers or a reason, soon',
    { timeout: TEST_LIMIT_MS },
    async (target, { skip }) => {
      if (!isWanted(target)) skip('another target runs');
      const states = DATABASES[target].map(([runtime, path, name]) => {
        const content = inflated(name);
        const blocks = Array.from({ length: content.length >> 10 }, (_, index) => index << 10);
        return { runtime, path, name, mutable: new Mutable(content, blocksInUse(content, blocks)) };
      });
      const outcomes = await forSeeds(target, SHORT[target], async (seed) => {
        const { runtime, path, name, mutable } = states[seed % states.length] as (typeof states)[number];
        const undo = mutable.mutate(random(seed));
        const outcome = await listed(runtime, { [path]: mutable.content }, `${name}, seed ${seed}`);
        undo();
        return outcome;
      });
      if (!IS_LONG)
        expect(Math.min(outcomes.read ?? 0, (outcomes.refused ?? 0) + (outcomes.unreadable ?? 0))).toBeGreaterThan(3);
    },
  );
});

describe("a runtime's text", () => {
  const [config, host] = Object.values(dockerFiles(CONTAINER_ID, 'shop')).map((text) => JSON.parse(text) as unknown);
  const criContainer = '2a853a2c63e1845d4264177307d786dbd43d4b7d03f3376ea2ae1b64d235ac05';
  const criStatus = { Version: 'v1', Pid: 507, CreatedAt: 1795595923867, StartedAt: 1795595925970, FinishedAt: 0 };
  const yaml = parseYaml(String(stateOf('lxd-first.yaml'))) as unknown;
  const lxcConfig = stateOf('lxc-web.config');

  it.runIf(isWanted('json'))(
    'describes a container or is refused, soon',
    async () => {
      const outcomes = await forSeeds('json', SHORT.json, async (seed) => {
        const below = random(seed);
        const mutated = (value: unknown) =>
          mutateText(Buffer.from(JSON.stringify(below(4) === 0 ? value : mutateJson(value, below))), below);
        const what = `seed ${seed}`;
        switch (below(32)) {
          case 0: {
            const status = {
              [`var/lib/containerd/io.containerd.grpc.v1.cri/containers/${criContainer}/status`]: mutated(criStatus),
            };
            return listed(containerd, { [META]: inflated('cri-1.7.db'), ...status }, what);
          }
          case 1:
          case 2: {
            const text = Buffer.from(stringify(below(4) === 0 ? yaml : mutateJson(yaml, below)));
            const files = { 'var/lib/lxd/storage-pools/x/y': Buffer.alloc(0) };
            return listed(lxd, { ...files, 'var/lib/lxd/containers/first/backup.yaml': mutateText(text, below) }, what);
          }
          case 3:
          case 4:
            return listed(lxc, { 'var/lib/lxc/web/config': mutateText(lxcConfig, below) }, what);
          case 5: {
            const daemon = { 'etc/docker/daemon.json': mutated({ 'data-root': '/data', graph: '/var/lib/docker' }) };
            return listed(docker, { ...daemon, 'var/lib/docker/containers/x': Buffer.alloc(0) }, what);
          }
          default:
            return described(mutated(config), mutated(host), what);
        }
      });
      if (!IS_LONG) expect(Math.min(outcomes.read ?? 0, outcomes.refused ?? 0)).toBeGreaterThan(100);
    },
    TEST_LIMIT_MS,
  );

  function described(container: Buffer, limits: Buffer, what: string): Outcome {
    try {
      const found = parseContainer(CONTAINER_ID, container, limits);
      if (found.id !== CONTAINER_ID) throw new Error(`${what}: ${found.id}`);
      checkVisible(`${found.name}${found.image}${found.imageId}`, what);
      checkText(found, what);
      return { outcome: 'read' };
    } catch (error) {
      if (!(error instanceof DiskUnreadable)) throw new Error(what, { cause: error });
      return { outcome: 'refused' };
    }
  }
});

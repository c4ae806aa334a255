import { describe, expect, it } from 'vitest';
import { NamesOfContainers } from '../../guest-disk/matching-names.ts';
import type { ContainerIdentity } from '../../model/usage.ts';

const ID = 'ab'.repeat(32);
const EVIL = 'e0'.repeat(32);
const docker = (id: string) => ({ id, runtime: 'docker' as const, cgroupPath: `/docker/${id}` });

function described(name: string, more: Partial<ContainerIdentity> = {}): ContainerIdentity {
  return {
    id: ID,
    runtime: 'docker',
    within: [],
    name,
    image: 'shop:1',
    imageId: '',
    labels: {},
    addresses: {},
    running: true,
    startedAt: null,
    cpuLimitCores: null,
    memoryLimitBytes: null,
    ...more,
  };
}

const nameOf = (
  container: Parameters<NamesOfContainers['of']>[0],
  around: readonly Parameters<NamesOfContainers['of']>[0][],
  identities: readonly ContainerIdentity[],
) => new NamesOfContainers([container, ...around], identities).of(container)?.name ?? null;

describe('a container has the name', () => {
  it('that its own runtime gave, when another has one of the same id', () => {
    const both = [described('dockers'), described('containerds', { runtime: 'containerd' })];
    for (const identities of [both, [...both].reverse()]) {
      expect(nameOf(docker(ID), [], identities)).toBe('dockers');
      const other = { id: ID, runtime: 'containerd' as const, cgroupPath: `/default/${ID}` };
      expect(nameOf(other, [docker(ID)], identities)).toBe('containerds');
    }
    expect(nameOf(docker(ID), [], both.slice(1))).toBeNull();
  });

  it('that a runtime on the same level gave: not one from the volume of another container, nor the other way', () => {
    const around = [{ runtime: 'docker' as const, id: EVIL }];
    const both = [described('shop'), described('forged', { within: around })];
    const nested = { id: ID, runtime: 'docker' as const, cgroupPath: `/docker/${EVIL}/docker/${ID}` };
    for (const identities of [both, [...both].reverse()]) {
      expect(nameOf(docker(ID), [docker(EVIL)], identities)).toBe('shop');
      expect(nameOf(nested, [docker(EVIL)], identities)).toBe('forged');
    }
    expect(nameOf(docker(ID), [docker(EVIL)], both.slice(1))).toBeNull();
    expect(nameOf(nested, [docker(EVIL)], both.slice(0, 1))).toBeNull();
  });

  it('that is deep in containers, by all of them', () => {
    const [a, b] = ['aa'.repeat(32), 'bb'.repeat(32)];
    const within = [a, EVIL].map((id) => ({ runtime: 'docker' as const, id }));
    const forged = [b, EVIL].map((id) => ({ runtime: 'docker' as const, id }));
    const paths = [docker(a), docker(b)].map(({ cgroupPath }) => `${cgroupPath}/docker/${EVIL}`);
    const middle = paths.map((cgroupPath) => ({ id: EVIL, runtime: 'docker' as const, cgroupPath }));
    const deep = { id: ID, runtime: 'docker' as const, cgroupPath: `${paths[0]}/docker/${ID}` };
    const identities = [described('forged', { within: forged }), described('deep', { within })];
    expect(nameOf(deep, [docker(a), docker(b), ...middle], identities)).toBe('deep');
  });

  it('of any runtime, when its cgroup does not tell which made it', () => {
    const guessed = { id: ID, runtime: 'docker' as const, cgroupPath: `/tenants/ada/${ID}` };
    expect(nameOf(guessed, [], [described('direct', { runtime: 'containerd' })])).toBe('direct');
    expect(
      nameOf(guessed, [], [described('direct', { runtime: 'containerd' }), described('other', { runtime: 'podman' })]),
    ).toBeNull();
    const inPod = { id: ID, runtime: 'containerd' as const, cgroupPath: `/kubepods/besteffort/pod8f4c5a0e/${ID}` };
    expect(nameOf(inPod, [], [described('k8s_web_shop-0_store_u1_0')])).toBe('k8s_web_shop-0_store_u1_0');
    expect(nameOf({ ...inPod, cgroupPath: `/k8s.io/${ID}` }, [], [described('k8s_web_shop-0_store_u1_0')])).toBeNull();
  });
});

describe('of two descriptions of one container', () => {
  it('the newer counts, when they say the same', () => {
    const identities = [
      described('shop', { startedAt: '2026-01-02T00:00:00Z' }),
      described('shop', { startedAt: '2026-01-01T00:00:00Z' }),
    ];
    for (const both of [identities, [...identities].reverse()]) {
      expect(new NamesOfContainers([docker(ID)], both).of(docker(ID))?.startedAt).toBe('2026-01-02T00:00:00Z');
    }
  });

  it('neither counts, when they contradict each other', () => {
    expect(nameOf(docker(ID), [], [described('shop'), described('forged')])).toBeNull();
    expect(nameOf(docker(ID), [], [described('shop'), described('forged'), described('shop')])).toBeNull();
  });
});

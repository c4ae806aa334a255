/**
 * Libvirt against a libvirtd of the test's own (root, no network, no guest system: QEMU's firmware is enough).
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { guestPids, killLibvirtd, type Libvirtd, startLibvirtd, stopLibvirtd } from '../../lab/libvirtd.ts';
import { type HypervisorEvent, LIBVIRT_ERRORS, Libvirt, LibvirtStuck } from '../../native/libvirt.ts';

const NAMESPACE = 'urn:ciel:test';
const domainXml = (
  name: string,
) => `<domain type="qemu"><name>${name}</name><memory unit="MiB">32</memory><vcpu>1</vcpu>
  <os><type arch="x86_64" machine="q35">hvm</type></os>
  <metadata><t:note xmlns:t="${NAMESPACE}" text="&lt;a&gt; &amp; b"/></metadata>
  <devices><channel type="unix"><target type="virtio" name="org.qemu.guest_agent.0"/></channel></devices></domain>`;

let directory: string;
let daemon: Libvirtd;
let libvirt: Libvirt;
const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'ciel', 'libvirt-capabilities');
const start = async () => {
  daemon = await startLibvirtd({ directory, cache });
};

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'ciel-lv-'));
  await start();
  libvirt = await Libvirt.connect(daemon.uri);
});
afterAll(async () => {
  await libvirt?.close();
  await stopLibvirtd(directory);
  await rm(directory, { recursive: true, force: true });
});

async function withRunning<T>(name: string, act: (uuid: string) => Promise<T>): Promise<T> {
  const { uuid } = await libvirt.defineXml(domainXml(name));
  await libvirt.create(uuid);
  try {
    return await act(uuid);
  } finally {
    await libvirt.destroy(uuid).catch(() => {});
    await libvirt.undefine(uuid);
  }
}
const median = (values: number[]) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)] as number;

describe('a domain', () => {
  it('is defined, started, seen, ended and gone', async () => {
    const events: HypervisorEvent[] = [];
    const stopListening = libvirt.events((event) => events.push(event));
    const { uuid, state } = await libvirt.defineXml(domainXml('one'));
    expect(state).toBe('shutoff');
    const off = (await libvirt.allStats()).find((vm) => vm.uuid === uuid);
    expect(off).toMatchObject({ name: 'one', state: 'shutoff', libvirtId: null, cpuNanoseconds: null });

    await libvirt.create(uuid);
    const first = (await libvirt.allStats()).find((vm) => vm.uuid === uuid);
    expect(first).toMatchObject({ state: 'running', vcpus: 1, memoryBytes: 32 * 2 ** 20 });
    expect(first?.libvirtId).toBeGreaterThan(0);
    expect(await libvirt.lookup('one')).toMatchObject({ uuid, persistent: true, state: 'running' });
    await vi.waitFor(async () => {
      const later = (await libvirt.allStats()).find((vm) => vm.uuid === uuid);
      expect(later?.cpuNanoseconds).toBeGreaterThan(first?.cpuNanoseconds ?? 0n);
      expect(later?.atNanoseconds).toBeGreaterThan(first?.atNanoseconds ?? 0n);
    });
    expect(await libvirt.xml(uuid)).toContain("type='unix'");
    expect(await libvirt.monitorCommand(uuid, { execute: 'query-status' })).toMatchObject({
      return: { status: 'running' },
    });

    await libvirt.destroy(uuid);
    await libvirt.undefine(uuid);
    expect(await libvirt.lookup(uuid)).toBeNull();
    expect(await libvirt.lookup('one')).toBeNull();
    await vi.waitFor(() => {
      const kinds = events.flatMap((event) => (event.kind === 'domain' && event.uuid === uuid ? [event.event] : []));
      expect(kinds).toEqual(expect.arrayContaining(['defined', 'started', 'stopped', 'undefined']));
    });
    stopListening();
  });

  it('keeps metadata, by namespace, defined and running', async () => {
    await withRunning('noted', async (uuid) => {
      expect(await libvirt.metadata(uuid, NAMESPACE)).toContain('text="&lt;a&gt; &amp; b"');
      expect(await libvirt.metadata(uuid, 'urn:other')).toBeNull();
      await libvirt.setMetadata(uuid, 'urn:other', { prefix: 'o', xml: '<mark a="1"/>' });
      expect(await libvirt.metadata(uuid, 'urn:other')).toContain('a="1"');
      expect(await libvirt.xml(uuid, { inactive: true })).toContain('urn:other');
      await libvirt.setMetadata(uuid, 'urn:other', null);
      expect(await libvirt.metadata(uuid, 'urn:other')).toBeNull();
    });
  });
});

describe('errors keep their code', () => {
  const unknown = '00000000-0000-4000-8000-000000000000';
  it.each<[string, () => Promise<unknown>, number]>([
    ['a domain that does not exist', () => libvirt.create(unknown), LIBVIRT_ERRORS.noDomain],
    ['XML that is none', () => libvirt.defineXml('hello'), LIBVIRT_ERRORS.xmlDetail],
    [
      'an element that libvirt does not know',
      () => libvirt.defineXml(domainXml('x').replace('<os>', '<nonsense/><os>')),
      LIBVIRT_ERRORS.xmlInvalidSchema,
    ],
  ])('%s', async (_what, act, code) => {
    await expect(act()).rejects.toMatchObject({ name: 'LibvirtError', code, connectionLost: false });
  });

  it('a name that is taken, a domain that runs already, an agent that is not there', async () => {
    await withRunning('taken', async (uuid) => {
      await expect(libvirt.defineXml(domainXml('taken'))).rejects.toMatchObject({
        code: LIBVIRT_ERRORS.operationFailed,
        message: expect.stringContaining('already exists'),
      });
      await expect(libvirt.create(uuid)).rejects.toMatchObject({ code: LIBVIRT_ERRORS.operationInvalid });
      const ping = libvirt.agentCommand(uuid, { execute: 'guest-ping' }, 2);
      await expect(ping).rejects.toMatchObject({ code: LIBVIRT_ERRORS.agentUnresponsive });
    });
  });

  it('no libvirtd at all', async () => {
    const nowhere = `qemu+unix:///system?socket=${join(directory, 'nothing')}`;
    await expect(Libvirt.connect(nowhere)).rejects.toMatchObject({ name: 'LibvirtError', connectionLost: true });
  });
});

describe('what hangs', () => {
  it('a QEMU that hangs holds up nothing but its own calls, which are given up', async () => {
    const impatient = await Libvirt.connect(daemon.uri, { slowDeadlineMs: 1_500 });
    await withRunning('hung', async (uuid) => {
      const [pid] = await guestPids(directory);
      process.kill(pid as number, 'SIGSTOP');
      try {
        const stuck = impatient.monitorCommand(uuid, { execute: 'query-status' });
        const times: number[] = [];
        for (let count = 0; count < 20; count++) {
          const began = performance.now();
          expect((await impatient.allStats()).find((vm) => vm.uuid === uuid)?.state).toBe('running');
          times.push(performance.now() - began);
        }
        expect(median(times)).toBeLessThan(50);
        await expect(stuck).rejects.toThrow(LibvirtStuck);
        expect(impatient.stuckThreads).toBe(1);
        expect(await impatient.lookup('hung')).toMatchObject({ uuid });
      } finally {
        process.kill(pid as number, 'SIGCONT');
      }
      // The thread that was given up ends once its call returns.
      await vi.waitFor(() => expect(impatient.stuckThreads).toBe(0), { timeout: 10_000 });
      expect(await impatient.monitorCommand(uuid, { execute: 'query-status' })).toHaveProperty('return');
    });
    await impatient.close();
  });

  it('a libvirtd that hangs ends calls with a lost connection, and is used again afterwards', async () => {
    process.kill(daemon.pid, 'SIGSTOP');
    try {
      const began = performance.now();
      await expect(libvirt.allStats()).rejects.toMatchObject({ connectionLost: true });
      expect(performance.now() - began).toBeLessThan(24_000);
    } finally {
      process.kill(daemon.pid, 'SIGCONT');
    }
    await vi.waitFor(async () => expect(await libvirt.allStats()).toEqual([]), { timeout: 10_000, interval: 200 });
  }, 60_000);
});

it('libvirtd is killed and comes back: the guest runs on, calls and events work again', async () => {
  await withRunning('survivor', async (uuid) => {
    const [pid] = await guestPids(directory);
    const events: string[] = [];
    const stopListening = libvirt.events((event) => events.push(event.kind === 'domain' ? event.event : event.kind));
    await killLibvirtd(directory);
    await expect(libvirt.destroy(uuid)).rejects.toMatchObject({ connectionLost: true });
    await expect(libvirt.allStats()).rejects.toMatchObject({ connectionLost: true });
    await start();
    await vi.waitFor(() => expect(events).toEqual(['disconnected', 'connected']), { timeout: 10_000 });
    expect(await guestPids(directory)).toEqual([pid]);
    expect(await libvirt.lookup(uuid)).toMatchObject({ state: 'running' });
    process.kill(pid as number, 'SIGKILL');
    await vi.waitFor(() => expect(events).toContain('stopped'), { timeout: 10_000 });
    stopListening();
  });
});

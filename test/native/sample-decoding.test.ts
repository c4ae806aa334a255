import { describe, expect, it } from 'vitest';
import type { ContainerCounters } from '../../model/usage.ts';
import { decodeSample } from '../../native/sample-decoding.ts';
import { ABI } from '../../native/sample-layout.ts';
import { type Container, encodeSample, FIGURES, FIXED_BYTES, type Figure } from './encoded-sample.ts';

const NONE = 0xffff_ffff_ffff_ffffn;
/** By number, from 1 on: enum ciel_figure_name. */
const figures = (changes: Readonly<Record<number, Figure>> = {}): Figure[] =>
  Array.from({ length: FIGURES }, (_, index) => changes[index] ?? [BigInt(index + 1), 0, 0]);
const NUMBER = { quota: 4, memory: 10, memoryLimit: 12, ioRead: 21, ioWrite: 22, pids: 25, cpuSome: 27, network: 33 };
const docker = (changes: Partial<Container> = {}): Container => ({
  path: '/docker/a',
  id: [8, 1],
  runtime: 1,
  figures: figures(),
  perCpu: [0n],
  ...changes,
});
function only(buffer: Buffer, slotName: (slot: number) => string = () => ''): ContainerCounters {
  const [container] = decodeSample(buffer, slotName).introspection.containers;
  if (!container) throw new Error('no container');
  return container;
}

describe('decoding a sample', () => {
  it('gives header, figures and per-CPU times', () => {
    const buffer = encodeSample([
      { path: '/docker/abc', id: [8, 3], runtime: 1, figures: figures(), perCpu: [7n, NONE, 9n] },
      { path: '/lxc.payload.web', id: [13, 3], runtime: 4, figures: figures(), perCpu: [1n, NONE, 2n] },
    ]);
    const { introspection, elapsedNanoseconds } = decodeSample(buffer, () => '');
    expect(elapsedNanoseconds).toBe(61_000n);
    expect(introspection).toMatchObject({
      atNanoseconds: 123n,
      guestBoot: '00112233-4455-6677-8899-aabbccddeeff',
      kernelRelease: '6.1.0-56-cloud-amd64',
      nodename: 'guest',
      possibleCpus: 2,
      jiffies: 4_295_000_000n,
    });
    const [first, lxc] = introspection.containers;
    expect(first).toMatchObject({
      id: 'abc',
      runtime: 'docker',
      cgroupPath: '/docker/abc',
      cpuNanoseconds: { available: true, value: 1n },
      perCpuNanoseconds: { available: true, value: [7n, null, 9n] },
      memoryBytes: { available: true, value: 11 },
      memoryLimitBytes: { available: true, value: 13 },
      ioWriteBytes: { available: true, value: 23n },
    });
    expect(lxc).toMatchObject({ id: 'web', runtime: 'lxc', cgroupPath: '/lxc.payload.web' });
  });

  it('says why a figure is missing, and never makes it zero (invariant 5)', () => {
    const missing = figures({
      [NUMBER.memory]: [0n, 4, 17],
      [NUMBER.ioRead]: [0n, 15, 0],
      [NUMBER.ioWrite]: [0n, 5, 0],
      [NUMBER.cpuSome]: [0n, 15, 0],
      [NUMBER.network]: [0n, 18, 0],
    });
    const container = only(encodeSample([docker({ figures: missing })]), (slot) => `field number ${slot}`);
    expect(container.memoryBytes).toEqual({
      available: false,
      reason: 'NoField',
      message: "the guest's kernel has no field number 17",
    });
    expect(container.ioReadBytes).toMatchObject({ available: false, reason: 'NoField' });
    expect(container.ioWriteBytes).toMatchObject({ available: false, reason: 'Faulted' });
    expect(container.details?.ioDevices).toEqual(container.ioReadBytes);
    expect(container.details?.pressure.cpu.someNanoseconds).toMatchObject({
      message: expect.stringContaining('psi=1'),
    });
    expect(container.details?.network).toMatchObject({ available: false, reason: 'NotFound' });
  });

  it('tells no limit from a limit', () => {
    const unlimited = figures({ [NUMBER.memoryLimit]: [NONE, 0, 0], [NUMBER.quota]: [NONE, 0, 0] });
    const container = only(encodeSample([docker({ figures: unlimited })]));
    expect(container.memoryLimitBytes).toEqual({ available: true, value: null });
    expect(container.details?.cpuQuotaNanoseconds).toEqual({ available: true, value: null });
    expect(container.details?.pidsLimit).toEqual({ available: true, value: 27 });
  });

  it('has no details when none were asked for', () => {
    const basic = figures({ [NUMBER.pids]: [0n, 16, 0] });
    expect(only(encodeSample([docker({ figures: basic })])).details).toBeNull();
  });

  it('gives devices and interfaces, each with its counts or the reason why there are none', () => {
    const container = docker({
      path: '/docker/abc',
      id: [8, 3],
      perCpu: [1n, 2n],
      devices: [
        { counts: [4096n, 8192n, 1n, 2n], name: 'vda' },
        { counts: [1n, 2n, 3n, 4n], name: '' },
      ],
      interfaces: [
        { counts: [1n, 2n, 3n, 4n, 5n, 6n, 7n, 8n], status: 0, flags: 0x49, name: 'lo', kind: '' },
        { counts: [], status: 17, flags: 0x1043, name: 'abcdefghijklmno', kind: 'wireguard' },
      ],
    });
    const { id, details } = only(encodeSample([container]));
    expect(id).toBe('abc');
    expect(details?.ioDevices).toEqual({
      available: true,
      value: [
        { major: 254, minor: 16, name: 'vda', readBytes: 4096n, writeBytes: 8192n, reads: 1n, writes: 2n },
        { major: 254, minor: 16, name: null, readBytes: 1n, writeBytes: 2n, reads: 3n, writes: 4n },
      ],
    });
    expect(details?.network).toMatchObject({
      available: true,
      value: {
        namespace: 34,
        isHost: false,
        interfaces: [
          {
            name: 'lo',
            kind: null,
            index: 1,
            isLoopback: true,
            counts: {
              available: true,
              value: { receivedBytes: 1n, receiveDropped: 4n, sentBytes: 5n, sendDropped: 8n },
            },
          },
          {
            name: 'abcdefghijklmno',
            kind: 'wireguard',
            isLoopback: false,
            counts: { available: false, reason: 'Unsupported' },
          },
        ],
      },
    });
  });

  it("tells the guest's own network from a container's", () => {
    const { details } = only(encodeSample([docker({ isHostNetwork: true })]));
    expect(details?.network).toEqual({ available: true, value: { namespace: 34, isHost: true, interfaces: [] } });
  });

  it("has a machine's name as its user gave it", () => {
    const path = '/machine.slice/machine-web\\x2d1.scope';
    const start = path.indexOf('web');
    const id: readonly [number, number] = [start, path.indexOf('.scope') - start];
    const sample = encodeSample([{ path, id, runtime: 6, figures: figures(), perCpu: [0n] }]);
    expect(decodeSample(sample, () => '').introspection.containers[0]).toMatchObject({ id: 'web-1', cgroupPath: path });
  });

  it('keeps names that are no UTF-8 within one string', () => {
    const buffer = encodeSample([
      { path: '/lxc.payload.xyz', id: [13, 3], runtime: 4, figures: figures(), perCpu: [0n] },
    ]);
    buffer.writeUInt8(0xff, 232 + FIXED_BYTES + 8 + 14);
    expect(decodeSample(buffer, () => '').introspection.containers[0]?.id).toBe('x\ufffdz');
  });

  it('stays what it was when the buffer is written to again, however late its containers are asked for', () => {
    const buffer = encodeSample([docker({ path: '/docker/abc', id: [8, 3] })]);
    const { introspection } = decodeSample(buffer, () => '');
    buffer.fill(0xee);
    expect(introspection.containers).toMatchObject([{ id: 'abc', cpuNanoseconds: { available: true, value: 1n } }]);
    expect(introspection.containers).toBe(introspection.containers);
    expect({ ...introspection }.containers).toBe(introspection.containers);
  });

  it('keeps counters of 64 bits, and refuses bytes that no number holds', () => {
    const huge = 2n ** 64n - 2n;
    const most = 2n ** 53n - 1n;
    const container = only(
      encodeSample([
        docker({
          figures: figures({ 0: [huge, 0, 0], [NUMBER.memory]: [most + 1n, 0, 0], [NUMBER.memoryLimit]: [most, 0, 0] }),
        }),
      ]),
    );
    expect(container.cpuNanoseconds).toEqual({ available: true, value: huge });
    expect(container.memoryBytes).toMatchObject({ available: false, reason: 'Malformed' });
    expect(container.memoryLimitBytes).toEqual({ available: true, value: Number(most) });
  });

  it.each([
    ['a record that ends behind the sample', 0, 0x10000],
    ['a record that is shorter than what is in it', 0, 8],
    ['a record without end', 0, 0],
    ['another runtime', 4, 99],
    ['a path that ends behind its record', 8, 0x1000],
    ['an id that ends behind its path', 16, 100],
    ['more devices than fit', 20, 0xffff_ffff],
    ['more interfaces than fit', 24, 3],
  ])('refuses %s before anybody asks for it', (_, offset, value) => {
    const buffer = encodeSample([docker(), docker()]);
    buffer.writeUInt32LE(value, 232 + offset);
    expect(() => decodeSample(buffer, () => '')).toThrow(/record|runtime/);
  });

  it('refuses records without figures', () => {
    const buffer = encodeSample([docker()]);
    buffer.writeUInt32LE(0, 8);
    expect(() => decodeSample(buffer, () => '')).toThrow('record');
  });

  it('refuses more containers, or bytes, than are there', () => {
    const more = encodeSample([docker()]);
    more.writeUInt32LE(0xffff_ffff, 12);
    expect(() => decodeSample(more, () => '')).toThrow(RangeError);
    const longer = encodeSample([docker()]);
    longer.writeUInt32LE(longer.length + 1, 24);
    expect(() => decodeSample(longer, () => '')).toThrow('bytes');
  });

  it('refuses another ABI', () => {
    const buffer = encodeSample([]);
    buffer.writeUInt32LE(ABI + 1, 0);
    expect(() => decodeSample(buffer, () => '')).toThrow(`ABI ${ABI + 1}`);
  });
});

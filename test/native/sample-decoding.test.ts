import { describe, expect, it } from 'vitest';
import { decodeSample } from '../../native/sample-decoding.ts';

/** A sample as the mapper writes it, by the offsets of mapper/mapper.h. */
function encodeSample(
  containers: readonly {
    path: string;
    id: [number, number];
    runtime: number;
    figures: [bigint, number, number][];
    perCpu: bigint[];
  }[],
): Buffer {
  const header = Buffer.alloc(216);
  header.writeUInt32LE(1, 0);
  header.writeUInt32LE(216, 4);
  header.writeUInt32LE(200, 8);
  header.writeUInt32LE(containers.length, 12);
  header.writeUInt32LE(containers[0]?.perCpu.length ?? 1, 16);
  header.writeUInt32LE(2, 20);
  header.writeBigUInt64LE(123n, 32);
  header.writeBigUInt64LE(61_000n, 40);
  header.writeBigUInt64LE(4_295_000_000n, 48);
  Buffer.from('00112233445566778899aabbccddeeff', 'hex').copy(header, 56);
  header.write('6.1.0-56-cloud-amd64', 72);
  header.write('guest', 144);
  const records = containers.map((container) => {
    const path = Buffer.from(container.path);
    const size = 200 + container.perCpu.length * 8 + path.length;
    const record = Buffer.alloc(Math.ceil(size / 8) * 8);
    record.writeUInt32LE(record.length, 0);
    record.writeUInt32LE(container.runtime, 4);
    record.writeUInt32LE(path.length, 8);
    record.writeUInt32LE(container.id[0], 12);
    record.writeUInt32LE(container.id[1], 16);
    container.figures.forEach(([value, status, detail], index) => {
      record.writeBigUInt64LE(value, 24 + index * 16);
      record.writeInt32LE(status, 32 + index * 16);
      record.writeUInt32LE(detail, 36 + index * 16);
    });
    container.perCpu.forEach((value, index) => {
      record.writeBigUInt64LE(value, 200 + index * 8);
    });
    path.copy(record, 200 + container.perCpu.length * 8);
    return record;
  });
  return Buffer.concat([header, ...records, Buffer.alloc(64, 0xee)]);
}

const NONE = 0xffff_ffff_ffff_ffffn;
const figures = (): [bigint, number, number][] => Array.from({ length: 11 }, (_, index) => [BigInt(index + 1), 0, 0]);

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
    const [docker, lxc] = introspection.containers;
    expect(docker).toMatchObject({
      id: 'abc',
      runtime: 'docker',
      cgroupPath: '/docker/abc',
      cpuNanoseconds: { available: true, value: 1n },
      perCpuNanoseconds: { available: true, value: [7n, null, 9n] },
      memoryBytes: { available: true, value: 5 },
      memoryLimitBytes: { available: true, value: 9 },
      ioWriteBytes: { available: true, value: 11n },
    });
    expect(lxc).toMatchObject({ id: 'web', runtime: 'lxc', cgroupPath: '/lxc.payload.web' });
  });

  it('says why a figure is missing, and never makes it zero', () => {
    const missing = figures();
    missing[4] = [0n, 4, 17];
    missing[9] = [0n, 15, 0];
    missing[10] = [0n, 5, 0];
    const buffer = encodeSample([{ path: '/docker/a', id: [8, 1], runtime: 1, figures: missing, perCpu: [0n] }]);
    const [container] = decodeSample(buffer, (slot) => `field number ${slot}`).introspection.containers;
    expect(container?.memoryBytes).toEqual({
      available: false,
      reason: 'NoField',
      message: "the guest's kernel has no field number 17",
    });
    expect(container?.ioReadBytes).toMatchObject({ available: false, reason: 'NoField' });
    expect(container?.ioWriteBytes).toMatchObject({ available: false, reason: 'Faulted' });
  });

  it('tells no limit from a limit', () => {
    const unlimited = figures();
    unlimited[8] = [NONE, 0, 0];
    const buffer = encodeSample([{ path: '/docker/a', id: [8, 1], runtime: 1, figures: unlimited, perCpu: [0n] }]);
    expect(decodeSample(buffer, () => '').introspection.containers[0]?.memoryLimitBytes).toEqual({
      available: true,
      value: null,
    });
  });

  it('keeps names that are no UTF-8 within one string', () => {
    const buffer = encodeSample([
      { path: '/lxc.payload.xyz', id: [13, 3], runtime: 4, figures: figures(), perCpu: [0n] },
    ]);
    buffer.writeUInt8(0xff, 216 + 200 + 8 + 14);
    expect(decodeSample(buffer, () => '').introspection.containers[0]?.id).toBe('x\ufffdz');
  });

  it('refuses another ABI', () => {
    const buffer = encodeSample([]);
    buffer.writeUInt32LE(2, 0);
    expect(() => decodeSample(buffer, () => '')).toThrow(/ABI 2/);
  });
});

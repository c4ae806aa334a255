/** Samples as the mapper writes them. */
import { ABI } from '../../native/sample-layout.ts';

export type Figure = readonly [value: bigint, status: number, detail: number];
export const FIGURES = 34;
export const FIXED_BYTES = 40 + FIGURES * 16;

export interface Container {
  readonly path: string;
  readonly id: readonly [offset: number, length: number];
  readonly runtime: number;
  readonly serial?: bigint;
  readonly figures: readonly Figure[];
  readonly perCpu: readonly bigint[];
  readonly isHostNetwork?: boolean;
  readonly devices?: readonly { readonly counts: readonly bigint[]; readonly name: string }[];
  readonly interfaces?: readonly {
    readonly counts: readonly bigint[];
    readonly status: number;
    readonly flags: number;
    readonly name: string;
    readonly kind: string;
  }[];
}

/** A sample as the mapper writes it, by the offsets of mapper/mapper.h. */
export function encodeSample(
  containers: readonly Container[],
  { at = 123n, jiffies = 4_295_000_000n, boot = 0x00 } = {},
): Buffer {
  const header = Buffer.alloc(232);
  header.writeUInt32LE(ABI, 0);
  header.writeUInt32LE(232, 4);
  header.writeUInt32LE(FIXED_BYTES, 8);
  header.writeUInt32LE(containers.length, 12);
  header.writeUInt32LE(containers[0]?.perCpu.length ?? 1, 16);
  header.writeUInt32LE(2, 20);
  header.writeBigUInt64LE(at, 32);
  header.writeBigUInt64LE(61_000n, 40);
  header.writeBigUInt64LE(jiffies, 48);
  Buffer.from('00112233445566778899aabbccddeeff', 'hex').copy(header, 56);
  header.writeUInt8(boot, 56);
  header.write('6.1.0-56-cloud-amd64', 72);
  header.write('guest', 144);
  const records = containers.map(encodeContainer);
  header.writeUInt32LE(232 + records.reduce((sum, record) => sum + record.length, 0), 24);
  return Buffer.concat([header, ...records, Buffer.alloc(64, 0xee)]);
}

function encodeContainer(container: Container): Buffer {
  const { devices = [], interfaces = [] } = container;
  const path = Buffer.from(container.path);
  const fixed = Buffer.alloc(FIXED_BYTES);
  const perCpu = Buffer.alloc(container.perCpu.length * 8);
  container.perCpu.forEach((value, index) => {
    perCpu.writeBigUInt64LE(value, index * 8);
  });
  const behind = [
    perCpu,
    ...devices.map(({ counts, name }) => {
      const record = Buffer.alloc(72);
      counts.forEach((count, index) => {
        record.writeBigUInt64LE(count, index * 8);
      });
      record.writeUInt32LE(254, 32);
      record.writeUInt32LE(16, 36);
      record.write(name, 40);
      return record;
    }),
    ...interfaces.map(({ counts, status, flags, name, kind }, number) => {
      const record = Buffer.alloc(112);
      counts.forEach((count, index) => {
        record.writeBigUInt64LE(count, index * 8);
      });
      record.writeInt32LE(status, 64);
      record.writeUInt32LE(number + 1, 72);
      record.writeUInt32LE(flags, 76);
      record.write(name, 80);
      record.write(kind, 96);
      return record;
    }),
    path,
  ];
  const length = behind.reduce((sum, part) => sum + part.length, fixed.length);
  const bytes = Math.ceil(length / 8) * 8;
  fixed.writeUInt32LE(bytes, 0);
  fixed.writeUInt32LE(container.runtime, 4);
  fixed.writeUInt32LE(path.length, 8);
  fixed.writeUInt32LE(container.id[0], 12);
  fixed.writeUInt32LE(container.id[1], 16);
  fixed.writeUInt32LE(devices.length, 20);
  fixed.writeUInt32LE(interfaces.length, 24);
  fixed.writeUInt32LE(container.isHostNetwork === true ? 1 : 0, 28);
  fixed.writeBigUInt64LE(container.serial ?? 9n, 32);
  container.figures.forEach(([value, status, detail], index) => {
    fixed.writeBigUInt64LE(value, 40 + index * 16);
    fixed.writeInt32LE(status, 48 + index * 16);
    fixed.writeUInt32LE(detail, 52 + index * 16);
  });
  return Buffer.concat([fixed, ...behind, Buffer.alloc(bytes - length)]);
}

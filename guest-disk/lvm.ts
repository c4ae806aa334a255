/**
 * LVM2: which parts of a physical volume (a disk or partition) are which logical volumes.
 *
 *   sector 0–3   label: "LABELONE" … → PV header: UUID, metadata areas
 *   area         header: where in the area, a ring, the current text is, and its checksum
 *   text         volume group { physical_volumes { … } logical_volumes { root { segment1 { stripes = ["pv0", 0] } } } }
 *
 * Linear volumes on this one disk are read, of as many segments as they have; a mirror's legs are such volumes, too. What
 * is striped, thin, cached, or has a part on another disk is named in `others`. LVM writes a new text behind the old one
 * and then the header, so a text whose checksum does not match was overtaken, and is looked for again.
 */
import { type BlockSource, DiskUnreadable, slice } from './disk.ts';

const SECTOR_BYTES = 512;
const LABEL_SECTORS = 4;
const PV_UUID_BYTES = 32;
const AREA_HEADER_BYTES = 512;
const AREA_MAGIC = ' LVM2 x[5A%r0N*>';
const AREA_IGNORED = 1;
const CRC_START = 0xf597_a6cf;

const MAX_AREAS = 4;
const MAX_TEXT_BYTES = 4 << 20;
const MAX_DEPTH = 8;
const MAX_VALUES = 200_000;
const MAX_VOLUMES = 256;
const MAX_SEGMENTS = 4096;
const MAX_ATTEMPTS = 3;

export interface LogicalVolume {
  /** As in /dev: group/volume. */
  readonly name: string;
  readonly source: BlockSource;
}

export interface VolumeGroup {
  readonly volumes: readonly LogicalVolume[];
  /** Volumes that cannot be read from this disk alone. */
  readonly others: readonly string[];
}

/** null: no physical volume. */
export async function openVolumeGroup(disk: BlockSource): Promise<VolumeGroup | null> {
  const label = await findLabel(disk);
  if (!label) return null;
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
    const texts = await Promise.all(label.areas.map((area) => readText(disk, area)));
    const text = texts.find((candidate) => candidate !== 'torn' && candidate !== 'none');
    if (text) return mapVolumes(parseConfig(text), label.uuid, disk);
    // A volume that is in no group yet has no text.
    if (!texts.includes('torn')) return { volumes: [], others: [] };
  }
  throw new DiskUnreadable('Torn', `LVM's metadata does not match its checksum in ${MAX_ATTEMPTS} attempts`);
}

interface Area {
  readonly start: number;
  readonly sizeBytes: number;
}

async function findLabel(disk: BlockSource): Promise<{ uuid: string; areas: Area[] } | null> {
  if (disk.sizeBytes < (LABEL_SECTORS + 1) * SECTOR_BYTES) return null;
  const head = await disk.read(0, LABEL_SECTORS * SECTOR_BYTES);
  for (let sector = 0; sector < LABEL_SECTORS; sector++) {
    const label = head.subarray(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES);
    const isLabel = label.toString('latin1', 0, 8) === 'LABELONE' && label.toString('latin1', 24, 32) === 'LVM2 001';
    if (!isLabel || crc(label.subarray(20)) !== label.readUInt32LE(16)) continue;
    const header = label.subarray(label.readUInt32LE(20));
    // Data areas, a zero, metadata areas, a zero.
    let at = PV_UUID_BYTES + 8;
    while (header.readBigUInt64LE(at) !== 0n) at += 16;
    const areas: Area[] = [];
    for (at += 16; header.readBigUInt64LE(at) !== 0n && areas.length < MAX_AREAS; at += 16) {
      areas.push({
        start: Number(header.readBigUInt64LE(at)),
        sizeBytes: Number(header.readBigUInt64LE(at + 8)),
      });
    }
    return { uuid: header.toString('latin1', 0, PV_UUID_BYTES), areas };
  }
  return null;
}

async function readText(disk: BlockSource, { start, sizeBytes }: Area): Promise<string | 'torn' | 'none'> {
  const area = slice(disk, start, sizeBytes);
  const header = await area.read(0, AREA_HEADER_BYTES);
  if (header.toString('latin1', 4, 20) !== AREA_MAGIC || crc(header.subarray(4)) !== header.readUInt32LE(0)) {
    return 'torn';
  }
  const at = Number(header.readBigUInt64LE(40));
  const length = Number(header.readBigUInt64LE(48));
  if (at === 0 || length === 0 || header.readUInt32LE(60) & AREA_IGNORED) return 'none';
  if (length > MAX_TEXT_BYTES || at < AREA_HEADER_BYTES || at >= sizeBytes) {
    throw new DiskUnreadable('Malformed', `LVM metadata of ${length} bytes at ${at} of ${sizeBytes}`);
  }
  const before = Math.min(length, sizeBytes - at);
  const text = Buffer.concat([await area.read(at, before), await area.read(AREA_HEADER_BYTES, length - before)]);
  return crc(text) === header.readUInt32LE(56) ? text.toString('utf8') : 'torn';
}

/** A section, or a value: text, number, or a list of them. */
type Config = string | number | readonly (string | number)[] | Section;
class Section {
  readonly #entries = new Map<string, Config>();
  set(key: string, value: Config): void {
    this.#entries.set(key, value);
  }
  section(key: string): Section {
    const value = this.#entries.get(key);
    if (value instanceof Section) return value;
    throw new DiskUnreadable('Malformed', `LVM's metadata has no section ${JSON.stringify(key).slice(0, 80)}`);
  }
  sections(): [string, Section][] {
    return [...this.#entries].flatMap(([key, value]) => (value instanceof Section ? [[key, value] as const] : [])) as [
      string,
      Section,
    ][];
  }
  number(key: string): number {
    const value = this.#entries.get(key);
    if (typeof value === 'number' && value >= 0) return value;
    throw new DiskUnreadable('Malformed', `LVM's metadata has no number ${key}`);
  }
  text(key: string): string {
    const value = this.#entries.get(key);
    return typeof value === 'string' ? value : '';
  }
  list(key: string): readonly (string | number)[] {
    const value = this.#entries.get(key);
    return Array.isArray(value) ? value : [];
  }
}

function parseConfig(text: string): Section {
  const token = /\s+|#[^\n]*|"((?:[^"\\]|\\.)*)"|([A-Za-z0-9_.+-]+)|([{}[\]=,])/gy;
  let values = 0;
  const next = (): { kind: 'text' | 'word' | 'sign' | 'end'; value: string } => {
    for (;;) {
      if (token.lastIndex >= text.length || text[token.lastIndex] === '\0') return { kind: 'end', value: '' };
      const match = token.exec(text);
      if (!match) throw new DiskUnreadable('Malformed', "LVM's metadata is no configuration text");
      if (++values > MAX_VALUES) throw new DiskUnreadable('Exhausted', "LVM's metadata has too many values");
      if (match[1] !== undefined) return { kind: 'text', value: match[1].replace(/\\(.)/g, '$1') };
      if (match[2] !== undefined) return { kind: 'word', value: match[2] };
      if (match[3] !== undefined) return { kind: 'sign', value: match[3] };
    }
  };
  const bad = () => new DiskUnreadable('Malformed', "LVM's metadata is no configuration text");
  const scalar = ({ kind, value }: ReturnType<typeof next>): string | number => {
    if (kind === 'text') return value;
    if (kind === 'word' && /^-?\d+$/.test(value)) return Number(value);
    throw bad();
  };
  const value = (): Config => {
    const first = next();
    if (first.value !== '[' || first.kind !== 'sign') return scalar(first);
    const list: (string | number)[] = [];
    for (let item = next(); item.kind !== 'sign' || item.value !== ']'; item = next()) {
      if (item.kind !== 'sign') list.push(scalar(item));
      else if (item.value !== ',') throw bad();
    }
    return list;
  };
  const section = (depth: number, end: 'sign' | 'end'): Section => {
    if (depth > MAX_DEPTH) throw bad();
    const found = new Section();
    for (;;) {
      const key = next();
      if (key.kind === end && (end === 'end' || key.value === '}')) return found;
      if (key.kind !== 'word') throw bad();
      const sign = next();
      if (sign.value === '=') found.set(key.value, value());
      else if (sign.value === '{') found.set(key.value, section(depth + 1, 'sign'));
      else throw bad();
    }
  };
  return section(0, 'end');
}

interface Segment {
  readonly start: number;
  readonly from: number;
  readonly sizeBytes: number;
}

function mapVolumes(metadata: Section, pvUuid: string, disk: BlockSource): VolumeGroup {
  const [[groupName, group] = []] = metadata.sections();
  if (groupName === undefined || group === undefined) throw new DiskUnreadable('Malformed', 'LVM metadata of no group');
  const extentBytes = group.number('extent_size') * SECTOR_BYTES;
  const isOurs = (volume: Section) => volume.text('id').replaceAll('-', '') === pvUuid;
  const [pvName, pv] =
    group
      .section('physical_volumes')
      .sections()
      .find(([, volume]) => isOurs(volume)) ?? [];
  if (!pv) throw new DiskUnreadable('Malformed', "LVM's metadata does not know the volume that it lies on");
  const dataStart = pv.number('pe_start') * SECTOR_BYTES;
  const volumes: LogicalVolume[] = [];
  const others: string[] = [];
  let segmentCount = 0;
  for (const [volumeName, volume] of optionalSections(group, 'logical_volumes').slice(0, MAX_VOLUMES)) {
    const name = `${groupName}/${volumeName}`;
    const segments: Segment[] = [];
    let isLinear = true;
    for (const [, segment] of volume.sections()) {
      if (++segmentCount > MAX_SEGMENTS) throw new DiskUnreadable('Exhausted', `over ${MAX_SEGMENTS} LVM segments`);
      const [stripe, firstExtent, ...more] = segment.list('stripes');
      const isLinearHere = segment.text('type') === 'striped' && stripe === pvName && more.length === 0;
      if (!isLinearHere || typeof firstExtent !== 'number') {
        isLinear = false;
        break;
      }
      segments.push({
        start: segment.number('start_extent') * extentBytes,
        from: dataStart + firstExtent * extentBytes,
        sizeBytes: segment.number('extent_count') * extentBytes,
      });
    }
    if (isLinear && segments.length > 0) volumes.push({ name, source: join(disk, segments, name) });
    else others.push(name);
  }
  return { volumes, others };
}

/** A group without volumes has no such section. */
function optionalSections(group: Section, key: string): [string, Section][] {
  return (
    group
      .sections()
      .find(([name]) => name === key)?.[1]
      .sections() ?? []
  );
}

/** Segments side by side, as one source. */
function join(disk: BlockSource, segments: readonly Segment[], name: string): BlockSource {
  const inOrder = [...segments].sort((a, b) => a.start - b.start);
  let sizeBytes = 0;
  for (const segment of inOrder) {
    const fits = segment.start === sizeBytes && segment.sizeBytes > 0;
    if (!fits) throw new DiskUnreadable('Malformed', `the segments of LVM volume ${name} leave a gap at ${sizeBytes}`);
    sizeBytes += segment.sizeBytes;
  }
  const read = async (offset: number, length: number): Promise<Buffer> => {
    const parts: Buffer[] = [];
    for (const segment of inOrder) {
      const from = Math.max(offset, segment.start);
      const to = Math.min(offset + length, segment.start + segment.sizeBytes);
      if (from < to) parts.push(await disk.read(segment.from + from - segment.start, to - from));
    }
    return parts.length === 1 && parts[0] ? parts[0] : Buffer.concat(parts);
  };
  // The slice is for its check of bounds.
  return slice({ sizeBytes, read }, 0, sizeBytes);
}

const CRC_TABLE = new Int32Array(256).map((_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = (value >>> 1) ^ (value & 1 ? 0xedb8_8320 : 0);
  return value;
});

/** CRC-32 with a start value of LVM's own, and nothing inverted at the end. */
function crc(bytes: Uint8Array): number {
  let value = CRC_START | 0;
  for (const byte of bytes) value = (value >>> 8) ^ (CRC_TABLE[(value ^ byte) & 0xff] as number);
  return value >>> 0;
}

/**
 * Every kind of dump, of a real guest under libvirt that stands still meanwhile: each says the same, to the last figure, as
 * a look into the live guest's memory. And dumps that end early, shrink while they are read, or leave out pages.
 */
import { randomUUID } from 'node:crypto';
import { copyFile, mkdir, open, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { requestOf } from '../../lab/attach-request.ts';
import { CONTAINERS, startContainers } from '../../lab/kernels/containers.ts';
import { type GuestAtPort, guestAt, kernelArguments, PORT_NAME } from '../../lab/kernels/guest.ts';
import { kernelImage } from '../../lab/kernels/kernels.ts';
import { guestPids, type Libvirtd, startLibvirtd, stopLibvirtd } from '../../lab/libvirtd.ts';
import type { ContainerCounters } from '../../model/usage.ts';
import { workingAccelerator } from '../../native/accelerator.ts';
import { readDump } from '../../native/dump.ts';
import { attach } from '../../native/mapper.ts';
import { cacheDirectory } from '../../template/cache.ts';
import { random } from '../guest-disk/mutations.ts';
import { ramFile } from './live-guest.ts';

const BOOT_LIMIT_MS = 180_000;
const MEMORY_MIB = 256;
const NAME = 'dumped';
/** Of libvirtd's sockets: short. */
const directory = join(tmpdir(), `ciel-dump-${process.pid}`);
const file = (name: string) => join(directory, name);
let libvirtd: Libvirtd;
let port: GuestAtPort;
let pid: number;
let release: string;
/** What the live guest showed when it had stopped. */
let live: readonly ContainerCounters[];

const virsh = (...command: string[]) => execa('virsh', ['-q', '-c', libvirtd.uri, ...command]);

beforeAll(async () => {
  await mkdir(directory);
  libvirtd = await startLibvirtd({ directory: file('v'), cache: join(cacheDirectory(), 'libvirt-capabilities') });
  const { kernel, initramfs, release: name } = await kernelImage('6.1', 'cloud');
  release = name;
  const accelerator = await workingAccelerator();
  const xml = `<domain type='${accelerator}'>
    <name>${NAME}</name><uuid>${randomUUID()}</uuid><memory unit='MiB'>${MEMORY_MIB}</memory><vcpu>1</vcpu>
    <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
    <os><type arch='x86_64' machine='q35'>hvm</type><kernel>${kernel}</kernel><initrd>${initramfs}</initrd>
    <cmdline>${kernelArguments({ append: 'psi=1' })}</cmdline></os>
    <features><acpi/></features><cpu mode='${accelerator === 'kvm' ? 'host-passthrough' : 'maximum'}'/>
    <devices><memballoon model='none'/>
    <channel type='unix'><source mode='bind' path='${file('port')}'/><target type='virtio' name='${PORT_NAME}'/></channel>
    </devices></domain>`;
  await writeFile(file('domain.xml'), xml);
  await virsh('create', file('domain.xml'));
  port = guestAt(file('port'));
  const deadline = performance.now() + BOOT_LIMIT_MS;
  while (!(await port.answers(1_000))) if (performance.now() > deadline) throw new Error('the guest did not answer');
  const containers = CONTAINERS.filter(({ load }) => load !== 'disk');
  await startContainers({ cgroups: 'v2', run: port.run }, containers);
  [pid] = (await guestPids(libvirtd.directory)) as [number];
  await virsh('suspend', NAME);
  live = await lookLive();
  expect(live.map(({ cgroupPath }) => cgroupPath).sort()).toEqual(
    containers.map(({ cgroupPath }) => cgroupPath).sort(),
  );
});
afterAll(async () => {
  port?.close();
  await stopLibvirtd(file('v'));
  await rm(directory, { recursive: true, force: true });
});

async function lookLive(): Promise<readonly ContainerCounters[]> {
  return attach(await requestOf(pid, { withDetails: true })).sample().containers;
}

async function expectSame(path: string, format: string): Promise<void> {
  const reading = await readDump(path);
  if (!reading.available) throw new Error(`${reading.reason}: ${reading.message}`);
  expect(reading.value.format).toBe(format);
  expect(reading.value.introspection.kernelRelease).toBe(release);
  expect(reading.value.introspection.containers).toEqual(live);
}

/** As a kernel with a vmcoreinfo device would give it to the dump's writer; Debian's has that as a module. */
async function vmcoreinfo(): Promise<string> {
  const ram = await open(await ramFile(pid));
  try {
    for (let at = 0; at < MEMORY_MIB << 20; at += 1 << 20) {
      const { buffer } = await ram.read(Buffer.alloc((1 << 20) + 8192), 0, (1 << 20) + 8192, at);
      const found = buffer.indexOf(`OSRELEASE=${release}\n`);
      if (found >= 0 && found < 1 << 20) return buffer.toString('latin1', found, buffer.indexOf(0, found));
    }
  } finally {
    await ram.close();
  }
  throw new Error('the guest has no VMCOREINFO');
}

/** makedumpfile takes the program headers to follow the ELF header, as in a kernel's dump; QEMU's are further behind. */
async function withHeadersInFront(from: string, to: string): Promise<void> {
  await copyFile(from, to);
  const dump = await open(to, 'r+');
  try {
    const { buffer } = await dump.read(Buffer.alloc(512), 0, 512, 0);
    const [at, count] = [Number(buffer.readBigUInt64LE(32)), buffer.readUInt16LE(56)];
    buffer.copy(buffer, 64, at, at + count * 56);
    buffer.writeBigUInt64LE(64n, 32);
    buffer.fill(0, 40, 48).fill(0, 60, 64);
    await dump.write(buffer.subarray(0, 64 + count * 56), 0, 64 + count * 56, 0);
  } finally {
    await dump.close();
  }
}

describe('a dump says what the live guest said:', () => {
  // Debian's QEMU writes no kdump-lzo and kdump-snappy: makedumpfile does.
  it.each([
    ['elf', 'ELF core'],
    ['kdump-zlib', 'kdump'],
  ])('virsh dump --memory-only --format %s', async (format, name) => {
    await virsh('dump', '--memory-only', '--format', format, NAME, file(format));
    await expectSame(file(format), name);
    if (format !== 'elf') await rm(file(format));
  });

  it.each([
    ['-d 31, which leaves out all but the kernel', ['-d', '31']],
    ['-d 1 -c', ['-d', '1', '-c']],
    ['-d 1 -l', ['-d', '1', '-l']],
    ['-d 1 -p', ['-d', '1', '-p']],
    ['-d 1 -z', ['-d', '1', '-z']],
    ['-E, which is an ELF core again', ['-d', '1', '-E']],
  ])('makedumpfile %s', async (_name, options) => {
    await writeFile(file('vmcoreinfo'), await vmcoreinfo());
    await withHeadersInFront(file('elf'), file('kernels'));
    await execa('makedumpfile', [...options, '-i', file('vmcoreinfo'), file('kernels'), file('made')]);
    await expectSame(file('made'), options.includes('-E') ? 'ELF core' : 'kdump');
    await rm(file('made'));
  });

  it('virsh save, and virsh dump of what was restored from it, which is a migration stream', async () => {
    await virsh('save', NAME, file('save'));
    await expectSame(file('save'), 'libvirt save image');
    await virsh('restore', '--paused', file('save'));
    await virsh('dump', NAME, file('stream'));
    await expectSame(file('stream'), 'QEMU migration stream');
  });
});

describe('of a dump', () => {
  it('that ends early, figures are unavailable, or the whole, with the reason', async () => {
    for (const name of ['elf', 'save']) {
      const { size } = await stat(file(name));
      const reasons = new Set<string>();
      for (const share of [0.001, 0.5, 0.999]) {
        await copyFile(file(name), file('cut'));
        await truncate(file('cut'), Math.floor(size * share));
        const reading = await readDump(file('cut'));
        if (!reading.available) reasons.add(reading.reason);
        else expect(reading.value.introspection.containers.length).toBeLessThanOrEqual(live.length);
      }
      expect([...reasons]).not.toContain('ReaderDown');
      expect(reasons.size).toBeGreaterThan(0);
    }
  });

  it('that another process truncates meanwhile, too', async () => {
    const below = random(1);
    for (const name of ['elf', 'save']) {
      await copyFile(file(name), file('shrinking'));
      const { size } = await stat(file('shrinking'));
      const reading = readDump(file('shrinking'));
      for (let left = size; left > 4096; left = Math.floor(left / 2)) {
        await new Promise((resolve) => setTimeout(resolve, below(300)));
        await truncate(file('shrinking'), left);
      }
      const found = await reading;
      if (!found.available) expect(found.reason).not.toBe('ReaderDown');
    }
  });

  it('whose kernel carries no types, they are read from --btf DIR', async () => {
    const dump = await readFile(file('elf'));
    // The kernel's own types: a header (magic, version 1, no flags, 24 bytes), and what it says follows.
    const header = Buffer.from('9feb010018000000', 'hex');
    const found: number[] = [];
    for (let at = dump.indexOf(header); at >= 0; at = dump.indexOf(header, at + 1))
      if (dump.readUInt32LE(at + 12) > 1 << 20) found.push(at);
    const types = found.map((at) =>
      Buffer.from(dump.subarray(at, at + 24 + dump.readUInt32LE(at + 16) + dump.readUInt32LE(at + 20))),
    );
    // Also where the kernel was before it moved itself to where it runs. Only the headers: that place has been used since.
    for (const copy of found) dump.fill(0, copy, copy + 24);
    await writeFile(file('no-types'), dump);
    expect(await readDump(file('no-types'))).toMatchObject({ available: false, reason: 'NoTypes' });
    await mkdir(file('btf/debian/12/x86_64'), { recursive: true });
    const seen: unknown[] = [];
    for (const copy of types) {
      await writeFile(file(`btf/debian/12/x86_64/${release}.btf`), copy);
      const reading = await readDump(file('no-types'), { btfDirectory: file('btf') });
      if (reading.available) seen.push(reading.value.introspection.containers);
    }
    // Of what the kernel left behind the types may be whole or not.
    expect(seen).toContainEqual(live);
  });
});

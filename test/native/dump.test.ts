/** Reading a dump in a child process: what is no dump, what ends early, what takes too long. Real dumps: dump.vm.test.ts. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { readDump } from '../../native/dump.ts';
import { temporaryDirectory } from '../guest-disk/images.ts';

const directory = await temporaryDirectory();

async function dumpOf(content: Buffer): Promise<string> {
  const path = join(directory, `${content.length}.dump`);
  await writeFile(path, content);
  return path;
}

/** An ELF core of one page of RAM at 0, which the file has only a part of when it is cut off. */
function elfCore(): Buffer {
  const core = Buffer.alloc(64 + 56 + 4096);
  core.write('\x7fELF\x02\x01\x01', 'latin1');
  core.writeUInt16LE(4, 16);
  core.writeUInt16LE(62, 18);
  core.writeBigUInt64LE(64n, 32);
  core.writeUInt16LE(56, 54);
  core.writeUInt16LE(1, 56);
  core.writeUInt32LE(1, 64);
  core.writeBigUInt64LE(120n, 72);
  core.writeBigUInt64LE(4096n, 96);
  core.writeBigUInt64LE(4096n, 104);
  return core;
}

it('says what it is not', async () => {
  const reading = await readDump(await dumpOf(Buffer.from('# a text, and no dump of anything')));
  expect(reading).toMatchObject({ available: false, reason: 'Unsupported' });
  expect(reading.available ? '' : reading.message).toMatch(/no ELF core, kdump file, libvirt save image or QEMU/);
});

it('finds no Linux in one page', async () => {
  const reading = await readDump(await dumpOf(elfCore()));
  expect(reading).toMatchObject({ available: false, reason: 'NoVmcoreinfo' });
});

it('calls a file that was cut off truncated', async () => {
  const reading = await readDump(await dumpOf(elfCore().subarray(0, 1000)));
  expect(reading).toMatchObject({ available: false, reason: 'Faulted' });
  expect(reading.available ? '' : reading.message).toMatch(/truncated/);
});

it('gives up at its deadline', async () => {
  const reading = await readDump(await dumpOf(elfCore()), { deadlineMs: 1 });
  expect(reading).toMatchObject({ available: false, reason: 'Exhausted' });
});

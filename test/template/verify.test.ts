/** A template that an operator made, right and wrong in each way that is told apart. */
import { mkdir, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, describe, expect, it } from 'vitest';
import { domainXml, kernelCommandLine } from '../../template/domain-xml.ts';
import { listTemplates, verifyTemplate } from '../../template/verify.ts';

const root = await mkdtemp(join(tmpdir(), 'ciel-template-'));
afterAll(() => rm(root, { recursive: true }));

let count = 0;

/** A sound one, unless `change` makes something of its XML; its manifest is left out unless asked for. */
async function template(change: (xml: string) => string = (xml) => xml): Promise<string> {
  count += 1;
  const directory = join(root, `template-${count}`);
  await mkdir(directory);
  const xml = domainXml({ name: 'web', directory, bridge: 'br0', accelerator: 'kvm', vcpus: 1, memoryMiB: 512 });
  await writeFile(join(directory, 'domain.xml'), change(xml));
  for (const file of ['vmlinuz', 'initrd', 'disk.raw']) await writeFile(join(directory, file), '');
  await truncate(join(directory, 'disk.raw'), 50e9);
  const manifest = {
    name: 'web',
    contentHash: 'a'.repeat(64),
    builtAt: '2025-01-01T00:00:00Z',
    kernel: '6.1.0',
    packages: {},
    disk: { virtualBytes: 50e9, allocatedBytes: 0 },
    baseMemoryBytes: 100_000_000,
    boot: { accelerator: 'kvm', agentMs: 1, dockerMs: 2 },
  };
  await writeFile(join(directory, 'template.json'), JSON.stringify(manifest));
  return directory;
}

async function problems(directory: string): Promise<string[]> {
  const report = await verifyTemplate(directory);
  return report.problems.map(({ severity, problem, remedy }) => {
    expect(remedy).not.toBe('');
    return `${severity}: ${problem}`;
  });
}

describe('verifying a template', () => {
  it('finds nothing wrong with a sound one, and weighs its disk', async () => {
    const report = await verifyTemplate(await template());
    expect(report.problems).toEqual([]);
    expect(report).toMatchObject({ name: 'web', disk: { format: 'raw', virtualBytes: 50e9 } });
    expect(report.disk?.allocatedBytes).toBeLessThan(1e6);
  });

  it('accepts a qcow2 disk, and a path relative to the template', async () => {
    const directory = await template((xml) =>
      xml
        .replace("type='raw' discard", "type='qcow2' discard")
        .replace(/<source file='[^']*'/, "<source file='disk.qcow2'"),
    );
    await execa('qemu-img', ['create', '-q', '-f', 'qcow2', join(directory, 'disk.qcow2'), '1G']);
    const report = await verifyTemplate(directory);
    expect(report.problems).toEqual([]);
    expect(report.disk).toMatchObject({ format: 'qcow2', virtualBytes: 2 ** 30 });
  });

  it.each([
    [
      'no agent channel',
      (xml: string) => xml.replace(/<channel.*?<\/channel>/s, ''),
      'error: .*no channel for the guest agent',
    ],
    ['no NIC', (xml: string) => xml.replace(/<interface.*?<\/interface>/s, ''), 'error: .*no network interface'],
    ['no disk', (xml: string) => xml.replace(/<disk.*?<\/disk>/s, ''), 'error: .*has 0 disks'],
    ['two disks', (xml: string) => xml.replace(/(<disk.*?<\/disk>)/s, '$1$1'), 'error: .*has 2 disks'],
    [
      'memory that is not shared',
      (xml: string) => xml.replace(/<memoryBacking>.*?<\/memoryBacking>/s, ''),
      'warning: .*not shared',
    ],
    ['another bus', (xml: string) => xml.replace("bus='virtio'", "bus='sata'"), 'warning: .*virtio bus'],
    [
      'another format',
      (xml: string) => xml.replace("type='raw' discard", "type='qcow2' discard"),
      'error: .*says that it is qcow2, QEMU finds raw',
    ],
    ['cut XML', (xml: string) => xml.slice(0, 300), 'error: .*no well-formed XML'],
    ['other XML', () => '<network><name>x</name></network>', 'error: .*<network>, not <domain>'],
  ])('names the mistake: %s', async (_name, change, expected) => {
    const found = await problems(await template(change));
    expect(found).toHaveLength(1);
    expect(found[0]).toMatch(new RegExp(expected, 's'));
  });

  it.each(['disk.raw', 'vmlinuz', 'initrd', 'domain.xml', 'template.json'])(
    'names a file that is missing: %s',
    async (file) => {
      const directory = await template();
      await rm(join(directory, file));
      const found = await problems(directory);
      expect(found).toHaveLength(1);
      expect(found[0]).toContain(file);
    },
  );

  it('names all mistakes at once', async () => {
    const directory = await template((xml) =>
      xml.replace(/<channel.*?<\/channel>/s, '').replace(/<interface.*?<\/interface>/s, ''),
    );
    await rm(join(directory, 'vmlinuz'));
    expect(await problems(directory)).toHaveLength(3);
  });

  it('warns of an overlay, which clones would depend on', async () => {
    const directory = await template((xml) =>
      xml.replace("type='raw' discard", "type='qcow2' discard").replaceAll('disk.raw', 'over.qcow2'),
    );
    await execa('qemu-img', [
      'create',
      '-q',
      '-f',
      'qcow2',
      '-F',
      'raw',
      '-b',
      join(directory, 'disk.raw'),
      join(directory, 'over.qcow2'),
    ]);
    expect(await problems(directory)).toEqual([expect.stringMatching(/^warning: .*overlay on .*disk\.raw/)]);
  });
});

describe('listing templates', () => {
  it('finds the subdirectories that are templates, broken ones too, by name', async () => {
    const directory = await mkdtemp(join(root, 'list-'));
    for (const name of ['b', 'a', 'none']) await mkdir(join(directory, name));
    await writeFile(join(directory, 'a/domain.xml'), '<domain><name>first</name></domain>');
    await writeFile(join(directory, 'b/domain.xml'), 'not XML');
    const found = await listTemplates(directory);
    expect(found.map(({ name }) => name)).toEqual(['first', null]);
  });
});

describe('the domain XML', () => {
  it('escapes what it is given', async () => {
    const directory = await template();
    const xml = domainXml({ name: `a&b<'">`, directory, bridge: 'br0', accelerator: 'qemu', vcpus: 2, memoryMiB: 256 });
    await writeFile(join(directory, 'domain.xml'), xml);
    expect((await verifyTemplate(directory)).name).toBe(`a&b<'">`);
  });

  it('assumes no network address', () => {
    expect(kernelCommandLine('qemu')).not.toMatch(/\bip=/);
  });
});

import { XmlDocument } from 'libxml2-wasm';
import { describe, expect, it } from 'vitest';
import {
  type NewDomain,
  parseMark,
  readDomainXml,
  rewriteDomainXml,
  type TemplateXml,
  templateDisk,
} from '../../activities/domain-xml.ts';
import { CielFailure } from '../../model/failures.ts';
import { MARK_NAMESPACE, type Mark } from '../../model/identity.ts';

const MARK: Mark = {
  installationId: '6b0b1f0e-6f5c-4a53-9a0c-0d3f1c9a7e11',
  replicaId: '0c8f2d6a-1d7d-5b6c-8f0e-2a4b6c8d0e1f',
  service: 'mosaic',
  operationId: 'scale-out/mosaic/1',
};
const NEW: NewDomain = {
  name: 'ciel-mosaic-0c8f2d6a',
  uuid: '2d1c0b0a-0908-5706-8504-030201000fff',
  mac: '52:54:00:2a:4b:6c',
  diskFile: '/var/lib/ciel/disk & co.img',
  bridge: 'br-lan',
  vcpus: 2,
  memoryBytes: 700 * 2 ** 20 + 1,
  serialLog: '/var/lib/ciel/x.console.log',
  accelerator: 'qemu',
  mark: MARK,
};

/** As an operator's `virsh dumpxml` might be: running attributes, foreign metadata, comments, CDATA, QEMU arguments. */
const TEMPLATE = `<?xml version="1.0" encoding="utf-8"?>
<domain type="kvm" id="7" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">
  <name>template</name>
  <uuid>11111111-2222-4333-8444-555555555555</uuid>
  <genid>43dc0cf8-809b-4adb-9bea-a9abb5f3d90e</genid>
  <title>A template &#xE9; &amp; more</title>
  <metadata>
    <app:owner xmlns:app="urn:somebody" note="keep&#10;me"><![CDATA[<raw>]]></app:owner>
  </metadata>
  <!-- a comment -->
  <memory unit="GiB">1</memory>
  <currentMemory unit="GiB">1</currentMemory>
  <memoryBacking><source type="memfd"/><access mode="shared"/></memoryBacking>
  <vcpu placement="static" current="1">4</vcpu>
  <os>
    <type arch="x86_64" machine="pc-q35-7.2">hvm</type>
    <kernel>vmlinuz</kernel>
    <initrd>/boot/initrd</initrd>
    <cmdline>console=ttyS0 quiet</cmdline>
  </os>
  <cpu mode="host-passthrough" check="none" migratable="on"><topology sockets="1" dies="1" cores="4" threads="1"/></cpu>
  <devices>
    <disk type="file" device="cdrom"><target dev="sda" bus="sata"/><readonly/></disk>
    <disk type="file" device="disk"><driver name="qemu" type="raw" cache="none"/><source file="disk.img"/><target dev="vda" bus="virtio"/></disk>
    <interface type="network"><mac address="52:54:00:00:00:01"/><source network="default" portid="x"/><target dev="vnet3"/><model type="virtio"/></interface>
    <serial type="file"><source path="/tmp/template.log"/><target port="0"/></serial>
    <channel type="unix"><source mode="bind" path="/run/template.agent"/><target type="virtio" name="org.qemu.guest_agent.0"/></channel>
  </devices>
  <qemu:commandline><qemu:arg value="-no-hpet"/></qemu:commandline>
</domain>
`;
const template = (text: string): TemplateXml => ({ file: '/templates/t/domain.xml', directory: '/templates/t', text });

function canonical(xml: string, remove: readonly string[] = []): string {
  const doc = XmlDocument.fromString(xml);
  try {
    for (const path of remove) {
      for (const node of doc.find(path, { m: MARK_NAMESPACE })) {
        node.remove();
      }
    }
    return doc.canonicalizeToString({ withComments: true });
  } finally {
    doc.dispose();
  }
}
function value(xml: string, path: string): string {
  const doc = XmlDocument.fromString(xml);
  try {
    const result = doc.eval(`string(${path})`);
    return String(result);
  } finally {
    doc.dispose();
  }
}
function brokenBy(
  text: string,
  act: (broken: TemplateXml) => unknown = (broken) => rewriteDomainXml(broken, NEW),
): string {
  try {
    act(template(text));
  } catch (error) {
    if (error instanceof CielFailure && error.failure === 'TemplateBroken') return error.message;
    throw error;
  }
  throw new Error('it was accepted');
}

describe('rewriteDomainXml', () => {
  const rewritten = rewriteDomainXml(template(TEMPLATE), NEW);

  it.each([
    ['/domain/@type', 'qemu'],
    ['/domain/@id', ''],
    ['/domain/name', NEW.name],
    ['/domain/uuid', NEW.uuid],
    ['/domain/genid', ''],
    ['/domain/memory', '716801'],
    ['/domain/memory/@unit', 'KiB'],
    ['/domain/currentMemory', '716801'],
    ['/domain/vcpu', '2'],
    ['/domain/vcpu/@current', ''],
    ['/domain/cpu/@mode', 'maximum'],
    ['/domain/cpu/topology/@sockets', '2'],
    ['/domain/cpu/topology/@cores', '1'],
    ['/domain/os/kernel', '/templates/t/vmlinuz'],
    ['/domain/os/initrd', '/boot/initrd'],
    ['/domain/devices/disk[@device="disk"]/source/@file', NEW.diskFile],
    ['/domain/devices/interface/@type', 'bridge'],
    ['/domain/devices/interface/mac/@address', NEW.mac],
    ['/domain/devices/interface/source/@bridge', NEW.bridge],
    ['count(/domain/devices/interface/source/@*)', '1'],
    ['count(/domain/devices/interface/target)', '0'],
    ['/domain/devices/serial/source/@path', NEW.serialLog],
    ['count(/domain/devices/channel/source)', '0'],
  ])('sets %s to %s', (path, expected) => {
    expect(value(rewritten, path)).toBe(expected);
  });

  it('changes nothing else, compared after C14N', () => {
    const changed = [
      '/domain/@type',
      '/domain/@id',
      '/domain/name/text()',
      '/domain/uuid/text()',
      '/domain/genid/text()',
      '/domain/memory/text()',
      '/domain/memory/@unit',
      '/domain/currentMemory/text()',
      '/domain/currentMemory/@unit',
      '/domain/vcpu/text()',
      '/domain/vcpu/@current',
      '/domain/cpu/@*',
      '/domain/cpu/topology/@*',
      '/domain/os/kernel/text()',
      '/domain/devices/disk[@device="disk"]/source',
      '/domain/devices/interface/@type',
      '/domain/devices/interface/mac/@address',
      '/domain/devices/interface/source',
      '/domain/devices/interface/target',
      '/domain/devices/serial/source',
      '/domain/devices/channel/source',
      '/domain/metadata/m:mark',
    ];
    const without = canonical(rewritten, changed).replace(` xmlns:ciel="${MARK_NAMESPACE}"`, '');
    expect(without).toBe(canonical(TEMPLATE, changed));
    expect(without).toContain('a comment');
    expect(without).toContain('note="keep&#xA;me"');
  });

  it('rewrites what it has written to the same again', () => {
    expect(canonical(rewriteDomainXml(template(rewritten), NEW))).toBe(canonical(rewritten));
  });

  it('leaves one mark, that of the new VM, when the template bears another', () => {
    const other = { ...NEW, mark: { ...MARK, service: 'nginx' } };
    const again = rewriteDomainXml(template(rewritten), other);
    expect(readDomainXml('again', again).mark).toEqual(other.mark);
    expect(again.match(/<ciel:mark /g)).toHaveLength(1);
  });

  it('passes the host CPU through where KVM works', () => {
    const kvm = rewriteDomainXml(template(TEMPLATE), { ...NEW, accelerator: 'kvm' });
    expect(value(kvm, '/domain/cpu/@mode')).toBe('host-passthrough');
    expect(value(kvm, '/domain/@type')).toBe('kvm');
  });

  it('adds what the template leaves out', () => {
    const small = `<domain type='qemu'><name>t</name><memory>1</memory><devices>
      <disk type='file'><source file='d'/><target dev='vda'/></disk><interface type='user'/></devices></domain>`;
    const facts = readDomainXml('small', rewriteDomainXml(template(small), NEW));
    expect(facts).toMatchObject({ uuid: NEW.uuid, vcpus: 2, macs: [NEW.mac], mark: MARK });
    expect(rewriteDomainXml(template(small), NEW)).toContain('org.qemu.guest_agent.0');
  });
});

describe('a broken template', () => {
  const entities = Array.from({ length: 12 }, (_, n) => `<!ENTITY e${n + 1} "&e${n};&e${n};&e${n};&e${n};">`).join('');
  it.each([
    ['nothing', '', /not well-formed/],
    ['no XML', 'hello', /not well-formed/],
    ['an open element', '<domain><name>x</domain>', /not well-formed/],
    ['an attribute twice', '<domain type="a" type="b"/>', /not well-formed/],
    ['another document', '<network/>', /root is <network>/],
    ['an entity bomb', `<!DOCTYPE d [<!ENTITY e0 "x">${entities}]><domain><name>&e12;</name></domain>`, /./],
    [
      'an external entity',
      '<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><domain>&x;</domain>',
      /document type/,
    ],
    ['too deep nesting', '<domain>'.repeat(5000) + '</domain>'.repeat(5000), /not well-formed/],
    ['no memory', TEMPLATE.replace(/<memory unit.*/, ''), /no <memory>/],
    ['two disks', TEMPLATE.replace('device="cdrom"', 'device="disk"'), /2 disks/],
    ['no disk', TEMPLATE.replace(/<disk type="file" device="disk">.*/, ''), /0 disks/],
    ['no network interface', TEMPLATE.replace(/<interface.*/, ''), /0 network interfaces/],
    ['memory hotplug', TEMPLATE.replace('<memory ', '<maxMemory slots="2">9</maxMemory><memory '), /maxMemory/],
    ['our prefix for something else', TEMPLATE.replace('<metadata>', '<metadata xmlns:ciel="urn:x">'), /prefix "ciel"/],
  ])('%s: names the file and the fault', (_what, text, fault) => {
    const message = brokenBy(text);
    expect(message).toContain('/templates/t/domain.xml');
    expect(message).toMatch(fault);
  });

  it('has no disk file to clone', () => {
    expect(brokenBy(TEMPLATE.replace('file="disk.img"', ''), templateDisk)).toMatch(/no <source file/);
  });
});

describe('reading', () => {
  it('gives the template disk relative to its directory', () => {
    expect(templateDisk(template(TEMPLATE))).toEqual({ file: '/templates/t/disk.img', format: 'raw' });
  });

  it('gives the facts of a domain', () => {
    expect(readDomainXml('x', TEMPLATE)).toEqual({
      uuid: '11111111-2222-4333-8444-555555555555',
      name: 'template',
      accelerator: 'kvm',
      machine: 'pc-q35-7.2',
      vcpus: 4,
      memoryBytes: 2 ** 30,
      memoryShared: true,
      disks: [
        { target: 'sda', file: null, format: 'raw', writable: false },
        { target: 'vda', file: 'disk.img', format: 'raw', writable: true },
      ],
      macs: ['52:54:00:00:00:01'],
      mark: null,
    });
  });

  it('takes the mark as libvirt gives it, without its namespace', () => {
    const attributes = Object.entries(MARK).map(([name, text]) => `${name}="${text}"`);
    expect(parseMark(`<mark ${attributes.join(' ')}/>`)).toEqual(MARK);
    expect(parseMark(null)).toBeNull();
  });

  it.each(['<mark/>', `<mark installationId="x" replicaId="y" service="z" operationId="w"/>`])(
    'takes no mark from %s',
    (metadata) => expect(parseMark(metadata)).toBeNull(),
  );
});

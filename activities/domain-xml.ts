/**
 * Domain XML: a template's becomes a new VM's by changing what identifies and sizes it, and nothing else (compared after
 * C14N by the tests); and what Ciel needs to know of any domain is read from its XML. By libxml2, which refuses entity
 * bombs and loads nothing external; a document type is refused altogether.
 *
 * Changed: name, UUID, memory, vCPUs, the one disk's file, the one network interface's MAC and bridge, the accelerator,
 * the serial log's file. Added: the mark. Made absolute: kernel, initrd and device tree paths, relative to the template.
 * Dropped, because they would be shared by all its VMs: target device of the interface, socket path of the agent channel,
 * NVRAM file, generation id, and per-vCPU entries.
 */
import { isAbsolute, resolve } from 'node:path';
import { type XmlAttribute, XmlDocument, XmlElement, XmlError, type XmlNode, XmlParseError } from 'libxml2-wasm';
import { z } from 'zod';
import { CielFailure } from '../model/failures.ts';
import { MARK_NAMESPACE, type Mark } from '../model/identity.ts';

export const MARK_PREFIX = 'ciel';
export const AGENT_CHANNEL = 'org.qemu.guest_agent.0';
const MARK_ATTRIBUTES = ['installationId', 'replicaId', 'service', 'operationId'] as const satisfies (keyof Mark)[];
const KIBIBYTE = 1024;

/** A template's definition: its text, and where it lies, for messages and relative paths. */
export interface TemplateXml {
  readonly file: string;
  readonly directory: string;
  readonly text: string;
}

export interface NewDomain {
  readonly name: string;
  readonly uuid: string;
  readonly mac: string;
  readonly diskFile: string;
  readonly bridge: string;
  readonly vcpus: number;
  readonly memoryBytes: number;
  readonly serialLog: string;
  readonly accelerator: 'kvm' | 'qemu';
  /** null: not ours to manage. The lab makes its tenants' VMs that way. */
  readonly mark: Mark | null;
}

export interface DomainDisk {
  /** The device in the guest, e.g. vda. */
  readonly target: string;
  /** null: not a file. */
  readonly file: string | null;
  readonly format: string;
  readonly writable: boolean;
}

/** What a domain's XML says, as far as anybody here asks. */
export interface DomainFacts {
  readonly uuid: string | null;
  readonly name: string;
  readonly accelerator: string;
  readonly machine: string | null;
  readonly vcpus: number;
  readonly memoryBytes: number;
  /** Backed by memory that another process can map: memfd or file, with access mode shared. */
  readonly memoryShared: boolean;
  readonly disks: readonly DomainDisk[];
  readonly macs: readonly string[];
  readonly mark: Mark | null;
}

/** Final failure TemplateBroken when the XML cannot be used, with the file and what is wrong in it. */
export function rewriteDomainXml(template: TemplateXml, domain: NewDomain): string {
  return reading(template.file, template.text, (root) => {
    identify(root, domain);
    size(root, domain, template.file);
    setAccelerator(root, domain.accelerator);
    for (const path of elements(root, 'os/kernel | os/initrd | os/dtb')) setText(path, fromTemplate(template, path));
    if (domain.mark !== null) mark(root, domain.mark, template.file);
    setDisk(root, domain.diskFile, template.file);
    setInterface(root, domain, template.file);
    setSerialLog(root, domain.serialLog);
    setAgentChannel(root, template.file);
    return root.doc.toString({ noDeclaration: true });
  });
}

/** The template's one disk: its file (absolute) and format. */
export function templateDisk(template: TemplateXml): { readonly file: string; readonly format: string } {
  return reading(template.file, template.text, (root) => {
    const disk = onlyDisk(root, template.file);
    const source = attribute(disk, 'source', 'file');
    if (source === null) throw broken(template.file, 'its disk has no <source file="…"/>', disk);
    return {
      file: isAbsolute(source) ? source : resolve(template.directory, source),
      format: attribute(disk, 'driver', 'type') ?? 'raw',
    };
  });
}

/** @param source what it is the XML of, for messages. */
export function readDomainXml(source: string, text: string): DomainFacts {
  return reading(source, text, (root) => {
    const backing = element(root, 'memoryBacking');
    const sharing = backing !== null && attribute(backing, 'access', 'mode') === 'shared';
    const markElement = root.get(`metadata/m:mark`, { m: MARK_NAMESPACE });
    return {
      uuid: textOf(element(root, 'uuid')),
      name: textOf(element(root, 'name')) ?? '',
      accelerator: root.attr('type')?.value ?? '',
      machine: attribute(root, 'os/type', 'machine'),
      vcpus: Number(textOf(element(root, 'vcpu')) ?? 1),
      memoryBytes: memoryBytes(element(root, 'memory'), source),
      memoryShared: sharing,
      disks: elements(root, 'devices/disk').map((disk) => ({
        target: attribute(disk, 'target', 'dev') ?? '',
        file: attribute(disk, 'source', 'file'),
        format: attribute(disk, 'driver', 'type') ?? 'raw',
        writable: element(disk, 'readonly') === null && (disk.attr('device')?.value ?? 'disk') === 'disk',
      })),
      macs: elements(root, 'devices/interface/mac').flatMap((mac) => mac.attr('address')?.value.toLowerCase() ?? []),
      mark: markElement instanceof XmlElement ? markOf(markElement) : null,
    };
  });
}

/** libvirt's metadata call gives the element without its namespace. null: no mark of ours, whatever else it may be. */
export function parseMark(metadata: string | null): Mark | null {
  if (metadata === null) return null;
  return reading('the metadata of a domain', metadata, (root) => (root.name === 'mark' ? markOf(root) : null));
}

const markSchema = z.object({
  installationId: z.uuid(),
  replicaId: z.uuid(),
  service: z.string().min(1).max(64),
  operationId: z.string().min(1).max(256),
});

function markOf(found: XmlElement): Mark | null {
  const values = Object.fromEntries(MARK_ATTRIBUTES.map((name) => [name, found.attr(name)?.value]));
  return markSchema.safeParse(values).data ?? null;
}

// --- the changes --------------------------------------------------------------------------------------------------

function identify(root: XmlElement, domain: NewDomain): void {
  root.attr('id')?.remove();
  setText(element(root, 'name') ?? root.addElement('name'), domain.name);
  setText(element(root, 'uuid') ?? root.addElement('uuid'), domain.uuid);
  // Empty: libvirt makes one, so that the guest notices that it is another machine.
  const generation = element(root, 'genid');
  if (generation !== null) setText(generation, '');
  for (const nvram of elements(root, 'os/nvram')) setText(nvram, '');
}

function size(root: XmlElement, domain: NewDomain, file: string): void {
  if (element(root, 'maxMemory') !== null) throw broken(file, 'it sets <maxMemory>; memory hotplug is not supported');
  const kibibytes = String(Math.ceil(domain.memoryBytes / KIBIBYTE));
  const memory = element(root, 'memory');
  if (memory === null) throw broken(file, 'it has no <memory>');
  for (const figure of elements(root, 'memory | currentMemory')) {
    figure.setAttr('unit', 'KiB');
    setText(figure, kibibytes);
  }
  const vcpu = element(root, 'vcpu') ?? root.addElement('vcpu');
  vcpu.attr('current')?.remove();
  setText(vcpu, String(domain.vcpus));
  for (const each of elements(root, 'vcpus')) each.remove();
  const topology = element(root, 'cpu/topology');
  if (topology !== null) {
    for (const attr of topology.attrs) attr.value = attr.name === 'sockets' ? String(domain.vcpus) : '1';
  }
  const cells = elements(root, 'cpu/numa/cell');
  if (cells.length > 1) throw broken(file, `it has ${cells.length} NUMA cells; one is supported`, cells[1]);
  for (const cell of cells) {
    if (cell.attr('cpus') !== null) cell.setAttr('cpus', domain.vcpus === 1 ? '0' : `0-${domain.vcpus - 1}`);
    cell.setAttr('memory', kibibytes);
    cell.setAttr('unit', 'KiB');
  }
}

function setAccelerator(root: XmlElement, accelerator: NewDomain['accelerator']): void {
  root.setAttr('type', accelerator);
  const cpu = element(root, 'cpu');
  // Software emulation cannot pass the host's CPU through; "maximum" is what it can do at most.
  if (accelerator === 'qemu' && cpu !== null && /^host-/.test(cpu.attr('mode')?.value ?? '')) {
    cpu.setAttr('mode', 'maximum');
    for (const restriction of ['check', 'migratable', 'match']) cpu.attr(restriction)?.remove();
  }
}

function mark(root: XmlElement, ours: Mark, file: string): void {
  const metadata = element(root, 'metadata') ?? root.addElement('metadata');
  // A template that was made from one of our VMs still bears that one's.
  for (const old of metadata.find('m:mark', { m: MARK_NAMESPACE })) old.remove();
  const bound = metadata.namespaceForPrefix(MARK_PREFIX);
  if (bound !== null && bound !== MARK_NAMESPACE) {
    throw broken(file, `it uses the namespace prefix "${MARK_PREFIX}" for ${bound}`, metadata);
  }
  if (bound === null) metadata.addNsDeclaration(MARK_NAMESPACE, MARK_PREFIX);
  const added = metadata.addElement('mark', MARK_PREFIX);
  for (const name of MARK_ATTRIBUTES) added.setAttr(name, ours[name]);
}

function setDisk(root: XmlElement, diskFile: string, file: string): void {
  const disk = onlyDisk(root, file);
  disk.setAttr('type', 'file');
  const source = element(disk, 'source') ?? disk.addElement('source');
  source.setAttr('file', diskFile);
}

function setInterface(root: XmlElement, domain: NewDomain, file: string): void {
  const interfaces = elements(root, 'devices/interface');
  const [only] = interfaces;
  if (only === undefined || interfaces.length > 1) {
    throw broken(file, `it has ${interfaces.length} network interfaces; exactly one is supported`, interfaces[1]);
  }
  only.setAttr('type', 'bridge');
  (element(only, 'mac') ?? only.addElement('mac')).setAttr('address', domain.mac);
  const source = element(only, 'source') ?? only.addElement('source');
  for (const attr of source.attrs) attr.remove();
  source.setAttr('bridge', domain.bridge);
  for (const target of elements(only, 'target')) target.remove();
}

function setSerialLog(root: XmlElement, log: string): void {
  for (const port of elements(root, 'devices/serial | devices/console')) {
    if (port.attr('type')?.value === 'file') element(port, 'source')?.setAttr('path', log);
    element(port, 'log')?.setAttr('file', log);
  }
}

function setAgentChannel(root: XmlElement, file: string): void {
  const found = elements(root, `devices/channel[target[@name="${AGENT_CHANNEL}"]]`)[0];
  if (found !== undefined) {
    for (const source of elements(found, 'source')) source.remove();
    return;
  }
  const devices = element(root, 'devices');
  if (devices === null) throw broken(file, 'it has no <devices>');
  const channel = devices.addElement('channel');
  channel.setAttr('type', 'unix');
  const target = channel.addElement('target');
  target.setAttr('type', 'virtio');
  target.setAttr('name', AGENT_CHANNEL);
}

// --- reading ------------------------------------------------------------------------------------------------------

/** Parses, checks that it is a domain (or a mark), and disposes of the document, which is memory that nobody collects. */
function reading<T>(source: string, text: string, read: (root: XmlElement) => T): T {
  let doc: XmlDocument;
  try {
    doc = XmlDocument.fromString(text);
  } catch (error) {
    if (!(error instanceof XmlParseError)) throw error;
    throw broken(source, `it is not well-formed XML: ${error.message.trim()}`);
  }
  try {
    if (doc.dtd !== null) throw broken(source, 'it declares a document type, which no domain XML needs');
    if (doc.root.name !== 'domain' && doc.root.name !== 'mark') {
      throw broken(source, `its root is <${doc.root.name}>, not <domain>`);
    }
    return read(doc.root);
  } catch (error) {
    if (error instanceof XmlError) throw broken(source, error.message);
    throw error;
  } finally {
    doc.dispose();
  }
}

function broken(source: string, found: string, where?: XmlNode): CielFailure {
  const line = where === undefined ? '' : ` (line ${where.line})`;
  return new CielFailure('TemplateBroken', `read ${source} as domain XML: ${found}${line}. Correct the file.`);
}

function onlyDisk(root: XmlElement, file: string): XmlElement {
  const disks = elements(root, 'devices/disk[not(@device) or @device="disk"]');
  const [only] = disks;
  if (only === undefined || disks.length > 1) {
    throw broken(file, `it has ${disks.length} disks; exactly one is supported (beside CD-ROMs)`, disks[1]);
  }
  return only;
}

function fromTemplate(template: TemplateXml, path: XmlElement): string {
  const written = path.content.trim();
  return isAbsolute(written) ? written : resolve(template.directory, written);
}

const MEMORY_UNITS: Readonly<Record<string, number>> = {
  b: 1,
  bytes: 1,
  KB: 1e3,
  k: 2 ** 10,
  KiB: 2 ** 10,
  MB: 1e6,
  M: 2 ** 20,
  MiB: 2 ** 20,
  GB: 1e9,
  G: 2 ** 30,
  GiB: 2 ** 30,
  TB: 1e12,
  T: 2 ** 40,
  TiB: 2 ** 40,
};

function memoryBytes(memory: XmlElement | null, source: string): number {
  const unit = MEMORY_UNITS[memory?.attr('unit')?.value ?? 'KiB'];
  const count = Number(memory?.content ?? Number.NaN);
  if (unit === undefined || !Number.isFinite(count))
    throw broken(source, 'its <memory> is no amount', memory ?? undefined);
  return count * unit;
}

function elements(from: XmlElement, path: string): XmlElement[] {
  return from.find(path).filter((node): node is XmlElement => node instanceof XmlElement);
}
function element(from: XmlElement, path: string): XmlElement | null {
  return elements(from, path)[0] ?? null;
}
function attribute(from: XmlElement, path: string, name: string): string | null {
  const found: XmlAttribute | null = element(from, path)?.attr(name) ?? null;
  return found?.value ?? null;
}
function textOf(of: XmlElement | null): string | null {
  return of?.content.trim() ?? null;
}
function setText(target: XmlElement, text: string): void {
  for (let child = target.firstChild; child !== null; child = target.firstChild) child.remove();
  if (text !== '') target.addText(text);
}

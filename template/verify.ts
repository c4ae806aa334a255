/**
 * Checks a template: one that was built here, or one that an operator made (a domain XML and a disk in any of QEMU's
 * formats). Every mistake is named at once, with its remedy.
 */
import { access, constants, readdir, readFile } from 'node:fs/promises';
import { dirname, isAbsolute, join, resolve } from 'node:path';
import { execa } from 'execa';
import { XmlDocument, type XmlElement } from 'libxml2-wasm';
import { AGENT_CHANNEL } from './domain-xml.ts';
import { DOMAIN_XML, MANIFEST, readManifest, type TemplateManifest } from './manifest.ts';

/** An error makes the template unusable; a warning costs speed or a figure. */
export interface TemplateProblem {
  readonly severity: 'error' | 'warning';
  readonly problem: string;
  readonly remedy: string;
}

export interface TemplateReport {
  readonly directory: string;
  readonly name: string | null;
  /** null: an operator's template, which nothing measured. */
  readonly manifest: TemplateManifest | null;
  readonly disk: TemplateDisk | null;
  readonly problems: readonly TemplateProblem[];
}

export interface TemplateDisk {
  readonly path: string;
  readonly format: string;
  readonly virtualBytes: number;
  readonly allocatedBytes: number;
}

/** A disk that is allocated to more than this share is no sparse one: each clone would copy it all. */
const SPARSE_SHARE = 0.5;
const LARGE_ALLOCATION_BYTES = 2e9;

/** Templates are the subdirectories that hold a domain.xml, by name; `directory` itself may be one. */
export async function listTemplates(directory: string): Promise<readonly TemplateReport[]> {
  const entries = await readdir(directory, { withFileTypes: true });
  const candidates = entries.filter((entry) => entry.isDirectory()).map((entry) => join(directory, entry.name));
  const found: TemplateReport[] = [];
  for (const candidate of [directory, ...candidates.sort()])
    if (await readable(join(candidate, DOMAIN_XML))) found.push(await verifyTemplate(candidate));
  return found;
}

export async function verifyTemplate(directory: string): Promise<TemplateReport> {
  const root = resolve(directory);
  const problems: TemplateProblem[] = [];
  const error = (problem: string, remedy: string) => problems.push({ severity: 'error', problem, remedy });
  const manifest = await readManifest(root);
  if (manifest === null)
    problems.push({
      severity: 'warning',
      problem: `${MANIFEST} is missing or not valid, so an empty VM's own memory is not known`,
      remedy: `Add ${join(root, MANIFEST)} with baseMemoryBytes as measured, or build with \`ciel template build\``,
    });
  const path = join(root, DOMAIN_XML);
  const text = await readFile(path, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    error(
      `${path} cannot be read: ${cause.code ?? cause.message}`,
      'A template is a directory with a domain.xml (virsh dumpxml --inactive) and the disk that it names',
    );
    return null;
  });
  if (text === null) return { directory: root, name: null, manifest, disk: null, problems };
  const domain = readDomain(text, path, problems);
  if (domain === null) return { directory: root, name: null, manifest, disk: null, problems };
  for (const file of domain.bootFiles)
    if (!(await readable(within(root, file))))
      error(`${path} boots ${file}, which cannot be read`, 'Put the file there, or correct <os> in the XML');
  const disk =
    domain.disk === null ? null : await checkDisk(within(root, domain.disk.file), domain.disk.format, problems);
  return { directory: root, name: domain.name, manifest, disk, problems };
}

interface Domain {
  readonly name: string | null;
  readonly bootFiles: readonly string[];
  readonly disk: { readonly file: string; readonly format: string | null } | null;
}

/** Paths of an operator's XML may be relative to the template. */
const within = (directory: string, path: string) => (isAbsolute(path) ? path : join(directory, path));

function readDomain(text: string, path: string, problems: TemplateProblem[]): Domain | null {
  const note = (severity: TemplateProblem['severity'], problem: string, remedy: string) =>
    problems.push({ severity, problem: `${path}: ${problem}`, remedy });
  let document: XmlDocument;
  try {
    document = XmlDocument.fromString(text);
  } catch (cause) {
    note(
      'error',
      `no well-formed XML: ${(cause as Error).message.trim()}`,
      'Write it again with virsh dumpxml --inactive',
    );
    return null;
  }
  try {
    const at = (xpath: string) => document.get(xpath)?.content ?? null;
    if (document.root.name !== 'domain') {
      note(
        'error',
        `the root element is <${document.root.name}>, not <domain>`,
        'Use the XML of a domain (virsh dumpxml)',
      );
      return null;
    }
    if (at('/domain/name') === null) note('error', 'has no <name>', 'Add one; clones get their own');
    const disks = document.find("/domain/devices/disk[@device='disk' or not(@device)]") as XmlElement[];
    const [first] = disks;
    let disk: Domain['disk'] = null;
    if (disks.length !== 1)
      note(
        'error',
        `has ${disks.length} disks; a template has one, which clones copy`,
        'Leave one <disk device="disk">',
      );
    if (first !== undefined) {
      const file = first.get('source/@file')?.content ?? null;
      if (file === null) note('error', 'its disk is no file', 'Use <disk type="file"> with <source file="…"/>');
      else disk = { file, format: first.get('driver/@type')?.content ?? null };
      if (first.get("target[@bus='virtio']") === null)
        note('warning', 'its disk is not on the virtio bus', 'Use <target dev="vda" bus="virtio"/>');
    }
    if (document.get(`/domain/devices/channel/target[@type='virtio'][@name='${AGENT_CHANNEL}']`) === null)
      note(
        'error',
        'has no channel for the guest agent, by which Ciel sets the address and starts the container',
        `Add <channel type="unix"><target type="virtio" name="${AGENT_CHANNEL}"/></channel>, and qemu-guest-agent in the guest`,
      );
    if (document.get('/domain/devices/interface') === null)
      note('error', 'has no network interface', 'Add <interface type="bridge"> on the bridge of the segment');
    if (document.get("/domain/memoryBacking/access[@mode='shared']") === null)
      note(
        'warning',
        'guest memory is not shared, so reading it takes a system call for each piece',
        'Add <memoryBacking><source type="memfd"/><access mode="shared"/></memoryBacking>',
      );
    const bootFiles = ['/domain/os/kernel', '/domain/os/initrd'].map(at).filter((file) => file !== null);
    return { name: at('/domain/name'), bootFiles, disk };
  } finally {
    document.dispose();
  }
}

async function checkDisk(
  path: string,
  declared: string | null,
  problems: TemplateProblem[],
): Promise<TemplateDisk | null> {
  const note = (severity: TemplateProblem['severity'], problem: string, remedy: string) =>
    problems.push({ severity, problem: `${path}: ${problem}`, remedy });
  if (!(await readable(path))) {
    note(
      'error',
      'the disk cannot be read',
      `Put it there, or correct <source file> in ${join(dirname(path), DOMAIN_XML)}`,
    );
    return null;
  }
  // --force-share: an operator's template may be in use by a running VM, which is their mistake to find out, not ours to lock.
  const { stdout, stderr, exitCode } = await execa('qemu-img', ['info', '--force-share', '--output=json', path], {
    reject: false,
  });
  if (exitCode !== 0) {
    note(
      'error',
      `QEMU cannot open the disk: ${stderr.trim()}`,
      'Restore the image, or convert it again with qemu-img',
    );
    return null;
  }
  const info = JSON.parse(stdout) as Record<string, unknown>;
  const format = String(info.format);
  const disk = {
    path,
    format,
    virtualBytes: Number(info['virtual-size']),
    allocatedBytes: Number(info['actual-size']),
  };
  if (declared === null) note('error', 'the XML does not say its format', `Add <driver name="qemu" type="${format}"/>`);
  // A raw disk that looks like another format is what its guest wrote; only the opposite is a mistake.
  else if (declared !== format && declared !== 'raw')
    note(
      'error',
      `the XML says that it is ${declared}, QEMU finds ${format}`,
      `Write <driver name="qemu" type="${format}"/>`,
    );
  if (typeof info['backing-filename'] === 'string')
    note(
      'warning',
      `it is an overlay on ${info['backing-filename']}, which clones depend on`,
      'Flatten it: qemu-img convert -O raw OVERLAY DISK',
    );
  if (disk.allocatedBytes > LARGE_ALLOCATION_BYTES && disk.allocatedBytes > SPARSE_SHARE * disk.virtualBytes)
    note(
      'warning',
      `${Math.round(disk.allocatedBytes / 1e6)} of ${Math.round(disk.virtualBytes / 1e6)} MB are allocated, and every clone copies them`,
      'Make it sparse: virt-sparsify, or fstrim in the guest and qemu-img convert',
    );
  return disk;
}

async function readable(path: string): Promise<boolean> {
  return access(path, constants.R_OK).then(
    () => true,
    () => false,
  );
}

/**
 * The domain XML of a template. What differs from VM to VM (name, UUID, MAC, disk, console log, vCPUs, memory) is rewritten
 * by whoever clones it; what is decided here is the machine: direct kernel boot, shared guest memory, virtio disk and NIC,
 * an agent channel, no graphics.
 */
import { join } from 'node:path';
import type { Accelerator } from '../native/accelerator.ts';

export const AGENT_CHANNEL = 'org.qemu.guest_agent.0';

/** The files of a template's directory, as its domain XML names them. */
export const TEMPLATE_FILES = {
  disk: 'disk.raw',
  kernel: 'vmlinuz',
  initrd: 'initrd',
  consoleLog: 'console.log',
} as const;

export interface DomainOptions {
  readonly name: string;
  /** Where the template's files are. */
  readonly directory: string;
  readonly bridge: string;
  readonly accelerator: Accelerator;
  readonly vcpus: number;
  readonly memoryMiB: number;
}

export function kernelCommandLine(accelerator: Accelerator): string {
  return [
    'console=ttyS0',
    'quiet',
    // Docker asks for its apparmor profile when the kernel has apparmor on, and there is no parser in the guest.
    'apparmor=0',
    // A guest that panics is started again by itself; the domain stays the same to libvirt.
    'panic=5',
    // Emulated processors speculate nothing; the mitigations would only cost time.
    ...(accelerator === 'qemu' ? ['mitigations=off'] : []),
  ].join(' ');
}

export function domainXml({ name, directory, bridge, accelerator, vcpus, memoryMiB }: DomainOptions): string {
  const file = (which: keyof typeof TEMPLATE_FILES) => escapeXml(join(directory, TEMPLATE_FILES[which]));
  return `<domain type='${accelerator}'>
  <name>${escapeXml(name)}</name>
  <memory unit='MiB'>${memoryMiB}</memory>
  <currentMemory unit='MiB'>${memoryMiB}</currentMemory>
  <!-- Read from outside by mapping, without copying and without the guest's knowledge. -->
  <memoryBacking>
    <source type='memfd'/>
    <access mode='shared'/>
  </memoryBacking>
  <vcpu placement='static'>${vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>${file('kernel')}</kernel>
    <initrd>${file('initrd')}</initrd>
    <cmdline>${escapeXml(kernelCommandLine(accelerator))}</cmdline>
  </os>
  <features>
    <acpi/>
    <apic/>
  </features>
  <cpu mode='${accelerator === 'kvm' ? 'host-passthrough' : 'maximum'}'/>
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>restart</on_crash>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' discard='unmap'/>
      <source file='${file('disk')}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <controller type='usb' model='none'/>
    <interface type='bridge'>
      <source bridge='${escapeXml(bridge)}'/>
      <model type='virtio'/>
      <rom enabled='no'/>
    </interface>
    <serial type='file'>
      <source path='${file('consoleLog')}'/>
      <target port='0'/>
    </serial>
    <console type='file'>
      <source path='${file('consoleLog')}'/>
      <target type='serial' port='0'/>
    </console>
    <channel type='unix'>
      <target type='virtio' name='${AGENT_CHANNEL}'/>
    </channel>
    <memballoon model='none'/>
    <rng model='virtio'>
      <backend model='random'>/dev/urandom</backend>
    </rng>
  </devices>
</domain>
`;
}

function escapeXml(text: string): string {
  const entities: Readonly<Record<string, string>> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    "'": '&apos;',
    '"': '&quot;',
  };
  return text.replace(/[&<>'"]/g, (character) => entities[character] as string);
}

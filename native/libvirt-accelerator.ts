/**
 * Whether KVM works on a host is found by trying: /dev/kvm, and libvirt's capabilities with it, may be there where a guest
 * makes no progress (a nested or paravirtual KVM). So a tiny domain without disks is started; KVM works when its vCPU has
 * come to the end of the firmware and halts, which takes well under a second on real hardware.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { type Libvirt, LibvirtError } from './libvirt.ts';

export type Accelerator = 'kvm' | 'qemu';

const HALTED_WITHIN_MS = 4_000;
const LOOK_EVERY_MS = 200;

/** The fastest domain type that works: `kvm`, or `qemu` for software emulation. Costs seconds: ask once a process. */
export async function workingAccelerator(libvirt: Libvirt): Promise<Accelerator> {
  let uuid: string;
  try {
    ({ uuid } = await libvirt.createTransient(probeXml(`ciel-kvm-probe-${randomUUID()}`), { paused: false }));
  } catch (error) {
    // Not offered, or QEMU cannot open it.
    if (error instanceof LibvirtError && !error.connectionLost) return 'qemu';
    throw error;
  }
  try {
    const deadline = performance.now() + HALTED_WITHIN_MS;
    while (performance.now() < deadline) {
      await pause(LOOK_EVERY_MS);
      if (await halted(libvirt, uuid)) return 'kvm';
    }
    return 'qemu';
  } finally {
    await libvirt.destroy(uuid).catch(() => {}); // transient: at the latest it ends with the connection
  }
}

async function halted(libvirt: Libvirt, uuid: string): Promise<boolean> {
  const answer = await libvirt.monitorCommand(uuid, {
    execute: 'human-monitor-command',
    arguments: { 'command-line': 'info registers' },
  });
  const registers = (answer as { readonly return?: unknown }).return;
  return typeof registers === 'string' && /\bHLT=1\b/.test(registers);
}

function probeXml(name: string): string {
  return `<domain type="kvm"><name>${name}</name><memory unit="MiB">32</memory><vcpu>1</vcpu><os><type arch="x86_64">hvm</type></os></domain>`;
}

/**
 * Whether guests run on KVM or are emulated. /dev/kvm may exist and be useless (a nested guest without hardware
 * virtualization), and libvirt's capabilities still name kvm then: so a guest is started, the smallest there is.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';

/** As in <domain type='…'>. */
export type Hypervisor = 'kvm' | 'qemu';

const FIRMWARE_BYTES = 65536;
const EXIT_PORT = 0xf4;
const ANSWER = 0x10;
/** The device ends QEMU with (value << 1) | 1. */
const EXPECTED_EXIT = (ANSWER << 1) | 1;

export async function workingHypervisor(): Promise<Hypervisor> {
  const directory = await mkdtemp(join(tmpdir(), 'ciel-kvm-'));
  try {
    const firmware = join(directory, 'firmware');
    const image = Buffer.alloc(FIRMWARE_BYTES);
    // At the reset vector: mov al, ANSWER; out EXIT_PORT, al; hlt.
    Buffer.from([0xb0, ANSWER, 0xe6, EXIT_PORT, 0xf4]).copy(image, FIRMWARE_BYTES - 16);
    await writeFile(firmware, image);
    const machine = ['-machine', 'q35', '-m', '16', '-nodefaults', '-no-user-config', '-display', 'none'];
    const exit = ['-device', `isa-debug-exit,iobase=0x${EXIT_PORT.toString(16)},iosize=0x04`];
    const args = ['-accel', 'kvm', '-cpu', 'host', ...machine, ...exit, '-bios', firmware];
    const { exitCode } = await execa('qemu-system-x86_64', args, {
      reject: false,
      timeout: 5_000,
      forceKillAfterDelay: 100,
    });
    return exitCode === EXPECTED_EXIT ? 'kvm' : 'qemu';
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

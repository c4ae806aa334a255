/**
 * Whether KVM works here is found by trying. /dev/kvm may be there, and libvirt's capabilities name kvm then, where guests
 * make no progress (a nested or paravirtual KVM): so the smallest guest there is, five bytes of firmware, must get as far
 * as an I/O port.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';

/** As in <domain type='…'>. */
export type Accelerator = 'kvm' | 'qemu';

const FIRMWARE_BYTES = 65_536;
/** The vCPU starts 16 bytes before the firmware's end. */
const RESET_VECTOR = FIRMWARE_BYTES - 16;
const EXIT_PORT = 0xf4;
const ANSWER = 0x10;
/** The device ends QEMU with (value << 1) | 1. */
const EXPECTED_EXIT = (ANSWER << 1) | 1;

export async function workingAccelerator(): Promise<Accelerator> {
  const directory = await mkdtemp(join(tmpdir(), 'ciel-kvm-'));
  try {
    const firmware = join(directory, 'firmware');
    const image = Buffer.alloc(FIRMWARE_BYTES);
    // mov al, ANSWER; out EXIT_PORT, al; hlt.
    Buffer.from([0xb0, ANSWER, 0xe6, EXIT_PORT, 0xf4]).copy(image, RESET_VECTOR);
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

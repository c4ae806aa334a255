/** What an operator can do about a VM that cannot be read: by the reason, or by libvirt's state of it. */
import type { UnavailableReason } from '../model/reading.ts';
import { printable } from './escape.ts';

export interface VmPlace {
  readonly name: string;
  /** null: not known, or no libvirt is asked. */
  readonly libvirtUri: string | null;
}

/** As it can be pasted into a shell: names and URIs may hold anything. */
export function virsh({ name, libvirtUri }: VmPlace, command: string): string {
  const words = ['virsh', ...(libvirtUri === null ? [] : ['-c', quoted(libvirtUri)]), command, quoted(printable(name))];
  return words.join(' ');
}

function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

const BY_REASON: Partial<Record<UnavailableReason, (vm: VmPlace) => string>> = {
  NoVmcoreinfo: () => 'nothing, if it runs no Linux; a Linux guest needs a kernel with VMCOREINFO',
  GuestBooting: () => 'look again in some seconds; that it runs no Linux is said once it has run for 90 s',
  GuestPaused: (vm) => `resume it: ${virsh(vm, 'resume')}`,
  GuestOff: (vm) => `start it: ${virsh(vm, 'start')}`,
  GuestEncrypted: () => 'nothing: memory of a confidential guest cannot be read from outside',
  NoTypes: () => 'boot a kernel with CONFIG_DEBUG_INFO_BTF, as distributions have them',
  Stale: (vm) => `look again in some seconds, once it has booted; if it stays so it hangs: ${virsh(vm, 'console')}`,
  PermissionDenied: () => 'run it as root, or with CAP_SYS_PTRACE; `ciel doctor host` tells more',
  ProcessGone: (vm) => `check that it runs on this machine: ${virsh(vm, 'domstate')}`,
  ReaderDown: () => 'look again; `ciel doctor host` tells what lacks',
  Quarantined: (vm) => {
    const name = quoted(printable(vm.name));
    return `begin anew: ciel monitor stop ${name} && ciel monitor start ${name}`;
  },
};

/** null: none is known. */
export function remedyFor(reason: string, vm: VmPlace): string | null {
  return BY_REASON[reason as UnavailableReason]?.(vm) ?? null;
}

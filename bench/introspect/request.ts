/** How to attach to a QEMU process, as the benches do it. */
import type { AttachRequest } from '../../native/mapper.ts';
import { readQemu } from '../../native/qemu-process.ts';

export async function requestOf(pid: number): Promise<AttachRequest> {
  const qemu = await readQemu(pid);
  if (!qemu?.machine || qemu.ramBytes === null) throw new Error(`process ${pid} is no QEMU whose machine is known`);
  return {
    pid,
    startTime: qemu.startTime,
    machine: qemu.machine,
    ramBytes: qemu.ramBytes,
    maxRamBelow4gBytes: qemu.maxRamBelow4gBytes,
    source: 'auto',
    withServices: false,
    withDetails: false,
    cachePath: null,
  };
}

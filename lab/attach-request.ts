/** How tests and benches attach to a QEMU process: as a look of the product's does, with what they say otherwise. */
import type { AttachRequest } from '../native/mapper.ts';
import { ramOf, readQemu } from '../native/qemu-process.ts';

export async function requestOf(pid: number, otherwise: Partial<AttachRequest> = {}): Promise<AttachRequest> {
  const qemu = await readQemu(pid);
  const ram = qemu && ramOf(qemu);
  if (!ram) throw new Error(`process ${pid} is no QEMU whose machine is known`);
  return { ...ram, source: 'auto', withServices: false, withDetails: false, cachePath: null, ...otherwise };
}

/** Addresses that dnsmasq has leased, by hardware address: what LXC's and LXD's bridges serve. */
import type { FileSystem } from '../file-system.ts';
import { addressOf } from './described.ts';

const MAX_LEASE_FILE_BYTES = 256 << 10;

/** Lines of: expiry, hardware address, address, name, client. Nothing when there is no such file. */
export async function readLeases(fileSystem: FileSystem, path: string): Promise<ReadonlyMap<string, string>> {
  const leases = new Map<string, string>();
  if ((await fileSystem.stat(path))?.type !== 'file') return leases;
  const content = (await fileSystem.readFile(path, MAX_LEASE_FILE_BYTES)).toString('utf8');
  for (const line of content.split('\n')) {
    const [, hardware, address] = line.split(' ');
    if (hardware !== undefined && address !== undefined && addressOf(address) === address) {
      leases.set(hardware.toLowerCase(), address);
    }
  }
  return leases;
}

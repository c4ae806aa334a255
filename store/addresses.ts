/** Addresses of a network that Ciel may give out, and IPv4 arithmetic on the text forms that the specification has. */
import ipaddr from 'ipaddr.js';
import { CielFailure } from '../model/failures.ts';
import type { NetworkSpec } from '../model/spec.ts';

function toNumber(address: string): number {
  const [a = 0, b = 0, c = 0, d = 0] = ipaddr.IPv4.parse(address).octets;
  return a * 2 ** 24 + b * 2 ** 16 + c * 2 ** 8 + d;
}
function toText(value: number): string {
  return new ipaddr.IPv4([24, 16, 8, 0].map((shift) => Math.floor(value / 2 ** shift) % 256)).toString();
}

/**
 * The first `count` addresses of the network's ranges that are not taken. The network's own address, its broadcast
 * address and its gateway are never given out. Final: AddressesExhausted.
 */
export function freeAddresses(network: NetworkSpec, taken: ReadonlySet<string>, count: number): readonly string[] {
  const unusable = new Set([
    ipaddr.IPv4.networkAddressFromCIDR(network.subnet).toString(),
    ipaddr.IPv4.broadcastAddressFromCIDR(network.subnet).toString(),
    network.gateway,
  ]);
  const free: string[] = [];
  for (const range of network.addresses) {
    const [first = '', last = ''] = range.split('-');
    const end = toNumber(last);
    for (let value = toNumber(first); value <= end && free.length < count; value += 1) {
      const address = toText(value);
      if (!taken.has(address) && !unusable.has(address) && !free.includes(address)) free.push(address);
    }
  }
  if (free.length === count) return free;
  throw new CielFailure(
    'AddressesExhausted',
    `looked for ${count} free addresses in network "${network.name}" (${network.addresses.join(', ')}) and found ` +
      `${free.length}: the rest is held by replicas, named in the configuration, or rests after a release. ` +
      `Add a range to the network, or scale something in.`,
  );
}

/** IPv4 addresses as numbers, because ranges are compared and counted through; one place knows how they are written. */
import ipaddr from 'ipaddr.js';

/** Inclusive. */
export interface AddressRange {
  readonly first: number;
  readonly last: number;
}

/** @param address dotted decimal, already checked */
export function addressNumber(address: string): number {
  return ipaddr.IPv4.parse(address)
    .toByteArray()
    .reduce((sum, byte) => sum * 256 + byte, 0);
}

export function addressText(number: number): string {
  return [24, 16, 8, 0].map((shift) => Math.floor(number / 2 ** shift) % 256).join('.');
}

export function inRange({ first, last }: AddressRange, address: string): boolean {
  const number = addressNumber(address);
  return first <= number && number <= last;
}

/** "10.0.0.50-10.0.0.99"; null when it is not of that form. The first may come after the last: the caller checks. */
export function parseAddressRange(written: string): AddressRange | null {
  const [first, last, ...rest] = written.split('-');
  if (first === undefined || last === undefined || rest.length > 0) return null;
  if (!ipaddr.IPv4.isValidFourPartDecimal(first) || !ipaddr.IPv4.isValidFourPartDecimal(last)) return null;
  return { first: addressNumber(first), last: addressNumber(last) };
}

/** The subnet's addresses that hosts may have: not its own and not broadcast, except in a /31 and /32. */
export function hostAddresses(subnet: string): AddressRange {
  const first = addressNumber(ipaddr.IPv4.networkAddressFromCIDR(subnet).toString());
  const last = addressNumber(ipaddr.IPv4.broadcastAddressFromCIDR(subnet).toString());
  return last - first > 1 ? { first: first + 1, last: last - 1 } : { first, last };
}

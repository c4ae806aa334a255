import { expect, it } from 'vitest';
import { ageText, bytesText, coresText, durationText, rateText } from '../../cli/units.ts';

it.each([
  [0, '0 B'],
  [1023, '1023 B'],
  [1024, '1 KiB'],
  [1536, '1.5 KiB'],
  [120.4 * 2 ** 20, '120 MiB'],
  [1.5 * 2 ** 30, '1.5 GiB'],
  [5000 * 2 ** 40, '5000 TiB'],
])('%d bytes read as %s', (bytes, text) => expect(bytesText(bytes)).toBe(text));

it.each([
  [0, '0 ms'],
  [999, '999 ms'],
  [4_230, '4.2 s'],
  [125_000, '2 m 05 s'],
  [3 * 3_600_000 + 12 * 60_000, '3 h 12 m'],
  [5 * 86_400_000 + 4 * 3_600_000, '5 d 4 h'],
])('%d ms read as %s', (milliseconds, text) => expect(durationText(milliseconds)).toBe(text));

it('ages are never negative, and whole seconds', () => {
  const now = new Date('2026-01-01T00:00:10.700Z');
  expect(ageText('2026-01-01T00:00:00Z', now)).toBe('10 s ago');
  expect(ageText('2026-01-01T00:01:00Z', now)).toBe('now');
});

it('rates and cores carry their unit or their precision', () => {
  expect(rateText(1_572_864.4)).toBe('1.5 MiB/s');
  expect(coresText(0.834)).toBe('0.83');
  expect(coresText(12.04)).toBe('12.0');
});

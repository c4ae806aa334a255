import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import {
  type GuestSupport,
  outcomeOf,
  renderSupport,
  SUPPORT_DOCUMENT,
  SUPPORT_FILE,
} from '../../lab/kernels/support.ts';
import { FIGURES } from '../../lab/kernels/truth.ts';
import { sourceFile } from '../../template/sources.ts';

const guests = JSON.parse(await readFile(sourceFile(SUPPORT_FILE), 'utf8')) as GuestSupport[];

it('documents what the kernel matrix has seen', async () => {
  expect(await readFile(sourceFile(SUPPORT_DOCUMENT), 'utf8')).toBe(renderSupport(guests));
});

it('knows every figure in every kernel, and none that was wrong', () => {
  const names = FIGURES.map(({ name }) => name);
  for (const { outcomes } of guests) {
    expect(Object.keys(outcomes)).toEqual(names);
    expect(Object.values(outcomes)).not.toContain('wrong');
  }
});

it('takes one container without a figure for the whole', () => {
  expect(outcomeOf(['right', 'not comparable'])).toBe('right');
  expect(outcomeOf(['not comparable'])).toBe('not comparable');
  expect(outcomeOf(['right', { unavailable: 'the kernel has none' }])).toBe('the kernel has none');
  expect(outcomeOf(['right', 'wrong'])).toBe('wrong');
});

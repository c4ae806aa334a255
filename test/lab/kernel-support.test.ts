import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import {
  type GuestSupport,
  MORE_SUPPORT,
  outcomeOf,
  RELEASES_SUPPORT,
  renderSupport,
} from '../../lab/kernels/support.ts';
import { FIGURES } from '../../lab/kernels/truth.ts';
import { sourceFile } from '../../template/sources.ts';

const seenIn = async (file: string) => JSON.parse(await readFile(sourceFile(file), 'utf8')) as GuestSupport[];

describe.each([RELEASES_SUPPORT, MORE_SUPPORT])('$title', (support) => {
  it('documents what the kernel matrix has seen', async () => {
    const guests = await seenIn(support.seen);
    expect(await readFile(sourceFile(support.document), 'utf8')).toBe(renderSupport(guests, support));
  });

  it('knows every figure in every kernel, and none that was wrong', async () => {
    const names = FIGURES.map(({ name }) => name);
    for (const { outcomes } of await seenIn(support.seen)) {
      expect(Object.keys(outcomes)).toEqual(names);
      expect(Object.values(outcomes)).not.toContain('wrong');
    }
  });
});

it('takes one container without a figure for the whole', () => {
  expect(outcomeOf(['right', 'not comparable'])).toBe('right');
  expect(outcomeOf(['not comparable'])).toBe('not comparable');
  expect(outcomeOf(['right', { unavailable: 'the kernel has none' }])).toBe('the kernel has none');
  expect(outcomeOf(['right', 'wrong'])).toBe('wrong');
});

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { idText, printable, printableSentence, safeJson } from '../../cli/escape.ts';

/** Whatever a terminal may obey, and what hides or reorders text. */
const OBEYED = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u;
const guestText = fc.string({ unit: 'binary', maxLength: 400 });

describe('printable', () => {
  it.each([
    ['mosaic', 'mosaic'],
    ['größe-1_β', 'größe-1_β'],
    ['\u001b[2J\u001b]0;pwned\u0007', '\\u{1b}[2J\\u{1b}]0;pwned\\u{7}'],
    ['a\r\nb', 'a\\u{d}\\u{a}b'],
    ['\u009b31m', '\\u{9b}31m'],
    ['abc\u202etxt.exe', 'abc\\u{202e}txt.exe'],
    ['a\u200bb', 'a\\u{200b}b'],
    ['a\u00a0b', 'a\\u{a0}b'],
    ['\ud800', '\\u{d800}'],
    ['\\u{1b}', '\\\\u{1b}'],
    ['Z\u0300\u0301\u0302\u0303', 'Z\\u{300}\\u{301}\\u{302}\\u{303}'],
  ])('%j becomes %j', (text, expected) => {
    expect(printable(text)).toBe(expected);
  });

  it('leaves nothing that a terminal obeys, on one bounded line (invariant 9)', () => {
    fc.assert(
      fc.property(guestText, (text) => {
        const shown = printable(text);
        expect(shown).not.toMatch(OBEYED);
        expect(shown.length).toBeLessThanOrEqual(257 * 10);
      }),
    );
  });
});

describe('safeJson', () => {
  it('means the same to a parser, and shows a terminal nothing that it obeys', () => {
    fc.assert(
      fc.property(guestText, fc.constantFrom(undefined, 2), (text, indent) => {
        const written = safeJson({ [text]: [text] }, indent);
        expect(JSON.parse(written)).toEqual(JSON.parse(JSON.stringify({ [text]: [text] })));
        expect(written.replaceAll('\n', '')).not.toMatch(OBEYED);
      }),
    );
  });
  it('writes counters, which are bigint, as text', () => {
    expect(safeJson({ cpu: 2n ** 60n })).toBe('{"cpu":"1152921504606846976"}');
  });
});

describe('printableSentence', () => {
  it('keeps the end of a long message, which says what to do, and obeys nothing in it', () => {
    const message = `${'found '.repeat(200)}\u001b[2J. Correct it.`;
    expect(printableSentence(message)).toBe(`${'found '.repeat(200)}\\u{1b}[2J. Correct it.`);
    fc.assert(fc.property(guestText, (text) => !OBEYED.test(printableSentence(text))));
  });
});

describe('idText', () => {
  it('cuts hashes, and no names', () => {
    expect(idText('0123456789abcdef'.repeat(4))).toBe('0123456789ab');
    expect(idText('production-database')).toBe('production-database');
  });
});

/**
 * Text that a guest chose (container names, labels, paths, node names) on its way to a terminal or into JSON: nothing in
 * it may move the cursor, change colours, hide, reorder or run into the next line (invariant 9).
 */

/** Control, format (bidirectional and zero-width), surrogate, private and unassigned characters; all spaces but " ". */
const UNSAFE = /[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu;
/** Combining marks pile up without end ("zalgo"); real names need few in a row. */
const MARKS = /\p{M}{3,}/gu;
const MAX_LENGTH = 256;
const MAX_SENTENCE_LENGTH = 4_096;

function escapeCharacter(character: string): string {
  return `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`;
}

/** One line, at most 256 characters, with what is not plainly printable as \u{…}. */
export function printable(guestText: string): string {
  const bounded = guestText.length > MAX_LENGTH ? `${guestText.slice(0, MAX_LENGTH)}…` : guestText;
  return bounded
    .replaceAll('\\', '\\\\')
    .replace(UNSAFE, escapeCharacter)
    .replace(MARKS, (marks) => [...marks].map(escapeCharacter).join(''));
}

/** The same for a message, which may quote such names: kept whole, because its end says what to do. */
export function printableSentence(sentence: string): string {
  return (sentence.slice(0, MAX_SENTENCE_LENGTH).match(/[\s\S]{1,200}/g) ?? []).map(printable).join('');
}

/**
 * JSON for people's terminals and for scripts alike. JSON.stringify leaves C1 controls and bidirectional characters as
 * they are; a terminal obeys them. As escapes they mean the same to every JSON parser. bigint becomes text.
 */
export function safeJson(value: unknown, indent?: number): string {
  const text = JSON.stringify(
    value,
    (_key, item: unknown) => (typeof item === 'bigint' ? item.toString() : item),
    indent,
  );
  return text.replace(UNSAFE, (character) =>
    character === '\n'
      ? character
      : Array.from({ length: character.length }, (_, index) => {
          const unit = character.charCodeAt(index).toString(16).padStart(4, '0');
          return `\\u${unit}`;
        }).join(''),
  );
}

const HASH = /^[0-9a-f]{64}$/;

/** A container's id as people write it: a hash is cut, as Docker does; a name (LXC, ctr, systemd) is whole. */
export function idText(id: string): string {
  return printable(HASH.test(id) ? id.slice(0, 12) : id);
}

/** A container by its name; by its id where that is not known. */
export function containerText(name: string | null, id: string): string {
  return name === null ? idText(id) : printable(name);
}

/** What differs between an applied entry of ciel.yaml and the one in a file, as lines for people. */
import { isDeepStrictEqual } from 'node:util';

/** "max: 3 → 4", nested keys joined by dots. Both are what a parsed file or the store gives: plain JSON. */
export function differences(before: unknown, after: unknown, path = ''): readonly string[] {
  if (isDeepStrictEqual(before, after)) return [];
  if (isPlainObject(before) && isPlainObject(after)) {
    const keys = [...new Set([...Object.keys(before), ...Object.keys(after)])];
    return keys.flatMap((key) => differences(before[key], after[key], path === '' ? key : `${path}.${key}`));
  }
  return [`${path}: ${valueText(before)} → ${valueText(after)}`];
}

function isPlainObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function valueText(value: unknown): string {
  return value === undefined || value === null ? 'none' : JSON.stringify(value);
}

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { z } from 'zod';
import { specSchema } from '../../model/spec.ts';

const REFERENCE = readFileSync(join(import.meta.dirname, '../../docs/reference/ciel-yaml.md'), 'utf8');

/** Every key that may be written, as `section.key.key`, with what it is by default. */
function keys(schema: unknown, path: readonly string[] = []): string[] {
  const { properties = {}, items, oneOf = [] } = schema as z.core.JSONSchema.JSONSchema;
  const inner = Object.entries(properties).flatMap(([key, value]) => keys(value, [...path, key]));
  const ofItems = items === undefined ? [] : keys(items, path);
  const ofVariants = oneOf.flatMap((variant) => keys(variant, path));
  const found = [...inner, ...ofItems, ...ofVariants];
  return found.length > 0 ? found : [path.join('.')];
}

it('docs/reference/ciel-yaml.md names every key of the schema', () => {
  const all = new Set(keys(z.toJSONSchema(specSchema, { io: 'input', unrepresentable: 'any' })));
  expect(all).toContain('services.virtual.port');
  const missing = [...all].filter((path) => {
    const [section = '', ...rest] = path.split('.');
    return !REFERENCE.includes(`\`${rest.length === 0 ? section : rest.join('.')}\``);
  });
  expect(missing).toEqual([]);
});

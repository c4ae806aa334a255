/**
 * ciel.yaml as a file: YAML with positions, the schema's issues and the relations' problems, rendered all at once as
 * `ciel.yaml:12:5  services[0].virtual.port  expected …, got …`, in the order of the file.
 */
import { distance } from 'fastest-levenshtein';
import { isCollection, isMap, isScalar, LineCounter, type Node, type ParsedNode, parseDocument } from 'yaml';
import { z } from 'zod';
import { type Spec, specSchema } from '../model/spec.ts';
import { relationProblems, type SpecPath } from '../model/spec-relations.ts';

/** Far above any real installation, far below what could hurt. */
const MAX_BYTES = 4 * 2 ** 20;

export interface FileProblem {
  /** From 1. */
  readonly line: number;
  readonly column: number;
  /** As in `services[0].virtual.port`; empty for a mistake of the YAML itself. */
  readonly path: string;
  readonly message: string;
}
export type SpecFile =
  | { readonly ok: true; readonly spec: Spec }
  | { readonly ok: false; readonly problems: readonly FileProblem[] };

/** In our words where the parser's speak to programmers. */
const YAML_MISTAKES: Readonly<Record<string, string>> = {
  DUPLICATE_KEY: 'this key is already in the same map',
  MULTIPLE_DOCS: 'a second document begins here; the file has one',
};

export function parseSpecFile(text: string): SpecFile {
  if (text.length > MAX_BYTES) {
    return invalid([{ line: 1, column: 1, path: '', message: `the file is larger than ${MAX_BYTES / 2 ** 20} MiB` }]);
  }
  const lineCounter = new LineCounter();
  const document = parseDocument(text, { lineCounter, prettyErrors: false, stringKeys: true });
  const positioned = (offset: number, path: string, message: string): FileProblem => {
    const { line, col } = lineCounter.linePos(offset);
    return { line: Math.max(line, 1), column: Math.max(col, 1), path, message };
  };
  const problems = document.errors.map(({ pos, code, message }) =>
    positioned(pos[0], '', YAML_MISTAKES[code] ?? `not YAML: ${message}`),
  );
  // What follows a syntax error is guesswork; a repeated key leaves the rest of the file sound.
  if (document.errors.some(({ code }) => code !== 'DUPLICATE_KEY')) return invalid(problems);

  let written: unknown;
  try {
    written = document.toJS();
  } catch (error) {
    return invalid([positioned(0, '', `not usable YAML: ${error instanceof Error ? error.message : String(error)}`)]);
  }
  const at = (path: SpecPath, message: string, concernsKey = false) =>
    positioned(offsetOf(document.contents, path, concernsKey), pathText(path), message);
  const parsed = specSchema.safeParse(written);
  for (const issue of parsed.error?.issues ?? []) {
    for (const { path, message, concernsKey } of explainIssue(issue, written)) {
      problems.push(at(path, message, concernsKey));
    }
  }
  for (const { path, message } of relationProblems(written)) problems.push(at(path, message));
  return problems.length === 0 && parsed.success ? { ok: true, spec: parsed.data } : invalid(problems);
}

function invalid(problems: readonly FileProblem[]): SpecFile {
  return { ok: false, problems: problems.toSorted((a, b) => a.line - b.line || a.column - b.column) };
}

/** `services[0].virtual.port`; keys that are no plain words are quoted. */
function pathText(path: SpecPath): string {
  return path
    .map((step, index) => {
      if (typeof step === 'number') return `[${step}]`;
      if (!/^[\w-]+$/.test(step)) return `[${JSON.stringify(step)}]`;
      return index === 0 ? step : `.${step}`;
    })
    .join('');
}

/**
 * Where a path's value begins; for a map or list, whose value begins a line later, its key. For what is missing, the
 * nearest thing above it that is there.
 */
function offsetOf(root: ParsedNode | null, path: SpecPath, concernsKey: boolean): number {
  let node: unknown = root;
  let offset = root?.range[0] ?? 0;
  for (const [index, step] of path.entries()) {
    if (!isCollection(node)) break;
    const pair = isMap<Node, Node | null>(node)
      ? node.items.find(({ key }) => isScalar(key) && String(key.value) === String(step))
      : undefined;
    const next: unknown = pair === undefined ? node.get(step, true) : (pair.value ?? pair.key);
    if (next === undefined) break;
    const isKeyMeant = concernsKey && index === path.length - 1;
    const shown: unknown = pair !== undefined && (isKeyMeant || isCollection(next)) ? pair.key : next;
    offset = (shown as Node).range?.[0] ?? offset;
    node = next;
  }
  return offset;
}

interface Explained {
  readonly path: SpecPath;
  readonly message: string;
  /** It is the key that is wrong, not its value. */
  readonly concernsKey?: true;
}

/** One of zod's issues in our words: what is allowed there, and what was found. */
function explainIssue(issue: z.core.$ZodIssue, written: unknown): readonly Explained[] {
  const path = issue.path.filter((step) => typeof step !== 'symbol');
  const found = valueAt(written, path);
  const one = (message: string) => [{ path, message }];
  const expected = (what: string) =>
    one(found === undefined ? `is missing: expected ${what}` : `expected ${what}, got ${shown(found)}`);
  switch (issue.code) {
    case 'invalid_type': {
      const custom = customMessage(issue);
      return expected(custom ?? TYPE_NAMES[issue.expected] ?? issue.expected);
    }
    case 'invalid_value':
      return expected(anyOf(issue.values.map(String)));
    case 'invalid_format':
      return expected(customMessage(issue) ?? `text of the form ${issue.format}`);
    case 'too_small':
      return expected(bound(issue.origin, issue.inclusive === false ? 'above' : 'at least', Number(issue.minimum)));
    case 'too_big':
      return expected(bound(issue.origin, issue.inclusive === false ? 'below' : 'at most', Number(issue.maximum)));
    case 'unrecognized_keys': {
      const allowed = keysAt(specSchema, path, written);
      return issue.keys.map(
        (key) => ({ path: [...path, key], message: unknownKey(key, allowed), concernsKey: true }) as const,
      );
    }
    case 'invalid_union':
      return expected(anyOf(unionOptions(issue)));
    case 'invalid_key': {
      const what = issue.issues[0] === undefined ? 'another key' : (customMessage(issue.issues[0]) ?? 'another key');
      return [{ path, message: `expected ${what} as key`, concernsKey: true }];
    }
    case 'custom':
      return one(
        issue.message.startsWith('expected ') || found === undefined ? issue.message : asExpected(issue, found),
      );
    default:
      return one(issue.message);
  }
}

const TYPE_NAMES: Readonly<Record<string, string>> = {
  string: 'text',
  int: 'a whole number',
  number: 'a number',
  boolean: 'true or false',
  object: 'a map',
  record: 'a map',
  array: 'a list',
};

/** A `refine` of the schema names what is allowed, as the formats do. */
function asExpected(issue: z.core.$ZodIssue, found: unknown): string {
  return `expected ${issue.message}, got ${shown(found)}`;
}

/** zod's own messages are sentences of its own; the schema's say what is allowed. */
function customMessage(issue: { readonly message: string }): string | null {
  return /^(Invalid|Too |Unrecognized)/.test(issue.message) ? null : issue.message;
}

function bound(origin: string, relation: string, limit: number): string {
  if (origin === 'array') return `${relation} ${limit} ${limit === 1 ? 'entry' : 'entries'}`;
  if (origin === 'string') return `${relation} ${limit} ${limit === 1 ? 'character' : 'characters'}`;
  return `a number, ${relation} ${limit}`;
}

function unionOptions(issue: z.core.$ZodIssueInvalidUnion): readonly string[] {
  return 'options' in issue && Array.isArray(issue.options) ? issue.options.map(String) : ['another form'];
}

function anyOf(values: readonly string[]): string {
  return values.length === 1 ? (values[0] ?? '') : `one of ${values.join(', ')}`;
}

function unknownKey(key: string, allowed: readonly string[]): string {
  const near = allowed.toSorted((a, b) => distance(key, a) - distance(key, b))[0];
  const meant = near !== undefined && distance(key, near) <= Math.max(2, Math.floor(near.length / 3));
  const known = `allowed here: ${allowed.join(', ')}`;
  return meant ? `unknown key; did you mean "${near}"? ${known}` : `unknown key; ${known}`;
}

function shown(value: unknown): string {
  if (Array.isArray(value)) return value.length === 0 ? 'an empty list' : 'a list';
  if (typeof value === 'object' && value !== null) return 'a map';
  if (value === null) return 'nothing';
  const text = JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}

function valueAt(written: unknown, path: SpecPath): unknown {
  let value: unknown = written;
  for (const step of path) {
    if (typeof value !== 'object' || value === null) return undefined;
    value = Object.hasOwn(value, step) ? (value as Record<string | number, unknown>)[step] : undefined;
  }
  return value;
}

/** The keys that the schema allows at a path: follows the schema beside the value, which decides between variants. */
function keysAt(schema: z.core.$ZodType, path: SpecPath, value: unknown): readonly string[] {
  const [step, ...rest] = path;
  if (schema instanceof z.ZodPipe) return keysAt(schema.in, path, value);
  if (schema instanceof z.ZodOptional || schema instanceof z.ZodDefault || schema instanceof z.ZodPrefault) {
    return keysAt(schema.unwrap(), path, value);
  }
  if (schema instanceof z.ZodDiscriminatedUnion) {
    const kind = valueAt(value, [schema.def.discriminator]);
    const option = schema.options.find(
      (candidate) =>
        candidate instanceof z.ZodObject &&
        z.safeParse(candidate.shape[schema.def.discriminator] ?? z.never(), kind).success,
    );
    return option === undefined ? [] : keysAt(option, path, value);
  }
  if (schema instanceof z.ZodArray && step !== undefined) {
    return keysAt(schema.element, rest, valueAt(value, [step]));
  }
  if (schema instanceof z.ZodObject) {
    if (step === undefined) return Object.keys(schema.shape);
    const field: z.core.$ZodType | undefined = schema.shape[step];
    return field === undefined ? [] : keysAt(field, rest, valueAt(value, [step]));
  }
  return [];
}

/**
 * The arrows between rooms: which folder may import which. A room that is missing here is refused, so that a new one is
 * placed on purpose.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { describe, expect, it } from 'vitest';

const root = join(import.meta.dirname, '..');

interface Rule {
  /** Rooms that may be imported, `import type` included. */
  readonly rooms: readonly string[];
  /** Rooms of which only types may be imported. */
  readonly types?: readonly string[];
  /** Packages and built-ins that may not be imported. */
  readonly forbids?: RegExp;
}

const RULES: Readonly<Record<string, Rule>> = {
  model: { rooms: [], forbids: /^node:|^@temporalio\/|^koffi$|^pg$|^kysely$/ },
  policy: { rooms: ['model'], forbids: /^node:|^@temporalio\// },
  workflows: { rooms: ['model'], forbids: /^node:(?!url$|path$|fs|assert|util)|^koffi$|^pg$|^kysely$/ },
  native: { rooms: ['model'], forbids: /^@temporalio\/|^pg$|^kysely$/ },
  'guest-disk': { rooms: ['model'], forbids: /^@temporalio\/|^koffi$/ },
  store: { rooms: ['model', 'policy'], forbids: /^@temporalio\/|^koffi$/ },
  activities: { rooms: ['model', 'policy', 'native', 'guest-disk', 'store'], types: ['workflows'], forbids: /^koffi$/ },
  serve: { rooms: ['model', 'policy', 'native', 'guest-disk', 'store'], forbids: /^koffi$/ },
  template: { rooms: ['model', 'native'] },
  cli: { rooms: ['*'] },
  worker: { rooms: ['*'] },
  lab: { rooms: ['*'] },
  bench: { rooms: ['*'] },
  test: { rooms: ['*'] },
};
/** Nothing imports these. */
const ENDS = ['cli', 'worker', 'lab', 'test', 'bench'];

interface Import {
  readonly file: string;
  readonly room: string;
  readonly target: string;
  readonly targetRoom: string | null;
  readonly typeOnly: boolean;
}

function imports(): Import[] {
  const found: Import[] = [];
  const files = readdirSync(root, { recursive: true, encoding: 'utf8' }).filter(
    (file) => file.endsWith('.ts') && !/^(node_modules|dist|build)\/|(^|\/)\.|^vitest\.config/.test(file),
  );
  for (const file of files) {
    const room = file.includes('/') ? (file.split('/')[0] as string) : file.replace(/\.ts$/, '');
    const source = readFileSync(join(root, file), 'utf8');
    const pattern = /^(?:import|export)\s+(type\s+)?(?:[^'";]*?\sfrom\s+)?'([^']+)'|\bimport\('([^']+)'\)/gm;
    for (const match of source.matchAll(pattern)) {
      const target = match[2] ?? match[3];
      if (target === undefined) continue;
      let targetRoom: string | null = null;
      if (target.startsWith('.')) {
        const path = relative(root, normalize(join(root, dirname(file), target)));
        targetRoom = path.includes('/') ? (path.split('/')[0] as string) : path.replace(/\.ts$/, '');
      }
      found.push({ file, room, target, targetRoom, typeOnly: match[1] !== undefined });
    }
  }
  return found;
}

describe('rooms', () => {
  const all = imports();

  it('sees the imports of every room that has code', () => {
    expect(all.length).toBeGreaterThan(100);
  });

  it('every folder with TypeScript is a room with a rule', () => {
    expect([...new Set(all.map(({ room }) => room))].filter((room) => !(room in RULES))).toEqual([]);
  });

  it('arrows point one way', () => {
    const wrong = all.filter(({ room, targetRoom, typeOnly }) => {
      if (targetRoom === null || targetRoom === room) return false;
      const rule = RULES[room];
      if (rule === undefined || rule.rooms.includes('*')) return false;
      return !rule.rooms.includes(targetRoom) && !(typeOnly && (rule.types ?? []).includes(targetRoom));
    });
    expect(wrong.map(({ file, target }) => `${file} imports ${target}`)).toEqual([]);
  });

  it('nothing imports cli, worker, lab, test or bench', () => {
    const wrong = all.filter(
      ({ room, targetRoom }) =>
        targetRoom !== null && targetRoom !== room && ENDS.includes(targetRoom) && !ENDS.includes(room),
    );
    expect(wrong.map(({ file, target }) => `${file} imports ${target}`)).toEqual([]);
  });

  it('no room imports a package that its rule forbids', () => {
    const wrong = all.filter(({ room, targetRoom, target, typeOnly }) => {
      const forbids = RULES[room]?.forbids;
      return targetRoom === null && !typeOnly && forbids?.test(target);
    });
    expect(wrong.map(({ file, target }) => `${file} imports ${target}`)).toEqual([]);
  });

  it('only native/mapper.ts and native/libvirt*.ts know koffi', () => {
    const knowing = all.filter(({ target, room }) => target === 'koffi' && room !== 'test').map(({ file }) => file);
    expect(knowing.filter((file) => !/^native\/(mapper|libvirt)[a-z-]*\.ts$/.test(file))).toEqual([]);
  });
});

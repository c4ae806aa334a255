/**
 * Where a command writes. Results go to stdout, errors and progress to stderr. Colours only where a terminal shows them
 * (NO_COLOR and FORCE_COLOR are respected); tables fit the terminal's width, 80 when there is none.
 */
import CliTable from 'cli-table3';
import pc from 'picocolors';

export type Colours = ReturnType<typeof pc.createColors>;

export interface Terminal {
  readonly columns: number;
  readonly colours: Colours;
  /** Whether people look at stdout: then a watched screen is redrawn in place. */
  readonly interactive: boolean;
  /** Both end the line themselves. */
  print(text: string): void;
  printError(text: string): void;
  /** As it is, without a newline: to move the cursor. */
  write(text: string): void;
}

export function processTerminal(): Terminal {
  const { stdout, stderr, env } = process;
  const colours = pc.createColors(pc.isColorSupported && (stdout.isTTY || 'FORCE_COLOR' in env));
  return {
    // A getter, because people resize their terminal under --watch.
    get columns() {
      return Math.max(60, stdout.columns ?? 80);
    },
    colours,
    interactive: stdout.isTTY === true,
    print: (text) => void stdout.write(`${text}\n`),
    printError: (text) => void stderr.write(`${text}\n`),
    write: (text) => void stdout.write(text),
  };
}

export interface Column {
  readonly head: string;
  readonly align?: 'left' | 'right';
  /** May be cut with … when the terminal is narrow; the widest of these gives way first. */
  readonly flexible?: boolean;
}
/** Text that is escaped already, and how to colour it: width is counted without the colour. */
export type Cell = string | { readonly text: string; readonly colour: (text: string) => string };

const GAP = 2;
const MIN_FLEXIBLE = 8;

/** Left-aligned, borderless: to be read, piped and cut by awk alike. */
export function table(columns: readonly Column[], rows: readonly (readonly Cell[])[], terminal: Terminal): string {
  const textOf = (cell: Cell | undefined) => (typeof cell === 'object' ? cell.text : (cell ?? ''));
  const widths = columns.map(({ head }, index) =>
    Math.max(head.length, ...rows.map((row) => textOf(row[index]).length)),
  );
  let excess = widths.reduce((sum, width) => sum + width + GAP, -GAP) - terminal.columns;
  while (excess > 0) {
    const widest = columns.reduce<number | null>((best, { flexible }, index) => {
      const width = widths[index] ?? 0;
      if (flexible !== true || width <= MIN_FLEXIBLE) return best;
      return best === null || width > (widths[best] ?? 0) ? index : best;
    }, null);
    if (widest === null) break;
    widths[widest] = (widths[widest] ?? 0) - 1;
    excess -= 1;
  }
  const grid = new CliTable({
    chars: Object.fromEntries(BORDERS.map((border) => [border, ''])),
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': GAP },
    colWidths: widths.map((width) => width + GAP),
    colAligns: columns.map(({ align }) => align ?? 'left'),
    head: columns.map(({ head }) => terminal.colours.dim(head)),
  });
  for (const row of rows) {
    grid.push(
      columns.map((_, index) => {
        const cell = row[index] ?? '';
        const text = cut(textOf(cell), widths[index] ?? 0);
        return typeof cell === 'object' ? cell.colour(text) : text;
      }),
    );
  }
  return grid
    .toString()
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n');
}

function cut(text: string, width: number): string {
  return text.length <= width ? text : `${text.slice(0, Math.max(0, width - 1))}…`;
}

const BORDERS = [
  'top',
  'top-mid',
  'top-left',
  'top-right',
  'bottom',
  'bottom-mid',
  'bottom-left',
  'bottom-right',
  'left',
  'left-mid',
  'mid',
  'mid-mid',
  'right',
  'right-mid',
  'middle',
] as const;

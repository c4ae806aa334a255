/** What the demo shows: a line each few seconds while it runs, and the summary at its end. Pure: values in, text out. */
import Table from 'cli-table3';
import pc from 'picocolors';
import { type Color, plot } from 'simple-ascii-chart';
import type { Status } from '../cli/status.ts';
import type { LoadSecond } from './load.ts';

/** One look of `ciel status`, reduced to what is drawn. */
export interface Look {
  readonly at: string;
  readonly vmCores: number | null;
  /** By "vm/container". null: not readable at that moment. */
  readonly cores: Readonly<Record<string, number | null>>;
  readonly memoryBytes: Readonly<Record<string, number | null>>;
  readonly ioBytesPerSecond: Readonly<Record<string, number | null>>;
}

export interface LoadFigures {
  readonly seconds: number;
  readonly perSecond: number;
  readonly medianMs: number | null;
  readonly p95Ms: number | null;
  readonly answered: number;
  readonly failed: number;
  readonly byReplica: Readonly<Record<string, number>>;
}

export interface Claim {
  readonly what: string;
  readonly holds: boolean;
  readonly seen: string;
}

const CHART_ROWS = 10;
const CHART_COLUMNS = 76;
const COLOURS: readonly Color[] = ['ansiRed', 'ansiGreen', 'ansiBlue', 'ansiYellow', 'ansiMagenta'];
const PAINT = [pc.red, pc.green, pc.blue, pc.yellow, pc.magenta];

export function lookOf(status: Status, vmName: string): Look {
  const cores: Record<string, number | null> = {};
  const memoryBytes: Record<string, number | null> = {};
  const ioBytesPerSecond: Record<string, number | null> = {};
  for (const vm of status.vms) {
    for (const container of vm.containers) {
      // Until its name has been read from the disk, a few seconds, it would be drawn as another one.
      if (container.name === null) continue;
      const key = `${vm.vmName}/${container.name}`;
      cores[key] = container.cpuCores;
      memoryBytes[key] = container.memoryBytes;
      ioBytesPerSecond[key] = container.ioBytesPerSecond;
    }
  }
  const vm = status.vms.find((candidate) => candidate.vmName === vmName);
  return { at: status.at, vmCores: vm?.cpuCores ?? null, cores, memoryBytes, ioBytesPerSecond };
}

/** One line of the live view; containers in other VMs than the watched one begin with a plus. */
export function liveLine(look: Look, vmName: string, load: LoadFigures | null, step: string | null): string {
  const figures = Object.entries(look.cores).map(([key, value]) => {
    const [vm, container] = key.split('/');
    return `${vm === vmName ? '' : '+'}${container} ${percent(value)}`;
  });
  const parts = [
    pc.dim(look.at.slice(11, 19)),
    `VM ${percent(look.vmCores)}`,
    figures.length === 0 ? 'containers not read yet' : figures.join('  '),
    load === null ? '' : `${load.perSecond.toFixed(1)} req/s  ${load.medianMs ?? '–'} ms`,
    step === null ? '' : pc.cyan(step),
  ];
  return `  ${parts.filter(Boolean).join(pc.dim(' │ '))}`;
}

export function loadFigures(seconds: readonly LoadSecond[]): LoadFigures {
  const latencies = seconds.flatMap(({ latenciesMs }) => latenciesMs).sort((a, b) => a - b);
  const byReplica: Record<string, number> = {};
  for (const second of seconds) {
    for (const [replica, count] of Object.entries(second.byReplica))
      byReplica[replica] = (byReplica[replica] ?? 0) + count;
  }
  const answered = seconds.reduce((sum, second) => sum + second.answered, 0);
  return {
    seconds: seconds.length,
    perSecond: seconds.length === 0 ? 0 : answered / seconds.length,
    medianMs: latencies[Math.floor(latencies.length / 2)] ?? null,
    p95Ms: latencies[Math.floor(latencies.length * 0.95)] ?? null,
    answered,
    failed: seconds.reduce((sum, second) => sum + second.failed, 0),
    byReplica,
  };
}

/** CPU of each container over the demo's time, in percent of one core. What could not be read is a gap. */
export function chart(looks: readonly Look[]): string {
  const keys = containerKeys(looks);
  if (keys.length === 0) return '(no container was read)';
  const lines = keys.flatMap((key, i) =>
    readStretches(looks.map(({ cores }) => cores[key])).map((points) => ({
      points,
      colour: COLOURS[i % COLOURS.length],
    })),
  );
  const drawn = plot(
    lines.map(({ points }) => points),
    {
      width: CHART_COLUMNS,
      height: CHART_ROWS,
      yRange: [0, 100],
      customYAxisTicks: [0, 25, 50, 75, 100],
      hideXAxis: true,
      color: lines.map(({ colour }) => colour ?? 'ansiWhite'),
      formatter: (value) => `${Math.round(Number(value))} %`,
    },
  );
  const legend = keys.map((key, i) => (PAINT[i % PAINT.length] ?? pc.reset)(`━━ ${key}`)).join('   ');
  const from = looks[0]?.at.slice(11, 19) ?? '';
  const to = looks.at(-1)?.at.slice(11, 19) ?? '';
  return `${drawn.trimEnd()}\n      ${from}${to.padStart(CHART_COLUMNS - from.length)}\n  ${legend}`;
}

function containerKeys(looks: readonly Look[]): string[] {
  return [...new Set(looks.flatMap(({ cores }) => Object.keys(cores)))];
}

/** Runs of looks in which the container was read, as points (look, percent). */
function readStretches(values: readonly (number | null | undefined)[]): [number, number][][] {
  const stretches: [number, number][][] = [[]];
  values.forEach((value, index) => {
    if (value === null || value === undefined) stretches.push([]);
    else stretches.at(-1)?.push([index, Math.min(100, value * 100)]);
  });
  return stretches.filter(({ length }) => length > 1);
}

export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const drawn = new Table({ head: [...head], style: { head: ['bold'], border: ['dim'], compact: true } });
  drawn.push(...rows.map((row) => [...row]));
  return drawn.toString();
}

export function figuresTable(looks: readonly Look[]): string {
  const keys = containerKeys(looks);
  const rows = keys.map((key) => [
    key,
    ...most(
      looks.map(({ cores }) => cores[key]),
      (value) => percent(value),
    ),
    ...most(
      looks.map(({ memoryBytes }) => memoryBytes[key]),
      (value) => mebibytes(value),
    ),
    ...most(
      looks.map(({ ioBytesPerSecond }) => ioBytesPerSecond[key]),
      (value) => `${(value / 1024).toFixed(0)} KiB/s`,
    ),
  ]);
  return table(['container', 'CPU median', 'max', 'memory median', 'max', 'disk median', 'max'], rows);
}

export function loadTable(before: LoadFigures, after: LoadFigures): string {
  const row = (name: string, load: LoadFigures) => [
    name,
    load.perSecond.toFixed(1),
    `${load.medianMs ?? '–'} ms`,
    `${load.p95Ms ?? '–'} ms`,
    String(load.failed),
    Object.entries(load.byReplica)
      .map(([replica, count]) => `${replica} ${count}`)
      .join(', '),
  ];
  return table(['', 'req/s', 'median', 'p95', 'failed', 'answered by'], [row('before', before), row('after', after)]);
}

export function claimLines(claims: readonly Claim[]): string {
  return claims
    .map(({ what, holds, seen }) => `  ${holds ? pc.green('✓') : pc.red('✗')} ${what} ${pc.dim(`— ${seen}`)}`)
    .join('\n');
}

export function mebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(0)} MiB`;
}

function percent(cores: number | null): string {
  return cores === null ? '?' : `${Math.round(cores * 100)} %`;
}
function most(values: readonly (number | null | undefined)[], show: (value: number) => string): [string, string] {
  const read = values.filter((value): value is number => value !== null && value !== undefined).sort((a, b) => a - b);
  const median = read[Math.floor(read.length / 2)];
  const max = read.at(-1);
  return median === undefined || max === undefined ? ['unavailable', '–'] : [show(median), show(max)];
}

/** Figures as people read them, always with their unit, short enough for a table. */

const BINARY = ['B', 'KiB', 'MiB', 'GiB', 'TiB'] as const;

/** "512 MiB", "1.5 GiB" */
export function bytesText(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < BINARY.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 || Number.isInteger(value) ? 0 : 1;
  return `${value.toFixed(digits)} ${BINARY[unit]}`;
}

/** "1.2 MiB/s" */
export function rateText(bytesPerSecond: number): string {
  return `${bytesText(Math.round(bytesPerSecond))}/s`;
}

/** Of one vCPU: "0.83" */
export function coresText(cores: number): string {
  return cores.toFixed(cores >= 10 ? 1 : 2);
}

export function percentText(share: number): string {
  return `${Math.round(share * 100)} %`;
}

/** "350 ms", "4.2 s", "2 m 05 s", "3 h 12 m", "5 d 4 h" */
export function durationText(milliseconds: number): string {
  if (milliseconds < 1_000) return `${Math.max(0, Math.round(milliseconds))} ms`;
  if (milliseconds < 60_000) return `${(milliseconds / 1_000).toFixed(1)} s`;
  const seconds = Math.round(milliseconds / 1_000);
  const two = (value: number) => String(value).padStart(2, '0');
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} m ${two(seconds % 60)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 1_440) return `${Math.floor(minutes / 60)} h ${two(minutes % 60)} m`;
  return `${Math.floor(minutes / 1_440)} d ${Math.floor(minutes / 60) % 24} h`;
}

/** "12 s ago"; a clock that is ahead shows as now, not as a negative age. */
export function ageText(at: Date | string, now: Date): string {
  const milliseconds = now.getTime() - new Date(at).getTime();
  return milliseconds < 1_000
    ? 'now'
    : `${durationText(Math.floor(milliseconds / 1_000) * 1_000).replace('.0 s', ' s')} ago`;
}

/** What the lab prints: one form for steps, so that set-up, demo and tests read alike. */
import pc from 'picocolors';

const NAME_COLUMNS = 18;

export function announce(step: string, detail: string): void {
  console.log(`${pc.bold(`▸ ${step.padEnd(NAME_COLUMNS)}`)} ${detail}`);
}

export function seconds(milliseconds: number): string {
  return `${(milliseconds / 1000).toFixed(1)} s`;
}

/** Announces a step with how long it took, once it is done. */
export async function timed<T>(step: string, act: () => Promise<T>, detail: (result: T) => string): Promise<T> {
  const startedAt = performance.now();
  const result = await act();
  announce(step, `${detail(result)} ${pc.dim(`(${seconds(performance.now() - startedAt)})`)}`);
  return result;
}

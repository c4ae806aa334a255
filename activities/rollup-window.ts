/** Ten seconds of one VM's or container's samples, on their way to one row. What was not read is counted as such. */
import type { Rollup } from '../model/usage.ts';

export interface RollupSample {
  readonly cpuCores: number | null;
  readonly memoryBytes: number | null;
  readonly ioBytesPerSecond: number | null;
  readonly unavailable: string | null;
}

class Mean {
  #sum = 0;
  #count = 0;
  #max: number | null = null;
  add(value: number | null): void {
    if (value === null) return;
    this.#sum += value;
    this.#count += 1;
    this.#max = this.#max === null ? value : Math.max(this.#max, value);
  }
  get mean(): number | null {
    return this.#count === 0 ? null : this.#sum / this.#count;
  }
  get max(): number | null {
    return this.#max;
  }
  get count(): number {
    return this.#count;
  }
}

export class RollupWindow {
  #cpu = new Mean();
  #memory = new Mean();
  #io = new Mean();
  #unavailable: string | null = null;
  #empty = true;

  add(sample: RollupSample): void {
    this.#empty = false;
    this.#cpu.add(sample.cpuCores);
    this.#memory.add(sample.memoryBytes);
    this.#io.add(sample.ioBytesPerSecond);
    if (sample.unavailable !== null) this.#unavailable = sample.unavailable;
  }

  /** Ends the window and begins the next. null: nobody asked in these ten seconds. */
  take(vmUuid: string, containerId: string | null, from: string): Rollup | null {
    if (this.#empty) return null;
    const rollup: Rollup = {
      vmUuid,
      containerId,
      from,
      samples: this.#cpu.count,
      cpuCores: this.#cpu.mean,
      cpuCoresMax: this.#cpu.max,
      memoryBytes: this.#memory.mean,
      ioBytesPerSecond: this.#io.mean,
      unavailable: this.#cpu.count === 0 ? (this.#unavailable ?? 'no rate yet') : null,
    };
    this.#cpu = new Mean();
    this.#memory = new Mean();
    this.#io = new Mean();
    this.#unavailable = null;
    this.#empty = true;
    return rollup;
  }
}

/**
 * A saga: the undo of each step is noted before the step is taken, because a step that failed or was cut off may have
 * taken effect. Until the pivot everything can be undone, newest first; after it nothing is, and the rest goes forward.
 */
import { CancellationScope } from '@temporalio/workflow';

export interface Undo {
  /** The step that it undoes. */
  readonly step: string;
  readonly run: () => Promise<void>;
  /** What it gives back is still needed while an earlier undo was given up: it is kept then. */
  readonly onlyWhenAllUndone: boolean;
}

export class Saga {
  readonly #undos: Undo[] = [];

  /** Before the step. The undo must be right whether or not the step took effect. */
  push(step: string, run: () => Promise<void>, { onlyWhenAllUndone = false } = {}): void {
    this.#undos.push({ step, run, onlyWhenAllUndone });
  }

  /** The pivot has been passed. */
  commit(): void {
    this.#undos.length = 0;
  }

  /**
   * Shielded from cancellation: a half-undone operation helps nobody.
   * @param attempt runs one undo and says whether it is done; false: an operator gave it up.
   * @returns whether all is undone
   */
  async undo(attempt: (undo: Undo) => Promise<boolean>): Promise<boolean> {
    return CancellationScope.nonCancellable(async () => {
      let all = true;
      for (let undo = this.#undos.pop(); undo !== undefined; undo = this.#undos.pop()) {
        if (undo.onlyWhenAllUndone && !all) continue;
        if (!(await attempt(undo))) all = false;
      }
      return all;
    });
  }
}

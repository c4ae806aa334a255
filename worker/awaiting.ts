/** Waiting for what a worker needs and does not have yet: tried again until it is there, saying what is awaited. */
import { EventEmitter } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 2_000;
const SAY_AGAIN_MS = 30_000;

/** "said": what is awaited, and that it is there, as it is logged; for whoever supervises this process. */
export const awaited = new EventEmitter<{ said: [text: string] }>();

/**
 * @param what for people: "Temporal at 127.0.0.1:7233"
 * @param isFinal whether waiting cannot mend this error; default: waiting mends all
 * @throws what is final, and when the signal aborts
 */
export async function awaiting<T>(
  what: string,
  attempt: () => Promise<T>,
  log: Pick<Logger, 'info' | 'warn'>,
  signal: AbortSignal,
  isFinal: (error: unknown) => boolean = () => false,
): Promise<T> {
  let pauseMs = FIRST_PAUSE_MS;
  let said = '';
  let saidAtMs = 0;
  for (;;) {
    signal.throwIfAborted();
    try {
      const result = await attempt();
      if (said !== '') {
        log.info(`${what}: there`);
        awaited.emit('said', `${what}: there`);
      }
      return result;
    } catch (error) {
      signal.throwIfAborted();
      if (isFinal(error)) throw error;
      const message = error instanceof Error ? error.message || String(Reflect.get(error, 'code')) : String(error);
      if (said !== message || performance.now() - saidAtMs > SAY_AGAIN_MS) {
        log.warn(`awaits ${what}: ${message}`);
        awaited.emit('said', `awaits ${what}: ${message}`);
        said = message;
        saidAtMs = performance.now();
      }
    }
    await sleep(pauseMs, undefined, { signal });
    pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
  }
}

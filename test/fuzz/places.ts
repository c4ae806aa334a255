/** Where the fuzzers and what they need are. */
import { join } from 'node:path';

const root = join(import.meta.dirname, '../..');
/** Dumps of real guests, cut down to what is read of them (native/fuzz/cut-down.c). */
export const SEEDS = join(root, 'test/native/fuzz/seeds');
export const FUZZ_PROGRAMS = join(root, 'build/native/fuzz');

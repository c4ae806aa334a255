import { defineConfig } from 'vitest/config';

// Two projects: `fast` needs neither VM nor root and is done within a minute; `vm` starts real guests, or kills real
// processes and waits for their recovery, one file at a time.
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'fast',
          include: ['test/**/*.test.ts'],
          exclude: ['test/**/*.vm.test.ts'],
          // A machine that has other work is no reason to fail: these end what hangs.
          testTimeout: 60_000,
          hookTimeout: 120_000,
          // Vitest leaves one core free, which on two cores is half of them; and a third of these tests waits.
          maxWorkers: 3,
          // Files share modules: loading Temporal's SDK anew for each was a sixth of the run. They share no state: what a
          // test changes of a module, it puts back.
          isolate: false,
          // Workflow tests mostly wait for the Temporal server: many at once take half the CPU time that one by one take.
          maxConcurrency: 20,
        },
      },
      {
        test: {
          name: 'vm',
          include: ['test/**/*.vm.test.ts'],
          testTimeout: 600_000,
          hookTimeout: 900_000,
          fileParallelism: false,
          pool: 'forks',
        },
      },
    ],
  },
});

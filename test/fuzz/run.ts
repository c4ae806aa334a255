/**
 * `npm run fuzz -- --minutes N [--target NAME] [--seed NUMBER] [--dump FILE]`: long runs of the fuzzers, one target after
 * the other, each its share of the time. What is found is printed, kept in build/fuzz-findings, and makes the exit code 1.
 * `--dump` adds a dump of a guest of yours (virsh dump --memory-only --format kdump-zlib) to the seeds of target memory.
 */
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { execa } from 'execa';
import { FUZZ_PROGRAMS, SEEDS } from './places.ts';

/** Of test/native/fuzz: torn memory, and libFuzzer's. Of disk.test.ts and state.test.ts: in JavaScript. */
const LIBFUZZER_TARGETS = ['dump', 'btf', 'kallsyms', 'vmcoreinfo', 'walk'] as const;
const DISK_TARGETS = ['disk', 'partitions', 'journal', 'xfs', 'lvm'] as const;
const JAVASCRIPT_TARGETS = [...DISK_TARGETS, 'bbolt', 'sqlite', 'json'] as const;
const TARGETS = ['memory', ...LIBFUZZER_TARGETS, ...JAVASCRIPT_TARGETS] as const;
type Target = (typeof TARGETS)[number];

const root = join(import.meta.dirname, '../..');
const FINDINGS = join(root, 'build/fuzz-findings');
const CORPUS = join(FUZZ_PROGRAMS, 'corpus');
/** More than the seeds have. libFuzzer's own limits: an input's time, and this process's memory. */
const LIBFUZZER_OPTIONS = ['-max_len=131072', '-timeout=20', '-rss_limit_mb=2048', '-print_final_stats=1'];
const ROUNDS = '1000000000';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    target: { type: 'string', multiple: true, default: [] },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    dump: { type: 'string', multiple: true, default: [] },
  },
});
const minutes = Number(values.minutes);
const targets = TARGETS.filter((target) => values.target.length === 0 || values.target.includes(target));
const unknown = values.target.filter((name) => !TARGETS.some((target) => target === name));
if (!(minutes > 0) || unknown.length > 0 || !/^\d+$/.test(values.seed)) {
  console.error(`usage: npm run fuzz -- --minutes N [--target ${TARGETS.join('|')}] [--seed NUMBER] [--dump FILE]`);
  process.exit(2);
}

await mkdir(FINDINGS, { recursive: true });
const seeds = (await readdir(SEEDS)).filter((name) => name.endsWith('.kdump')).map((name) => join(SEEDS, name));
if (targets.some((target) => !isJavaScript(target))) {
  await execa('make', ['-s', '-C', join(root, 'native'), 'fuzz-programs'], { stdio: 'inherit' });
  await execa(join(FUZZ_PROGRAMS, 'seeds'), [CORPUS, ...seeds], { stdio: 'inherit' });
}

const results = [];
for (const target of targets) {
  console.log(`${target}, ${(minutes / targets.length).toFixed(1)} minutes, seed ${values.seed}`);
  results.push(await runTarget(target, minutes / targets.length));
}
process.exitCode = results.every((isClean) => isClean) ? 0 : 1;

function isJavaScript(target: Target): boolean {
  return JAVASCRIPT_TARGETS.some((name) => name === target);
}

/** false: something was found. */
async function runTarget(target: Target, share: number): Promise<boolean> {
  if (target === 'memory') return tearMemory(share);
  if (!isJavaScript(target)) return runLibFuzzer(target, share);
  const env = { CIEL_FUZZ_MINUTES: String(share), CIEL_FUZZ_SEED: values.seed, CIEL_FUZZ_TARGET: target };
  const file = DISK_TARGETS.some((name) => name === target) ? 'disk.test.ts' : 'state.test.ts';
  const arguments_ = ['run', '--project', 'fast', `test/fuzz/${file}`];
  return succeeds('vitest', arguments_, env);
}

async function tearMemory(share: number): Promise<boolean> {
  const all = [...seeds, ...values.dump];
  const results = [];
  for (const [index, seed] of all.entries()) {
    console.log(seed);
    const number = String(Number(values.seed) + index);
    results.push(await succeeds(join(FUZZ_PROGRAMS, 'memory'), [seed, ROUNDS, number, String(share / all.length)]));
  }
  return results.every((isClean) => isClean);
}

async function runLibFuzzer(target: Target, share: number): Promise<boolean> {
  const found = join(CORPUS, `${target}-found`);
  await mkdir(found, { recursive: true });
  return succeeds(join(FUZZ_PROGRAMS, target), [
    ...LIBFUZZER_OPTIONS,
    `-seed=${values.seed}`,
    `-max_total_time=${Math.ceil(share * 60)}`,
    `-artifact_prefix=${FINDINGS}/${target}-`,
    '-verbosity=0',
    found,
    join(CORPUS, target),
  ]);
}

async function succeeds(program: string, arguments_: string[], env: Record<string, string> = {}): Promise<boolean> {
  const { failed } = await execa(program, arguments_, {
    cwd: root,
    env,
    preferLocal: true,
    stdio: 'inherit',
    reject: false,
  });
  if (failed) console.error(`${program} found something; inputs that crash are in ${FINDINGS}`);
  return !failed;
}

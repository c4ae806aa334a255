/**
 * Which figures are read in which kernels: what runs of the matrix have seen (support.json), and the table of it in
 * docs/reference/kernels.md. A figure counts as read when it was compared with the guest's own files, in every container
 * that the guest had, and was right.
 */
import type { CgroupSetup } from './guest.ts';
import type { KernelFlavour, KernelName } from './kernels.ts';
import { FIGURES, type Verdict } from './truth.ts';

/** 'right'; 'not comparable': read, but the guest's files do not say it; else why it is not read. */
export type Outcome = string;

export interface GuestSupport {
  readonly kernel: KernelName;
  readonly flavour: KernelFlavour;
  readonly cgroups: CgroupSetup;
  readonly release: string;
  /** By figure. */
  readonly outcomes: Readonly<Record<string, Outcome>>;
}

/** Where what was seen is kept, and shown: Debian's releases, and more kernels. */
export interface SupportFiles {
  readonly seen: string;
  readonly document: string;
  readonly title: string;
  /** What CIEL_KERNEL_MATRIX is for it. */
  readonly matrix: string;
}
export const RELEASES_SUPPORT: SupportFiles = {
  seen: 'lab/kernels/support.json',
  document: 'docs/reference/kernels.md',
  title: 'Kernels',
  matrix: 'all',
};
export const MORE_SUPPORT: SupportFiles = {
  seen: 'lab/kernels/support-more.json',
  document: 'docs/reference/kernels-more.md',
  title: "More kernels: Ubuntu's, and Debian's backports",
  matrix: 'more',
};

/** Sums up what was seen of one figure in all containers, several times. */
export function outcomeOf(seen: readonly (Verdict | { readonly unavailable: string })[]): Outcome {
  const reason = seen.find((one) => typeof one === 'object');
  if (reason !== undefined) return reason.unavailable;
  if (seen.includes('wrong')) return 'wrong';
  return seen.includes('right') ? 'right' : 'not comparable';
}

const SETUPS: Readonly<Record<CgroupSetup, string>> = { v2: 'version 2', v1: 'version 1', hybrid: 'hybrid' };
const SYMBOLS: Readonly<Record<string, string>> = { right: '✓', 'not comparable': '○' };

export function renderSupport(guests: readonly GuestSupport[], { title, matrix }: SupportFiles): string {
  const notes: string[] = [];
  const symbolOf = (outcome: Outcome): string => {
    const symbol = SYMBOLS[outcome];
    if (symbol !== undefined) return symbol;
    if (!notes.includes(outcome)) notes.push(outcome);
    return `–<sup>${notes.indexOf(outcome) + 1}</sup>`;
  };
  const sections = Object.entries(SETUPS).map(([setup, heading]) => {
    const ofSetup = guests.filter(({ cgroups }) => cgroups === setup);
    if (ofSetup.length === 0) return '';
    const kernels = [...new Set(ofSetup.map(({ kernel }) => kernel))];
    const rows = FIGURES.map(({ name }) => {
      const cells = kernels.map((kernel) =>
        cellOf(
          ofSetup.filter((guest) => guest.kernel === kernel),
          name,
          symbolOf,
        ),
      );
      return `| ${[name, ...cells].join(' | ')} |`;
    });
    return [
      `## cgroup ${heading}`,
      '',
      `| figure | ${kernels.map((kernel) => headingOf(guests, kernel)).join(' | ')} |`,
      `|---|${kernels.map(() => '---').join('|')}|`,
      ...rows,
      '',
    ].join('\n');
  });
  const releases = guests.map(({ release }) => release);
  return [
    `# ${title}`,
    '',
    `<!-- Made by the kernel matrix (CIEL_KERNEL_MATRIX=${matrix} npx vitest run --project vm test/native/kernels.vm.test.ts). -->`,
    '',
    'A kernel is attached to by what is found in its memory, never by its version: VMCOREINFO, page tables of four or five',
    'levels, kallsyms or exported symbols, and its types, BTF, its own or from a file beside it (`--btf`). What it does not keep',
    'is unavailable, with the reason. These were booted and compared, container by container, with what their own cgroup files',
    'say before and after each look:',
    '',
    ...[...new Set(releases)].map((release) => `- ${release}`),
    '',
    '✓ the same as in the guest · ○ read, but the guest has no file that says it · – not read, and why',
    '',
    ...sections,
    ...notes.map((note, index) => `${index + 1}. ${note}`),
    '',
  ].join('\n');
}

/** "newest" is a release that moves: its number says which it was. */
function headingOf(guests: readonly GuestSupport[], kernel: string): string {
  const release = guests.find((guest) => guest.kernel === kernel)?.release ?? kernel;
  return kernel.replace('newest', /^\d+\.\d+/.exec(release)?.[0] ?? 'newest');
}

function cellOf(guests: readonly GuestSupport[], figure: string, symbolOf: (outcome: Outcome) => string): string {
  const flavours = new Map<Outcome, string[]>();
  for (const { flavour, outcomes } of guests) {
    const outcome = outcomes[figure] ?? 'not comparable';
    flavours.set(outcome, [...(flavours.get(outcome) ?? []), flavour]);
  }
  if (flavours.size === 1) return symbolOf([...flavours.keys()][0] as string);
  return [...flavours].map(([outcome, names]) => `${symbolOf(outcome)} (${names.join(', ')})`).join(', ');
}

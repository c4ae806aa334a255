/**
 * Which container makes a VM hot. The paper's two stages: by level when one container stands out, by the change since
 * the rise when none does (three at 30 % make a VM at 90 %). A replica at its own limit is its own cause.
 *
 *   limit    use / limit >= target
 *   level    the largest share of what the containers use: at least half, and 1.5 x the next one
 *   change   d_i = mean(W1) - mean(W0), significant from 3 standard errors on; phi_i = d_i / sum of all rises, where
 *            one that was not read before the rise may have risen by all that it uses, and is not blamed for that;
 *            the largest phi >= 0.5, else the fewest containers that reach 0.7 together;
 *            without a step, the largest positive trend weighted by the share of the level
 *
 * It refuses rather than guesses: when containers could not be read, when they explain less than half of what the VM
 * uses or of how it grew (kernel, steal, processes in no container), when none stands out, and when the cause is no
 * replica of a service. The ranking goes on behind the best one, because its service may be at its maximum.
 */
import type { Attribution, Candidate, Refusal, RefusalReason } from '../model/decision.ts';
import type { ContainerEvidence, VmEvidence, Windows } from '../model/evidence.ts';
import { cores, figure, instant, isoInstant, percent, quoted } from './figures.ts';

const STANDS_OUT_SHARE = 0.5;
const STANDS_OUT_LEAD = 1.5;
/** A container behind the one that stands out is worth asking for from this share on. */
const FOLLOWER_SHARE = 0.2;
const SIGNIFICANT_ERRORS = 3;
/** Share of the VM's capacity: standard errors are not taken for smaller, so that two steady samples prove nothing. */
const MIN_ERROR_SHARE = 0.01;
const MAIN_CHANGE_SHARE = 0.5;
const JOINT_CHANGE_SHARE = 0.7;
const MUST_EXPLAIN = 0.5;
const ASK_AGAIN_MS = 30_000;

interface Part {
  readonly container: ContainerEvidence;
  readonly level: number;
  /** null: not read before the rise. */
  readonly change: number | null;
  readonly significant: boolean;
}

export function attribute(evidence: VmEvidence, now: string): Attribution | Refusal {
  const refuse = refusing(now);
  if (evidence.unreadable !== null) {
    return refuse('NoEvidence', `the containers of ${evidence.vmName} could not be read: ${evidence.unreadable}`);
  }
  if (evidence.cause === 'replicaCpuLimit' || evidence.cause === 'replicaMemoryLimit') {
    return byLimit(evidence, evidence.cause, refuse);
  }
  const memory = evidence.cause === 'vmMemory';
  const windowsOf = (container: ContainerEvidence) => (memory ? container.memoryBytes : container.cpuCores);
  const capacity = figure(memory ? evidence.memoryBytes : evidence.vcpus) ?? 0;
  const parts = evidence.containers
    .flatMap((container) => part(container, windowsOf(container), capacity))
    .sort(replicasFirst);
  if (parts.length === 0) {
    return refuse('NoEvidence', `no container of ${evidence.vmName} was read since the rise`);
  }

  // The VM's memory as libvirt sees it is what was given to it, not what is used: only CPU can be held against the sum.
  const rest = memory ? null : evidence.others.cpuCores;
  const total = sum(parts.map(({ level }) => level)) + (figure(rest?.since?.mean) ?? 0);
  const rises = sum(parts.map(mostRise)) + Math.max(0, changeOf(rest) ?? figure(rest?.since?.mean) ?? 0);
  if (!memory) {
    const used = figure(evidence.cpuCores.since?.mean);
    if (used !== null && total < MUST_EXPLAIN * used) {
      return refuse(
        'LoadOutsideContainers',
        `the VM uses ${cores(used)}, all its containers together ${cores(total)}: look for processes outside containers`,
      );
    }
    const grown = changeOf(evidence.cpuCores);
    if (evidence.onset !== null && grown !== null && grown > MIN_ERROR_SHARE * capacity) {
      if (rises < MUST_EXPLAIN * grown) {
        return refuse(
          'LoadOutsideContainers',
          `since ${evidence.onset} the VM grew by ${cores(grown)}, its containers by at most ${cores(rises)}: look outside containers`,
        );
      }
    }
  }
  return byLevel(parts, total, refuse) ?? byChange(evidence, parts, total, rises, refuse);
}

/** Between equals a replica is blamed, because there something can be done; and the order of the list says nothing. */
function replicasFirst({ container: a }: Part, { container: b }: Part): number {
  const managed = Number(b.service !== null) - Number(a.service !== null);
  return managed || (a.containerId < b.containerId ? -1 : 1);
}

/** What was not read before the rise (watched only since then, or just started) may all be new: unknown is not zero. */
function mostRise({ change, level }: Part): number {
  return Math.max(0, change ?? level);
}

type Refuse = (reason: RefusalReason, explanation: string) => Refusal;
function refusing(now: string): Refuse {
  const at = instant(now);
  const retryAt = at === null ? null : isoInstant(at + ASK_AGAIN_MS);
  return (reason, explanation) => ({ act: false, reason, explanation, retryAt });
}

function part(container: ContainerEvidence, { before, since }: Windows, capacity: number): Part[] {
  const level = figure(since?.mean);
  if (since === null || level === null) return [];
  const earlier = figure(before?.mean);
  if (before === null || earlier === null) return [{ container, level, change: null, significant: false }];
  const variance = ({ deviation, samples }: { deviation: number; samples: number }) =>
    (figure(deviation) ?? 0) ** 2 / Math.max(1, figure(samples) ?? 1);
  const error = Math.max(MIN_ERROR_SHARE * capacity, Math.sqrt(variance(before) + variance(since)));
  const change = level - earlier;
  return [{ container, level, change, significant: change > 0 && change >= SIGNIFICANT_ERRORS * error }];
}

function byLimit(evidence: VmEvidence, cause: 'replicaCpuLimit' | 'replicaMemoryLimit', refuse: Refuse) {
  const memory = cause === 'replicaMemoryLimit';
  const target = memory ? evidence.target.memory : evidence.target.cpu;
  const atLimit = evidence.containers
    .flatMap((container) => {
      const use = figure((memory ? container.memoryBytes : container.cpuCores).since?.mean);
      const limit = figure(memory ? container.memoryLimitBytes : container.cpuLimitCores);
      if (use === null || limit === null || limit === 0 || use / limit < target) return [];
      return [{ container, share: Math.min(1, use / limit) }];
    })
    .sort((a, b) => b.share - a.share);
  const candidates = atLimit.flatMap(({ container, share }) =>
    candidate(container, 'limit', share, `uses ${percent(share)} of its own ${memory ? 'memory' : 'CPU'} limit`),
  );
  if (candidates.length > 0) return attribution(candidates);
  return refuse('NoneStandsOut', `no replica in ${evidence.vmName} is at ${percent(target)} of its own limit any more`);
}

function byLevel(parts: readonly Part[], total: number, refuse: Refuse): Attribution | Refusal | null {
  const ranked = [...parts].sort((a, b) => b.level - a.level);
  const [first, second] = ranked;
  if (first === undefined || !(total > 0)) return null;
  if (first.level < STANDS_OUT_SHARE * total || first.level < STANDS_OUT_LEAD * (second?.level ?? 0)) return null;
  if (first.container.service === null) return unmanaged(first.container, first.level / total, 'of the use', refuse);
  return attribution(
    ranked
      .filter(({ level }, index) => index === 0 || level >= FOLLOWER_SHARE * total)
      .flatMap(({ container, level }) =>
        candidate(container, 'level', level / total, `uses ${percent(level / total)} of what the containers use`),
      ),
  );
}

function byChange(
  evidence: VmEvidence,
  parts: readonly Part[],
  total: number,
  rises: number,
  refuse: Refuse,
): Attribution | Refusal {
  const grew = (entry: Part): entry is Part & { change: number } => entry.significant;
  const share = ({ change, level }: { change: number; level: number }) =>
    evidence.onset !== null ? change / rises : (change / rises) * (level / total);
  const rising = parts.filter(grew).sort((a, b) => share(b) - share(a));
  const [first] = rising;
  if (first === undefined) {
    return refuse(
      'NoneStandsOut',
      `no container of ${evidence.vmName} uses half of the load, and none has grown significantly since the rise`,
    );
  }
  const culprits = fewest(rising, rises);
  if (evidence.onset !== null && culprits === null) {
    const reached = sum(rising.map(({ change }) => change)) / rises;
    return refuse('NoneStandsOut', `those that grew significantly explain only ${percent(reached)} of the growth`);
  }
  if ((culprits ?? [first]).every(({ container }) => container.service === null)) {
    return unmanaged(first.container, first.change / rises, 'of the growth', refuse);
  }
  return attribution(
    rising.flatMap(({ container, change }) =>
      candidate(container, 'change', change / rises, `makes ${percent(change / rises)} of the growth since the rise`),
    ),
  );
}

/** One that makes half of the growth, else as few as make 0.7 of it together; null: not even all do. */
function fewest<T extends { readonly change: number }>(ranked: readonly T[], rises: number): readonly T[] | null {
  let reached = 0;
  for (const [index, { change }] of ranked.entries()) {
    reached += change / rises;
    if (reached >= (index === 0 ? MAIN_CHANGE_SHARE : JOINT_CHANGE_SHARE)) return ranked.slice(0, index + 1);
  }
  return null;
}

function candidate(
  { containerId, name, service }: ContainerEvidence,
  by: Candidate['by'],
  share: number,
  verb: string,
): Candidate[] {
  if (service === null) return [];
  return [{ containerId, name, service, by, share, explanation: `${nameOf({ containerId, name })} ${verb}` }];
}

function attribution(candidates: readonly Candidate[]): Attribution {
  const [first] = candidates;
  return {
    act: true,
    candidates,
    explanation: first === undefined ? '' : `${first.explanation}: service ${first.service}`,
  };
}

function unmanaged(container: ContainerEvidence, share: number, of: string, refuse: Refuse): Refusal {
  return refuse(
    'UnmanagedCause',
    `${nameOf(container)} makes ${percent(share)} ${of} and is no replica of a service: list it in ciel.yaml, or look at it`,
  );
}

function nameOf({ name, containerId }: Pick<ContainerEvidence, 'name' | 'containerId'>): string {
  return name === null ? `container ${quoted(containerId.slice(0, 12))}` : `container ${quoted(name)}`;
}
function changeOf(windows: Windows | null): number | null {
  const since = figure(windows?.since?.mean);
  const before = figure(windows?.before?.mean);
  return since === null || before === null ? null : since - before;
}
function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

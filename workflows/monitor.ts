/**
 * monitor/<vm uuid>: the durable wish that a VM be watched, and what becomes of its crossings. While nothing crosses, it
 * costs no event at all.
 *
 *   watching ──hot──▶ attributing (decide) ──candidates──▶ offering, best first (offerPressure)
 *      ▲  ▲               │ refused                          │ accepted, or all refused
 *      │  └───────────────┴── quiet until … (setWatch) ◀─────┘
 *      └──low, gone, rebooted, unreadable: noted
 *   any ──stop or cancellation──▶ clearWatch ──▶ ended
 *
 * Crossings are level-triggered: a VM that is still hot at quietUntil is reported again, so nothing here need remember
 * what it owes.
 */
import {
  allHandlersFinished,
  CancellationScope,
  condition,
  continueAsNew,
  isCancellation,
  setCurrentDetails,
  setHandler,
  sleep,
  workflowInfo,
} from '@temporalio/workflow';
import type { Attribution, Refusal } from '../model/decision.ts';
import type { Crossing, VmEvidence } from '../model/evidence.ts';
import type { MonitorInput } from '../model/starts.ts';
import { control } from './calls.ts';
import { causeOf } from './failure.ts';
import { crossingSignal, describeMonitorQuery, dumpQuery, stopMonitorUpdate } from './messages.ts';

const QUIET_AFTER_REFUSAL_MS = 30_000;
/** The host's watcher reads its wishes within a tick or two; a crossing that it sends meanwhile must not start us anew. */
const LINGER = '3 s';

/** Plain JSON: it crosses continue-as-new. */
export interface MonitorState {
  readonly version: 1;
  nextDecision: number;
  /** Of the last crossing that was taken: what comes again is a second delivery. */
  taken: { boot: string; sequence: number } | null;
  waiting: Crossing[];
  quietUntil: string | null;
  lastCrossing: { kind: string; at: string; message: string } | null;
  lastOutcome: string;
}

export async function monitor(input: MonitorInput, carried: MonitorState | null = null): Promise<void> {
  const { vmUuid, vmName, host } = input;
  const state: MonitorState = carried ?? {
    version: 1,
    nextDecision: 1,
    taken: null,
    waiting: [],
    quietUntil: null,
    lastCrossing: null,
    lastOutcome: '',
  };
  let stopping = false;
  let cleared = false;

  setHandler(crossingSignal, (crossing) => {
    if (state.taken?.boot === crossing.boot && crossing.sequence <= state.taken.sequence) return;
    state.taken = { boot: crossing.boot, sequence: crossing.sequence };
    state.waiting.push(crossing);
  });
  setHandler(stopMonitorUpdate, async () => {
    stopping = true;
    await condition(() => cleared);
  });
  setHandler(describeMonitorQuery, () => ({
    vmUuid,
    vmName,
    host,
    quietUntil: state.quietUntil,
    lastCrossing: state.lastCrossing,
  }));
  setHandler(dumpQuery, () => state);

  try {
    if (carried === null) await quietUntil(null);
    show();
    while (!stopping) {
      await condition(() => stopping || state.waiting.length > 0 || workflowInfo().continueAsNewSuggested);
      const crossing = state.waiting.shift();
      if (crossing !== undefined) await take(crossing);
      else if (!stopping && allHandlersFinished()) await continueAsNew<typeof monitor>(input, state);
    }
  } catch (error) {
    if (!isCancellation(error)) throw error;
  }
  await CancellationScope.nonCancellable(async () => {
    await control(`Stop watching ${vmName}`, 'endless').clearWatch({ vmUuid });
    cleared = true;
    await sleep(LINGER);
    await condition(allHandlersFinished);
  });

  async function take({ kind, at, message, evidence }: Crossing): Promise<void> {
    state.lastCrossing = { kind, at, message };
    state.lastOutcome = '';
    if (kind === 'hot' && evidence !== null) await relieve(evidence);
    show();
  }

  async function relieve(evidence: VmEvidence): Promise<void> {
    // Those that came meanwhile say no more than the one that is answered now.
    const decision = await control(`Find what makes ${vmName} hot`, 'endless').decide({
      workflowId: workflowInfo().workflowId,
      runId: workflowInfo().firstExecutionRunId,
      number: state.nextDecision++,
      subject: vmUuid,
      input: { kind: 'attribute', evidence, now: new Date().toISOString() },
    });
    const outcome: Attribution | Refusal = decision.outcome;
    state.lastOutcome = outcome.explanation;
    let askAgain = outcome.act ? null : outcome.retryAt;
    for (const candidate of outcome.act ? outcome.candidates : []) {
      const answer = await offer(evidence, candidate, decision.decisionId);
      state.lastOutcome = `${candidate.explanation}; ${answer.accepted ? `${answer.operationId} began` : answer.explanation}`;
      askAgain = answer.accepted ? answer.quietUntil : earlier(askAgain, answer.retryAt);
      if (answer.accepted) break;
    }
    await quietUntil(askAgain ?? new Date(Date.now() + QUIET_AFTER_REFUSAL_MS).toISOString());
  }

  async function offer(evidence: VmEvidence, candidate: Attribution['candidates'][number], decisionId: string) {
    const { service } = candidate;
    try {
      return await control(`Offer the pressure to service ${service}`, '1 min').offerPressure({
        service,
        pressure: { evidence, candidate, decisionId },
        updateId: `pressure/${decisionId}`,
      });
    } catch (error) {
      if (isCancellation(error)) throw error;
      const { name, message } = causeOf(error);
      return { accepted: false, reason: name, explanation: message, retryAt: null } as const;
    }
  }

  async function quietUntil(until: string | null): Promise<void> {
    state.quietUntil = until;
    const summary = until === null ? `Watch ${vmName}` : `Watch ${vmName}, quiet until ${until.slice(11, 19)}`;
    await control(summary, 'endless').setWatch({ vmUuid, vmName, host, quietUntil: until });
  }

  function show(): void {
    const { lastCrossing, lastOutcome } = state;
    setCurrentDetails(
      [
        `### VM ${vmName} on ${host}`,
        '',
        lastCrossing === null
          ? 'Nothing has crossed.'
          : `${lastCrossing.at} **${lastCrossing.kind}** ${lastCrossing.message}`,
        '',
        lastOutcome,
      ].join('\n'),
    );
  }
}

function earlier(a: string | null, b: string | null): string | null {
  if (a === null || b === null) return a ?? b;
  return a < b ? a : b;
}

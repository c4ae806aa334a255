/**
 * What every operation has: steps that are shown and recorded, safe points, an end that is reported until the service has
 * taken note of it, and, when an undo or a step after the pivot fails, an operator who is asked.
 *
 *   running ──step fails before the pivot──▶ undoing ──all undone──▶ undone
 *      │                                        │ undo fails
 *      │ step fails after the pivot             ▼
 *      ├────────────────────────────────▶ needsOperator ──retry──▶ undoing | running
 *      │                                        └──skip──▶ …, and ends as failed
 *      └──all steps done──▶ completed
 */
import {
  ApplicationFailure,
  CancellationScope,
  condition,
  getExternalWorkflowHandle,
  setCurrentDetails,
  setHandler,
  upsertSearchAttributes,
  workflowInfo,
} from '@temporalio/workflow';
import type { OperationRef } from '../model/activities.ts';
import type { VmSize } from '../model/decision.ts';
import { workflowIds } from '../model/names.ts';
import type { Replica } from '../model/replica.ts';
import { phaseAttribute, type SearchAttribute } from '../model/starts.ts';
import { control, recording } from './calls.ts';
import { causeOf, refusal } from './failure.ts';
import {
  acknowledgeSignal,
  describeOperationQuery,
  endAtSafePointSignal,
  type OperationDescription,
  type OperationPhase,
  type OperationReport,
  type OperationStep,
  operationReportSignal,
  presenceSignal,
  retryUpdate,
  skipUpdate,
} from './messages.ts';
import type { Saga, Undo } from './saga.ts';

const REPORT_AGAIN = '10 s';
/** A service that does not exist any more is told this often; then nobody is left to take note. */
const REPORTS_TO_NOBODY = 5;

export const ENDED_AT_SAFE_POINT = 'EndedAtSafePoint';

export class Operation {
  readonly ref: OperationRef;
  readonly #kind: 'scaleOut' | 'scaleIn';
  readonly #title: string;
  readonly #size: VmSize | null;
  readonly #steps: OperationStep[] = [];
  /** Beside the steps: their names before a repeated one got its number. */
  readonly #stepNames: string[] = [];
  #phase: OperationPhase = 'running';
  #replicas: readonly Replica[] = [];
  #stuck: string | null = null;
  #answer: 'retry' | 'skip' | null = null;
  #endReason: string | null = null;
  #acknowledged = false;

  constructor(
    kind: 'scaleOut' | 'scaleIn',
    { installationId, service }: { readonly installationId: string; readonly service: string },
    title: string,
    size: VmSize | null,
  ) {
    const { workflowId, firstExecutionRunId } = workflowInfo();
    this.ref = { installationId, service, operationId: workflowId, runId: firstExecutionRunId };
    this.#kind = kind;
    this.#title = title;
    this.#size = size;
    setHandler(describeOperationQuery, () => this.#description());
    setHandler(acknowledgeSignal, () => {
      this.#acknowledged = true;
    });
    setHandler(presenceSignal, () => {});
    setHandler(endAtSafePointSignal, (request) => {
      this.#endReason ??= request?.reason ?? 'asked to end at the next safe point';
    });
    const onlyWhenStuck = {
      validator: () => {
        if (this.#phase !== 'needsOperator') {
          throw refusal(
            'NotStuck',
            `${workflowId} is in phase ${this.#phase}; retry and skip answer needsOperator only`,
          );
        }
      },
    };
    setHandler(retryUpdate, () => this.#answered('retry'), onlyWhenStuck);
    setHandler(skipUpdate, () => this.#answered('skip'), onlyWhenStuck);
    this.#show();
  }

  async open(): Promise<void> {
    const request = { operation: this.ref, kind: this.#kind, summary: this.#title };
    await control('Open the operation').openOperation(request);
  }

  /** One step, shown while it runs. */
  async step<T>(name: string, act: () => Promise<T>): Promise<T> {
    const index = this.#steps.length;
    // Steps are kept by name: those of a second replica, or of a second try, are numbered.
    const earlier = this.#stepNames.filter((other) => other === name).length;
    const unique = earlier === 0 ? name : `${name} (${earlier + 1})`;
    this.#stepNames.push(name);
    this.#steps.push({ name: unique, state: 'started', startedAt: now(), endedAt: null, message: '' });
    await this.#record(index, 'started', '');
    try {
      const result = await act();
      await this.#record(index, 'done', '');
      return result;
    } catch (error) {
      await this.#record(index, 'failed', causeOf(error).message);
      throw error;
    }
  }

  /** A step after the pivot: only forward. False: an operator gave it up. */
  async forward(name: string, act: () => Promise<unknown>): Promise<boolean> {
    return this.#insist(name, () => this.step(name, act));
  }

  async undo(saga: Saga): Promise<boolean> {
    this.#setPhase('undoing');
    return saga.undo((undo) => this.#insist(`undo ${undo.step}`, () => this.#undoStep(undo)));
  }

  async #undoStep(undo: Undo): Promise<void> {
    const index = this.#stepNames.lastIndexOf(undo.step);
    try {
      await undo.run();
    } catch (error) {
      await this.#record(index, 'failed', `undo: ${causeOf(error).message}`);
      throw error;
    }
    const message = this.#steps[index]?.message ?? '';
    await this.#record(index, 'undone', message);
  }

  /** Fails here when a pause or a deletion wants the operation to end. */
  safePoint(): void {
    if (this.#endReason !== null) {
      throw ApplicationFailure.nonRetryable(this.#endReason, ENDED_AT_SAFE_POINT);
    }
  }
  get mayGoOn(): boolean {
    return this.#endReason === null;
  }

  setReplicas(replicas: readonly Replica[], attributes: SearchAttribute[] = []): void {
    this.#replicas = replicas;
    if (attributes.length > 0) upsertSearchAttributes(attributes);
    this.#show();
  }

  /** Closes the row, then tells the service until it has taken note. */
  async end(result: Pick<OperationReport, 'outcome' | 'message' | 'replicas' | 'reservations' | 'gone'>) {
    return CancellationScope.nonCancellable(async () => {
      const { outcome, message, replicas } = result;
      this.#replicas = replicas;
      this.#setPhase(outcome);
      await control('Close the operation', 'endless').closeOperation({ operation: this.ref, outcome, message });
      const { operationId, runId, service } = this.ref;
      const report: OperationReport = { operationId, runId, kind: this.#kind, ...result };
      await this.#report(service, report);
      return report;
    });
  }

  async #report(service: string, report: OperationReport): Promise<void> {
    const target = getExternalWorkflowHandle(workflowIds.service(service));
    let toNobody = 0;
    while (!this.#acknowledged && toNobody < REPORTS_TO_NOBODY) {
      try {
        await target.signal(operationReportSignal, report);
      } catch {
        toNobody += 1;
      }
      await condition(() => this.#acknowledged, REPORT_AGAIN);
    }
  }

  async #insist(name: string, act: () => Promise<unknown>): Promise<boolean> {
    const phase = this.#phase;
    for (;;) {
      try {
        await act();
        return true;
      } catch (error) {
        this.#stuck = `${name}: ${causeOf(error).message}`;
      }
      this.#answer = null;
      this.#setPhase('needsOperator');
      await condition(() => this.#answer !== null);
      this.#stuck = null;
      this.#setPhase(phase);
      if (this.#answer === 'skip') return false;
    }
  }

  #answered(answer: 'retry' | 'skip'): void {
    this.#answer ??= answer;
  }

  /** Never holds the operation up: the row is for people, the history is the record. */
  async #record(index: number, state: OperationStep['state'], message: string): Promise<void> {
    const step = this.#steps[index];
    if (step === undefined) return;
    this.#steps[index] = { ...step, state, message, endedAt: state === 'started' ? null : now() };
    this.#show();
    try {
      await CancellationScope.nonCancellable(() =>
        recording(`${step.name}: ${state}`).recordStep({ operation: this.ref, step: step.name, state, message }),
      );
    } catch {
      // The store is away, or this worker has no such activity.
    }
  }

  #setPhase(phase: OperationPhase): void {
    if (phase === this.#phase) return;
    this.#phase = phase;
    upsertSearchAttributes([phaseAttribute(phase)]);
    this.#show();
  }

  #description(): OperationDescription {
    return {
      operationId: this.ref.operationId,
      kind: this.#kind,
      service: this.ref.service,
      phase: this.#phase,
      size: this.#size,
      replicas: this.#replicas,
      steps: this.#steps,
      stuck: this.#stuck === null ? [] : [this.#stuck],
    };
  }

  #show(): void {
    const steps = this.#steps.map(
      ({ name, state, startedAt, endedAt, message }) =>
        `- **${name}** ${state}, ${clock(startedAt)}${seconds(startedAt, endedAt)}${message === '' ? '' : `: ${line(message)}`}`,
    );
    const stuck =
      this.#stuck === null ? [] : ['', `**Stuck:** ${line(this.#stuck)}`, '', 'Send the update `retry` or `skip`.'];
    // A list: the UI sets a table's columns without a space between them.
    setCurrentDetails([`### ${line(this.#title)}`, '', `Phase: **${this.#phase}**`, '', ...steps, ...stuck].join('\n'));
  }
}

function now(): string {
  return new Date().toISOString();
}
function clock(iso: string): string {
  return iso.slice(11, 19);
}
function seconds(from: string, to: string | null): string {
  return to === null ? '' : `, took ${((Date.parse(to) - Date.parse(from)) / 1000).toFixed(1)} s`;
}
/** Fit for one line of Markdown. */
function line(text: string): string {
  return text.replace(/[\r\n]+/g, ' ').slice(0, 300);
}

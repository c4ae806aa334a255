/**
 * service/<name>: the controller of one service, for as long as the service exists.
 *
 *              ┌────────────────── report, acknowledged ─────────────────┐
 *              ▼                                                          │
 *   new ──apply──▶ idle ──pressure | scale | below min | idle capacity──▶ operating (one scale-out or scale-in)
 *                   │ ▲                                                   │
 *             pause ▼ │ resume                                            │ pause, remove: endAtSafePoint
 *                  paused                                                 ▼
 *   any ──remove──▶ deleting ──operation ended──▶ made replicas removed ──▶ ended
 *
 * Handlers change the state; what takes several activities is done by one of them at a time (`alone`), which looks at
 * the state again once it has its turn. The main function alone continues as new, when no handler runs. Operations are
 * abandoned children: they outlive the run that started them and report by signal until they are acknowledged.
 */
import { WorkflowExecutionAlreadyStartedError } from '@temporalio/common';
import {
  allHandlersFinished,
  condition,
  continueAsNew,
  getExternalWorkflowHandle,
  ParentClosePolicy,
  setCurrentDetails,
  setHandler,
  startChild,
  upsertSearchAttributes,
  uuid4,
  workflowInfo,
} from '@temporalio/workflow';
import type { PressureAnswer } from '../model/activities.ts';
import type { Refusal, Trigger, VmSize } from '../model/decision.ts';
import { workflowIds } from '../model/names.ts';
import type { Replica } from '../model/replica.ts';
import type { ServiceSpec } from '../model/spec.ts';
import {
  phaseAttribute,
  type ServiceInput,
  serviceAttribute,
  WORKFLOW_TASK_TIMEOUT,
  workflowTypes,
} from '../model/starts.ts';
import { control } from './calls.ts';
import { causeOf, refusal } from './failure.ts';
import {
  type ApplyAnswer,
  type ApplyRequest,
  acknowledgeSignal,
  applyUpdate,
  describeServiceQuery,
  dumpQuery,
  endAtSafePointSignal,
  type OperationReport,
  operationReportSignal,
  type PauseRequest,
  pauseSignal,
  pauseUpdate,
  presenceSignal,
  pressureUpdate,
  type RemoveAnswer,
  removeUpdate,
  replicaHealthSignal,
  resumeSignal,
  resumeUpdate,
  type ScaleAnswer,
  type ScaleRequest,
  scaleSignal,
  scaleUpdate,
} from './messages.ts';
import { adoptedReplicas, located, type Registered, register, TAKE_BACK_WITHIN, unregister } from './registration.ts';
import type { ScaleInInput, Victim } from './scale-in.ts';
import type { ScaleOutInput } from './scale-out.ts';
import {
  applyReport,
  changesOf,
  describeService,
  initialServiceState,
  note,
  operationOf,
  plannedCount,
  policyState,
  rememberRequest,
  removable,
  type ServiceState,
  serviceDetails,
  working,
} from './service-state.ts';

/** A VM that is still hot this long after its pressure was accepted is reported again. */
const QUIET_AFTER_ACCEPTANCE_MS = 60_000;
/** How often an active service looks: for idle capacity, for adopted VMs not seen yet, for its operation. */
const LOOK_EVERY_MS = 60_000;
/** An operation pays four events for being asked whether it is there. */
const LOOK_FOR_OPERATION_EVERY_MS = 300_000;
/** Temporal takes 200 bytes. */
const MAX_SUMMARY = 180;

export async function service(input: ServiceInput, carried: ServiceState | null = null): Promise<void> {
  const entity = new Service(input, carried ?? initialServiceState());
  await entity.run();
  if (!entity.ended) await continueAsNew<typeof service>(input, entity.state);
}

class Service {
  readonly state: ServiceState;
  readonly #input: ServiceInput;
  #busy = false;
  #ended = false;
  #phase = '';

  constructor(input: ServiceInput, state: ServiceState) {
    this.#input = input;
    this.state = state;
    setHandler(applyUpdate, (request) => this.#alone(() => this.#apply(request)), {
      validator: (request) => this.#mayApply(request),
    });
    setHandler(pauseUpdate, (request) => this.#pause(request.reason), {
      validator: (_request: PauseRequest) => this.#mayPause(),
    });
    setHandler(resumeUpdate, () => this.#resume(), { validator: () => this.#mayResume() });
    setHandler(scaleUpdate, (request) => this.#alone(() => this.#scale(request)), {
      validator: (request) => this.#mayScale(request),
    });
    setHandler(pressureUpdate, (pressure) => this.#alone(() => this.#answerPressure({ kind: 'pressure', pressure })));
    setHandler(removeUpdate, () => this.#remove());
    setHandler(operationReportSignal, (report) => this.#takeReport(report));
    setHandler(replicaHealthSignal, ({ replicaId, healthy, message }) => this.#takeHealth(replicaId, healthy, message));
    this.#setSignalHandlers();
    setHandler(describeServiceQuery, () => describeService(input.service, state));
    setHandler(dumpQuery, () => state);
    this.#show();
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** Returns when the service has ended, or should continue as new. */
  async run(): Promise<void> {
    const due = () => this.#ended || this.#hasNext() || this.#shouldContinueAsNew();
    // A run that takes over looks at once: what happened between the runs was reported to nobody.
    if (this.#needsLooking()) await this.#alone(() => this.#look(0));
    for (;;) {
      if (this.#needsLooking()) {
        if (!(await condition(due, LOOK_EVERY_MS))) await this.#alone(() => this.#look());
      } else {
        await condition(() => due() || this.#needsLooking());
      }
      if (this.#ended) {
        await condition(allHandlersFinished);
        if (this.#ended) return;
      }
      if (this.#hasNext()) await this.#alone(() => this.#next());
      else if (this.#shouldContinueAsNew()) return;
    }
  }

  #shouldContinueAsNew(): boolean {
    return workflowInfo().continueAsNewSuggested && !this.#busy && allHandlersFinished();
  }

  // --- what operators and monitors ask for ----------------------------------------------------------------------

  #mayApply(request: ApplyRequest): void {
    const { spec, replace } = request;
    if (spec?.name !== this.#input.service) throw refusal('InvalidSpec', `this is service ${this.#input.service}`);
    if (this.state.deleting) {
      throw refusal('Deleting', `${spec.name} is being deleted; apply again once it is gone`);
    }
    const { replacing } = changesOf(this.state.spec, spec);
    if (replacing.length === 0) return;
    const what = replacing.join(', ');
    if (!replace) {
      throw refusal('InvalidSpec', `a change of ${what} replaces the replicas of ${spec.name}: apply with --replace`);
    }
    const { operation } = this.state;
    if (operation !== null) {
      throw refusal('OperationInFlight', `${operation.operationId} is in flight; change ${what} once it has ended`);
    }
  }

  async #apply(request: ApplyRequest): Promise<ApplyAnswer> {
    // Others had their turn since the validator looked.
    this.#mayApply(request);
    // The one before may have been refused, which would end a service that never was.
    this.#ended = false;
    const { state } = this;
    const { spec } = request;
    const { changes, replacing } = changesOf(state.spec, spec);
    if (changes.length === 0) return { generation: state.generation, changes, operationId: null };
    const known = state.replicas.filter(({ kind }) => kind === 'adopted');
    const before = state.spec === null ? null : { spec: state.spec, adopted: known };
    const after = { spec, adopted: await adoptedReplicas(this.#input.installationId, spec, known) };
    try {
      await register(before, after);
    } catch (error) {
      const { name, message } = causeOf(error);
      await this.#takeBack(before, after);
      // A service that never was need not stay.
      if (before === null) this.#ended = true;
      throw refusal(name, `${spec.name} stays as it was: ${message}`);
    }
    state.spec = spec;
    state.generation += 1;
    // Read again: an operation or a director may have reported meanwhile.
    const stateOf = (replicaId: string) => state.replicas.find((replica) => replica.replicaId === replicaId)?.state;
    state.replicas = [
      ...after.adopted.map((replica) => ({ ...replica, state: stateOf(replica.replicaId) ?? replica.state })),
      ...state.replicas.filter(({ kind }) => kind === 'made'),
    ];
    state.stalled = false;
    state.failedScaleOuts = null;
    if (replacing.length > 0) {
      state.rollOver = removable(state).map(({ replicaId }) => ({ replicaId, made: false, removed: false }));
    }
    await this.#saveReplicas();
    this.#note(`generation ${state.generation}: ${changes.join('; ')}`);
    if (this.#hasNext()) await this.#next();
    return { generation: state.generation, changes, operationId: state.operation?.operationId ?? null };
  }

  /** After a refused change: the rows as they were. The director is brought back when it can be. */
  async #takeBack(before: Registered | null, refused: Registered): Promise<void> {
    try {
      await (before === null
        ? unregister(refused.spec, TAKE_BACK_WITHIN)
        : register(refused, before, TAKE_BACK_WITHIN));
    } catch (error) {
      this.#note(`the change was taken back, but the director not yet: ${causeOf(error).message}`);
    }
  }

  #mayPause(): void {
    if (this.state.paused !== null) throw refusal('Paused', `paused already: ${this.state.paused}`);
    if (this.state.deleting) throw refusal('Deleting', 'the service is being deleted');
  }
  async #pause(reason: string): Promise<void> {
    this.state.paused = reason || 'no reason given';
    this.#note(`paused: ${this.state.paused}`);
    await this.#endOperation(`the service was paused: ${this.state.paused}`);
  }

  #mayResume(): void {
    if (this.state.paused === null) throw refusal('AlreadyThere', 'the service is not paused');
  }
  #resume(): void {
    this.state.paused = null;
    this.state.stalled = false;
    this.state.failedScaleOuts = null;
    this.#note('resumed');
  }

  #mayScale(request: ScaleRequest): void {
    if (operationOf(this.state, request.requestId) !== null) return;
    const { spec, paused, deleting, operation } = this.state;
    if (spec === null) throw refusal('UnknownService', `${this.#input.service} has no specification yet`);
    if (deleting) throw refusal('Deleting', `${spec.name} is being deleted`);
    if (paused !== null) throw refusal('Paused', `${spec.name} is paused (${paused}); resume it first`);
    if (operation !== null) throw refusal('OperationInFlight', `${operation.operationId} is in flight`);
    if (request.direction !== 'out' && request.direction !== 'in') {
      throw refusal('InvalidSpec', 'direction is "out" or "in"');
    }
    const plan = plannedCount(this.state, spec, { ...request, target: request.target ?? null });
    if ('reason' in plan) throw refusal(plan.reason, plan.explanation);
  }
  async #scale(request: ScaleRequest): Promise<ScaleAnswer> {
    const earlier = operationOf(this.state, request.requestId);
    if (earlier !== null) return { operationId: earlier };
    // Others had their turn since the validator looked.
    this.#mayScale(request);
    const spec = this.#spec();
    const plan = plannedCount(this.state, spec, { ...request, target: request.target ?? null });
    if ('reason' in plan) throw refusal(plan.reason, plan.explanation);
    const trigger = { kind: 'operator', requestId: request.requestId } as const;
    const answer = await (request.direction === 'out'
      ? this.#beginScaleOut(trigger, plan.count)
      : this.#beginScaleIn(trigger, plan.count));
    if (typeof answer !== 'string') throw refusal(answer.reason, answer.explanation);
    rememberRequest(this.state, request.requestId, answer);
    return { operationId: answer };
  }

  async #answerPressure(trigger: Extract<Trigger, { kind: 'pressure' }>): Promise<PressureAnswer> {
    const requestId = `pressure/${trigger.pressure.decisionId}`;
    const earlier = operationOf(this.state, requestId);
    if (this.state.spec === null) {
      const explanation = `${this.#input.service} has no specification yet`;
      return { accepted: false, reason: 'UnknownService', explanation, retryAt: null };
    }
    const answer = earlier ?? (await this.#beginScaleOut(trigger, 1));
    if (typeof answer !== 'string') return { ...withoutAct(answer), accepted: false };
    rememberRequest(this.state, requestId, answer);
    const quietUntil = new Date(Date.now() + QUIET_AFTER_ACCEPTANCE_MS).toISOString();
    this.state.quietUntil = quietUntil;
    return { accepted: true, operationId: answer, quietUntil };
  }

  async #remove(): Promise<RemoveAnswer> {
    if (!this.state.deleting) {
      this.state.deleting = true;
      this.#note('being deleted');
      await this.#endOperation('the service is being deleted');
    }
    return { removing: removable(this.state).map(({ vmName }) => vmName) };
  }

  /** The same by signal, for Temporal's own CLI. It cannot be refused, so what it asks in vain is noted. */
  #setSignalHandlers(): void {
    const orNote = async (what: string, act: () => unknown) => {
      try {
        await act();
      } catch (error) {
        this.#note(`${what} by signal was refused: ${causeOf(error).message}`);
      }
    };
    setHandler(pauseSignal, (request) =>
      orNote('pause', async () => {
        this.#mayPause();
        await this.#pause(request?.reason ?? 'by signal');
      }),
    );
    setHandler(resumeSignal, () =>
      orNote('resume', () => {
        this.#mayResume();
        this.#resume();
      }),
    );
    setHandler(scaleSignal, (given) =>
      orNote('scale', async () => {
        const request = { ...given, target: given.target ?? null, requestId: given.requestId ?? uuid4() };
        this.#mayScale(request);
        await this.#alone(() => this.#scale(request));
      }),
    );
  }

  // --- what operations and directors report -----------------------------------------------------------------------

  async #takeReport(report: OperationReport): Promise<void> {
    if (this.state.operation?.operationId === report.operationId && this.state.operation.runId === report.runId) {
      applyReport(this.state, report, now());
      this.#show();
      await this.#saveReplicas();
    }
    // Acknowledged also when it came before: then the acknowledgement was lost.
    await signalQuietly(() => getExternalWorkflowHandle(report.operationId, report.runId).signal(acknowledgeSignal));
  }

  async #takeHealth(replicaId: string, healthy: boolean, message: string): Promise<void> {
    const replica = this.state.replicas.find((known) => known.replicaId === replicaId);
    const state = healthy ? 'serving' : 'unhealthy';
    // Draining and failed ones are an operation's.
    if (replica === undefined || replica.state === state || !['serving', 'unhealthy'].includes(replica.state)) return;
    this.#replaceReplica({ ...replica, state });
    this.#note(`${replica.vmName} (${replica.address}) ${healthy ? 'answers again' : 'does not answer'}: ${message}`);
    await this.#saveReplicas();
  }

  // --- what the service does by itself ----------------------------------------------------------------------------

  #belowMin(): boolean {
    return this.state.spec !== null && this.state.replicas.length < this.state.spec.min;
  }

  #hasNext(): boolean {
    const { spec, operation, deleting, paused, stalled, rollOver } = this.state;
    if (spec === null || operation !== null || this.#ended) return false;
    return deleting || (paused === null && !stalled && (this.#belowMin() || rollOver.length > 0));
  }

  async #next(): Promise<void> {
    if (!this.#hasNext()) return;
    const { state } = this;
    if (state.deleting) return this.#finishDeletion();
    const spec = this.#spec();
    const trigger = { kind: 'operator', requestId: `generation/${state.generation}` } as const;
    try {
      const [old] = state.rollOver;
      // Make before break, as long as max allows one replica more.
      const room = state.replicas.length < spec.max;
      if (old !== undefined && (old.made || !room) && !old.removed) {
        const why = `${spec.name}: ${nameOf(state, old.replicaId)} is of an earlier generation than ${state.generation}`;
        await this.#startScaleIn(this.#victims([old.replicaId]), why);
        return;
      }
      const answer = await this.#beginScaleOut(trigger, this.#belowMin() ? spec.min - state.replicas.length : 1);
      if (typeof answer !== 'string') throw refusal(answer.reason, answer.explanation);
    } catch (error) {
      state.stalled = true;
      this.#note(`not begun until something changes: ${causeOf(error).message}`);
    }
  }

  #deletionTried = false;
  async #finishDeletion(): Promise<void> {
    const { state } = this;
    const spec = this.#spec();
    const made = removable(state).map(({ replicaId }) => replicaId);
    if (made.length > 0 && !this.#deletionTried) {
      // Once: what an operator gave up there stays, and its reservation with it.
      this.#deletionTried = true;
      await this.#startScaleIn(this.#victims(made), `${spec.name} is being deleted`);
      return;
    }
    // Adopted replicas stay served: their entries in LVS are left as they are.
    if (!state.replicas.some(({ kind }) => kind === 'adopted')) {
      try {
        await unregister(spec, 'endless');
      } catch (error) {
        this.#note(`its virtual server is still in LVS: ${causeOf(error).message}`);
      }
    }
    await control('Forget the replicas', 'endless').saveReplicas({ service: spec.name, replicas: [] });
    this.#ended = true;
  }

  #needsLooking(): boolean {
    const { operation, replicas } = this.state;
    return operation !== null || this.#mayBeIdle() || replicas.some(({ vmUuid }) => vmUuid === null);
  }
  #mayBeIdle(): boolean {
    const { state } = this;
    const { spec, paused, deleting, operation } = state;
    if (spec === null || paused !== null || deleting || operation !== null) return false;
    return removable(state).length > 0 && working(state) > spec.min;
  }

  /** Once a minute while there is a reason to. */
  async #look(operationUnseenForMs = LOOK_FOR_OPERATION_EVERY_MS): Promise<void> {
    try {
      await this.#lookForOperation(operationUnseenForMs);
      await this.#lookForVms();
      if (this.#mayBeIdle()) await this.#beginScaleIn({ kind: 'idle' }, 1);
    } catch (error) {
      // The next look is a minute away.
      this.#note(`a look around failed: ${causeOf(error).message}`);
    }
  }

  /** An operation that somebody terminated reports nothing, and would block the service for ever. */
  async #lookForOperation(unseenForMs: number): Promise<void> {
    const { operation } = this.state;
    if (operation === null || Date.now() - Date.parse(operation.seenAt) < unseenForMs) return;
    const { operationId, runId } = operation;
    const there = await signalQuietly(() => getExternalWorkflowHandle(operationId, runId).signal(presenceSignal));
    // Its report may have come meanwhile.
    if (this.state.operation?.runId !== runId) return;
    if (there) {
      this.state.operation = { ...operation, seenAt: now() };
      return;
    }
    this.state.operation = null;
    this.state.stalled = true;
    this.#note(`${operationId} is gone without a report: what it made is for reconciling to find`);
  }

  async #lookForVms(): Promise<void> {
    let found = false;
    for (const replica of this.state.replicas.filter(({ vmUuid }) => vmUuid === null)) {
      const seen = await located(replica);
      if (seen.vmUuid === null) continue;
      this.#replaceReplica(seen);
      found = true;
    }
    if (found) await this.#saveReplicas();
  }

  // --- operations -------------------------------------------------------------------------------------------------

  /** @returns the operation's id, or why there is none. */
  async #beginScaleOut(trigger: Trigger, count: number): Promise<string | Refusal> {
    const { state } = this;
    const spec = this.#spec();
    const { baseMemoryBytes } = await control(`Read what template ${spec.template} needs`).templateBase({
      template: spec.template,
    });
    const { outcome } = await control(`Decide on one replica more of ${spec.name}`).decide({
      ...this.#decision(),
      input: {
        kind: 'scaleOut',
        spec,
        state: policyState(state),
        trigger,
        templateBaseMemoryBytes: baseMemoryBytes,
        now: now(),
      },
    });
    if (!outcome.act) return outcome;
    return this.#startScaleOut(outcome.size, Math.min(count, spec.max - state.replicas.length), outcome.explanation);
  }

  async #beginScaleIn(trigger: Trigger, count: number): Promise<string | Refusal> {
    const spec = this.#spec();
    const usage = await control(`Read what the replicas of ${spec.name} use`).replicaUsage({
      service: spec.name,
      now: now(),
    });
    const chosen: string[] = [];
    let explanation = '';
    while (chosen.length < count) {
      const state = policyState(this.state);
      const replicas = state.replicas.filter(({ replicaId }) => !chosen.includes(replicaId));
      const { outcome } = await control(`Decide on one replica fewer of ${spec.name}`).decide({
        ...this.#decision(),
        input: { kind: 'scaleIn', spec, state: { ...state, replicas }, trigger, usage, now: now() },
      });
      if (!outcome.act) {
        if (chosen.length === 0) return outcome;
        break;
      }
      chosen.push(outcome.replicaId);
      explanation = outcome.explanation;
    }
    return this.#startScaleIn(this.#victims(chosen), explanation);
  }

  #decision() {
    const { workflowId, firstExecutionRunId: runId } = workflowInfo();
    return { workflowId, runId, number: this.state.nextDecision++, subject: this.#input.service };
  }

  #victims(replicaIds: readonly string[]): Victim[] {
    return this.state.replicas.flatMap((replica) => {
      const reservation = this.state.reservations[replica.replicaId];
      return replicaIds.includes(replica.replicaId) && reservation !== undefined ? [{ replica, reservation }] : [];
    });
  }

  async #startScaleOut(size: VmSize, count: number, explanation: string): Promise<string> {
    const spec = this.#spec();
    const input: ScaleOutInput = { ...this.#input, spec, size, count, explanation };
    return this.#startOperation('scaleOut', input);
  }
  async #startScaleIn(victims: readonly Victim[], explanation: string): Promise<string> {
    const input: ScaleInInput = { ...this.#input, spec: this.#spec(), victims, explanation };
    return this.#startOperation('scaleIn', input);
  }

  /** An abandoned child, under the next number that no operation of an earlier service of this name still uses. */
  async #startOperation(kind: 'scaleOut' | 'scaleIn', input: ScaleOutInput | ScaleInInput): Promise<string> {
    const { service } = this.#input;
    for (;;) {
      const operationId = workflowIds[kind](service, this.state.nextOperation++);
      try {
        const { firstExecutionRunId: runId } = await startChild(workflowTypes[kind], {
          workflowId: operationId,
          args: [input],
          workflowTaskTimeout: WORKFLOW_TASK_TIMEOUT,
          parentClosePolicy: ParentClosePolicy.ABANDON,
          staticSummary: input.explanation.slice(0, MAX_SUMMARY),
          typedSearchAttributes: [serviceAttribute(service), phaseAttribute('running')],
        });
        this.state.operation = { operationId, runId, kind, seenAt: now() };
        this.#note(`${operationId} began: ${input.explanation}`);
        // A pause or a deletion may have come while it was being decided and started.
        if (this.state.paused !== null) await this.#endOperation('the service was paused');
        return operationId;
      } catch (error) {
        if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
      }
    }
  }

  async #endOperation(reason: string): Promise<void> {
    const { operation } = this.state;
    if (operation === null) return;
    const handle = getExternalWorkflowHandle(operation.operationId, operation.runId);
    await signalQuietly(() => handle.signal(endAtSafePointSignal, { reason }));
  }

  // --- small things -----------------------------------------------------------------------------------------------

  /** One at a time, so that what was looked at holds until what follows from it is noted. */
  async #alone<T>(work: () => Promise<T>): Promise<T> {
    // Conditions of several waiters come true in one go: whoever runs second must look again.
    while (this.#busy) await condition(() => !this.#busy);
    this.#busy = true;
    try {
      return await work();
    } finally {
      this.#busy = false;
      this.#show();
    }
  }

  #spec(): ServiceSpec {
    if (this.state.spec === null) throw refusal('UnknownService', `${this.#input.service} has no specification yet`);
    return this.state.spec;
  }

  #replaceReplica(replica: Replica): void {
    this.state.replicas = this.state.replicas.map((known) => (known.replicaId === replica.replicaId ? replica : known));
  }

  async #saveReplicas(): Promise<void> {
    const { service } = this.#input;
    await control('Save the replicas', 'endless').saveReplicas({ service, replicas: this.state.replicas });
  }

  #note(message: string): void {
    note(this.state, now(), message);
    this.#show();
  }

  #show(): void {
    const { deleting, paused, operation } = this.state;
    const phase = deleting ? 'deleting' : paused !== null ? 'paused' : operation !== null ? 'operating' : 'idle';
    if (phase !== this.#phase) upsertSearchAttributes([phaseAttribute(phase)]);
    this.#phase = phase;
    setCurrentDetails(serviceDetails(this.#input.service, this.state));
  }
}

function now(): string {
  return new Date().toISOString();
}

/** @returns whether it was delivered: the other side may be gone. */
async function signalQuietly(send: () => Promise<void>): Promise<boolean> {
  try {
    await send();
    return true;
  } catch {
    return false;
  }
}

function nameOf(state: ServiceState, replicaId: string): string {
  return state.replicas.find((replica) => replica.replicaId === replicaId)?.vmName ?? replicaId;
}

function withoutAct({ act: _, ...refused }: Refusal): Omit<Refusal, 'act'> {
  return refused;
}

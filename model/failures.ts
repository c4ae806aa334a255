/**
 * Every way in which an activity fails, named once. The name is the ApplicationFailure's type: workflows and the CLI
 * switch on it. Retryable ones are retried within the activity's schedule-to-close time; final ones end the step at once
 * and make the operation undo what it did.
 *
 * A message says what was tried, on what, what was found, and what the operator can do.
 */
export const RETRYABLE_FAILURES = [
  'HostBusy',
  'GuestNotReady',
  'AgentUnreachable',
  'DirectorUnreachable',
  'RegistryUnreachable',
  'HypervisorUnreachable',
  'StoreUnreachable',
] as const;
export const FINAL_FAILURES = [
  'TemplateMissing',
  'TemplateBroken',
  'GuestEnded', // the new VM switched itself off, or was ended, before its guest was ready
  'ImageMissing',
  'ContainerExited',
  'HostFull',
  'StorageFull',
  'AddressesExhausted',
  'NotOurs',
  'NoIpvs',
  'InvalidSpec',
  'UnhealthyReplica',
  'UnmanagedCause',
  'AtMax',
  'AtMin',
  'Paused',
  'UnknownVm',
  'UnknownService',
  'Superseded', // the operation that asked is no longer open: what a late attempt of it would do is not done
] as const;
export type FailureName = (typeof RETRYABLE_FAILURES)[number] | (typeof FINAL_FAILURES)[number];

/** Thrown by activities and everything below them; the worker turns it into an ApplicationFailure of that type. */
export class CielFailure extends Error {
  readonly failure: FailureName;
  constructor(failure: FailureName, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = failure;
    this.failure = failure;
  }
  get retryable(): boolean {
    return (RETRYABLE_FAILURES as readonly string[]).includes(this.failure);
  }
}

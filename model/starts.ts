/**
 * How each lasting workflow is started: its id, queue, arguments, and what Temporal's UI shows of it. One place, because
 * several start the same one: the CLI, `ciel up`, a host that reports a crossing, an operation that watches its new VM.
 *
 * Operations are started by their service only, so they are not here.
 */
import { taskQueues, workflowIds } from './names.ts';

/** Workflow types, as Temporal shows them: the exported functions of workflows/index.ts. */
export const workflowTypes = {
  host: 'host',
  director: 'director',
  monitor: 'monitor',
  service: 'service',
  scaleOut: 'scaleOut',
  scaleIn: 'scaleIn',
} as const;

/**
 * By default a workflow task that was handed to a worker which has since died is given out again after 10 s; a service
 * shall answer sooner (and the worker sets stickyQueueScheduleToStartTimeout to 2 s, for the same reason).
 */
export const WORKFLOW_TASK_TIMEOUT = '3 s';

export interface SearchAttribute {
  readonly key: { readonly name: string; readonly type: 'KEYWORD' };
  readonly value: string;
}
export function serviceAttribute(service: string): SearchAttribute {
  return { key: { name: 'CielService', type: 'KEYWORD' }, value: service };
}
export function vmAttribute(vmName: string): SearchAttribute {
  return { key: { name: 'CielVm', type: 'KEYWORD' }, value: vmName };
}
export function hostAttribute(host: string): SearchAttribute {
  return { key: { name: 'CielHost', type: 'KEYWORD' }, value: host };
}
export function phaseAttribute(phase: string): SearchAttribute {
  return { key: { name: 'CielPhase', type: 'KEYWORD' }, value: phase };
}

/** Fits client.workflow.start (with the type as first argument), signalWithStart and startChild. */
export interface WorkflowStart<Input> {
  readonly workflowType: string;
  readonly options: {
    readonly workflowId: string;
    readonly taskQueue: string;
    readonly workflowTaskTimeout: typeof WORKFLOW_TASK_TIMEOUT;
    readonly args: [Input];
    readonly staticSummary: string;
    readonly typedSearchAttributes: SearchAttribute[];
  };
}

export interface HostInput {
  readonly host: string;
}
export function hostStart(host: string): WorkflowStart<HostInput> {
  return {
    workflowType: workflowTypes.host,
    options: {
      workflowId: workflowIds.host(host),
      taskQueue: taskQueues.control,
      workflowTaskTimeout: WORKFLOW_TASK_TIMEOUT,
      args: [{ host }],
      staticSummary: `Watches the VMs of host ${host}`,
      typedSearchAttributes: [hostAttribute(host)],
    },
  };
}

export interface DirectorInput {
  readonly director: string;
}
export function directorStart(director: string): WorkflowStart<DirectorInput> {
  return {
    workflowType: workflowTypes.director,
    options: {
      workflowId: workflowIds.director(director),
      taskQueue: taskQueues.control,
      workflowTaskTimeout: WORKFLOW_TASK_TIMEOUT,
      args: [{ director }],
      staticSummary: `Probes the real servers of director ${director}`,
      typedSearchAttributes: [],
    },
  };
}

export interface MonitorInput {
  readonly vmUuid: string;
  readonly vmName: string;
  readonly host: string;
}
export function monitorStart(vm: { vmUuid: string; vmName: string; host: string }): WorkflowStart<MonitorInput> {
  return {
    workflowType: workflowTypes.monitor,
    options: {
      workflowId: workflowIds.monitor(vm.vmUuid),
      taskQueue: taskQueues.control,
      workflowTaskTimeout: WORKFLOW_TASK_TIMEOUT,
      args: [{ vmUuid: vm.vmUuid, vmName: vm.vmName, host: vm.host }],
      staticSummary: `Watches VM ${vm.vmName} on host ${vm.host}`,
      typedSearchAttributes: [vmAttribute(vm.vmName), hostAttribute(vm.host)],
    },
  };
}

export interface ServiceInput {
  readonly installationId: string;
  readonly service: string;
}
/** For update-with-start of `apply`: a service comes into being by its first specification. */
export function serviceStart(installationId: string, service: string): WorkflowStart<ServiceInput> {
  return {
    workflowType: workflowTypes.service,
    options: {
      workflowId: workflowIds.service(service),
      taskQueue: taskQueues.control,
      workflowTaskTimeout: WORKFLOW_TASK_TIMEOUT,
      args: [{ installationId, service }],
      staticSummary: `Keeps service ${service} as its specification says`,
      typedSearchAttributes: [serviceAttribute(service)],
    },
  };
}

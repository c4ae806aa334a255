/** Workflow ids and task queues: stable names that workflows, workers and clients agree on. */
export const workflowIds = {
  host: (host: string) => `host/${host}`,
  director: (director: string) => `director/${director}`,
  monitor: (vmUuid: string) => `monitor/${vmUuid}`,
  service: (service: string) => `service/${service}`,
  scaleOut: (service: string, number: number) => `scale-out/${service}/${number}`,
  scaleIn: (service: string, number: number) => `scale-in/${service}/${number}`,
} as const;

export const taskQueues = {
  control: 'ciel',
  watch: (host: string) => `ciel.watch.${host}`,
  host: (host: string) => `ciel.host.${host}`,
  director: (director: string) => `ciel.director.${director}`,
} as const;

/** Search attributes, by name and Temporal type; registered when the server is set up. */
export const SEARCH_ATTRIBUTES = {
  CielService: 'Keyword',
  CielVm: 'Keyword',
  CielHost: 'Keyword',
  CielPhase: 'Keyword',
} as const;

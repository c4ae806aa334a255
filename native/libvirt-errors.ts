/** How a call to libvirt fails, as both the worker threads and their client know it. Knows nothing of koffi. */

/** virErrorNumber of virterror.h, as far as anybody here decides by it. */
export const LIBVIRT_ERRORS = {
  internalError: 1,
  operationFailed: 9,
  xmlError: 27,
  xmlDetail: 35,
  noDomain: 42,
  operationInvalid: 55,
  unsupportedConfiguration: 67,
  operationTimeout: 68,
  noDomainMetadata: 80,
  agentUnresponsive: 86,
  xmlInvalidSchema: 92,
  agentUnsynced: 97,
} as const;

/** virErrorDomain: who inside libvirt raised it. */
export const LIBVIRT_RPC = 7;

export interface LibvirtErrorFields {
  readonly message: string;
  readonly code: number;
  readonly domain: number;
  /** libvirtd went away or was never there: whether the call took effect is unknown. */
  readonly connectionLost: boolean;
}

export class LibvirtError extends Error implements LibvirtErrorFields {
  readonly code: number;
  readonly domain: number;
  readonly connectionLost: boolean;
  constructor(fields: LibvirtErrorFields) {
    super(fields.message);
    this.name = 'LibvirtError';
    this.code = fields.code;
    this.domain = fields.domain;
    this.connectionLost = fields.connectionLost;
  }
}

/** A call did not come back in time. Its thread is given up; whether the call takes effect is unknown. */
export class LibvirtStuck extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'LibvirtStuck';
  }
}

/** What passes between libvirt.ts and its threads. Types only: the main thread loads no C. */
import type { calls } from './libvirt-calls.ts';
import type { LibvirtErrorFields } from './libvirt-errors.ts';
import type { ConnectionPointer } from './libvirt-ffi.ts';

type Calls = typeof calls & {
  /** A further connection, given to the event thread. Opened elsewhere, because opening may wait without bound. */
  openForEvents(connection: ConnectionPointer): ConnectionPointer;
};
export type CallName = keyof Calls;
export type CallArguments<K extends CallName> =
  Parameters<Calls[K]> extends [ConnectionPointer, ...infer Rest] ? Rest : never;
export type CallResult<K extends CallName> = ReturnType<Calls[K]>;

export interface WorkerStart {
  readonly uri: string;
}
export interface CallRequest {
  readonly id: number;
  readonly call: CallName;
  readonly args: readonly unknown[];
}
export type CallAnswer =
  | { readonly id: number; readonly ok: true; readonly value: unknown }
  | { readonly id: number; readonly ok: false; readonly libvirt: LibvirtErrorFields }
  | { readonly id: number; readonly ok: false; readonly message: string };

/** To the event thread. */
export type EventRequest =
  | { readonly kind: 'watch'; readonly watch: number; readonly connection: ConnectionPointer }
  | { readonly kind: 'unwatch'; readonly watch: number }
  | { readonly kind: 'stop' };
/** From the event thread. */
export type EventReport =
  | { readonly kind: 'ready' }
  | { readonly kind: 'watching'; readonly watch: number }
  | { readonly kind: 'lost'; readonly watch: number; readonly message: string }
  | { readonly kind: 'lifecycle'; readonly watch: number; readonly event: DomainEvent };

/** virDomainEventType, in its order. */
export const DOMAIN_EVENTS = [
  'defined',
  'undefined',
  'started',
  'suspended',
  'resumed',
  'stopped',
  'shutdown',
  'suspendedToMemory',
  'crashed',
] as const;
export interface DomainEvent {
  readonly uuid: string;
  readonly name: string;
  readonly event: (typeof DOMAIN_EVENTS)[number];
  /** libvirt's reason within the event, e.g. stopped 5: QEMU was killed. */
  readonly detail: number;
}

/** What the sampler's process and its parent say to each other, structured-cloned over the IPC channel. */
import type { Reading } from '../model/reading.ts';
import type { VmIntrospection } from '../model/usage.ts';
import type { WatchedVm } from './guest-watch.ts';

export type SamplerRequest =
  /** Looks into each VM in turn. A newer request ends an older one. */
  | { readonly kind: 'sample'; readonly id: number; readonly vms: readonly WatchedVm[] }
  /** Gives the VM's RAM back. */
  | { readonly kind: 'forget'; readonly uuid: string };

export type SamplerReply =
  | { readonly kind: 'ready' }
  | { readonly kind: 'reading'; readonly id: number; readonly uuid: string; readonly reading: Reading<VmIntrospection> }
  /** A mistake of this code, not of a guest. */
  | { readonly kind: 'failed'; readonly id: number; readonly uuid: string; readonly message: string };

/**
 * What the sampler's processes say to each other, structured-cloned over IPC channels. Samples themselves go through the
 * board, memory that the sampler and its parent share.
 */
import type { Reading, UnavailableReason } from '../model/reading.ts';
import type { WatchedVm } from './guest-watch.ts';

/**
 * The board has two halves, so that one can be written while the other is read; each is used up to what it needs. The
 * descriptor's number in the child.
 */
export const BOARD = { file: 4, halves: 2, halfBytes: 128 * 2 ** 20 } as const;

export type SamplerRequest =
  /**
   * Looks into each of the VMs.
   * attachPatienceMs: who is not attached to by then is Attaching, and goes on with that.
   */
  | {
      readonly kind: 'sample';
      readonly id: number;
      readonly vms: readonly WatchedVm[];
      readonly attachPatienceMs: number;
      readonly limitMs: number;
    }
  /** The samples in a half have been read. */
  | { readonly kind: 'taken'; readonly half: number }
  /** Gives the VM's RAM back. */
  | { readonly kind: 'forget'; readonly uuid: string };

export type SamplerReply =
  | { readonly kind: 'ready' }
  /** Samples are in this half, in these rows; a row is the VM's index in the request. */
  | { readonly kind: 'samples'; readonly id: number; readonly half: number; readonly rows: readonly number[] }
  | { readonly kind: 'unread'; readonly id: number; readonly uuid: string; readonly reading: Reading<never> }
  /** A mistake of this code, not of a guest. */
  | { readonly kind: 'failed'; readonly id: number; readonly uuid: string; readonly message: string };

/** What an attacher says to an AttachRequest. */
export type AttachReply =
  | { readonly kind: 'attached' }
  | { readonly kind: 'failed'; readonly reason: UnavailableReason; readonly message: string };

/**
 * Temporal as the commands use it. Every call has a deadline, because Temporal's client otherwise waits and retries for
 * as long as nobody answers, and every way in which a call can end becomes a problem with an exit code.
 */
import {
  ApplicationFailure,
  Client,
  Connection,
  type ConnectionOptions,
  isGrpcDeadlineError,
  isGrpcServiceError,
  WorkflowNotFoundError,
  WorkflowUpdateFailedError,
  WorkflowUpdateRPCTimeoutOrCancelledError,
} from '@temporalio/client';
import { taskQueues } from '../model/names.ts';
import { CommandError, EXIT } from './errors.ts';

export interface TemporalTarget {
  readonly address: string;
  readonly namespace: string;
  /** Where the address comes from, for messages: "TEMPORAL_ADDRESS", a file. */
  readonly source: string;
  readonly connectionOptions: ConnectionOptions;
}

const CONNECT_TIMEOUT_MS = 5_000;
/** An update waits for a workflow task; after a worker's death that takes up to 5 s. */
export const ANSWER_DEADLINE_MS = 20_000;
const GRPC_UNAVAILABLE = 14;
const GRPC_UNAUTHENTICATED = 16;
const GRPC_PERMISSION_DENIED = 7;

export interface Temporal {
  readonly client: Client;
  readonly target: TemporalTarget;
  /** @param tried for the message, in the past tense: "asked service mosaic to pause" */
  ask<T>(tried: string, work: (client: Client) => Promise<T>, deadlineMs?: number): Promise<T>;
  close(): Promise<void>;
}

export async function connectTemporal(target: TemporalTarget): Promise<Temporal> {
  let connection: Connection;
  try {
    connection = await Connection.connect({ ...target.connectionOptions, connectTimeout: CONNECT_TIMEOUT_MS });
  } catch (error) {
    throw unreachable(target, 'connected to Temporal', error);
  }
  const client = new Client({ connection, namespace: target.namespace });
  return {
    client,
    target,
    ask: async (tried, work, deadlineMs = ANSWER_DEADLINE_MS) => {
      try {
        return await connection.withDeadline(Date.now() + deadlineMs, () => work(client));
      } catch (error) {
        throw await explain(error, { tried, target, connection, deadlineMs });
      }
    },
    close: () => connection.close(),
  };
}

function unreachable(target: TemporalTarget, tried: string, error: unknown): CommandError {
  return new CommandError(
    {
      exitCode: EXIT.unreachable,
      reason: 'TemporalUnreachable',
      tried: `${tried} at ${target.address} (from ${target.source})`,
      found: `no answer within ${CONNECT_TIMEOUT_MS / 1_000} s: ${causeText(error)}`,
      remedy: 'start it (`ciel up` starts one of its own), or set TEMPORAL_ADDRESS to where it listens',
    },
    { cause: error },
  );
}

/** The innermost message: the client's own are "Failed to …". */
function causeText(error: unknown): string {
  let innermost = error;
  while (innermost instanceof Error && innermost.cause instanceof Error) innermost = innermost.cause;
  return innermost instanceof Error ? innermost.message : String(innermost);
}

interface Call {
  readonly tried: string;
  readonly target: TemporalTarget;
  readonly connection: Connection;
  readonly deadlineMs: number;
}

async function explain(error: unknown, call: Call): Promise<unknown> {
  const { tried, target, deadlineMs } = call;
  if (error instanceof CommandError) return error;
  if (error instanceof WorkflowUpdateFailedError) return refusal(error, tried);
  if (error instanceof WorkflowNotFoundError) {
    const remedy = 'see `ciel status` for what there is';
    const found = 'Temporal knows no running workflow of that name';
    return new CommandError({ exitCode: EXIT.notFound, reason: 'NotFound', tried, found, remedy }, { cause: error });
  }
  if (error instanceof WorkflowUpdateRPCTimeoutOrCancelledError || isGrpcDeadlineError(error)) {
    const worker = await hasWorker(call);
    return new CommandError(
      {
        exitCode: EXIT.unreachable,
        reason: worker ? 'NoAnswer' : 'NoWorker',
        tried,
        found: worker
          ? `Temporal took it, but no answer came within ${deadlineMs / 1_000} s`
          : `Temporal took it, but no worker serves task queue "${taskQueues.control}"`,
        remedy: worker
          ? 'it may still be carried out: look at `ciel status`, then repeat it'
          : 'start the control role (`ciel up`); what was asked may then still be carried out, and repeating it is safe',
      },
      { cause: error },
    );
  }
  const code = grpcCode(error);
  if (code === GRPC_UNAVAILABLE) return unreachable(target, tried, error);
  if (code === GRPC_UNAUTHENTICATED || code === GRPC_PERMISSION_DENIED) {
    return new CommandError(
      {
        exitCode: EXIT.unreachable,
        reason: 'TemporalDenied',
        tried: `${tried} by Temporal at ${target.address} (from ${target.source})`,
        found: causeText(error),
        remedy: 'check TEMPORAL_API_KEY, TEMPORAL_TLS_* and TEMPORAL_NAMESPACE',
      },
      { cause: error },
    );
  }
  return new CommandError(
    { exitCode: EXIT.failed, reason: 'Failed', tried, found: causeText(error), remedy: null },
    { cause: error },
  );
}

function refusal(error: WorkflowUpdateFailedError, tried: string): CommandError {
  const reason = error.cause instanceof ApplicationFailure ? (error.cause.type ?? 'Refused') : 'Refused';
  const found = `refused: ${error.cause?.message ?? error.message}`;
  return new CommandError({ exitCode: EXIT.refused, reason, tried, found, remedy: null }, { cause: error });
}

function grpcCode(error: unknown): number | null {
  for (let at: unknown = error; at instanceof Error; at = at.cause) {
    if (isGrpcServiceError(at)) return at.code;
  }
  return null;
}

/** Whether any worker polls the control queue; when even that cannot be told, the answer blames no worker. */
async function hasWorker({ connection, target }: Call): Promise<boolean> {
  try {
    const { pollers } = await connection.withDeadline(Date.now() + 2_000, () =>
      connection.workflowService.describeTaskQueue({
        namespace: target.namespace,
        taskQueue: { name: taskQueues.control },
        taskQueueType: 1,
      }),
    );
    const recently = Date.now() - 90_000;
    return pollers.some(({ lastAccessTime }) => Number(lastAccessTime?.seconds ?? 0) * 1_000 > recently);
  } catch {
    return true;
  }
}

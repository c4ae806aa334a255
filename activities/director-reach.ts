/**
 * How commands run where LVS is: on this machine, or in a director VM by its guest agent. The same contract for both, so
 * that a third way (ssh, an API) is one function more.
 */
import { execa } from 'execa';
import { CielFailure } from '../model/failures.ts';
import { type Libvirt, LibvirtError, LibvirtStuck } from '../native/libvirt.ts';
import { GuestAgent } from './agent.ts';

const WITHIN_MS = 20_000;

export interface DirectorCommandResult {
  readonly exitCode: number | null;
  readonly stdout: string;
  readonly stderr: string;
}
export interface DirectorReach {
  /** For messages. */
  readonly where: string;
  /** Failures: DirectorUnreachable; NoIpvs when there is no such command. */
  run(command: string, args: readonly string[], input?: string): Promise<DirectorCommandResult>;
}

export function localReach(): DirectorReach {
  const where = 'this machine';
  return {
    where,
    async run(command, args, input) {
      const result = await execa(command, [...args], {
        reject: false,
        timeout: WITHIN_MS,
        stdin: input === undefined ? 'ignore' : 'pipe',
        ...(input === undefined ? {} : { input }),
        env: { LC_ALL: 'C', PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin` },
      });
      if (result.code === 'ENOENT') throw commandMissing(command, where);
      if (result.timedOut) throw unreachable(command, where, `no end within ${WITHIN_MS} ms`, null);
      return { exitCode: result.exitCode ?? null, stdout: result.stdout, stderr: result.stderr };
    },
  };
}

/** @param vm the director's domain, by name or UUID. */
export function agentReach(libvirt: Libvirt, vm: string): DirectorReach {
  const agent = new GuestAgent(libvirt);
  const where = `VM "${vm}"`;
  return {
    where,
    async run(command, args, input) {
      try {
        const domain = await libvirt.lookup(vm);
        if (domain === null) {
          const remedy = 'Start that VM, or correct "reach" of the director in ciel.yaml.';
          throw unreachable(command, where, `${libvirt.uri} has no domain of that name`, remedy);
        }
        if (domain.libvirtId === null) {
          throw unreachable(command, where, `the domain is ${domain.state}`, `Start it: virsh start ${vm}.`);
        }
        return await agent.run(domain.uuid, {
          command,
          args,
          withinMs: WITHIN_MS,
          signal: AbortSignal.timeout(2 * WITHIN_MS),
          ...(input === undefined ? {} : { input }),
        });
      } catch (error) {
        if (error instanceof LibvirtError || error instanceof LibvirtStuck) {
          throw unreachable(command, where, error.message, 'Is libvirtd running there?', error);
        }
        if (!(error instanceof CielFailure) || error.failure === 'DirectorUnreachable') throw error;
        if (/No such file/i.test(error.message)) throw commandMissing(command, where, error);
        throw unreachable(command, where, error.message, `Look at that VM: virsh console ${vm}.`, error);
      }
    },
  };
}

function commandMissing(command: string, where: string, cause?: unknown): CielFailure {
  return new CielFailure(
    'NoIpvs',
    `ran "${command}" on the director, ${where}: there is no such command. Install it there.`,
    {
      cause,
    },
  );
}

function unreachable(command: string, where: string, found: string, remedy: string | null, cause?: unknown) {
  const toDo = remedy === null ? '' : ` ${remedy}`;
  return new CielFailure(
    'DirectorUnreachable',
    `ran "${command}" on the director, ${where}: ${found.replace(/[.?]$/, '')}.${toDo} LVS there goes on as it is.`,
    { cause },
  );
}

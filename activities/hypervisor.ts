/**
 * VMs on one host by libvirt: from a reservation to a running domain with a ready guest in it, and back. Each step looks
 * first, acts on the difference and checks, so that running it again changes nothing more.
 *
 * What may be changed is decided by the mark in the domain's metadata: installation and replica must be those of the
 * reservation, whatever name or UUID says (invariant 6). The disk's name contains the replica's id.
 */
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { cancellationSignal, heartbeat } from '@temporalio/activity';
import type { HostActivities, OperationRef, Reservation } from '../model/activities.ts';
import { CielFailure } from '../model/failures.ts';
import { MARK_NAMESPACE } from '../model/identity.ts';
import type { HostSpec, TemplateSpec } from '../model/spec.ts';
import { type Accelerator, workingAccelerator } from '../native/accelerator.ts';
import { type DomainDescription, LIBVIRT_ERRORS, type Libvirt, LibvirtError, LibvirtStuck } from '../native/libvirt.ts';
import { GuestAgent, quoteGuest } from './agent.ts';
import { cloneDisk, removeDisk } from './clone.ts';
import { GuestDocker } from './docker.ts';
import { parseMark, rewriteDomainXml, type TemplateXml, templateDisk } from './domain-xml.ts';

/** From power on to a container runtime that answers, under software emulation on a busy machine. */
const GUEST_READY_WITHIN_MS = 240_000;
const GUEST_POLL_MS = 400;

export interface HostDependencies {
  readonly host: HostSpec;
  readonly installationId: string;
  readonly libvirt: Libvirt;
  /** The template as configured; TemplateMissing when there is none of that name. */
  readonly readTemplate: (name: string) => Promise<TemplateSpec>;
  /** Superseded unless the operation is still open. Called right before what cannot be taken back. */
  readonly assertOpen: (operation: OperationRef) => Promise<void>;
}

interface Request {
  readonly operation: OperationRef;
  readonly reservation: Reservation;
}

export function createHostActivities(dependencies: HostDependencies): HostActivities {
  const { host, installationId, libvirt, readTemplate, assertOpen } = dependencies;
  const agent = new GuestAgent(libvirt);
  let accelerator: Promise<Accelerator> | null = null;

  /** Found by trying, once a process. */
  function bestAccelerator(): Promise<Accelerator> {
    accelerator ??= workingAccelerator();
    return accelerator;
  }

  function requireOurs({ operation, reservation }: Request): void {
    if (operation.installationId === installationId && reservation.host === host.name) return;
    throw new CielFailure(
      'NotOurs',
      `asked on host "${host.name}" of installation ${installationId} for VM ${reservation.vmName} of host ` +
        `"${reservation.host}", installation ${operation.installationId}. Two installations share a task queue.`,
    );
  }

  async function findOurs({ operation, reservation }: Request): Promise<DomainDescription | null> {
    const domain = await libvirt.lookup(reservation.vmUuid);
    if (domain === null) return null;
    const mark = parseMark(await libvirt.metadata(domain.uuid, MARK_NAMESPACE));
    if (mark?.installationId === operation.installationId && mark.replicaId === reservation.replicaId) return domain;
    throw new CielFailure(
      'NotOurs',
      `found domain ${domain.name} (${domain.uuid}) on host "${host.name}", which does not bear the mark of replica ` +
        `${reservation.replicaId}; it is left alone. Remove or rename it if it should not be there.`,
    );
  }

  const diskFile = (reservation: Reservation) => join(host.storage, reservation.diskFileName);
  const serialLog = (reservation: Reservation) => `${diskFile(reservation)}.console.log`;

  return {
    async cloneDisk(request) {
      requireOurs(request);
      const template = await readTemplateXml(await readTemplate(request.reservation.template));
      const { file, format } = templateDisk(template);
      return cloneDisk({
        source: file,
        format,
        target: diskFile(request.reservation),
        beforePublishing: () => assertOpen(request.operation),
        progress: (progress) => heartbeat(progress),
        signal: cancellationSignal(),
      });
    },

    async removeDisk(request) {
      requireOurs(request);
      await assertOpen(request.operation);
      await removeDisk(diskFile(request.reservation));
      await rm(serialLog(request.reservation), { force: true });
    },

    async startVm(request) {
      requireOurs(request);
      const { operation, reservation } = request;
      await translated(reservation, 'start', async () => {
        const found = await findOurs(request);
        if (found !== null && isActive(found)) return;
        const template = await readTemplateXml(await readTemplate(reservation.template));
        const { service, operationId } = operation;
        const xml = rewriteDomainXml(template, {
          name: reservation.vmName,
          uuid: reservation.vmUuid,
          mac: reservation.mac,
          diskFile: diskFile(reservation),
          bridge: host.bridge,
          vcpus: reservation.size.vcpus,
          memoryBytes: reservation.size.memoryBytes,
          serialLog: serialLog(reservation),
          accelerator: await bestAccelerator(),
          mark: { installationId, replicaId: reservation.replicaId, service, operationId },
        });
        await assertOpen(operation);
        await libvirt.defineXml(xml);
        await libvirt.create(reservation.vmUuid).catch(async (error: unknown) => {
          // Another attempt started it in between.
          if (!hasCode(error, LIBVIRT_ERRORS.operationInvalid)) throw error;
        });
        const started = await findOurs(request);
        if (started !== null && isActive(started)) return;
        throw new CielFailure(
          'HostBusy',
          `started VM ${reservation.vmName} on host "${host.name}": it was ${started?.state ?? 'undefined'} right ` +
            "afterwards. Look at QEMU's log of the domain; it is tried again.",
        );
      });
    },

    async removeVm(request) {
      requireOurs(request);
      const { operation, reservation } = request;
      await translated(reservation, 'remove', async () => {
        const found = await findOurs(request);
        if (found === null) return;
        await assertOpen(operation);
        if (isActive(found)) {
          await libvirt.destroy(found.uuid).catch((error: unknown) => {
            // It ended by itself in between.
            if (!hasCode(error, LIBVIRT_ERRORS.operationInvalid, LIBVIRT_ERRORS.noDomain)) throw error;
          });
        }
        await libvirt.undefine(found.uuid).catch((error: unknown) => {
          if (!hasCode(error, LIBVIRT_ERRORS.noDomain)) throw error;
        });
      });
    },

    async prepareGuest(request) {
      requireOurs(request);
      const { reservation } = request;
      await translated(reservation, 'prepare', async () => {
        const signal = cancellationSignal();
        const docker = new GuestDocker(agent, reservation, signal);
        const until = performance.now() + GUEST_READY_WITHIN_MS;
        await ready(request, 'the guest agent answers', until, async () => {
          await agent.ping(reservation.vmUuid);
          return true;
        });
        await docker.setIdentity();
        await ready(request, 'Docker answers', until, () => docker.answers());
      });
    },

    async installImage(request) {
      requireOurs(request);
      const { reservation, image } = request;
      return translated(reservation, `install ${image}`, async () => {
        const docker = new GuestDocker(agent, reservation, cancellationSignal());
        return { imageId: await docker.install(image, (progress) => heartbeat({ image, ...progress })) };
      });
    },

    async startContainer(request) {
      requireOurs(request);
      const { operation, reservation, spec } = request;
      return translated(reservation, `start the container of "${spec.name}"`, async () => {
        await assertOpen(operation);
        const docker = new GuestDocker(agent, reservation, cancellationSignal());
        return { containerId: await docker.start(spec) };
      });
    },

    async stopContainer(request) {
      requireOurs(request);
      const { operation, reservation, spec } = request;
      await translated(reservation, `stop the container of "${spec.name}"`, async () => {
        const found = await findOurs(request);
        // With its VM the container has ended.
        if (found === null || !isActive(found)) return;
        await assertOpen(operation);
        await new GuestDocker(agent, reservation, cancellationSignal()).stop(spec);
      });
    },
  };

  /** Asks until it is so. What the guest cannot answer yet is no failure before the time is up, unless the VM is off. */
  async function ready(request: Request, what: string, until: number, ask: () => Promise<boolean>): Promise<void> {
    for (;;) {
      let found = 'not yet';
      try {
        if (await ask()) return;
      } catch (error) {
        const waits = error instanceof CielFailure && /^(AgentUnreachable|GuestNotReady)$/.test(error.failure);
        if (!waits) throw error;
        found = error.message;
      }
      const { vmName } = request.reservation;
      const domain = await findOurs(request);
      if (domain === null || !isActive(domain)) {
        throw new CielFailure(
          'GuestEnded',
          `waited until ${what} in VM ${vmName}: the VM is ${domain?.state ?? 'no longer defined'}. ` +
            `${await lastWords(serialLog(request.reservation))} Mend what it complains of in template ` +
            `"${request.reservation.template}"; \`ciel template verify\` finds most mistakes.`,
        );
      }
      if (performance.now() > until) {
        throw new CielFailure(
          'GuestNotReady',
          `waited until ${what} in VM ${vmName}, at most ${GUEST_READY_WITHIN_MS / 1_000} s: ${found} ` +
            (await lastWords(serialLog(request.reservation))),
        );
      }
      await pause(GUEST_POLL_MS, undefined, { signal: cancellationSignal() });
    }
  }

  /** libvirt's errors in our vocabulary. */
  async function translated<T>(reservation: Reservation, verb: string, act: () => Promise<T>): Promise<T> {
    try {
      return await act();
    } catch (error) {
      if (error instanceof LibvirtStuck || error instanceof LibvirtError) {
        const { vmName, template } = reservation;
        const tried = `wanted to ${verb} VM ${vmName} (template "${template}") on host "${host.name}"`;
        throw hypervisorFailure(tried, error);
      }
      throw error;
    }
  }
}

/** Reads the template's definition. Final: TemplateMissing. */
export async function readTemplateXml(template: TemplateSpec): Promise<TemplateXml> {
  const file = join(template.directory, 'domain.xml');
  try {
    return { file, directory: template.directory, text: await readFile(file, 'utf8') };
  } catch (error) {
    throw new CielFailure(
      'TemplateMissing',
      `read template "${template.name}" at ${file}: ${(error as Error).message}. Build it on this host by \`ciel template ` +
        'build`, or correct its directory in ciel.yaml.',
      { cause: error },
    );
  }
}

export function hypervisorFailure(tried: string, error: LibvirtError | LibvirtStuck): CielFailure {
  const found = `${tried}: ${error.message}`;
  const options = { cause: error };
  if (error instanceof LibvirtStuck || error.connectionLost) {
    return new CielFailure('HypervisorUnreachable', `${found}. Is libvirtd running? It is tried again.`, options);
  }
  const inTemplate = [
    LIBVIRT_ERRORS.xmlError,
    LIBVIRT_ERRORS.xmlDetail,
    LIBVIRT_ERRORS.xmlInvalidSchema,
    LIBVIRT_ERRORS.unsupportedConfiguration,
  ];
  if ((inTemplate as readonly number[]).includes(error.code)) {
    return new CielFailure('TemplateBroken', `${found}. Correct the template's domain.xml.`, options);
  }
  // Libvirt gives these the same code as everything that QEMU says; only the text tells.
  if (/already (exists|defined) with uuid|domain .* already exists/i.test(error.message)) {
    return new CielFailure('NotOurs', `${found}. Remove or rename that domain.`, options);
  }
  if (/Cannot get interface|get bridge|add bridge .* port|No such device/i.test(error.message)) {
    return new CielFailure(
      'InvalidSpec',
      `${found}. Create the bridge, or correct "bridge" of the host in ciel.yaml.`,
      options,
    );
  }
  if (/No such file or directory|could not load (kernel|initrd)|Could not open/i.test(error.message)) {
    return new CielFailure('TemplateBroken', `${found}. Correct the paths in the template's domain.xml.`, options);
  }
  return new CielFailure('HostBusy', `${found}. It is tried again.`, options);
}

/** The undo removes the log, so its end goes into the message. */
async function lastWords(consoleLog: string): Promise<string> {
  const text = await readFile(consoleLog, 'utf8').catch(() => '');
  return text.trim() === '' ? 'Its console says nothing.' : `Its console ends with: "${quoteGuest(text)}".`;
}

function isActive({ libvirtId }: DomainDescription): boolean {
  return libvirtId !== null;
}

function hasCode(error: unknown, ...codes: number[]): boolean {
  return error instanceof LibvirtError && codes.includes(error.code);
}

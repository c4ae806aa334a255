import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { describe, expect, it } from 'vitest';
import { createHostActivities, hypervisorFailure } from '../../activities/hypervisor.ts';
import type { Reservation } from '../../model/activities.ts';
import { CielFailure } from '../../model/failures.ts';
import { replicaIdentity } from '../../model/identity.ts';
import { type Libvirt, LibvirtError, LibvirtStuck } from '../../native/libvirt.ts';

/** The SDK logs every failure of an activity; here they are intended. */
const quiet = { logger: new DefaultLogger('ERROR') };

const installationId = '6b0b1f0e-6f5c-4a53-9a0c-0d3f1c9a7e11';
const operation = { installationId, service: 'mosaic', operationId: 'scale-out/mosaic/1', runId: 'run-1' };
const reservation: Reservation = {
  ...replicaIdentity(installationId, 'mosaic', 'run-1', 0),
  host: 'h',
  replicaAddress: '10.0.0.51',
  vmAddress: '10.0.0.50',
  subnet: '10.0.0.0/24',
  gateway: null,
  size: { vcpus: 1, memoryBytes: 2 ** 29, reasons: [] },
  template: 't',
};
const mark = (replicaId = reservation.replicaId) =>
  `<mark installationId="${installationId}" replicaId="${replicaId}" service="mosaic" operationId="o"/>`;

/** Records what would change something. */
function host(metadata: string | null, options: { open?: boolean; libvirtId?: number | null } = {}) {
  const acted: string[] = [];
  const libvirt = {
    lookup: async (uuid: string) => ({ uuid, name: 'n', libvirtId: options.libvirtId ?? null, state: 'shutoff' }),
    metadata: async () => metadata,
    destroy: async () => acted.push('destroy'),
    undefine: async () => acted.push('undefine'),
    defineXml: async () => acted.push('define'),
  } as unknown as Libvirt;
  const activities = createHostActivities({
    host: {
      name: 'h',
      libvirt: 'qemu:///test',
      storage: '/nowhere',
      bridge: 'br0',
      capacity: { vcpus: 1, memoryBytes: 1 },
    },
    installationId,
    libvirt,
    readTemplate: async () => ({ name: 't', directory: '/nowhere' }),
    assertOpen: async () => {
      if (options.open === false) throw new CielFailure('Superseded', 'closed');
    },
  });
  return { activities, acted };
}
const request = { operation, reservation };
const run = <T>(act: () => Promise<T>): Promise<T> => new MockActivityEnvironment({}, quiet).run(act);

describe('ownership', () => {
  it.each([
    ['no mark', null],
    ['another replica’s mark', mark('0c8f2d6a-1d7d-5b6c-8f0e-2a4b6c8d0e1f')],
    ['another installation’s mark', mark().replace(installationId, '00000000-0000-4000-8000-000000000000')],
    ['a mark that is none', '<mark/>'],
  ])('a domain with %s is never removed, stopped or redefined', async (_what, metadata) => {
    const { activities, acted } = host(metadata);
    for (const act of [activities.removeVm, activities.startVm]) {
      await expect(run(() => act(request))).rejects.toMatchObject({ failure: 'NotOurs' });
    }
    expect(acted).toEqual([]);
  });

  it('removes what bears our mark', async () => {
    const { activities, acted } = host(mark());
    await run(() => activities.removeVm(request));
    expect(acted).toEqual(['undefine']);
  });

  it('does nothing for an operation that is closed', async () => {
    const { activities, acted } = host(mark(), { open: false, libvirtId: 3 });
    await expect(run(() => activities.removeVm(request))).rejects.toMatchObject({ failure: 'Superseded' });
    await expect(run(() => activities.removeDisk(request))).rejects.toMatchObject({ failure: 'Superseded' });
    expect(acted).toEqual([]);
  });

  it('refuses requests for another host or installation', async () => {
    const { activities, acted } = host(mark());
    const elsewhere = { operation, reservation: { ...reservation, host: 'other' } };
    await expect(run(() => activities.removeVm(elsewhere))).rejects.toMatchObject({ failure: 'NotOurs' });
    expect(acted).toEqual([]);
  });

  it('a template that is not there', async () => {
    const { activities } = host(mark());
    await expect(run(() => activities.startVm(request))).rejects.toMatchObject({
      failure: 'TemplateMissing',
      message: expect.stringContaining('/nowhere/domain.xml'),
    });
  });
});

describe('hypervisorFailure', () => {
  const error = (code: number, message: string, connectionLost = false) =>
    new LibvirtError({ code, domain: 10, message, connectionLost });
  it.each([
    [error(38, 'Failed to connect socket to /run/libvirt/libvirt-sock: No such file', true), 'HypervisorUnreachable'],
    [new LibvirtStuck('create did not come back'), 'HypervisorUnreachable'],
    [error(92, 'XML document failed to validate against schema'), 'TemplateBroken'],
    [error(67, 'unsupported configuration: unknown machine'), 'TemplateBroken'],
    [error(9, "operation failed: domain 'x' already exists with uuid 1"), 'NotOurs'],
    [error(38, "Cannot get interface MTU on 'br9': No such device"), 'InvalidSpec'],
    [
      error(1, 'qemu unexpectedly closed the monitor: could not load kernel: No such file or directory'),
      'TemplateBroken',
    ],
    [error(1, 'qemu unexpectedly closed the monitor: cannot set up guest memory: Cannot allocate memory'), 'HostBusy'],
  ])('%s is %s', (libvirtError, failure) => {
    expect(hypervisorFailure('tried', libvirtError).failure).toBe(failure);
  });
});

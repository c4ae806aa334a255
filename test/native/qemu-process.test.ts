import { describe, expect, it } from 'vitest';
import { findQemu, parseQemuCommandLine, readQemu } from '../../native/qemu-process.ts';

const uuid = '4dea22b3-1d52-d8f3-2516-782e98ab3fa0';

describe('a QEMU command line', () => {
  it.each([
    [['-machine', 'pc-i440fx-7.2,usb=off,memory-backend=pc.ram', '-m', '1024'], 'i440fx', 2 ** 30],
    [['-machine', 'pc-q35-7.2,usb=off', '-m', 'size=2097152k,slots=16,maxmem=8388608k'], 'q35', 2 ** 31],
    [['-M', 'q35', '-m', '1.5G'], 'q35', 1.5 * 2 ** 30],
    [['-machine', 'type=q35,accel=tcg', '-m', '512M'], 'q35', 2 ** 29],
    [['-m', '64'], 'i440fx', 2 ** 26],
    [['-machine', 'virt', '-m', '1G'], null, 2 ** 30],
    [['-machine', 'pc', '-m', 'lots'], 'i440fx', null],
    [['-machine', 'pc'], 'i440fx', 128 * 2 ** 20],
  ])('%j is a %s with %s bytes', (args, machine, ramBytes) => {
    expect(parseQemuCommandLine(['qemu-system-x86_64', ...args, '-nodefaults', ''])).toMatchObject({
      machine,
      ramBytes,
    });
  });

  it('gives name and UUID, also those that libvirt writes', () => {
    const args = ['qemu', '-name', 'guest=shop-1,,a,debug-threads=on', '-uuid', uuid.toUpperCase(), ''];
    expect(parseQemuCommandLine(args)).toMatchObject({ name: 'shop-1,a', uuid });
    expect(parseQemuCommandLine(['qemu', '-name', 'plain', ''])).toMatchObject({ name: 'plain', uuid: null });
  });

  it('gives the RAM blocks of NUMA nodes, in the nodes’ order, also as libvirt writes them', () => {
    const json = (id: string, size: number) =>
      JSON.stringify({ 'qom-type': 'memory-backend-memfd', id, share: true, size });
    const libvirt = ['qemu', '-object', json('ram-node0', 2 ** 30), '-numa', 'node,nodeid=0,cpus=0-1,memdev=ram-node0'];
    expect(parseQemuCommandLine([...libvirt, '']).numaNodeBytes).toEqual([]);
    const second = ['-object', json('ram-node1', 2 ** 31), '-numa', 'node,nodeid=1,memdev=ram-node1'];
    expect(parseQemuCommandLine([...libvirt, ...second, '']).numaNodeBytes).toEqual([2 ** 30, 2 ** 31]);
    const byHand = [
      '-object',
      'memory-backend-ram,id=b,size=512M',
      '-object',
      'memory-backend-ram,id=a,size=1G',
      '-numa',
    ];
    const swapped = [
      ...byHand,
      'node,nodeid=1,memdev=a',
      '-numa',
      'node,nodeid=0,memdev=b',
      '-numa',
      'node,nodeid=2',
      '',
    ];
    expect(parseQemuCommandLine(['qemu', ...swapped]).numaNodeBytes).toEqual([2 ** 29, 2 ** 30]);
    const other = ['-object', '{"qom-type":"secret","id":"master"}', '-numa', 'node,mem=512', ''];
    expect(parseQemuCommandLine(['qemu', ...other]).numaNodeBytes).toEqual([]);
  });

  it('gives the limit of RAM below 4 GiB, and encryption', () => {
    const limited = ['qemu', '-machine', 'q35,max-ram-below-4g=1G', ''];
    expect(parseQemuCommandLine(limited)).toMatchObject({ maxRamBelow4gBytes: 2 ** 30, isConfidential: false });
    const encrypted = ['qemu', '-machine', 'q35,confidential-guest-support=lsec0', ''];
    expect(parseQemuCommandLine(encrypted).isConfidential).toBe(true);
  });
});

describe('the QEMU process of a VM', () => {
  it('is not a process that merely has the UUID among its arguments', async () => {
    expect(await readQemu(process.pid)).toBeNull();
    expect(await findQemu('00000000-0000-0000-0000-00000000dead')).toBeNull();
  });
});

/**
 * Many VMs on one machine, for bench/introspect.ts: a real guest with as many containers as wanted, a copy of its RAM, and
 * stand-ins that hold such RAM as QEMU does (native/crowd.c).
 */
import { spawn } from 'node:child_process';
import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { execa } from 'execa';
import { bootKernelGuest } from '../lab/kernels/guest.ts';
import { connectQmp } from '../test/guest-disk/qemu.ts';
import { ramFile } from '../test/native/live-guest.ts';

const KERNEL = '6.1';
/** Time for the last container's writes to have been counted and flushed somewhere. */
const SETTLE_SECONDS = 3;

export interface Crowd {
  readonly vms: readonly { readonly uuid: string; readonly pid: number }[];
  end(): Promise<void>;
}

/**
 * Boots a guest with that many possible CPUs (one is online: what is read is all of them) and containers that have each
 * used some CPU, memory and disk, and copies its RAM.
 */
export async function imageOfGuest(path: string, cpus: number, containers: number): Promise<void> {
  const guest = await bootKernelGuest({ kernel: KERNEL, memoryMiB: 384, qemu: ['-smp', `1,maxcpus=${cpus}`] });
  try {
    await guest.run(`
      cd /sys/fs/cgroup
      for group in . docker; do
        mkdir -p $group
        for controller in cpu memory io pids; do echo +$controller > $group/cgroup.subtree_control; done
      done
      for number in $(seq ${containers}); do
        group=docker/$(printf %064x $((number * 7919 + 12345)))
        mkdir $group
        (
          sh -c 'echo $PPID' > $group/cgroup.procs
          dd if=/dev/zero of=/dev/vda bs=4k seek=$number count=2 conv=notrunc,fsync
          exec sleep 100000
        ) > /dev/null 2>&1 < /dev/null &
      done
      sleep ${SETTLE_SECONDS}`);
    const qmp = await connectQmp(guest.monitor);
    await qmp.monitor({ execute: 'stop' });
    await copyFile(await ramFile(guest.pid), path);
    qmp.close();
  } finally {
    await guest.stop();
  }
}

/** Stand-ins with that RAM. With one it is all of it, with more the pages that are read from `cache` on. */
export async function startCrowd(
  image: string,
  count: number,
  memory: 'shared' | 'private' | 'forked',
  cache: string,
): Promise<Crowd> {
  await execa('make', ['-s', '-C', join(import.meta.dirname, '../native'), 'crowd']);
  const program = join(import.meta.dirname, '../build/native/bench/kvm-crowd');
  const child = spawn(program, [image, 'q35', String(count), memory, cache], { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const vms: { uuid: string; pid: number }[] = [];
  for await (const line of createInterface({ input: child.stdout })) {
    if (line === 'ready') break;
    const [uuid, pid] = line.split(' ') as [string, string];
    vms.push({ uuid, pid: Number(pid) });
  }
  if (vms.length !== count) throw new Error(`${vms.length} of ${count} stand-ins started`);
  return {
    vms,
    end: async () => {
      child.stdin.end();
      await ended;
    },
  };
}

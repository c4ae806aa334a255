/**
 * Containers that show what others do not: one held back by its CPU limit, one whose process was killed for want of memory,
 * two in a network of their own with an interface of each kind that containers have, one in the guest's network.
 */
import { startContainers } from '../../lab/kernels/containers.ts';
import type { KernelGuest } from '../../lab/kernels/guest.ts';

const id = (letter: string): string => letter.repeat(64);
export const EXTRA = { limited: id('a'), killed: id('b'), networked: id('c'), beside: id('d'), asHost: id('e') };
/** The containers are made where those of the matrix are, so that their parents hand the controllers down. */
const SET_UP = `
  set -e
  d=/sys/fs/cgroup/docker
  for i in ${Object.values(EXTRA).join(' ')}; do mkdir -p $d/$i; done
  echo '20000 100000' > $d/${EXTRA.limited}/cpu.max
  echo 50 > $d/${EXTRA.limited}/cpu.weight
  echo 20 > $d/${EXTRA.limited}/pids.max
  echo 8M > $d/${EXTRA.killed}/memory.max
  (echo 0 > $d/${EXTRA.limited}/cgroup.procs; exec /load burn) >/dev/null 2>&1 </dev/null &
  (echo 0 > $d/${EXTRA.killed}/cgroup.procs; /load 'memory' 32; exec /load idle) >/dev/null 2>&1 </dev/null &
  (echo 0 > $d/${EXTRA.networked}/cgroup.procs; exec unshare -n /load idle) >/dev/null 2>&1 </dev/null &
  net=$!
  (echo 0 > $d/${EXTRA.asHost}/cgroup.procs; exec /load idle) >/dev/null 2>&1 </dev/null &
  while [ "$(readlink /proc/$net/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done
  (echo 0 > $d/${EXTRA.beside}/cgroup.procs; exec nsenter -t $net -n /load idle) >/dev/null 2>&1 </dev/null &
  in="nsenter -t $net -n"
  $in ip link set lo up
  # veth: the peer is named by the kernel. macvlan and ipvlan are on ends of pairs of their own.
  ip link add pair0 type veth
  ip link add pair1 type veth
  ip link add pair2 type veth
  for end in veth0 veth1 veth2 pair1 pair2; do ip link set $end up; done
  ip link add link pair1 mac0 type macvlan
  ip link add link pair2 ipv0 type ipvlan
  for end in pair0 mac0 ipv0; do ip link set $end netns $net; done
  for n in 0 1 2; do ip addr add 10.7.$n.1/24 dev veth$n; done
  n=0
  for end in pair0 mac0 ipv0; do $in ip link set $end up; $in ip addr add 10.7.$n.2/24 dev $end; n=$((n + 1)); done
  $in ip link add dum0 type dummy
  $in ip link set dum0 up
  $in ip addr add 10.7.9.1/24 dev dum0
  for n in 0 1; do ping -c 3 -s 900 -W 2 10.7.$n.2; done
  $in ping -c 3 127.0.0.1
  $in ping -c 1 -W 1 10.7.2.1 || true
  $in ping -c 2 -W 1 10.7.9.2 || true
  echo $net`;

/** After those of the matrix. @returns the process in the network of its own */
export async function startDetailed(guest: KernelGuest): Promise<string> {
  await startContainers(guest);
  return (await guest.run(SET_UP)).trim().split('\n').at(-1) ?? '';
}

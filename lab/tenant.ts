/**
 * What a tenant has before Ciel comes: containers with addresses of their own on the segment (macvlan), prepared for direct
 * server return as LVS wants it: the virtual address on their lo, silent to ARP.
 */
import type { ServiceName } from './images/services.ts';
import type { Lab, LabGuest } from './lab.ts';

export interface TenantContainer {
  readonly name: ServiceName;
  /** repository:tag in the lab's registry. */
  readonly image: string;
  readonly address: string;
  readonly virtualAddress: string;
}

const DOCKER_READY = `until docker version >/dev/null 2>&1; do sleep 0.2; done`;
const CREATE_NETWORK = `set -e
nic=$(ip -o -4 addr | awk -v address="$1" '$4 == address { print $2 }')
docker network inspect lan >/dev/null 2>&1 ||
  docker network create --driver macvlan --subnet "$2" --opt parent="$nic" lan >/dev/null`;
const RUN = `set -e
image=$1 name=$2 address=$3 virtual=$4
docker run --detach --name "$name" --hostname "$name" --network lan --ip "$address" \\
  --sysctl net.ipv4.conf.all.arp_ignore=1 --sysctl net.ipv4.conf.all.arp_announce=2 \\
  "$image" >/dev/null
pid=$(docker inspect --format '{{.State.Pid}}' "$name")
nsenter -t "$pid" -n ip addr add "$virtual/32" dev lo`;

export async function startTenant(lab: Lab, guest: LabGuest, containers: readonly TenantContainer[]): Promise<void> {
  await lab.run(guest.uuid, DOCKER_READY);
  await lab.run(guest.uuid, CREATE_NETWORK, [`${guest.address}/24`, lab.segment.subnet]);
  for (const { name, image, address, virtualAddress } of containers) {
    await lab.run(guest.uuid, RUN, [`${lab.registry.endpoint}/${image}`, name, address, virtualAddress]);
  }
}

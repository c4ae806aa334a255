/**
 * What a tenant has before Ciel comes: containers with addresses of their own on the segment (macvlan), prepared for direct
 * server return as LVS wants it: the virtual address on their lo, silent to ARP.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { execa } from 'execa';
import type { ServiceName } from './images/services.ts';
import type { Lab, LabGuest } from './lab.ts';
import { inSegment } from './segment.ts';

export interface TenantContainer {
  readonly name: ServiceName;
  /** repository:tag in the lab's registry. */
  readonly image: string;
  readonly address: string;
  readonly virtualAddress: string;
  /** Answers once the program is warm. */
  readonly healthPath: string;
}

const WARM_WITHIN_MS = 120_000;
/** The template's init says when dockerd is ready; asking Docker itself costs a second of CPU each time. */
export const DOCKER_READY = 'until [ -e /run/ready/dockerd ]; do sleep 0.1; done';
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
  for (const { name, address, healthPath } of containers) await answers(lab, name, `http://${address}${healthPath}`);
}

/** A service that has run for a while is warm: its first answer, which loads the program, is not the demo's load. */
async function answers(lab: Lab, name: string, url: string): Promise<void> {
  const deadline = Date.now() + WARM_WITHIN_MS;
  for (;;) {
    const asked = await execa(...inSegment(lab.segment, 'curl', ['-fsS', '-o', '/dev/null', '--max-time', '60', url]), {
      reject: false,
    });
    if (asked.exitCode === 0) return;
    if (Date.now() > deadline) throw new Error(`${name} did not answer ${url}: ${asked.stderr}`);
    await pause(500);
  }
}

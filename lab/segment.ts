/**
 * One Ethernet segment of the lab's own: a network namespace with a bridge that guests' taps, the director and clients
 * join. Everything of the lab that speaks on it runs inside the namespace, so nothing shows in the machine's own network
 * and any subnet may be used.
 */
import { execa } from 'execa';

export interface Segment {
  readonly namespace: string;
  readonly bridge: string;
  /** Of the namespace's own end of the bridge: registry, health probes and clients speak from here. */
  readonly address: string;
  readonly subnet: string;
}

export function segmentNamed(lab: string): Segment {
  return { namespace: `ciel-${lab}`, bridge: 'br0', address: '10.77.0.1', subnet: '10.77.0.0/24' };
}

/** Arguments that run a command inside the segment's namespace. */
export function inSegment(segment: Segment, command: string, args: readonly string[]): [string, string[]] {
  return ['ip', ['netns', 'exec', segment.namespace, command, ...args]];
}

export async function createSegment(segment: Segment): Promise<void> {
  await removeSegment(segment);
  await execa('ip', ['netns', 'add', segment.namespace]);
  const ip = (...args: string[]) => execa('ip', ['-n', segment.namespace, ...args]);
  await ip('link', 'set', 'lo', 'up');
  // A bridge takes the lowest MAC of its ports and so changes as VMs come and go, which breaks connections: fix it.
  await ip(
    'link',
    'add',
    segment.bridge,
    'address',
    '52:54:00:00:77:01',
    'type',
    'bridge',
    'stp_state',
    '0',
    'forward_delay',
    '0',
  );
  await ip('addr', 'add', `${segment.address}/24`, 'dev', segment.bridge);
  await ip('link', 'set', segment.bridge, 'up');
}

/** Ends what still runs in the namespace, then removes it. No error when there is none. */
export async function removeSegment(segment: Segment): Promise<void> {
  const { stdout } = await execa('ip', ['netns', 'list']);
  if (!stdout.split('\n').some((line) => line.split(' ')[0] === segment.namespace)) return;
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    const pids = (await execa('ip', ['netns', 'pids', segment.namespace])).stdout.split('\n').filter(Boolean);
    if (pids.length === 0) break;
    for (const pid of pids) {
      try {
        process.kill(Number(pid), signal);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
      }
    }
    await settle(segment, signal === 'SIGTERM' ? 5_000 : 2_000);
  }
  await execa('ip', ['netns', 'delete', segment.namespace]);
}

async function settle(segment: Segment, withinMs: number): Promise<void> {
  const deadline = Date.now() + withinMs;
  while (Date.now() < deadline) {
    if ((await execa('ip', ['netns', 'pids', segment.namespace])).stdout === '') return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

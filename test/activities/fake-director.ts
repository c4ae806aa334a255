/**
 * A director in memory that understands what we say to ipvsadm and ip, and desired rows in memory. For tests of the
 * decisions; that the real ones understand the same is shown by director.vm.test.ts.
 */
import type { VirtualServerRows } from '../../activities/director.ts';
import type { DirectorCommandResult, DirectorReach } from '../../activities/director-reach.ts';
import type { DesiredRealServer, DesiredVirtualServer } from '../../store/virtual-servers.ts';

export class FakeDirector implements DirectorReach {
  readonly where = 'the fake director';
  /** "-A …" by its virtual server, and "-a …" below it. */
  readonly table = new Map<string, { line: string; real: Map<string, string> }>();
  readonly addresses = new Map<string, string>([['10.0.0.2/24', 'eth0']]);
  /** Everything that changed something, in order. */
  readonly changes: string[] = [];
  failure: string | null = null;

  constructor(saved = '') {
    this.#restore(saved);
    this.changes.length = 0;
  }

  async run(command: string, args: readonly string[], input?: string): Promise<DirectorCommandResult> {
    try {
      if (this.failure !== null) throw new Error(this.failure);
      const stdout = command === 'ip' ? this.#ip(args) : this.#ipvsadm(args, input ?? '');
      return { exitCode: 0, stdout, stderr: '' };
    } catch (error) {
      return { exitCode: 1, stdout: '', stderr: (error as Error).message };
    }
  }

  saved(): string {
    return [...this.table.values()].flatMap(({ line, real }) => [line, ...real.values()]).join('\n');
  }

  #ipvsadm(args: readonly string[], input: string): string {
    if (args[0] === '-R') {
      this.#restore(input);
      return '';
    }
    if (args[0] === '-S') return this.saved();
    throw new Error(`unexpected ipvsadm ${args.join(' ')}`);
  }

  #restore(lines: string): void {
    for (const line of lines.split('\n').filter(Boolean)) {
      const [command, kind, name, ...rest] = line.split(' ');
      const key = `${kind} ${name}`;
      const present = this.table.get(key);
      const real = rest[rest.indexOf('-r') + 1] as string;
      if (command === '-A') {
        if (present !== undefined) throw new Error('Service already exists');
        this.table.set(key, { line, real: new Map() });
      } else if (present === undefined) throw new Error('No such service');
      else if (command === '-E') present.line = line.replace('-E', '-A');
      else if (command === '-D') this.table.delete(key);
      else if (command === '-d') {
        if (!present.real.delete(real)) throw new Error('No such destination');
      } else if (command === '-a' || command === '-e') {
        if (present.real.has(real) === (command === '-a')) throw new Error(`destination of ${line}`);
        present.real.set(real, line.replace('-e', '-a'));
      } else throw new Error(`unexpected ${line}`);
      this.changes.push(line);
    }
  }

  #ip(args: readonly string[]): string {
    const words = args.filter((word) => !word.startsWith('-'));
    if (words[1] === 'show') {
      const shown = [...this.addresses].map(([cidr, label]) => {
        const [local, prefix] = cidr.split('/');
        const ifname = label.split(':')[0];
        return { ifname, addr_info: [{ local, prefixlen: Number(prefix), label }] };
      });
      return JSON.stringify(shown);
    }
    const [, action, cidr, , device, , label] = words;
    if (action === 'add') this.addresses.set(cidr as string, label ?? (device as string));
    else if (action === 'del') this.addresses.delete(cidr as string);
    else throw new Error(`unexpected ip ${args.join(' ')}`);
    this.changes.push(`ip ${words.join(' ')}`);
    return '';
  }
}

export function realServer(change: Partial<DesiredRealServer> = {}): DesiredRealServer {
  return {
    service: 'mosaic',
    replicaId: change.address ?? '10.0.0.21',
    address: '10.0.0.21',
    port: 80,
    weight: 1,
    wanted: true,
    ownedAt: null,
    healthy: null,
    healthMessage: '',
    ...change,
  };
}

export function virtualServer(change: Partial<DesiredVirtualServer> = {}): DesiredVirtualServer {
  return {
    service: 'mosaic',
    director: 'd',
    protocol: 'tcp',
    address: '10.0.0.10',
    port: 80,
    scheduler: 'rr',
    adopt: false,
    health: { path: null, intervalMs: 20, timeoutMs: 200, withinMs: 500 },
    wanted: true,
    ownedAt: null,
    realServers: [realServer()],
    ...change,
  };
}

export class RowsInMemory implements VirtualServerRows {
  readonly servers = new Map<string, DesiredVirtualServer>();
  /** Called by every claim: what had been written when? */
  onClaim: (claim: string) => void = () => {};

  constructor(...servers: DesiredVirtualServer[]) {
    for (const server of servers) this.servers.set(server.service, server);
  }

  async list(filter: { director?: string; service?: string }): Promise<DesiredVirtualServer[]> {
    return [...this.servers.values()].filter(
      ({ director, service }) => (filter.director ?? director) === director && (filter.service ?? service) === service,
    );
  }
  async claimVirtualServer(service: string): Promise<void> {
    this.onClaim(service);
    this.#change(service, (server) => ({ ...server, ownedAt: new Date(0) }));
  }
  async claimRealServer(service: string, replicaId: string): Promise<void> {
    this.onClaim(replicaId);
    this.changeReal(service, replicaId, { ownedAt: new Date(0) });
  }
  async forgetVirtualServer(service: string): Promise<void> {
    if (this.servers.get(service)?.wanted === false) this.servers.delete(service);
  }
  async forgetRealServer(service: string, replicaId: string): Promise<void> {
    this.#change(service, (server) => ({
      ...server,
      realServers: server.realServers.filter((real) => real.replicaId !== replicaId || real.wanted),
    }));
  }
  async setHealth(service: string, replicaId: string, healthy: boolean, healthMessage: string): Promise<boolean> {
    const before = this.servers.get(service)?.realServers.find((real) => real.replicaId === replicaId)?.healthy;
    this.changeReal(service, replicaId, { healthy, healthMessage });
    return before !== healthy;
  }
  withLock<T>(_service: string, work: () => Promise<T>): Promise<T> {
    return work();
  }

  changeReal(service: string, replicaId: string, change: Partial<DesiredRealServer>): void {
    this.#change(service, (server) => ({
      ...server,
      realServers: server.realServers.map((real) => (real.replicaId === replicaId ? { ...real, ...change } : real)),
    }));
  }
  unwant(service: string): void {
    this.#change(service, (server) => ({
      ...server,
      wanted: false,
      realServers: server.realServers.map((real) => ({ ...real, wanted: false })),
    }));
  }
  #change(service: string, change: (server: DesiredVirtualServer) => DesiredVirtualServer): void {
    const server = this.servers.get(service);
    if (server !== undefined) this.servers.set(service, change(server));
  }
}

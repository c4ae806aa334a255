/**
 * LVS's table as `ipvsadm -S -n` prints it, and what must change in it for one virtual server: pure functions. What is
 * right once changed needs no further change (the tests' property).
 *
 * Entries carry no mark. Ours are those whose row has a claim, written right before the entry; the rest is not changed.
 */
import { CielFailure } from '../model/failures.ts';
import type { DesiredRealServer, DesiredVirtualServer } from '../store/virtual-servers.ts';

export interface LvsRealServer {
  /** address:port */
  readonly key: string;
  /** -g: direct server return, -i: tunnel, -m: masquerading. */
  readonly method: '-g' | '-i' | '-m';
  readonly weight: number;
}
export interface LvsVirtualServer {
  /** As in ipvsadm: "-t address:port", "-u address:port" or "-f mark". */
  readonly key: string;
  readonly scheduler: string;
  /** Further options, such as persistence, as they stand. */
  readonly options: readonly string[];
  readonly realServers: readonly LvsRealServer[];
}
export type LvsTable = ReadonlyMap<string, LvsVirtualServer>;

/** One line for `ipvsadm -R`, and the row that is claimed before it or forgotten after it. */
export interface LvsStep {
  /** null: nothing to do in LVS. */
  readonly line: string | null;
  readonly claimVirtualServer?: true;
  readonly claimRealServer?: string;
  readonly forgetRealServer?: string;
  readonly forgetVirtualServer?: true;
}

export function virtualServerKey({ address, port }: { readonly address: string; readonly port: number }): string {
  return `-t ${address}:${port}`;
}
const realServerKey = ({ address, port }: DesiredRealServer) => `${address}:${port}`;

/** @throws CielFailure DirectorUnreachable when a line is not as ipvsadm writes it. */
export function parseTable(saved: string): LvsTable {
  const table = new Map<string, LvsVirtualServer & { realServers: LvsRealServer[] }>();
  for (const line of saved.split('\n')) {
    const words = line.trim().split(/\s+/).filter(Boolean);
    if (words.length === 0) continue;
    const [command, kind, name, ...options] = words;
    const key = `${kind} ${name}`;
    if (command === '-A' && name !== undefined) {
      const { value, rest } = takeOption(options, '-s');
      table.set(key, { key, scheduler: value ?? '', options: rest, realServers: [] });
    } else if (command === '-a' && table.has(key)) {
      table.get(key)?.realServers.push(parseRealServer(options, line));
    } else throw unreadable(line);
  }
  return table;
}

function parseRealServer(options: readonly string[], line: string): LvsRealServer {
  const server = takeOption(options, '-r');
  const weight = takeOption(server.rest, '-w');
  const method = weight.rest.find((word): word is LvsRealServer['method'] => /^-[gim]$/.test(word));
  if (server.value === null || weight.value === null || method === undefined) throw unreadable(line);
  return { key: server.value, method, weight: Number(weight.value) };
}

function takeOption(words: readonly string[], option: string): { value: string | null; rest: string[] } {
  const at = words.indexOf(option);
  if (at < 0) return { value: null, rest: [...words] };
  return { value: words[at + 1] ?? null, rest: [...words.slice(0, at), ...words.slice(at + 2)] };
}

function unreadable(line: string): CielFailure {
  return new CielFailure('DirectorUnreachable', `read LVS's table by "ipvsadm -S -n" and found the line "${line}".`);
}

/**
 * ActiveConn by real server, of `ipvsadm -L -n` for one virtual server:
 *
 *     TCP  10.0.0.10:80 rr
 *       -> 10.0.0.21:80                 Route   1      2          5
 */
export function parseActiveConnections(listed: string): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const [, server, active] of listed.matchAll(/^\s*->\s+(\S+:\d+)\s+\S+\s+\d+\s+(\d+)\s+\d+/gm)) {
    if (server !== undefined) counts.set(server, Number(active));
  }
  return counts;
}

/**
 * What brings LVS to the rows of one virtual server, in order. Dead real servers are left out, but not the last: when none
 * that answers is left, those that are in LVS stay, since a probe may err and no other place is better.
 * @throws CielFailure NotOurs when a virtual server of another is in the way.
 */
export function stepsFor(desired: DesiredVirtualServer, table: LvsTable): readonly LvsStep[] {
  const row = desired.wanted ? desired : withoutRealServers(desired);
  const key = virtualServerKey(row);
  const present = table.get(key) ?? null;
  const ours = row.ownedAt !== null || (present !== null && row.adopt);
  if (present !== null && !ours) {
    // Never ours: what is no longer wanted was never there.
    if (!row.wanted) return [{ line: null, forgetVirtualServer: true }];
    throw new CielFailure(
      'NotOurs',
      `wanted virtual server ${row.address}:${row.port} on director "${row.director}" for service "${row.service}", but ` +
        'LVS has one there that Ciel did not make. Remove it, choose another address, or set "adopt: true".',
    );
  }
  const serving = row.wanted ? realServersToServe(row, present) : [];
  return [
    ...virtualServerSteps(row, key, present),
    ...serving.flatMap((server) => servingSteps(server, key, present)),
    ...row.realServers
      .filter((server) => !serving.includes(server))
      .flatMap((server) => goneSteps(server, key, present)),
    ...(row.wanted ? [] : removalSteps(row, key, present)),
  ];
}

/** With the virtual server, none of its real servers is wanted. */
function withoutRealServers(row: DesiredVirtualServer): DesiredVirtualServer {
  return { ...row, realServers: row.realServers.map((server) => ({ ...server, wanted: false })) };
}

function realServersToServe(row: DesiredVirtualServer, present: LvsVirtualServer | null): DesiredRealServer[] {
  const wanted = row.realServers.filter((server) => server.wanted);
  const answering = wanted.filter((server) => server.healthy !== false);
  if (answering.some((server) => server.weight > 0)) return answering;
  const inLvs = wanted.filter((server) => entryOf(server, present) !== null);
  const kept = wanted.filter((server) => answering.includes(server) || inLvs.includes(server));
  return kept.length > 0 ? kept : wanted;
}

function virtualServerSteps(row: DesiredVirtualServer, key: string, present: LvsVirtualServer | null): LvsStep[] {
  if (!row.wanted) return [];
  const claim = row.ownedAt === null ? ({ claimVirtualServer: true } as const) : {};
  if (present === null) return [{ line: `-A ${key} -s ${row.scheduler}`, ...claim }];
  if (present.scheduler !== row.scheduler) {
    return [{ line: ['-E', key, '-s', row.scheduler, ...present.options].join(' '), ...claim }];
  }
  return row.ownedAt === null ? [{ line: null, ...claim }] : [];
}

function servingSteps(server: DesiredRealServer, key: string, present: LvsVirtualServer | null): LvsStep[] {
  const claim = server.ownedAt === null ? { claimRealServer: server.replicaId } : {};
  const entry = entryOf(server, present);
  const name = realServerKey(server);
  if (entry === null) return [{ line: `-a ${key} -r ${name} -g -w ${server.weight}`, ...claim }];
  // The forwarding method of an adopted entry is its owner's choice.
  if (entry.weight !== server.weight) {
    return [{ line: `-e ${key} -r ${name} ${entry.method} -w ${server.weight}`, ...claim }];
  }
  return server.ownedAt === null ? [{ line: null, ...claim }] : [];
}

function goneSteps(server: DesiredRealServer, key: string, present: LvsVirtualServer | null): LvsStep[] {
  const inLvs = entryOf(server, present) !== null;
  const line = `-d ${key} -r ${realServerKey(server)}`;
  if (server.wanted) {
    // Wanted, but dead: it comes back when it answers.
    const claim = server.ownedAt === null ? { claimRealServer: server.replicaId } : {};
    return inLvs ? [{ line, ...claim }] : [];
  }
  return [{ line: inLvs && server.ownedAt !== null ? line : null, forgetRealServer: server.replicaId }];
}

function removalSteps(row: DesiredVirtualServer, key: string, present: LvsVirtualServer | null): LvsStep[] {
  const owned = new Set(row.realServers.filter((server) => server.ownedAt !== null).map(realServerKey));
  const others = present?.realServers.some((entry) => !owned.has(entry.key)) ?? false;
  // Somebody else's real servers are still served by it.
  const remove = present !== null && row.ownedAt !== null && !others;
  return [{ line: remove ? `-D ${key}` : null, forgetVirtualServer: true }];
}

function entryOf(server: DesiredRealServer, present: LvsVirtualServer | null): LvsRealServer | null {
  return present?.realServers.find((entry) => entry.key === realServerKey(server)) ?? null;
}

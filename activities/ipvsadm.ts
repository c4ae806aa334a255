/**
 * LVS on a director, by ipvsadm and ip: the table, steps in it, and the virtual addresses on the director's interface.
 *
 * A virtual address that we add bears our label, which the kernel keeps with it, so that exactly those are removed again.
 */
import ipaddr from 'ipaddr.js';
import { z } from 'zod';
import { CielFailure } from '../model/failures.ts';
import { quoteGuest } from './agent.ts';
import type { DirectorReach } from './director-reach.ts';
import { type LvsTable, parseActiveConnections, parseTable } from './lvs-table.ts';

/** The kernel wants "<device>:<label>", of at most 15 characters. */
const LABEL = 'ciel';
const MOST_LABEL_CHARACTERS = 15;

const interfacesSchema = z.array(
  z.object({
    ifname: z.string().max(MOST_LABEL_CHARACTERS),
    addr_info: z.array(
      z.object({ local: z.ipv4(), prefixlen: z.int().min(0).max(32), label: z.string().max(64).optional() }),
    ),
  }),
);
type Interfaces = z.output<typeof interfacesSchema>;
const routesSchema = z.array(z.object({ dev: z.string().max(MOST_LABEL_CHARACTERS) })).min(1);

export class Ipvsadm {
  readonly #reach: DirectorReach;

  constructor(reach: DirectorReach) {
    this.#reach = reach;
  }

  get where(): string {
    return this.#reach.where;
  }

  async table(): Promise<LvsTable> {
    return parseTable(await this.#ipvsadm(['-S', '-n']));
  }

  /** Applies the lines in order; those before a refused one have taken effect. */
  async apply(lines: readonly string[]): Promise<void> {
    if (lines.length > 0) await this.#ipvsadm(['-R'], `${lines.join('\n')}\n`);
  }

  /** ActiveConn of a real server; null when it is not in that virtual server. */
  async activeConnections(virtual: { address: string; port: number }, realServer: string): Promise<number | null> {
    const arguments_ = ['-L', '-n', '-t', `${virtual.address}:${virtual.port}`];
    const listed = await this.#reach.run('ipvsadm', arguments_);
    if (listed.exitCode !== 0 && /No such service/i.test(listed.stderr)) return null;
    this.#requireSuccess('ipvsadm', arguments_, listed);
    return parseActiveConnections(listed.stdout).get(realServer) ?? null;
  }

  /** @param near a real server's address: says which interface when no subnet contains the virtual address. */
  async addVirtualAddress(address: string, near: string | null): Promise<string | null> {
    const interfaces = await this.#interfaces();
    if (interfaces.some(({ addr_info }) => addr_info.some(({ local }) => local === address))) return null;
    const device = interfaceOf(interfaces, address) ?? (await this.#deviceTowards(near));
    if (device === null) {
      throw new CielFailure(
        'InvalidSpec',
        `wanted to put ${address} on an interface of the director, ${this.where}: none of its subnets contains it. Choose ` +
          'an address of its segment, or put the address there yourself.',
      );
    }
    const label = `${device}:${LABEL}`;
    const labelled = label.length <= MOST_LABEL_CHARACTERS ? ['label', label] : [];
    await this.#ip(['address', 'add', `${address}/32`, 'dev', device, ...labelled]);
    return device;
  }

  /** Only when we added it. */
  async removeVirtualAddress(address: string): Promise<boolean> {
    for (const { ifname, addr_info } of await this.#interfaces()) {
      const ours = addr_info.some(({ local, label }) => local === address && label === `${ifname}:${LABEL}`);
      if (!ours) continue;
      await this.#ip(['address', 'del', `${address}/32`, 'dev', ifname]);
      return true;
    }
    return false;
  }

  async #interfaces(): Promise<Interfaces> {
    const parsed = interfacesSchema.safeParse(jsonOrNull(await this.#ip(['-json', '-4', 'address', 'show'])));
    if (parsed.success) return parsed.data;
    throw new CielFailure(
      'DirectorUnreachable',
      `asked the director, ${this.where}, for its addresses by "ip -json": ${parsed.error.issues[0]?.message}. It needs iproute2.`,
    );
  }

  async #deviceTowards(address: string | null): Promise<string | null> {
    if (address === null) return null;
    const routes = routesSchema.safeParse(jsonOrNull(await this.#ip(['-json', '-4', 'route', 'get', address])));
    return routes.success ? (routes.data[0]?.dev ?? null) : null;
  }

  async #ip(args: readonly string[]): Promise<string> {
    const result = await this.#reach.run('ip', args);
    this.#requireSuccess('ip', args, result);
    return result.stdout;
  }

  async #ipvsadm(args: readonly string[], input?: string): Promise<string> {
    const result = await this.#reach.run('ipvsadm', args, input);
    this.#requireSuccess('ipvsadm', args, result, input);
    return result.stdout;
  }

  #requireSuccess(
    command: string,
    args: readonly string[],
    { exitCode, stdout, stderr }: { exitCode: number | null; stdout: string; stderr: string },
    input?: string,
  ): void {
    if (exitCode === 0) return;
    const lines = input === undefined ? '' : ` with ${quoteGuest(input)}`;
    const tried = `ran "${command} ${args.join(' ')}"${lines} on the director, ${this.where}: exit code ${exitCode}: ${quoteGuest(stderr || stdout)}.`;
    if (/Can't initialize ipvs|Protocol not available|No such file or directory/i.test(stderr)) {
      throw new CielFailure(
        'NoIpvs',
        `${tried} Its kernel has no LVS: "modprobe ip_vs" there, or take a kernel that has it.`,
      );
    }
    if (/not permitted|Permission denied|must be root/i.test(stderr)) {
      throw new CielFailure('NoIpvs', `${tried} The director role needs root, or CAP_NET_ADMIN, there.`);
    }
    throw new CielFailure('DirectorUnreachable', `${tried} It is tried again.`);
  }
}

function interfaceOf(interfaces: Interfaces, address: string): string | null {
  const wanted = ipaddr.IPv4.parse(address);
  const found = interfaces.find(({ addr_info }) =>
    addr_info.some(({ local, prefixlen }) => prefixlen < 32 && wanted.match(ipaddr.IPv4.parse(local), prefixlen)),
  );
  return found?.ifname ?? null;
}

function jsonOrNull(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

import { describe, expect, it } from 'vitest';
import { GuestAgent, quoteGuest } from '../../activities/agent.ts';
import { LibvirtError, LibvirtStuck } from '../../native/libvirt.ts';

type Answer = (execute: string) => unknown;
function agent(answer: Answer): GuestAgent {
  return new GuestAgent({
    agentCommand: async (_uuid, command) => answer((command as { execute: string }).execute),
  });
}
const run = (guest: GuestAgent, uuid = 'u', withinMs = 200) =>
  guest.run(uuid, { command: 'id', args: [], withinMs, signal: new AbortController().signal });
const base64 = (text: string) => Buffer.from(text).toString('base64');
const libvirtError = (code: number, message: string, connectionLost = false) =>
  new LibvirtError({ code, domain: 10, message, connectionLost });

describe('GuestAgent', () => {
  it('runs a command and polls until it has ended', async () => {
    let polls = 0;
    const result = await run(
      agent((execute) => {
        if (execute === 'guest-exec') return { return: { pid: 7 } };
        if (++polls < 3) return { return: { exited: false } };
        return { return: { exited: true, exitcode: 3, 'out-data': base64('out'), 'err-data': base64('err') } };
      }),
    );
    expect(result).toEqual({ exitCode: 3, stdout: 'out', stderr: 'err' });
    expect(polls).toBe(3);
  });

  it('asks one thing at a time of a guest, but not of all guests', async () => {
    const open = new Map<string, number>();
    let most = 0;
    let mostOfOne = 0;
    const guest = new GuestAgent({
      agentCommand: async (uuid, command) => {
        open.set(uuid, (open.get(uuid) ?? 0) + 1);
        mostOfOne = Math.max(mostOfOne, open.get(uuid) ?? 0);
        most = Math.max(
          most,
          [...open.values()].reduce((sum, count) => sum + count),
        );
        await new Promise((wake) => setTimeout(wake, 5));
        open.set(uuid, (open.get(uuid) ?? 0) - 1);
        return (command as { execute: string }).execute === 'guest-exec'
          ? { return: { pid: 1 } }
          : { return: { exited: true, exitcode: 0 } };
      },
    });
    await Promise.all(['a', 'a', 'a', 'b', 'b'].map((uuid) => run(guest, uuid)));
    expect(mostOfOne).toBe(1);
    expect(most).toBe(2);
  });

  it('a failed command does not hold up the next', async () => {
    let first = true;
    const guest = agent((execute) => {
      if (first) {
        first = false;
        throw libvirtError(86, 'Guest agent is not responding');
      }
      return execute === 'guest-exec' ? { return: { pid: 1 } } : { return: { exited: true, exitcode: 0 } };
    });
    await expect(run(guest)).rejects.toMatchObject({ failure: 'AgentUnreachable' });
    expect((await run(guest)).exitCode).toBe(0);
  });

  it.each<[string, unknown]>([
    ['null', null],
    ['a list', []],
    ['no pid', { return: {} }],
    ['a pid that is no number', { return: { pid: '7' } }],
    ['a negative pid', { return: { pid: -1 } }],
    ['a fraction', { return: { pid: 1.5 } }],
    ['an error object', { error: { class: 'GenericError', desc: 'no' } }],
    ['deep nesting', JSON.parse(`${'['.repeat(5_000)}${']'.repeat(5_000)}`)],
  ])('guest-exec answered by %s: unreachable, not believed', async (_what, answer) => {
    await expect(run(agent(() => answer))).rejects.toMatchObject({ failure: 'AgentUnreachable' });
  });

  it.each<[string, object]>([
    ['no state', {}],
    ['a state that is no boolean', { exited: 1 }],
    ['too much output', { exited: true, exitcode: 0, 'out-data': 'A'.repeat(2 ** 20) }],
    ['output that is no text', { exited: true, exitcode: 0, 'out-data': {} }],
    ['an exit code that is no number', { exited: true, exitcode: 'zero' }],
  ])('guest-exec-status answered by %s: unreachable', async (_what, status) => {
    const guest = agent((execute) => ({ return: execute === 'guest-exec' ? { pid: 1 } : status }));
    await expect(run(guest)).rejects.toMatchObject({ failure: 'AgentUnreachable' });
  });

  it('a command that never ends', async () => {
    const guest = agent((execute) => ({ return: execute === 'guest-exec' ? { pid: 1 } : { exited: false } }));
    await expect(run(guest)).rejects.toMatchObject({
      failure: 'GuestNotReady',
      message: expect.stringContaining('within 200 ms'),
    });
  });

  it('is cancelled between two polls', async () => {
    const abort = new AbortController();
    const guest = agent((execute) => ({ return: execute === 'guest-exec' ? { pid: 1 } : { exited: false } }));
    const running = guest.run('u', { command: 'id', args: [], withinMs: 60_000, signal: abort.signal });
    abort.abort();
    await expect(running).rejects.toMatchObject({ name: 'AbortError' });
  });

  it.each<[Error, string]>([
    [libvirtError(86, 'Guest agent is not responding: QEMU guest agent is not connected'), 'AgentUnreachable'],
    [libvirtError(55, 'Requested operation is not valid: domain is not running'), 'AgentUnreachable'],
    [libvirtError(42, 'Domain not found'), 'AgentUnreachable'],
    [libvirtError(38, 'Connection reset by peer', true), 'HypervisorUnreachable'],
    [new LibvirtStuck('agentCommand did not come back'), 'HypervisorUnreachable'],
    [libvirtError(1, 'Failed to execute child process "docker" (No such file or directory)'), 'TemplateBroken'],
    [libvirtError(1, 'The command guest-exec has been disabled for this instance'), 'TemplateBroken'],
  ])('%s is %s', async (error, failure) => {
    const guest = agent(() => {
      throw error;
    });
    await expect(run(guest)).rejects.toMatchObject({ failure });
  });
});

describe('quoteGuest', () => {
  it('gives one short printable line', () => {
    expect(quoteGuest('  a\r\nb\u001b[31m\u0007 é\n')).toBe('a / b?[31m? ?');
    expect(quoteGuest('x'.repeat(10_000)).length).toBeLessThanOrEqual(401);
  });
});

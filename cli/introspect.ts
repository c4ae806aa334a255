/**
 * `ciel introspect`: one look into a VM from outside, with nothing of Ciel running. The VM is found by libvirt, or by its
 * QEMU process alone; figures come from two looks into its memory, names from its virtual disk. Or into a dump of one.
 */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Command, InvalidArgumentError } from 'commander';
import { NamesOfContainers } from '../guest-disk/matching-names.ts';
import { mapReading, type Reading, type UnavailableReason, unavailable } from '../model/reading.ts';
import type { VmIntrospection } from '../model/usage.ts';
import { readDump } from '../native/dump.ts';
import { Introspection } from '../native/introspection.ts';
import { cacheDirectory } from '../template/cache.ts';
import { type CommandContext, type GlobalOptions, globalOptions } from './context.ts';
import { dumpLook, renderDumpLook } from './dump-look.ts';
import { CommandError, EXIT } from './errors.ts';
import { printable, printableSentence, safeJson } from './escape.ts';
import type { NamesOnDisk } from './names-on-disk.ts';
import { durationOption } from './options.ts';
import { remedyFor } from './remedies.ts';
import { renderLook, type VmLook, vmLook } from './vm-look.ts';
import { type FoundVm, findVm, namesInImage } from './vm-search.ts';

interface IntrospectOptions {
  readonly hostUri?: string;
  readonly pid?: number;
  readonly dump?: string;
  readonly disk?: string;
  readonly btf?: string;
  readonly interval: number;
  readonly watch?: true;
  readonly services?: true;
  readonly wide?: true;
}

/** The first look attaches: searches the guest's RAM for its kernel. */
const FIRST_LOOK_MS = 15_000;
const LOOK_MS = 5_000;
/** A guest whose clock stood still between two looks is looked at again after this: it idles, or its kernel is dead. */
const STANDSTILL_MS = 1_700;
/** A container that has just been started is on the disk within seconds. */
const NAMES_EVERY_MS = 3_000;

export function introspectCommand(context: CommandContext): Command {
  return new Command('introspect')
    .description('containers of a VM as read from outside: CPU, memory, disk, network; needs no other part of Ciel')
    .argument('[vm]', 'name or UUID (not with --pid or --dump)')
    .option('--host-uri <uri>', "libvirt's URI (default: LIBVIRT_DEFAULT_URI, else qemu:///system)")
    .option('--pid <pid>', "a QEMU process instead of a libvirt VM's name", parsePid)
    .option('--dump <file>', 'a dump instead of a VM: ELF core, kdump, libvirt save image or QEMU stream')
    .option('--disk <file>', "the VM's raw disk image, for names when libvirt cannot be asked")
    .option(
      '--btf <directory>',
      "types of kernels that carry none: DIR/RELEASE.btf, or BTFHub's layout (default: CIEL_BTF)",
    )
    .addOption(durationOption('--interval <duration>', 'between two looks; rates are means over it', '1s'))
    .option('--wide', 'with a paragraph for each container: labels, limits, CPUs, devices, interfaces, pressure')
    .option('--services', "also the guest's systemd services, which Ciel never decides on")
    .option('--watch', 'look again and again until interrupted')
    .addHelpText(
      'after',
      '\nWithout libvirt, a VM is looked for among the QEMU processes. Needs CAP_SYS_PTRACE, or root.\n' +
        'With --watch --json: one line of JSON a look.\n\nExamples:\n  ciel introspect shop-1\n' +
        '  virsh dump --memory-only shop-1 shop-1.dump && ciel introspect --dump shop-1.dump\n' +
        "  ciel introspect --pid 4711 --json | jq -r '.containers[] | [.id, .cpuCores.value] | @tsv'",
    )
    .action(async (vm: string | undefined, options: IntrospectOptions, command: Command) => {
      if ([vm, options.pid, options.dump].filter((named) => named !== undefined).length !== 1) {
        command.error('error: name a VM, or a process by --pid, or a file by --dump', { exitCode: EXIT.usage });
      }
      if (options.dump !== undefined) {
        if (options.watch) command.error('error: a dump does not change: no --watch', { exitCode: EXIT.usage });
        if (options.wide || options.services)
          command.error('error: a dump is shown without --wide and --services: --json has every figure', {
            exitCode: EXIT.usage,
          });
        await introspectDump(context, globalOptions(command), options.dump, options);
        return;
      }
      await introspect(context, globalOptions(command), vm ?? null, options);
    });
}

function parsePid(text: string): number {
  if (/^[1-9]\d{0,9}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('A process id is expected.');
}

async function introspect(
  context: CommandContext,
  globals: GlobalOptions,
  name: string | null,
  options: IntrospectOptions,
): Promise<void> {
  const { hostUri, pid, disk } = options;
  const vm = await findVm({
    name,
    pid: pid ?? null,
    hostUri: hostUri ?? context.env.LIBVIRT_DEFAULT_URI ?? null,
    disk: disk ?? null,
  });
  const introspection = new Introspection({
    cacheDirectory: join(cacheDirectory(), 'introspect'),
    btfDirectory: btfDirectory(context, options),
  });
  try {
    introspection.watch({ uuid: vm.uuid, pid: vm.pid, withServices: options.services === true, withDetails: true });
    const look = async (deadlineMs: number): Promise<Reading<VmIntrospection>> =>
      (await introspection.sample([vm.uuid], deadlineMs)).get(vm.uuid) ??
      unavailable('ReaderDown', 'the reader gave no answer');
    const names = new Names(vm);
    let before = readable(await look(FIRST_LOOK_MS), vm);
    do {
      const [used, , found] = await Promise.all([
        vm.cpuNanoseconds(),
        sleep(options.interval, undefined, { signal: context.signal }).catch(() => undefined),
        names.of(before),
      ]);
      let after = readable(await look(LOOK_MS), vm);
      if (after.guestBoot === before.guestBoot && after.jiffies === before.jiffies) {
        await sleep(STANDSTILL_MS, undefined, { signal: context.signal }).catch(() => undefined);
        after = readable(await look(LOOK_MS), vm);
      }
      show(vmLook(vm, before, after, [used, await vm.cpuNanoseconds()], found), context, globals, options);
      before = after;
    } while (options.watch === true && !context.signal.aborted);
  } finally {
    await Promise.all([introspection.close(), vm.close()]);
  }
}

const btfDirectory = ({ env }: CommandContext, { btf }: IntrospectOptions): string | null =>
  btf ?? env.CIEL_BTF ?? null;

async function introspectDump(
  context: CommandContext,
  { json }: GlobalOptions,
  file: string,
  options: IntrospectOptions,
): Promise<void> {
  const { terminal, signal } = context;
  const disk = options.disk ?? null;
  const tried = `read the dump "${printable(file)}"`;
  const status = await stat(file).catch((error: NodeJS.ErrnoException) => {
    const remedy = 'check the path, and the right to read it';
    const exitCode = error.code === 'ENOENT' ? EXIT.notFound : EXIT.failed;
    throw new CommandError({ exitCode, reason: 'NoDump', tried, found: error.message, remedy }, { cause: error });
  });
  const [reading, names] = await Promise.all([
    readDump(file, { signal, btfDirectory: btfDirectory(context, options) }),
    disk === null ? unavailable('NotFound', 'names are on the disk of the VM: give it by --disk') : namesInImage(disk),
  ]);
  if (!reading.available) {
    throw new CommandError({
      exitCode: EXIT.failed,
      reason: reading.reason,
      tried,
      found: `${reading.reason}: ${printableSentence(reading.message)}`,
      remedy: DUMP_REMEDIES[reading.reason] ?? null,
    });
  }
  const { format, introspection } = reading.value;
  const look = dumpLook(
    { file, format, writtenAt: status.mtime.toISOString() },
    introspection,
    mapReading(names, ({ containers }) => containers),
  );
  terminal.print(json ? safeJson(look, 2) : renderDumpLook(look, terminal));
}

/** Names, looked up when there is a container without one, and not too often. */
class Names {
  readonly #vm: FoundVm;
  #found: Reading<NamesOnDisk> | null = null;
  #atMs = 0;
  constructor(vm: FoundVm) {
    this.#vm = vm;
  }
  async of({ containers }: VmIntrospection): Promise<Reading<NamesOnDisk>> {
    const found = this.#found;
    const names = new NamesOfContainers(containers, found?.available === true ? found.value.containers : []);
    const complete = containers.every((container) => container.runtime === 'systemd' || names.of(container) !== null);
    if (found !== null && (complete || Date.now() - this.#atMs < NAMES_EVERY_MS)) return found;
    this.#found = await this.#vm.names();
    this.#atMs = Date.now();
    return this.#found;
  }
}

const DUMP_REMEDIES: Partial<Record<UnavailableReason, string>> = {
  NoVmcoreinfo: 'take the dump of a Linux guest that has booted, with all of its memory',
  NoTypes: 'dump a guest whose kernel has CONFIG_DEBUG_INFO_BTF (every current distribution kernel)',
  Unsupported: 'dump again: virsh dump --memory-only VM FILE',
  Faulted: 'dump again: what is needed is not in the file',
  Torn: 'look again once the file has been written',
};

/** Without a look there is nothing to show: the reason is the result. */
function readable(reading: Reading<VmIntrospection>, vm: FoundVm): VmIntrospection {
  if (reading.available) return reading.value;
  throw new CommandError({
    exitCode: EXIT.failed,
    reason: reading.reason,
    tried: `looked into VM "${printable(vm.name)}" (${vm.uuid}, QEMU process ${vm.pid})`,
    found: `${reading.reason}: ${printableSentence(reading.message)}`,
    remedy: remedyFor(reading.reason, vm),
  });
}

const CLEAR_AND_HOME = '\u001b[H\u001b[2J';

function show(
  look: VmLook,
  { terminal }: CommandContext,
  { json }: GlobalOptions,
  { watch, wide }: IntrospectOptions,
): void {
  const again = watch === true;
  if (json) {
    terminal.print(safeJson(look, again ? undefined : 2));
    return;
  }
  if (again && terminal.interactive) terminal.write(CLEAR_AND_HOME);
  terminal.print(renderLook(look, terminal, wide === true));
}

/**
 * A container registry on the segment: Docker's own distribution (Debian's docker-registry) over a directory that the
 * image build filled. Read-only: two labs may serve the same directory.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { stringify } from 'yaml';
import { inSegment, type Segment } from './segment.ts';

export const REGISTRY_PORT = 5000;

export interface Registry {
  /** host:port as guests on the segment write it in image references. */
  readonly endpoint: string;
  readonly process: ChildProcess;
}

/** @param directory the registry's storage; @param state where configuration and log go. */
export async function startRegistry(segment: Segment, directory: string, state: string): Promise<Registry> {
  const endpoint = `${segment.address}:${REGISTRY_PORT}`;
  const configuration = join(state, 'registry.yml');
  await writeFile(
    configuration,
    stringify({
      version: '0.1',
      log: { level: 'warn' },
      storage: {
        filesystem: { rootdirectory: directory },
        maintenance: { readonly: { enabled: true } },
        cache: { blobdescriptor: 'inmemory' },
      },
      // Of no use to one read-only registry, but without it a warning is printed.
      http: { addr: endpoint, secret: 'lab' },
    }),
  );
  const [file, args] = inSegment(segment, 'docker-registry', ['serve', configuration]);
  const log = await open(join(state, 'registry.log'), 'w');
  // Detached: a lab that is kept outlives the demo. It ends with its namespace.
  const child = spawn(file, args, { stdio: ['ignore', log.fd, log.fd], detached: true });
  child.unref();
  await log.close();
  const deadline = Date.now() + 10_000;
  for (;;) {
    if (child.exitCode !== null) throw new Error(`docker-registry on ${endpoint} exited with ${child.exitCode}`);
    const answer = await execa(...inSegment(segment, 'curl', ['-fsS', '-o', '/dev/null', `http://${endpoint}/v2/`]), {
      reject: false,
    });
    if (answer.exitCode === 0) return { endpoint, process: child };
    if (Date.now() > deadline)
      throw new Error(`docker-registry on ${endpoint} did not answer within 10 s: ${answer.stderr}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/**
 * docker-compose.yml and Dockerfile, as far as they can be checked without a container engine: against what this repository
 * has, and by `docker compose config` where that client is installed.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { z } from 'zod';
import { parseWorkerOptions } from '../worker/options.ts';

const root = join(import.meta.dirname, '..');
const text = readFileSync(join(root, 'docker-compose.yml'), 'utf8');
const hasCompose = (await execa('docker', ['compose', 'version'], { reject: false })).exitCode === 0;

/** What we use of the Compose Specification; anything else is a mistake or wants to be added here. */
const composeSchema = z.strictObject({
  name: z.string(),
  'x-temporal-database': z.record(z.string(), z.string()),
  services: z.record(
    z.string(),
    z
      .strictObject({
        image: z
          .string()
          .regex(/^[a-z]+(\/[a-z-]+)?:[0-9][\w.-]*$/, 'a pinned version')
          .optional(),
        build: z.literal('.').optional(),
        restart: z.enum(['unless-stopped', 'on-failure:5']),
        depends_on: z
          .record(
            z.string(),
            z.strictObject({ condition: z.enum(['service_healthy', 'service_completed_successfully']) }),
          )
          .optional(),
        environment: z.record(z.string(), z.string()),
        entrypoint: z.array(z.string()).optional(),
        command: z.array(z.string()).optional(),
        user: z.string().optional(),
        volumes: z.array(z.string().regex(/^[a-z-]+:\/\S+$/)).optional(),
        configs: z.array(z.strictObject({ source: z.string(), target: z.string().startsWith('/') })).optional(),
        ports: z
          .array(z.string().regex(/^\$\{CIEL_LISTEN:-127\.0\.0\.1\}:\d+:\d+$/, 'on loopback by default'))
          .optional(),
        healthcheck: z
          .strictObject({ test: z.array(z.string()), interval: z.string(), timeout: z.string(), retries: z.int() })
          .optional(),
        stop_grace_period: z.string().optional(),
        deploy: z.strictObject({ replicas: z.string() }).optional(),
      })
      .refine(({ image, build }) => (image === undefined) !== (build === undefined), 'either image or build'),
  ),
  configs: z.record(z.string(), z.strictObject({ content: z.string() })),
  volumes: z.record(z.string(), z.null()),
});
const compose = composeSchema.parse(parse(text, { merge: true }));
const services = Object.entries(compose.services);

describe('docker-compose.yml', () => {
  it('depends only on services that can reach the awaited condition', () => {
    for (const [name, { depends_on: dependencies = {} }] of services) {
      for (const [other, { condition }] of Object.entries(dependencies)) {
        const target = compose.services[other];
        expect(target, `${name} depends on ${other}`).toBeDefined();
        if (condition === 'service_healthy') expect(target?.healthcheck, `${other} has a health check`).toBeDefined();
        else expect(target?.restart, `${other} ends`).toBe('on-failure:5');
      }
    }
  });

  it('declares the volumes and configs that are used, and no others', () => {
    const volumes = services.flatMap(([, { volumes: used = [] }]) => used.map((volume) => volume.split(':')[0]));
    expect(new Set(volumes)).toEqual(new Set(Object.keys(compose.volumes)));
    const configs = services.flatMap(([, { configs: used = [] }]) => used.map(({ source }) => source));
    expect(configs).toEqual(Object.keys(compose.configs));
  });

  it('takes no password from the file', () => {
    for (const line of text
      .split('\n')
      .filter((each) => /PASSWORD|_PWD|postgresql:\/\//.test(each) && !each.includes('#'))) {
      expect(line).toContain('${POSTGRES_PASSWORD:?');
    }
  });

  it('gives the control role a command line and an environment that it takes', () => {
    const control = compose.services.control;
    const { roles, databaseUrl } = parseWorkerOptions(control?.command ?? [], control?.environment ?? {});
    expect(roles).toEqual([{ kind: 'control' }]);
    expect(databaseUrl).toMatch(/^postgresql:\/\/ciel:.*@postgres:5432\/ciel$/);
    expect(control?.environment.TEMPORAL_ADDRESS).toBe('temporal:7233');
  });

  it('runs shell scripts that a shell understands', async () => {
    const scripts = services.filter(([, { entrypoint }]) => entrypoint?.[0] === '/bin/sh');
    expect(scripts.length).toBeGreaterThan(0);
    for (const [, { command = [] }] of scripts) {
      const script = (command[0] ?? '').replaceAll('$$', '$');
      expect((await execa('sh', ['-n'], { input: script, reject: false })).stderr).toBe('');
    }
  });

  it.runIf(hasCompose)('is valid for docker compose (where that client is installed)', async () => {
    const { stderr, exitCode } = await execa('docker', ['compose', 'config', '--quiet'], {
      cwd: root,
      env: { POSTGRES_PASSWORD: 'x' },
      reject: false,
    });
    expect([exitCode, stderr]).toEqual([0, '']);
  });
});

describe('Dockerfile', () => {
  const instructions = readFileSync(join(root, 'Dockerfile'), 'utf8')
    .split('\n')
    .filter((line) => /^[A-Z]+ /.test(line));

  it('copies files that are there, and runs scripts that package.json has', () => {
    const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { scripts: object };
    for (const line of instructions) {
      const [instruction, ...words] = line.split(/\s+/);
      if (instruction === 'COPY' && !words[0]?.startsWith('--from')) {
        for (const source of words.slice(0, -1)) expect(existsSync(join(root, source)), source).toBe(true);
      }
      for (const [, script = ''] of line.matchAll(/npm run (\S+)/g)) expect(Object.keys(scripts)).toContain(script);
    }
  });

  it('starts the worker that the build makes, as an unprivileged user', () => {
    expect(instructions).toContain('USER node');
    expect(instructions.at(-2)).toContain('"dist/worker.js"');
    expect(existsSync(join(root, 'worker.ts'))).toBe(true);
  });
});

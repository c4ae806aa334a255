/**
 * ciel.yaml as applied: hosts, directors, networks and templates by `ciel apply`, each with a generation that counts its
 * changes; a service by its workflow, once the workflow has accepted it. What is missing from a file is not deleted.
 */
import { sql } from 'kysely';
import { CielFailure } from '../model/failures.ts';
import type { DirectorSpec, HostSpec, NetworkSpec, ServiceSpec, Spec, TemplateSpec } from '../model/spec.ts';
import { jsonbOf, type Store } from './database.ts';

export const SECTIONS = ['host', 'director', 'network', 'template'] as const;
export type Section = (typeof SECTIONS)[number];
interface SpecOf {
  host: HostSpec;
  director: DirectorSpec;
  network: NetworkSpec;
  template: TemplateSpec;
  service: ServiceSpec;
}
export interface Applied<S> {
  readonly name: string;
  readonly spec: S;
  readonly generation: number;
  readonly appliedAt: Date;
}
export interface Configuration {
  readonly hosts: readonly Applied<HostSpec>[];
  readonly directors: readonly Applied<DirectorSpec>[];
  readonly networks: readonly Applied<NetworkSpec>[];
  readonly templates: readonly Applied<TemplateSpec>[];
  readonly services: readonly Applied<ServiceSpec>[];
}

/** @returns whether it is new or differs from what was there. */
async function save<K extends keyof SpecOf>(store: Store, section: K, spec: SpecOf[K]): Promise<boolean> {
  const { rows } = await sql`
    insert into ${sql.table(section)} as applied (name, spec, generation) values (${spec.name}, ${jsonbOf(spec)}, 1)
    on conflict (name) do update
      set spec = excluded.spec, generation = applied.generation + 1, applied_at = now()
      where applied.spec <> excluded.spec
    returning name`.execute(store);
  return rows.length > 0;
}

/** All sections but the services, in one transaction. @returns what changed, as "host kvm-1". */
export async function saveConfiguration(store: Store, spec: Omit<Spec, 'services'>): Promise<readonly string[]> {
  return store.transaction().execute(async (transaction) => {
    const changed: string[] = [];
    const saveAll = async <K extends Section>(section: K, entries: readonly SpecOf[K][]) => {
      for (const entry of entries) {
        if (await save(transaction, section, entry)) changed.push(`${section} ${entry.name}`);
      }
    };
    await saveAll('host', spec.hosts);
    await saveAll('director', spec.directors);
    await saveAll('network', spec.networks);
    await saveAll('template', spec.templates);
    return changed;
  });
}

export async function saveService(store: Store, spec: ServiceSpec): Promise<boolean> {
  return save(store, 'service', spec);
}
export async function deleteService(store: Store, service: string): Promise<void> {
  await store.deleteFrom('service').where('name', '=', service).execute();
}

async function list<K extends keyof SpecOf>(store: Store, section: K): Promise<readonly Applied<SpecOf[K]>[]> {
  const { rows } = await sql<Applied<SpecOf[K]>>`
    select name, spec, generation, applied_at from ${sql.table(section)} order by name`.execute(store);
  return rows;
}
export async function readConfiguration(store: Store): Promise<Configuration> {
  const [hosts, directors, networks, templates, services] = await Promise.all([
    list(store, 'host'),
    list(store, 'director'),
    list(store, 'network'),
    list(store, 'template'),
    list(store, 'service'),
  ]);
  return { hosts, directors, networks, templates, services };
}

async function read<K extends keyof SpecOf>(store: Store, section: K, name: string): Promise<SpecOf[K]> {
  const entries = await list(store, section);
  const found = entries.find((entry) => entry.name === name);
  if (found !== undefined) return found.spec;
  const names = entries.map((entry) => entry.name).join(', ') || 'none';
  throw new CielFailure(
    section === 'service' ? 'UnknownService' : section === 'template' ? 'TemplateMissing' : 'InvalidSpec',
    `looked for ${section} "${name}" in the applied configuration and found: ${names}. Apply a ciel.yaml that has it.`,
  );
}
export const readHost = (store: Store, name: string) => read(store, 'host', name);
export const readDirector = (store: Store, name: string) => read(store, 'director', name);
export const readNetwork = (store: Store, name: string) => read(store, 'network', name);
export const readTemplate = (store: Store, name: string) => read(store, 'template', name);
export const readService = (store: Store, name: string) => read(store, 'service', name);

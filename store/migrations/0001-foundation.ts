/** The tables as the first release has them. database.ts says what each is for. */
import { type Kysely, sql } from 'kysely';

const CONFIGURATION = ['host', 'director', 'network', 'template', 'service'] as const;

export async function up(db: Kysely<never>): Promise<void> {
  await sql`
    create table installation (
      id uuid primary key default gen_random_uuid(),
      created_at timestamptz not null default now(),
      only_one boolean not null default true unique check (only_one)
    )`.execute(db);
  await sql`insert into installation default values`.execute(db);

  for (const section of CONFIGURATION) {
    await sql`
      create table ${sql.table(section)} (
        name text primary key,
        spec jsonb not null,
        generation integer not null,
        applied_at timestamptz not null default now()
      )`.execute(db);
  }

  await sql`
    create table host_process (
      host text primary key,
      machine_id text not null,
      process_id uuid not null,
      started_at timestamptz not null,
      seen_at timestamptz not null
    )`.execute(db);

  await sql`
    create table watch (
      vm_uuid uuid primary key,
      vm_name text not null,
      host text not null,
      quiet_until timestamptz,
      created_at timestamptz not null default now()
    )`.execute(db);
  await sql`create index watch_host on watch (host)`.execute(db);

  // Rows of vm and container are rewritten every few seconds: with room on the page, without touching an index.
  await sql`
    create table vm (
      vm_uuid uuid primary key,
      vm_name text not null,
      host text not null,
      state text not null,
      vcpus integer not null,
      memory_bytes bigint not null,
      cpu_cores double precision,
      unreadable text,
      guest_boot text,
      kernel_release text,
      at timestamptz not null
    ) with (fillfactor = 50)`.execute(db);
  await sql`create index vm_host on vm (host)`.execute(db);
  await sql`create index vm_vm_name on vm (vm_name)`.execute(db);

  await sql`
    create table container (
      vm_uuid uuid not null,
      container_id text not null,
      runtime text not null,
      cgroup_path text not null,
      name text,
      image text,
      labels jsonb not null,
      addresses jsonb not null,
      service text,
      replica_id uuid,
      cpu_cores double precision,
      memory_bytes bigint,
      io_bytes_per_second double precision,
      cpu_limit_cores double precision,
      memory_limit_bytes bigint,
      unavailable text,
      at timestamptz not null,
      primary key (vm_uuid, container_id)
    ) with (fillfactor = 50)`.execute(db);
  await sql`create index container_replica_id on container (replica_id)`.execute(db);

  await sql`
    create table rollup (
      vm_uuid uuid not null,
      container_id text not null,
      starts_at timestamptz not null,
      samples integer not null,
      cpu_cores double precision,
      cpu_cores_max double precision,
      memory_bytes bigint,
      io_bytes_per_second double precision,
      unavailable text,
      primary key (vm_uuid, container_id, starts_at)
    )`.execute(db);
  await sql`create index rollup_starts_at on rollup using brin (starts_at)`.execute(db);

  await sql`
    create table decision (
      decision_id bigint generated always as identity primary key,
      workflow_id text not null,
      run_id text not null,
      number integer not null,
      kind text not null,
      subject text not null,
      input jsonb not null,
      outcome jsonb not null,
      act boolean not null,
      policy_version text not null,
      at timestamptz not null default now(),
      unique (workflow_id, run_id, number)
    )`.execute(db);
  await sql`create index decision_subject on decision (subject, decision_id desc)`.execute(db);

  await sql`
    create table operation (
      run_id text primary key,
      operation_id text not null,
      service text not null,
      kind text not null,
      summary text not null,
      state text not null default 'open' check (state in ('open', 'completed', 'undone', 'failed')),
      message text not null default '',
      opened_at timestamptz not null default now(),
      closed_at timestamptz,
      check ((state = 'open') = (closed_at is null))
    )`.execute(db);
  await sql`create index operation_service on operation (service, opened_at desc)`.execute(db);
  await sql`create index operation_operation_id on operation (operation_id)`.execute(db);

  await sql`
    create table operation_step (
      run_id text not null references operation on delete cascade,
      step text not null,
      state text not null check (state in ('started', 'done', 'undone', 'failed')),
      message text not null,
      started_at timestamptz not null default now(),
      ended_at timestamptz,
      primary key (run_id, step)
    )`.execute(db);

  await sql`
    create table reservation (
      replica_id uuid primary key,
      service text not null,
      operation_id text not null,
      run_id text not null,
      host text not null references host,
      vm_name text not null unique,
      vm_uuid uuid not null unique,
      mac text not null unique,
      disk_file_name text not null unique,
      replica_address text not null,
      vm_address text not null,
      subnet text not null,
      gateway text,
      vcpus integer not null check (vcpus > 0),
      memory_bytes bigint not null check (memory_bytes > 0),
      size_reasons jsonb not null,
      template text not null,
      reserved_at timestamptz not null default now()
    )`.execute(db);
  await sql`create index reservation_host on reservation (host)`.execute(db);
  await sql`
    create table released_replica (
      replica_id uuid primary key,
      released_at timestamptz not null default now()
    )`.execute(db);

  await sql`
    create table address (
      address text primary key,
      network text not null,
      replica_id uuid references reservation,
      rests_until timestamptz,
      note text not null,
      check ((replica_id is null) <> (rests_until is null))
    )`.execute(db);
  await sql`create index address_replica_id on address (replica_id)`.execute(db);

  await sql`
    create table replica (
      replica_id uuid primary key,
      service text not null,
      kind text not null check (kind in ('adopted', 'made')),
      state text not null,
      vm_name text not null,
      vm_uuid uuid,
      host text,
      address text not null,
      vcpus integer,
      memory_bytes bigint,
      serving_since timestamptz
    )`.execute(db);
  await sql`create index replica_service on replica (service)`.execute(db);

  await sql`
    create table virtual_server (
      service text primary key,
      director text not null,
      protocol text not null,
      address text not null,
      port integer not null,
      scheduler text not null,
      adopt boolean not null,
      health jsonb not null,
      wanted boolean not null default true,
      owned_at timestamptz,
      unique (director, protocol, address, port)
    )`.execute(db);
  await sql`
    create table real_server (
      service text not null references virtual_server on delete cascade,
      replica_id uuid not null,
      address text not null,
      port integer not null,
      weight integer not null check (weight >= 0),
      wanted boolean not null default true,
      owned_at timestamptz,
      healthy boolean,
      health_message text not null default '',
      primary key (service, replica_id)
    )`.execute(db);
}

// SPDX-License-Identifier: Apache-2.0
//
// Pressure stall information of a cgroup and all below it: what cpu.pressure, memory.pressure and io.pressure would give as
// `total` if they were read now.
//
// Each CPU adds up how long it was in each state. Every two seconds while there is activity, and whenever somebody reads
// one of the files, the kernel takes over what is new: the mean over the CPUs, weighted by the time that each was busy,
//
//   total += Σ over CPUs ( new time in the state × ticks busy ) / Σ over CPUs ( ticks busy )
//
// The part of it that has not been taken over is computed here in the same way. A state that lasts still counts up to the
// guest's present, which only its CPUs know: the clock of the runqueue that was updated last, a tick behind at most while
// any CPU is busy. So a cgroup that does nothing is exact, and one that waits is behind by up to a tick.
//
// avg10, avg60 and avg300 are left out: they are as old as the last two-second round, and make no sense without its time.
// Whoever wants a share takes the difference of two totals.
#include "css.h"

enum { CPU_SOME, CPU_FULL, MEMORY_SOME, MEMORY_FULL, IO_SOME, IO_FULL, STATES, BUSY = STATES, ALL_STATES };

struct pressure {
	u64 clock;         /* the guest's present */
	u64 tick;          /* nanoseconds */
	u64 number[ALL_STATES]; /* the kernel's, for each; ~0: it does not know it */
	u64 first_total, first_time; /* where the row begins that the files show */
	u64 total[STATES];
	u64 part[STATES]; /* time × ticks */
};

static int number_states(struct pressure *pressure)
{
	pressure->number[CPU_SOME] = guest_enum(psi_states, PSI_CPU_SOME);
	pressure->number[CPU_FULL] = ~0ull;
	if (enum_exists(psi_states, PSI_CPU_FULL))
		pressure->number[CPU_FULL] = guest_enum(psi_states, PSI_CPU_FULL);
	pressure->number[MEMORY_SOME] = guest_enum(psi_states, PSI_MEM_SOME);
	pressure->number[MEMORY_FULL] = guest_enum(psi_states, PSI_MEM_FULL);
	pressure->number[IO_SOME] = guest_enum(psi_states, PSI_IO_SOME);
	pressure->number[IO_FULL] = guest_enum(psi_states, PSI_IO_FULL);
	pressure->number[BUSY] = guest_enum(psi_states, PSI_NONIDLE);
	if (!type_exists(enum psi_aggregators))
		return 0;
	pressure->first_time = guest_enum(psi_aggregators, PSI_AVGS) * guest_enum(psi_states, NR_PSI_STATES);
	pressure->first_total = guest_enum(psi_aggregators, PSI_AVGS) * (guest_enum(psi_states, NR_PSI_STATES) - 1);
	return 0;
}

/* The latest of the runqueues' clocks. They are those that states are timed by. */
static int read_clock(const struct view_kernel *kernel, u64 *clock)
{
	struct rq GUEST *runqueues = guest_symbol(struct rq, runqueues);

	*clock = 0;
	for (u64 i = 0; i < kernel->cpu_count; i++) {
		u64 here = per_cpu_ptr(runqueues, host_at(kernel->offset, i))->clock;

		if (here > *clock)
			*clock = here;
	}
	return 0;
}

static int read_tick(u64 *nanoseconds)
{
	*nanoseconds = *guest_symbol(u64, tick_nsec);
	return 0;
}

/* The states that a CPU is in, by the kernel's numbers. Up to 5.1 how many tasks wait and run says it. */
static u32 states_of(struct psi_group_cpu GUEST *here, const struct pressure *pressure)
{
	u32 waiting, stalled, running;

	if (field_exists(struct psi_group_cpu, state_mask))
		return here->state_mask;
	waiting = here->tasks[guest_enum(psi_task_count, NR_IOWAIT)];
	stalled = here->tasks[guest_enum(psi_task_count, NR_MEMSTALL)];
	running = here->tasks[guest_enum(psi_task_count, NR_RUNNING)];
	return (u32)(waiting != 0) << (31 & pressure->number[IO_SOME]) |
	       (u32)(waiting && !running) << (31 & pressure->number[IO_FULL]) |
	       (u32)(stalled != 0) << (31 & pressure->number[MEMORY_SOME]) |
	       (u32)(stalled && !running) << (31 & pressure->number[MEMORY_FULL]) |
	       (u32)(running > 1) << (31 & pressure->number[CPU_SOME]) |
	       (u32)(waiting || stalled || running) << (31 & pressure->number[BUSY]);
}

/* 1 when this CPU changed its state meanwhile. */
static int read_cpu(struct psi_group_cpu GUEST *here, struct pressure *pressure, u64 *weights, u64 *taken)
{
	u64 start = here->state_start;
	u32 mask = states_of(here, pressure);
	u32 lasting = pressure->clock > start ? (u32)(pressure->clock - start) : 0;
	u32 recent[ALL_STATES];
	u64 ticks;

	for (u64 state = 0; state < ALL_STATES; state++) {
		u64 number = host_at(pressure->number, state);
		u32 before, time;

		host_at(recent, state) = 0;
		if (number == ~0ull)
			continue;
		before = here->times_prev[pressure->first_time + number];
		time = here->times[number];
		if (mask >> number & 1)
			time += lasting;
		*taken += before;
		/* The guest's clock may be behind what the kernel took over. */
		host_at(recent, state) = (s32)(time - before) > 0 ? time - before : 0;
	}
	ticks = host_at(recent, BUSY) / divisor(pressure->tick);
	*weights += ticks;
	for (u64 state = 0; state < STATES; state++)
		host_at(pressure->part, state) += host_at(recent, state) * ticks;
	return here->state_start != start;
}

static u64 sum_taken(struct psi_group_cpu GUEST *per_cpu, const struct view_kernel *kernel,
		     const struct pressure *pressure)
{
	u64 sum = 0;

	for (u64 i = 0; i < kernel->cpu_count; i++) {
		struct psi_group_cpu GUEST *here = per_cpu_ptr(per_cpu, host_at(kernel->offset, i));

		for (u64 state = 0; state < ALL_STATES; state++) {
			u64 number = host_at(pressure->number, state);

			if (number != ~0ull)
				sum += here->times_prev[pressure->first_time + number];
		}
	}
	return sum;
}

/* Whether somebody holds the lock under which times are taken over. */
static int averages_are_moving(struct psi_group GUEST *group)
{
	if (field_exists(struct psi_group___sleeping, avgs_lock.rtmutex.owner))
		return ((struct psi_group___sleeping GUEST *)(u64)group)->avgs_lock.rtmutex.owner != 0;
	if (field_exists(struct psi_group___first, stat_lock))
		return ((struct psi_group___first GUEST *)(u64)group)->stat_lock.owner.counter != 0;
	return group->avgs_lock.owner.counter != 0;
}

/* One attempt: 1 when the kernel took times over meanwhile, or a CPU changed its state. */
static int read_once(struct psi_group GUEST *group, const struct view_kernel *kernel, struct pressure *pressure)
{
	struct psi_group_cpu GUEST *per_cpu = group->pcpu;
	u64 taken_before, taken = 0, weights = 0;

	taken_before = sum_taken(per_cpu, kernel, pressure);
	g_refresh();
	for (u64 state = 0; state < STATES; state++) {
		u64 number = host_at(pressure->number, state);

		host_at(pressure->part, state) = 0;
		if (number != ~0ull)
			host_at(pressure->total, state) = group->total[pressure->first_total + number];
	}
	if (averages_are_moving(group))
		return 1;
	TRY(read_clock(kernel, &pressure->clock));
	for (u64 i = 0; i < kernel->cpu_count; i++)
		if (read_cpu(per_cpu_ptr(per_cpu, host_at(kernel->offset, i)), pressure, &weights, &taken))
			return 1;
	if (taken != taken_before)
		return 1;
	for (u64 state = 0; state < STATES; state++)
		host_at(pressure->total, state) += host_at(pressure->part, state) / divisor(weights ? weights : 1);
	return 0;
}

static int read_pressure(struct cgroup GUEST *cgroup, const struct view_kernel *kernel, struct pressure *pressure)
{
	struct cgroup___embedded GUEST *older = (struct cgroup___embedded GUEST *)(u64)cgroup;
	struct psi_group GUEST *group;

	group = field_exists(struct cgroup___embedded, psi.pcpu) ? &older->psi : cgroup->psi;
	/* Switched off: by `psi=0`, `cgroup_disable=pressure` or cgroup.pressure. */
	if (!group || !group->pcpu)
		return VIEW_NOT_ACCOUNTED;
	if (field_exists(struct psi_group, enabled) && !group->enabled)
		return VIEW_NOT_ACCOUNTED;
	number_states(pressure);
	pressure->tick = 1;
	TRY(read_tick(&pressure->tick));
	for (int i = 0; i < VIEW_TRIES; i++)
		if (!read_once(group, kernel, pressure))
			return 0;
	fail(CIEL_VIEW_CHANGED);
	return 0;
}

static int need_cpu_full(void)
{
	return guest_enum(psi_states, PSI_CPU_FULL) == ~0ull;
}

int view_cgroup_pressure(uint64_t address, uint64_t serial, const struct view_kernel *kernel, struct view_pressure *out)
{
	struct cgroup GUEST *cgroup = guard(address, serial);
	struct pressure pressure = {};
	int status = TRY(read_pressure(cgroup, kernel, &pressure));

	out->cpu_some.value = pressure.total[CPU_SOME];
	out->cpu_full.value = pressure.total[CPU_FULL];
	out->memory_some.value = pressure.total[MEMORY_SOME];
	out->memory_full.value = pressure.total[MEMORY_FULL];
	out->io_some.value = pressure.total[IO_SOME];
	out->io_full.value = pressure.total[IO_FULL];
	settle(&out->cpu_some, status);
	settle(&out->memory_some, status);
	settle(&out->memory_full, status);
	settle(&out->io_some, status);
	settle(&out->io_full, status);
	settle(&out->cpu_full, status ? status : TRY(need_cpu_full()));
	g_refresh();
	guard(address, serial);
	return 0;
}

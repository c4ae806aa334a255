// SPDX-License-Identifier: Apache-2.0
//
// CPU time of a cgroup and all below it: bstat and the unflushed parts (css.h says how flushes are kept out).
//
//   cgroup.bstat + Σ over the subtree ( Σ over CPUs (bstat - last_bstat) + (below only) (.bstat - .last_bstat) )
#include "css.h"

struct cpu_time {
	u64 usage, user, system;
};

static inline struct cgroup_base_stat GUEST *per_cpu_bstat(struct cgroup GUEST *cgroup, u64 offset)
{
	if (field_exists(struct cgroup, rstat_base_cpu))
		return &per_cpu_ptr(cgroup->rstat_base_cpu, offset)->bstat;
	return &per_cpu_ptr(cgroup->rstat_cpu, offset)->bstat;
}

static inline struct cgroup_base_stat GUEST *per_cpu_last_bstat(struct cgroup GUEST *cgroup, u64 offset)
{
	if (field_exists(struct cgroup, rstat_base_cpu))
		return &per_cpu_ptr(cgroup->rstat_base_cpu, offset)->last_bstat;
	return &per_cpu_ptr(cgroup->rstat_cpu, offset)->last_bstat;
}

static inline void read_time(struct cgroup_base_stat GUEST *stat, struct cpu_time *out)
{
	out->usage = stat->cputime.sum_exec_runtime;
	out->user = stat->cputime.utime;
	out->system = stat->cputime.stime;
}

/* sum += sign * what `stat` says */
static inline void add_time(struct cgroup_base_stat GUEST *stat, u64 sign, struct cpu_time *sum)
{
	struct cpu_time time;

	read_time(stat, &time);
	sum->usage += sign * time.usage;
	sum->user += sign * time.user;
	sum->system += sign * time.system;
}

/* What has been flushed so far, in one number. */
static int sum_flushed(struct cgroup GUEST *top, const struct view_kernel *kernel, u64 *sum)
{
	struct cgroup_subsys_state GUEST *css = &top->self;
	struct css_walk walk;

	*sum = 0;
	for (css_walk_start(&walk, css); css; css = css_walk_next(&walk)) {
		struct cgroup GUEST *cgroup = container_of(css, struct cgroup, self);

		for (u64 i = 0; i < kernel->cpu_count; i++) {
			struct cpu_time time;

			read_time(per_cpu_last_bstat(cgroup, host_at(kernel->offset, i)), &time);
			*sum += time.usage + time.user + time.system;
		}
	}
	return 0;
}

/* What has been flushed into the top, or is on its way there. */
static int read_totals(struct cgroup GUEST *top, struct cpu_time *total)
{
	struct cgroup_subsys_state GUEST *css = &top->self;
	struct css_walk walk;

	read_time(&top->bstat, total);
	for (css_walk_start(&walk, css); (css = css_walk_next(&walk));) {
		struct cgroup GUEST *cgroup = container_of(css, struct cgroup, self);

		add_time(&cgroup->bstat, 1, total);
		add_time(&cgroup->last_bstat, -1ull, total);
	}
	return 0;
}

/* One attempt: 1 when a flush was running or came between. */
static int read_once(struct cgroup GUEST *top, const struct view_kernel *kernel, struct cpu_time *total,
		     struct view_cpu *out)
{
	struct cgroup_subsys_state GUEST *css = &top->self;
	struct css_walk walk;
	u64 flushed_before, flushed = 0;

	sum_flushed(top, kernel, &flushed_before);
	g_refresh();
	read_totals(top, total);
	if (base_flush_is_running())
		return 1;
	for (u64 i = 0; i < kernel->cpu_count; i++)
		host_at(out->by_cpu, i) = 0;
	for (css_walk_start(&walk, css); css; css = css_walk_next(&walk)) {
		struct cgroup GUEST *cgroup = container_of(css, struct cgroup, self);

		for (u64 i = 0; i < kernel->cpu_count; i++) {
			u64 offset = host_at(kernel->offset, i);
			struct cpu_time last, now;

			/* In this order: a flush between them must not make the difference negative. */
			read_time(per_cpu_last_bstat(cgroup, offset), &last);
			read_time(per_cpu_bstat(cgroup, offset), &now);
			flushed += last.usage + last.user + last.system;
			total->usage += now.usage - last.usage;
			total->user += now.user - last.user;
			total->system += now.system - last.system;
			host_at(out->by_cpu, i) += now.usage;
		}
	}
	return flushed != flushed_before;
}

/* The kernel's cputime_adjust(): ticks say how usage splits, and neither part ever goes back behind what was shown. */
static int split(struct cgroup GUEST *cgroup, const struct cpu_time *time, struct view_cpu *out)
{
	u64 shown_user = cgroup->prev_cputime.utime;
	u64 shown_system = cgroup->prev_cputime.stime;
	u64 user, system;

	if (shown_user + shown_system >= time->usage) {
		user = shown_user;
		system = shown_system;
	} else {
		if (time->system == 0)
			system = 0;
		else if (time->user == 0)
			system = time->usage;
		else
			system = (u64)((u128)time->system * time->usage / divisor(time->system + time->user));
		if (system < shown_system)
			system = shown_system;
		user = time->usage - system;
		if (user < shown_user) {
			user = shown_user;
			system = time->usage - user;
		}
	}
	out->user.value = user;
	out->system.value = system;
	return 0;
}

static int read_usage(struct cgroup GUEST *cgroup, const struct view_kernel *kernel, struct cpu_time *time,
		      struct view_cpu *out)
{
	for (int i = 0; i < VIEW_TRIES; i++)
		if (!read_once(cgroup, kernel, time, out))
			return 0;
	fail(CIEL_VIEW_CHANGED);
	return 0;
}

static int read_bandwidth(struct cgroup GUEST *cgroup, struct view_cpu *out)
{
	struct cgroup_subsys_state GUEST *css = css_of(cgroup, guest_enum(cgroup_subsys_id, cpu_cgrp_id));
	struct cfs_bandwidth GUEST *bandwidth;

	if (!css)
		return VIEW_NOT_ACCOUNTED;
	bandwidth = &container_of(css, struct task_group, css)->cfs_bandwidth;
	out->quota.value = bandwidth->quota;
	out->period.value = (u64)bandwidth->period;
	out->periods.value = (u64)bandwidth->nr_periods;
	out->throttled_periods.value = (u64)bandwidth->nr_throttled;
	out->throttled_time.value = bandwidth->throttled_time;
	return 0;
}

int view_cgroup_cpu(uint64_t address, uint64_t serial, const struct view_kernel *kernel, struct view_cpu *out)
{
	struct cgroup GUEST *cgroup = guard(address, serial);
	struct cpu_time time = {};
	int status;

	status = TRY(read_usage(cgroup, kernel, &time, out));
	out->usage.value = time.usage;
	out->per_cpu.value = kernel->cpu_count;
	settle(&out->usage, status);
	settle(&out->per_cpu, status);
	if (!status)
		status = TRY(split(cgroup, &time, out));
	settle(&out->user, status);
	settle(&out->system, status);

	status = TRY(read_bandwidth(cgroup, out));
	settle(&out->period, status);
	settle(&out->periods, status);
	settle(&out->throttled_periods, status);
	settle(&out->throttled_time, status);
	settle(&out->quota, !status && out->quota.value == ~0ull ? VIEW_NOT_LIMITED : status);

	g_refresh();
	guard(address, serial);
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
//
// CPU time of a cgroup and all below it: bstat and the unflushed parts (css.h says how flushes are kept out).
//
//   cgroup.bstat + Σ over the subtree ( Σ over CPUs (bstat - last_bstat) + (below only) (.bstat - .last_bstat) )
//
// Before cgroups had a last_bstat (4.18 to 5.4 are such kernels), a flush hands what is new to the parent's pending_bstat, and
// takes its own along: instead of the last term there is Σ over the subtree of .pending_bstat. When that came (4.15), all of
// these had other names (struct cgroup___first).
#include "css.h"
#include "v1.h"

static inline int has_first_names(void)
{
	return field_exists(struct cgroup___first, cpu_stat) ? 1 : 0;
}

static inline struct task_cputime GUEST *per_cpu_bstat(struct cgroup GUEST *cgroup, u64 offset)
{
	if (has_first_names())
		return &per_cpu_ptr(((struct cgroup___first GUEST *)(u64)cgroup)->cpu_stat, offset)->cputime;
	if (field_exists(struct cgroup, rstat_base_cpu))
		return &per_cpu_ptr(cgroup->rstat_base_cpu, offset)->bstat.cputime;
	return &per_cpu_ptr(cgroup->rstat_cpu, offset)->bstat.cputime;
}

static inline struct task_cputime GUEST *per_cpu_last_bstat(struct cgroup GUEST *cgroup, u64 offset)
{
	if (has_first_names())
		return &per_cpu_ptr(((struct cgroup___first GUEST *)(u64)cgroup)->cpu_stat, offset)->last_cputime;
	if (field_exists(struct cgroup, rstat_base_cpu))
		return &per_cpu_ptr(cgroup->rstat_base_cpu, offset)->last_bstat.cputime;
	return &per_cpu_ptr(cgroup->rstat_cpu, offset)->last_bstat.cputime;
}

static inline struct task_cputime GUEST *total_of(struct cgroup GUEST *cgroup)
{
	if (has_first_names())
		return &((struct cgroup___first GUEST *)(u64)cgroup)->stat.cputime;
	return &cgroup->bstat.cputime;
}

static inline struct task_cputime GUEST *pending_of(struct cgroup GUEST *cgroup)
{
	if (has_first_names())
		return &((struct cgroup___first GUEST *)(u64)cgroup)->pending_stat.cputime;
	return &((struct cgroup___pending GUEST *)(u64)cgroup)->pending_bstat.cputime;
}

/* sum += sign * what `stat` says; and what it says, in one number. */
static inline u64 pass_time(struct task_cputime GUEST *stat, u64 sign, struct view_cpu *sum)
{
	u64 usage = passing(stat->sum_exec_runtime);
	u64 user = passing(stat->utime);
	u64 system = passing(stat->stime);

	sum->usage.value += sign * usage;
	sum->user.value += sign * user;
	sum->system.value += sign * system;
	return usage + user + system;
}

/* What has been flushed so far, in one number. */
static int sum_flushed(struct cgroup GUEST *top, const struct view_kernel *kernel, struct view_cpu *out, u64 *sum)
{
	struct cgroup_subsys_state GUEST *css = &top->self;
	struct css_walk walk;

	*sum = 0;
	for (css_walk_start(&walk, css); css; css = css_walk_next(&walk)) {
		struct cgroup GUEST *cgroup = container_of(css, struct cgroup, self);

		for (u64 i = 0; i < kernel->cpu_count; i++)
			*sum += pass_time(per_cpu_last_bstat(cgroup, host_at(kernel->offset, i)), 0, out);
	}
	return 0;
}

static int read_pending(struct cgroup GUEST *top, u64 sign, struct view_cpu *out, u64 *number)
{
	struct cgroup_subsys_state GUEST *css = &top->self;
	struct css_walk walk;

	for (css_walk_start(&walk, css); css; css = css_walk_next(&walk)) {
		struct cgroup GUEST *cgroup = container_of(css, struct cgroup, self);

		mix(number, pass_time(pending_of(cgroup), sign, out));
	}
	return 0;
}

/* What has been flushed into the top, or is on its way there: times `sign`; and a number that a flush changes. */
static int read_totals(struct cgroup GUEST *top, u64 sign, struct view_cpu *out, u64 *number)
{
	struct cgroup_subsys_state GUEST *css = &top->self;
	struct css_walk walk;

	*number = pass_time(total_of(top), sign, out);
	if (has_first_names() || field_exists(struct cgroup___pending, pending_bstat))
		return read_pending(top, sign, out, number);
	for (css_walk_start(&walk, css); (css = css_walk_next(&walk));) {
		struct cgroup GUEST *cgroup = container_of(css, struct cgroup, self);

		mix(number, pass_time(total_of(cgroup), sign, out));
		mix(number, pass_time(&cgroup->last_bstat.cputime, -sign, out));
	}
	return 0;
}

/* One attempt: 1 when a flush was running or came between. */
static int read_once(struct cgroup GUEST *top, const struct view_kernel *kernel, struct view_cpu *out)
{
	struct cgroup_subsys_state GUEST *css = &top->self;
	struct css_walk walk;
	u64 totals_before, totals, flushed_before, flushed = 0;

	read_totals(top, 0, out, &totals_before);
	sum_flushed(top, kernel, out, &flushed_before);
	if (base_flush_is_running())
		return 1;
	g_refresh();
	out->usage.value = 0;
	out->user.value = 0;
	out->system.value = 0;
	for (u64 i = 0; i < kernel->cpu_count; i++)
		host_at(out->by_cpu, i) = 0;
	read_totals(top, 1, out, &totals);
	if (base_flush_is_running() || totals != totals_before)
		return 1;
	for (css_walk_start(&walk, css); css; css = css_walk_next(&walk)) {
		struct cgroup GUEST *cgroup = container_of(css, struct cgroup, self);

		for (u64 i = 0; i < kernel->cpu_count; i++) {
			u64 offset = host_at(kernel->offset, i);
			struct task_cputime GUEST *now;

			/* In this order: a flush between them must not make the difference negative. */
			flushed += pass_time(per_cpu_last_bstat(cgroup, offset), -1ull, out);
			now = per_cpu_bstat(cgroup, offset);
			count(host_at(out->by_cpu, i), now->sum_exec_runtime);
			count(out->user.value, now->utime);
			count(out->system.value, now->stime);
		}
	}
	return flushed != flushed_before;
}

static int read_usage(struct cgroup GUEST *cgroup, const struct view_kernel *kernel, struct view_cpu *out)
{
	if (!is_in_default_hierarchy(cgroup))
		return view_v1_cpu_usage((u64)cgroup, kernel, out);
	out->shows_ticks = 0;
	for (int i = 0; i < VIEW_TRIES; i++) {
		if (!read_once(cgroup, kernel, out))
			return 0;
		spoil_recording();
	}
	fail(CIEL_VIEW_CHANGED);
	return 0;
}

/* What the kernel has shown last. Where it shows ticks there is nothing to keep to. */
static int read_shown(struct cgroup GUEST *cgroup, struct view_cpu *out)
{
	struct prev_cputime GUEST *shown;

	out->shown_user = 0;
	out->shown_system = 0;
	if (out->shows_ticks)
		return 0;
	shown = has_first_names() ? &((struct cgroup___first GUEST *)(u64)cgroup)->stat.prev_cputime : &cgroup->prev_cputime;
	count(out->shown_user, shown->utime);
	count(out->shown_system, shown->stime);
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
	out->period.value = field_exists(struct cfs_bandwidth___ktime, period.tv64) ?
				    (u64)((struct cfs_bandwidth___ktime GUEST *)(u64)bandwidth)->period.tv64 :
				    (u64)bandwidth->period;
	out->periods.value = 0;
	count(out->periods.value, bandwidth->nr_periods);
	out->throttled_periods.value = 0;
	count(out->throttled_periods.value, bandwidth->nr_throttled);
	out->throttled_time.value = 0;
	count(out->throttled_time.value, bandwidth->throttled_time);
	return 0;
}

/* The root's weight is one of 1024, however many bits more a kernel keeps for precision: ten, and none in older ones. */
static int read_shares(struct cgroup GUEST *cgroup, u64 *shares)
{
	u64 controller = guest_enum(cgroup_subsys_id, cpu_cgrp_id), unit;
	struct cgroup_subsys_state GUEST *css = css_of(cgroup, controller);
	struct cgroup_subsys_state GUEST *root = css_of(&cgroup->root->cgrp, controller);

	if (!css || !root)
		return VIEW_NOT_ACCOUNTED;
	unit = container_of(root, struct task_group, css)->shares / 1024;
	if (!unit)
		return CIEL_VIEW_CHANGED;
	*shares = container_of(css, struct task_group, css)->shares / divisor(unit);
	return 0;
}

int view_cgroup_cpu(uint64_t address, uint64_t serial, const struct view_kernel *kernel, struct view_cpu *out)
{
	struct cgroup GUEST *cgroup = guard(address, serial);
	int status;

	status = TRY(read_usage(cgroup, kernel, out));
	out->per_cpu.value = kernel->cpu_count;
	settle(&out->usage, status);
	settle(&out->per_cpu, status);
	if (!status)
		status = TRY(read_shown(cgroup, out));
	settle(&out->user, status);
	settle(&out->system, status);

	status = TRY(read_bandwidth(cgroup, out));
	settle(&out->period, status);
	settle(&out->periods, status);
	settle(&out->throttled_periods, status);
	settle(&out->throttled_time, status);
	settle(&out->quota, !status && out->quota.value == ~0ull ? VIEW_NOT_LIMITED : status);
	settle(&out->shares, TRY(read_shares(cgroup, &out->shares.value)));

	g_refresh();
	guard(address, serial);
	return 0;
}

/* The kernel's cputime_adjust(): ticks say how usage splits, and neither part ever goes back behind what was shown. */
static int split(struct view_cpu *out)
{
	u64 usage = out->usage.value, ticks_user = out->user.value, ticks_system = out->system.value;
	u64 user, system;

	if (out->shown_user + out->shown_system >= usage) {
		user = out->shown_user;
		system = out->shown_system;
	} else {
		if (ticks_system == 0)
			system = 0;
		else if (ticks_user == 0)
			system = usage;
		else
			system = (u64)((u128)ticks_system * usage / divisor(ticks_system + ticks_user));
		if (system < out->shown_system)
			system = out->shown_system;
		user = usage - system;
		if (user < out->shown_user) {
			user = out->shown_user;
			system = usage - user;
		}
	}
	out->user.value = user;
	out->system.value = system;
	return 0;
}

static int scale_ticks(const struct view_kernel *kernel, struct view_cpu *out)
{
	if (kernel->tick.status) {
		out->user = kernel->tick;
		out->system = kernel->tick;
		return 0;
	}
	out->user.value *= kernel->tick.value;
	out->system.value *= kernel->tick.value;
	return 0;
}

int view_cpu_finish(const struct view_kernel *kernel, struct view_cpu *out)
{
	if (out->usage.status)
		return 0;
	for (u64 i = 0; i < kernel->cpu_count; i++)
		out->usage.value += host_at(out->by_cpu, i);
	if (out->user.status)
		return 0;
	return out->shows_ticks ? scale_ticks(kernel, out) : split(out);
}

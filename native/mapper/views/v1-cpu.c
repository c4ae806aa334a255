// SPDX-License-Identifier: Apache-2.0
//
// CPU time in a version 1 hierarchy: the cpuacct controller adds it to a cgroup and all above it at once, per CPU, so the
// sum over CPUs is exact.
//
//   cpuusage   u64, nanoseconds: in every kernel but
//              struct cpuacct_usage, user and system time apart: 4.7 ("sched/cpuacct: Split usage accounting into user_usage
//              and sys_usage", d740037fac70) to 5.16 (dropped again, also in stable kernels)
//   cpustat    ticks, as nanoseconds: how the time splits. From 5.17 on ("sched/cpuacct: Make user/system times in
//              cpuacct.stat more precise", 8c92606ab810) the kernel scales them to the usage, as version 2 does
//              (cputime_adjust, in cpu.c); before, it shows them as they are (seen in Ubuntu's 5.15). Nothing in its
//              records tells: what memory cgroups count since the same release, killings of whole groups, does.
#include "css.h"
#include "v1.h"

static int read_per_cpu(struct cpuacct GUEST *accounts, const struct view_kernel *kernel, struct view_cpu *out)
{
	struct cpuacct___split GUEST *split = (struct cpuacct___split GUEST *)(u64)accounts;

	out->usage.value = 0;
	for (u64 i = 0; i < kernel->cpu_count; i++) {
		u64 offset = host_at(kernel->offset, i);

		host_at(out->by_cpu, i) = 0;
		/* The way there is loaded before: of the loads in a count(), there is one. */
		if (type_exists(struct cpuacct_usage)) {
			struct cpuacct_usage GUEST *here = per_cpu_ptr(split->cpuusage, offset);

			count(host_at(out->by_cpu, i), here->usages[0]);
			count(host_at(out->by_cpu, i), here->usages[1]);
		} else {
			u64 GUEST *here = per_cpu_ptr(accounts->cpuusage, offset);

			count(host_at(out->by_cpu, i), *here);
		}
	}
	return 0;
}

static int read_ticks(struct cpuacct GUEST *accounts, const struct view_kernel *kernel, struct view_cpu *out)
{
	u64 user = guest_enum(cpu_usage_stat, CPUTIME_USER), nice = guest_enum(cpu_usage_stat, CPUTIME_NICE);
	u64 system = guest_enum(cpu_usage_stat, CPUTIME_SYSTEM), irq = guest_enum(cpu_usage_stat, CPUTIME_IRQ);
	u64 softirq = guest_enum(cpu_usage_stat, CPUTIME_SOFTIRQ);

	out->user.value = 0;
	out->system.value = 0;
	for (u64 i = 0; i < kernel->cpu_count; i++) {
		struct kernel_cpustat GUEST *here = per_cpu_ptr(accounts->cpustat, host_at(kernel->offset, i));

		count(out->user.value, here->cpustat[user]);
		count(out->user.value, here->cpustat[nice]);
		count(out->system.value, here->cpustat[system]);
		count(out->system.value, here->cpustat[irq]);
		count(out->system.value, here->cpustat[softirq]);
	}
	return 0;
}

int view_v1_cpu_usage(uint64_t address, const struct view_kernel *kernel, struct view_cpu *out)
{
	struct cgroup GUEST *cgroup = (struct cgroup GUEST *)address;
	struct cgroup_subsys_state GUEST *css = css_of(cgroup, guest_enum(cgroup_subsys_id, cpuacct_cgrp_id));

	if (!css)
		return VIEW_NOT_ACCOUNTED;
	read_per_cpu(container_of(css, struct cpuacct, css), kernel, out);
	read_ticks(container_of(css, struct cpuacct, css), kernel, out);
	out->shows_ticks = !enum_exists(memcg_memory_event, MEMCG_OOM_GROUP_KILL);
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
//
// Block I/O in a version 1 hierarchy: what the throttling policy counts, blkio.throttle.io_service_bytes and io_serviced.
// Each cgroup counts for itself, by device (blkcg_gq), in per-CPU counters that add to a common one about every gigabyte.
//
//   up to 5.4   in the blkcg_gq itself
//   from 5.5    in the policy's part of it ("blk-throttle: move stat_bytes and stat_ios to throtl_grp", 7ca464383fee)
//   from 6.10   the policy is not there until somebody sets a limit on the device: nothing has been counted, which is not 0
//
// Some kernels between (6.1 is one) count only in groups that have a limit, though the policy is there. But up to 6.1 the
// counters of version 2 count here, too, for themselves and unflushed. A group exists because there was I/O: when none of
// all these says so, nothing was counted.
#include "css.h"
#include "v1.h"

static int add_counter(struct blkg_rwstat GUEST *stat, u64 direction, const struct view_kernel *kernel, u64 *sum)
{
	struct percpu_counter GUEST *counter = &stat->cpu_cnt[direction];
	u32 GUEST *by_cpu;

	/* In this order: what a CPU hands over meanwhile is missed once rather than counted twice. */
	count(*sum, stat->aux_cnt[direction].counter);
	count(*sum, counter->count);
	/* A kernel built for one CPU has no others to add. */
	if (!field_exists(struct percpu_counter, counters))
		return 0;
	by_cpu = counter->counters;
	for (u64 i = 0; i < kernel->cpu_count; i++)
		count(*sum, *per_cpu_ptr(by_cpu, host_at(kernel->offset, i)));
	return 0;
}

static int add_counters(struct blkg_rwstat GUEST *bytes, struct blkg_rwstat GUEST *transfers,
			const struct view_kernel *kernel, struct view_io_device *device)
{
	u64 read = guest_enum(blkg_rwstat_type, BLKG_RWSTAT_READ), write = guest_enum(blkg_rwstat_type, BLKG_RWSTAT_WRITE);

	add_counter(bytes, read, kernel, &device->read_bytes);
	add_counter(bytes, write, kernel, &device->write_bytes);
	add_counter(transfers, read, kernel, &device->reads);
	add_counter(transfers, write, kernel, &device->writes);
	return 0;
}

/* A kernel may be built without throttling, or without names of its data (CONFIG_KALLSYMS_ALL). */
static struct blkg_policy_data GUEST *throttling_of(struct blkcg_gq GUEST *group)
{
	u64 policy;

	if (!symbol_exists(blkcg_policy_throtl))
		return NULL_GUEST(struct blkg_policy_data);
	policy = (u64)guest_symbol(struct blkcg_policy, blkcg_policy_throtl)->plid;
	return group->pd[policy];
}

static int add_unflushed(struct blkcg_gq GUEST *group, const struct view_kernel *kernel, struct view_io_device *device)
{
	u64 read = guest_enum(blkg_iostat_type, BLKG_IOSTAT_READ), write = guest_enum(blkg_iostat_type, BLKG_IOSTAT_WRITE);

	for (u64 i = 0; i < kernel->cpu_count; i++) {
		struct blkg_iostat GUEST *here = &per_cpu_ptr(group->iostat_cpu, host_at(kernel->offset, i))->cur;

		count(device->read_bytes, here->bytes[read]);
		count(device->write_bytes, here->bytes[write]);
		count(device->reads, here->ios[read]);
		count(device->writes, here->ios[write]);
	}
	return 0;
}

static u64 transfers_of(const struct view_io_device *device)
{
	return device->reads + device->writes;
}

int view_v1_io_group(uint64_t address, const struct view_kernel *kernel, struct view_io_device *device)
{
	struct blkcg_gq GUEST *group = (struct blkcg_gq GUEST *)address;
	u64 before = transfers_of(device);
	struct blkcg_gq___counting GUEST *counting = (struct blkcg_gq___counting GUEST *)address;
	struct blkg_policy_data GUEST *policy;
	struct throtl_grp GUEST *throttling;

	if (field_exists(struct blkcg_gq___counting, stat_bytes)) {
		add_counters(&counting->stat_bytes, &counting->stat_ios, kernel, device);
		return 0;
	}
	policy = throttling_of(group);
	if (policy) {
		throttling = container_of(policy, struct throtl_grp, pd);
		add_counters(&throttling->stat_bytes, &throttling->stat_ios, kernel, device);
		if (transfers_of(device) != before)
			return 0;
	}
	/* Which of them counts may change: nothing that a repeat could rely on. */
	spoil_recording();
	TRY(add_unflushed(group, kernel, device));
	return 0;
}

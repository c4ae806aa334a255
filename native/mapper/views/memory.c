// SPDX-License-Identifier: Apache-2.0
//
// Memory of a cgroup and all below it.
//
// What is charged (memory.current) is one counter that the kernel keeps exact. What it is charged for (memory.stat) is
// counted per CPU like CPU time (see cpu.c) and flushed into vmstats->state, the cgroup's own and what its children have
// handed up (state_pending); the rest is added here:
//
//   vmstats->state + Σ over the subtree ( vmstats->state_pending + Σ over CPUs (state - state_prev) )
//
// 5.10 has no such flush: each CPU adds to all ancestors in batches, and shows what has been added.
#include "css.h"

enum { PAGE_BYTES = 4096 }; /* x86-64 has no other */

static inline struct memcg_vmstats GUEST *vmstats_of(struct mem_cgroup GUEST *memory)
{
	struct mem_cgroup___embedded GUEST *older = (struct mem_cgroup___embedded GUEST *)(u64)memory;

	if (field_exists(struct mem_cgroup___embedded, vmstats.state))
		return &older->vmstats;
	return memory->vmstats;
}

/* What has not been flushed into the top's state, and a number that a flush changes. */
static int sum_unflushed(struct cgroup_subsys_state GUEST *css, const struct view_kernel *kernel, u64 item, u64 *unflushed,
			 u64 *flushed)
{
	struct css_walk walk;

	*unflushed = 0;
	*flushed = 0;
	for (css_walk_start(&walk, css); css; css = css_walk_next(&walk)) {
		struct mem_cgroup GUEST *memory = container_of(css, struct mem_cgroup, css);
		struct memcg_vmstats_percpu GUEST *counters = memory->vmstats_percpu;
		u64 pending = (u64)vmstats_of(memory)->state_pending[item];

		*unflushed += pending;
		*flushed += pending;
		for (u64 i = 0; i < kernel->cpu_count; i++) {
			struct memcg_vmstats_percpu GUEST *here = per_cpu_ptr(counters, host_at(kernel->offset, i));
			u64 before = (u64)here->state_prev[item];

			*flushed += before;
			*unflushed += (u64)here->state[item] - before;
		}
	}
	return 0;
}

static int read_item(struct mem_cgroup GUEST *memory, const struct view_kernel *kernel, const struct view_figure *item,
		     u64 *bytes)
{
	struct mem_cgroup___array GUEST *older = (struct mem_cgroup___array GUEST *)(u64)memory;
	s64 pages = 0;

	if (item->status)
		return item->status;
	if (field_exists(struct mem_cgroup___array, vmstats[0].counter)) {
		pages = older->vmstats[item->value].counter;
	} else {
		u64 state, ignored, flushed_before, unflushed, flushed;
		int tries = 0;

		do {
			if (tries++ == VIEW_TRIES)
				fail(CIEL_VIEW_CHANGED);
			sum_unflushed(&memory->css, kernel, item->value, &ignored, &flushed_before);
			state = (u64)vmstats_of(memory)->state[item->value];
			sum_unflushed(&memory->css, kernel, item->value, &unflushed, &flushed);
		} while (flushed != flushed_before);
		pages = (s64)(state + unflushed);
	}
	/* Counters of several CPUs, read one after the other, may sum up to less than nothing for a moment. */
	*bytes = pages < 0 ? 0 : (u64)pages * PAGE_BYTES;
	return 0;
}

static int read_current(struct mem_cgroup GUEST *memory, u64 *bytes)
{
	*bytes = (u64)memory->memory.usage.counter * PAGE_BYTES;
	return 0;
}

static int read_swap(struct mem_cgroup GUEST *memory, u64 *bytes)
{
	*bytes = (u64)memory->swap.usage.counter * PAGE_BYTES;
	return 0;
}

static int read_limit(struct mem_cgroup GUEST *memory, u64 *bytes)
{
	u64 pages = memory->memory.max;

	*bytes = pages * PAGE_BYTES;
	/* PAGE_COUNTER_MAX, the kernel's "max", is LONG_MAX / PAGE_SIZE. */
	return pages >= (u64)INT64_MAX / PAGE_BYTES ? VIEW_NOT_LIMITED : 0;
}

static int read_memory(struct cgroup GUEST *cgroup, const struct view_kernel *kernel, struct view_memory *out)
{
	struct cgroup_subsys_state GUEST *css = css_of(cgroup, guest_enum(cgroup_subsys_id, memory_cgrp_id));
	struct mem_cgroup GUEST *memory;

	if (!css)
		return VIEW_NOT_ACCOUNTED;
	memory = container_of(css, struct mem_cgroup, css);
	settle(&out->current, TRY(read_current(memory, &out->current.value)));
	settle(&out->limit, TRY(read_limit(memory, &out->limit.value)));
	settle(&out->swap, TRY(read_swap(memory, &out->swap.value)));
	settle(&out->anon, TRY(read_item(memory, kernel, &kernel->anon_item, &out->anon.value)));
	settle(&out->file, TRY(read_item(memory, kernel, &kernel->file_item, &out->file.value)));
	settle(&out->swap_cache, TRY(read_item(memory, kernel, &kernel->swap_cache_item, &out->swap_cache.value)));
	settle(&out->inactive_file,
	       TRY(read_item(memory, kernel, &kernel->inactive_file_item, &out->inactive_file.value)));
	return 0;
}

int view_cgroup_memory(uint64_t address, uint64_t serial, const struct view_kernel *kernel, struct view_memory *out)
{
	struct cgroup GUEST *cgroup = guard(address, serial);
	int status = TRY(read_memory(cgroup, kernel, out));

	if (status) {
		settle(&out->current, status);
		settle(&out->limit, status);
		settle(&out->swap, status);
		settle(&out->anon, status);
		settle(&out->file, status);
		settle(&out->swap_cache, status);
		settle(&out->inactive_file, status);
	}
	guard(address, serial);
	return 0;
}

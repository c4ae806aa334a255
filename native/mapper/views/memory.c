// SPDX-License-Identifier: Apache-2.0
//
// Memory of a cgroup and all below it.
//
// What is charged (memory.current) is one counter that the kernel keeps exact. What it is charged for (memory.stat) is
// vmstats->state and the unflushed parts (css.h says how flushes are kept out):
//
//   vmstats->state + Σ over the subtree ( vmstats->state_pending + Σ over CPUs (state - state_prev) )
//
// 5.10 has no such flush: each CPU adds to all ancestors in batches, and the kernel shows what has been added.
#include "css.h"

enum { PAGE_BYTES = 4096 }; /* x86-64 has no other */

static inline struct memcg_vmstats GUEST *vmstats_of(struct mem_cgroup GUEST *memory)
{
	struct mem_cgroup___embedded GUEST *older = (struct mem_cgroup___embedded GUEST *)(u64)memory;

	if (field_exists(struct mem_cgroup___embedded, vmstats.state))
		return &older->vmstats;
	return memory->vmstats;
}

enum { ANON, FILE, SWAP_CACHE, INACTIVE_FILE, ITEMS };

struct items {
	u64 position[ITEMS]; /* in the kernel's counters */
	s64 pages[ITEMS];
};

/*
 * A number that stands for a sequence of counters. Not their sum: these go up and down, and what a flush takes from one it
 * adds to another.
 */
static inline void mix(u64 *number, s64 counter)
{
	*number = *number * 0x9e3779b97f4a7c15ull + (u64)counter;
}

/* What has not been flushed into the top's state: added to `items`; and a number that a flush changes. */
static int sum_unflushed(struct cgroup_subsys_state GUEST *css, const struct view_kernel *kernel, struct items *items,
			 u64 *flushed)
{
	struct css_walk walk;

	*flushed = 0;
	for (css_walk_start(&walk, css); css; css = css_walk_next(&walk)) {
		struct mem_cgroup GUEST *memory = container_of(css, struct mem_cgroup, css);
		struct memcg_vmstats_percpu GUEST *counters = memory->vmstats_percpu;
		struct memcg_vmstats GUEST *totals = vmstats_of(memory);

		for (u64 item = 0; item < ITEMS; item++) {
			u64 position = host_at(items->position, item);
			s64 pending = totals->state_pending[position];

			mix(flushed, pending);
			host_at(items->pages, item) += pending;
			for (u64 i = 0; i < kernel->cpu_count; i++) {
				struct memcg_vmstats_percpu GUEST *here =
					per_cpu_ptr(counters, host_at(kernel->offset, i));
				s64 before = here->state_prev[position];

				mix(flushed, before);
				host_at(items->pages, item) += here->state[position] - before;
			}
		}
	}
	return 0;
}

/* One attempt: 1 when a flush was running or came between. */
static int read_items_once(struct mem_cgroup GUEST *memory, const struct view_kernel *kernel, struct items *items)
{
	u64 flushed_before, flushed;

	sum_unflushed(&memory->css, kernel, items, &flushed_before);
	g_refresh();
	for (u64 item = 0; item < ITEMS; item++)
		host_at(items->pages, item) = vmstats_of(memory)->state[host_at(items->position, item)];
	if (flush_is_running(&memory->css))
		return 1;
	sum_unflushed(&memory->css, kernel, items, &flushed);
	return flushed != flushed_before;
}

static int read_items(struct mem_cgroup GUEST *memory, const struct view_kernel *kernel, struct items *items)
{
	struct mem_cgroup___array GUEST *older = (struct mem_cgroup___array GUEST *)(u64)memory;

	if (field_exists(struct mem_cgroup___array, vmstats[0].counter)) {
		for (u64 item = 0; item < ITEMS; item++)
			host_at(items->pages, item) = older->vmstats[host_at(items->position, item)].counter;
		return 0;
	}
	for (int i = 0; i < VIEW_TRIES; i++)
		if (!read_items_once(memory, kernel, items))
			return 0;
	fail(CIEL_VIEW_CHANGED);
	return 0;
}

/* `status` is that of the reading; an item that this kernel does not keep is missing by itself. */
static void settle_item(struct view_figure *figure, const struct view_figure *item, s64 pages, s32 status)
{
	/* Counters of several CPUs, read one after the other, may sum up to less than nothing for a moment. */
	figure->value = pages < 0 ? 0 : (u64)pages * PAGE_BYTES;
	settle(figure, status);
	if (!status && item->status) {
		figure->value = 0;
		figure->status = item->status;
		figure->slot = item->slot;
	}
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
	struct items items = {};
	int status;

	if (!css)
		return VIEW_NOT_ACCOUNTED;
	memory = container_of(css, struct mem_cgroup, css);
	settle(&out->current, TRY(read_current(memory, &out->current.value)));
	settle(&out->limit, TRY(read_limit(memory, &out->limit.value)));
	settle(&out->swap, TRY(read_swap(memory, &out->swap.value)));
	items.position[ANON] = kernel->anon_item.value;
	items.position[FILE] = kernel->file_item.value;
	items.position[SWAP_CACHE] = kernel->swap_cache_item.value;
	items.position[INACTIVE_FILE] = kernel->inactive_file_item.value;
	status = TRY(read_items(memory, kernel, &items));
	settle_item(&out->anon, &kernel->anon_item, items.pages[ANON], status);
	settle_item(&out->file, &kernel->file_item, items.pages[FILE], status);
	settle_item(&out->swap_cache, &kernel->swap_cache_item, items.pages[SWAP_CACHE], status);
	settle_item(&out->inactive_file, &kernel->inactive_file_item, items.pages[INACTIVE_FILE], status);
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
	g_refresh();
	guard(address, serial);
	return 0;
}

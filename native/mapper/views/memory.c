// SPDX-License-Identifier: Apache-2.0
//
// Memory of a cgroup and all below it.
//
// What is charged (memory.current) is one counter that the kernel keeps exact. What it is charged for (memory.stat) is
// vmstats->state and the unflushed parts (css.h says how flushes are kept out):
//
//   vmstats->state + Σ over the subtree ( vmstats->state_pending + Σ over CPUs (state - state_prev) )
//
// Older kernels have no such flush, and show what has been added so far; where it is, newest first:
//
//   mem_cgroup.vmstats[]          5.2 on: each CPU adds to all ancestors, in batches
//   mem_cgroup.stat[]             4.16 on: to this one only, in batches; the subtree is summed up
//   Σ over CPUs stat->count[]     before: likewise, at once
//
// Up to 5.7 anon and file are items of their own (MEMCG_RSS, MEMCG_CACHE), and before 4.12 of another enum; pages on LRU
// lists are counted with the other items only in vmstats. Before, the lists have lengths: by node, and zone of it.
//
// What of it is swapped out is a counter in version 2 (memory.swap.current), and an item in version 1. What the kernel took
// for it is an item from 5.18 on, and a counter in version 1 (memory.kmem.usage_in_bytes).
#include "css.h"

enum { PAGE_BYTES = 4096 }; /* x86-64 has no other */

static inline struct memcg_vmstats GUEST *vmstats_of(struct mem_cgroup GUEST *memory)
{
	struct mem_cgroup___embedded GUEST *older = (struct mem_cgroup___embedded GUEST *)(u64)memory;

	if (field_exists(struct mem_cgroup___embedded, vmstats.state))
		return &older->vmstats;
	return memory->vmstats;
}

enum { ANON, FILE, SWAP_CACHE, INACTIVE_FILE, SWAP, BASIC_ITEMS, MAPPED = BASIC_ITEMS, KERNEL, ITEMS };

struct items {
	u64 count; /* of those that are wanted */
	u64 position[ITEMS]; /* in the kernel's counters, or MISSING */
};
#define MISSING (~0ull)

static inline u64 position_of(const struct view_figure *item)
{
	return item->status ? MISSING : item->value;
}

/* Where an item's pages are summed up. */
#define pages_of(out, item)                                                                                            \
	(*(item == ANON ? &(out)->anon.value :                                                                         \
	   item == FILE ? &(out)->file.value :                                                                         \
	   item == SWAP_CACHE ? &(out)->swap_cache.value :                                                             \
	   item == INACTIVE_FILE ? &(out)->inactive_file.value :                                                       \
	   item == SWAP ? &(out)->swap.value :                                                                         \
	   item == MAPPED ? &(out)->mapped.value : &(out)->kernel.value))

/* What has not been flushed into the top's state: added to `out` when `is_counted`; and a number that a flush changes. */
static int sum_unflushed(struct cgroup_subsys_state GUEST *css, const struct view_kernel *kernel,
			 const struct items *items, int is_counted, struct view_memory *out, u64 *flushed)
{
	struct css_walk walk;

	*flushed = 0;
	for (css_walk_start(&walk, css); css; css = css_walk_next(&walk)) {
		struct mem_cgroup GUEST *memory = container_of(css, struct mem_cgroup, css);
		struct memcg_vmstats_percpu GUEST *counters = memory->vmstats_percpu;
		struct memcg_vmstats GUEST *totals = vmstats_of(memory);

		for (u64 item = 0; item < items->count; item++) {
			u64 position = host_at(items->position, item);
			s64 pending;

			if (position == MISSING)
				continue;
			pending = passing(totals->state_pending[position]);
			mix(flushed, (u64)pending);
			if (is_counted)
				pages_of(out, item) += pending;
			for (u64 i = 0; i < kernel->cpu_count; i++) {
				struct memcg_vmstats_percpu GUEST *here =
					per_cpu_ptr(counters, host_at(kernel->offset, i));
				s64 before = passing(here->state_prev[position]);

				mix(flushed, (u64)before);
				if (is_counted) {
					pages_of(out, item) -= before;
					count(pages_of(out, item), here->state[position]);
				}
			}
		}
	}
	return 0;
}

/* One attempt: 1 when a flush was running or came between. */
static int read_items_once(struct mem_cgroup GUEST *memory, const struct view_kernel *kernel, const struct items *items,
			   struct view_memory *out)
{
	u64 flushed_before, flushed;

	sum_unflushed(&memory->css, kernel, items, 0, out, &flushed_before);
	g_refresh();
	for (u64 item = 0; item < items->count; item++) {
		u64 position = host_at(items->position, item);

		if (position != MISSING)
			pages_of(out, item) = (u64)passing(vmstats_of(memory)->state[position]);
	}
	if (flush_is_running(&memory->css))
		return 1;
	sum_unflushed(&memory->css, kernel, items, 1, out, &flushed);
	return flushed != flushed_before;
}

static int count_lists(struct mem_cgroup GUEST *memory, const struct view_kernel *kernel, struct view_memory *out)
{
	u64 list = guest_enum(lru_list, LRU_INACTIVE_FILE), lists = guest_enum(lru_list, NR_LRU_LISTS);
	u64 zones = guest_enum(zone_type, __MAX_NR_ZONES);

	if (field_exists(struct mem_cgroup_per_node, lru_size))
		zones = 1;
	for (u64 i = 0; i < kernel->node_count; i++) {
		struct mem_cgroup_per_node GUEST *node = memory->nodeinfo[i];

		for (u64 zone = 0; node && zone < zones; zone++) {
			if (field_exists(struct mem_cgroup_per_node, zoneinfo))
				count(out->inactive_file.value, node->zoneinfo[zone].lru_size[list]);
			else if (field_exists(struct mem_cgroup_per_node, lru_size))
				count(out->inactive_file.value, node->lru_size[list]);
			else
				count(out->inactive_file.value, node->lru_zone_size[zone * lists + list]);
		}
	}
	return 0;
}

/* Counters that are each cgroup's own. Which cgroups there are is checked by the walk, so a repeat is exact. */
static int sum_own(struct cgroup_subsys_state GUEST *css, const struct view_kernel *kernel, const struct items *items,
		   struct view_memory *out)
{
	int is_array = field_exists(struct mem_cgroup___own_array, stat[0].counter) ? 1 : 0;
	struct mem_cgroup___flat GUEST *flat = (struct mem_cgroup___flat GUEST *)(u64)container_of(css, struct mem_cgroup, css);
	int is_flat = field_exists(struct mem_cgroup___flat, use_hierarchy) && !flat->use_hierarchy;
	struct css_walk walk;

	for (u64 item = 0; item < items->count; item++)
		pages_of(out, item) = 0;
	for (css_walk_start(&walk, css); css; css = is_flat ? NULL_GUEST(struct cgroup_subsys_state) : css_walk_next(&walk)) {
		u64 memory = (u64)container_of(css, struct mem_cgroup, css);

		for (u64 item = 0; item < items->count; item++) {
			u64 position = host_at(items->position, item);
			struct mem_cgroup_stat_cpu GUEST *counters;

			if (position == MISSING)
				continue;
			if (item == INACTIVE_FILE) {
				count_lists((struct mem_cgroup GUEST *)memory, kernel, out);
				continue;
			}
			if (is_array) {
				count(pages_of(out, item), ((struct mem_cgroup___own_array GUEST *)memory)->stat[position].counter);
				continue;
			}
			counters = ((struct mem_cgroup___own_per_cpu GUEST *)memory)->stat;
			for (u64 i = 0; i < kernel->cpu_count; i++)
				count(pages_of(out, item), per_cpu_ptr(counters, host_at(kernel->offset, i))->count[position]);
		}
	}
	return 0;
}

static int read_items(struct mem_cgroup GUEST *memory, const struct view_kernel *kernel, const struct items *items,
		      struct view_memory *out)
{
	struct mem_cgroup___array GUEST *older = (struct mem_cgroup___array GUEST *)(u64)memory;

	if (counts_own_items())
		return sum_own(&memory->css, kernel, items, out);

	if (field_exists(struct mem_cgroup___array, vmstats[0].counter)) {
		for (u64 item = 0; item < items->count; item++) {
			u64 position = host_at(items->position, item);

			if (position == MISSING)
				continue;
			pages_of(out, item) = 0;
			count(pages_of(out, item), older->vmstats[position].counter);
		}
		return 0;
	}
	for (int i = 0; i < VIEW_TRIES; i++) {
		if (!read_items_once(memory, kernel, items, out))
			return 0;
		spoil_recording();
	}
	fail(CIEL_VIEW_CHANGED);
	return 0;
}

/* `status` is that of the reading; an item that this kernel does not keep is missing by itself. */
static void settle_item(struct view_figure *figure, const struct view_figure *item, s32 status)
{
	settle(figure, status);
	if (!status && item->status) {
		figure->value = 0;
		figure->status = item->status;
		figure->slot = item->slot;
	}
}

/* Up to 4.17 a page_counter's members have other names. */
static inline int has_limits(void)
{
	return field_exists(struct page_counter___limit, limit) ? 1 : 0;
}

static int read_current(struct mem_cgroup GUEST *memory, u64 *pages)
{
	*pages = 0;
	if (has_limits())
		count(*pages, ((struct mem_cgroup___limit GUEST *)(u64)memory)->memory.count.counter);
	else
		count(*pages, memory->memory.usage.counter);
	return 0;
}

static int read_peak(struct mem_cgroup GUEST *memory, u64 *pages)
{
	*pages = 0;
	count(*pages, memory->memory.watermark);
	return 0;
}

static int read_oom_kills(struct mem_cgroup GUEST *memory, u64 *kills)
{
	u64 event = guest_enum(memcg_memory_event, MEMCG_OOM_KILL);

	*kills = 0;
	count(*kills, memory->memory_events[event].counter);
	return 0;
}

/* Up to 6.0 swap may be left uncounted (swapaccount=0), which is some distributions' default. */
static int counts_swap(void)
{
	if (symbol_exists(do_swap_account))
		return *guest_symbol(u32, do_swap_account) != 0;
	return symbol_exists(cgroup_memory_noswap) ? *guest_symbol(u8, cgroup_memory_noswap) == 0 : 1;
}

static int read_swap(struct mem_cgroup GUEST *memory, u64 *pages)
{
	*pages = 0;
	if (has_limits())
		count(*pages, ((struct mem_cgroup___limit GUEST *)(u64)memory)->swap.count.counter);
	else
		count(*pages, memory->swap.usage.counter);
	return 0;
}

/* Version 1's. */
static int read_kernel(struct mem_cgroup GUEST *memory, u64 *pages)
{
	if (field_exists(struct mem_cgroup, kmem_acct_active) && !memory->kmem_acct_active)
		return VIEW_NOT_ACCOUNTED;
	*pages = 0;
	if (has_limits())
		count(*pages, ((struct mem_cgroup___limit GUEST *)(u64)memory)->kmem.count.counter);
	else
		count(*pages, memory->kmem.usage.counter);
	return 0;
}

static int read_limit(struct mem_cgroup GUEST *memory, u64 *bytes)
{
	u64 pages = has_limits() ? ((struct mem_cgroup___limit GUEST *)(u64)memory)->memory.limit : memory->memory.max;

	*bytes = pages * PAGE_BYTES;
	/* PAGE_COUNTER_MAX, the kernel's "max", is LONG_MAX / PAGE_SIZE. */
	return pages >= (u64)INT64_MAX / PAGE_BYTES ? VIEW_NOT_LIMITED : 0;
}

static int read_memory(struct cgroup GUEST *cgroup, const struct view_kernel *kernel, u64 detail, struct view_memory *out)
{
	struct cgroup_subsys_state GUEST *css = css_of(cgroup, guest_enum(cgroup_subsys_id, memory_cgrp_id));
	struct mem_cgroup GUEST *memory;
	struct items items = {};
	int status, is_version_1 = !is_in_default_hierarchy(cgroup);

	if (!css)
		return VIEW_NOT_ACCOUNTED;
	memory = container_of(css, struct mem_cgroup, css);
	settle(&out->current, TRY(read_current(memory, &out->current.value)));
	settle(&out->limit, TRY(read_limit(memory, &out->limit.value)));
	settle(&out->peak, TRY(read_peak(memory, &out->peak.value)));
	settle(&out->oom_kills, TRY(read_oom_kills(memory, &out->oom_kills.value)));
	items.count = detail ? ITEMS : BASIC_ITEMS;
	items.position[ANON] = position_of(&kernel->anon_item);
	items.position[FILE] = position_of(&kernel->file_item);
	items.position[SWAP_CACHE] = position_of(&kernel->swap_cache_item);
	items.position[INACTIVE_FILE] = position_of(&kernel->inactive_file_item);
	items.position[SWAP] = is_version_1 ? position_of(&kernel->swap_item) : MISSING;
	items.position[MAPPED] = position_of(&kernel->mapped_item);
	items.position[KERNEL] = position_of(&kernel->kernel_item);
	status = TRY(read_items(memory, kernel, &items, out));
	settle_item(&out->anon, &kernel->anon_item, status);
	settle_item(&out->file, &kernel->file_item, status);
	settle_item(&out->swap_cache, &kernel->swap_cache_item, status);
	settle_item(&out->inactive_file, &kernel->inactive_file_item, status);
	settle_item(&out->mapped, &kernel->mapped_item, status);
	settle_item(&out->kernel, &kernel->kernel_item, status);
	if (is_version_1 && field_exists(struct mem_cgroup, kmem))
		settle(&out->kernel, TRY(read_kernel(memory, &out->kernel.value)));
	if (is_version_1)
		settle_item(&out->swap, &kernel->swap_item, status);
	else
		settle(&out->swap, TRY(read_swap(memory, &out->swap.value)));
	if (!counts_swap())
		settle(&out->swap, VIEW_NOT_ACCOUNTED);
	return 0;
}

int view_cgroup_memory(uint64_t address, uint64_t serial, const struct view_kernel *kernel, uint64_t detail,
		       struct view_memory *out)
{
	struct cgroup GUEST *cgroup = guard(address, serial);
	int status = TRY(read_memory(cgroup, kernel, detail, out));

	if (status) {
		settle(&out->current, status);
		settle(&out->limit, status);
		settle(&out->swap, status);
		settle(&out->peak, status);
		settle(&out->oom_kills, status);
		settle(&out->mapped, status);
		settle(&out->kernel, status);
		settle(&out->anon, status);
		settle(&out->file, status);
		settle(&out->swap_cache, status);
		settle(&out->inactive_file, status);
	}
	g_refresh();
	guard(address, serial);
	return 0;
}

/* Counters of several CPUs, read one after the other, may sum up to less than nothing for a moment. */
static void to_bytes(struct view_figure *pages)
{
	pages->value = (s64)pages->value < 0 ? 0 : pages->value * PAGE_BYTES;
}

int view_memory_finish(const struct view_kernel *kernel, struct view_memory *out)
{
	(void)kernel;
	to_bytes(&out->current);
	to_bytes(&out->peak);
	to_bytes(&out->swap);
	to_bytes(&out->anon);
	to_bytes(&out->file);
	to_bytes(&out->swap_cache);
	to_bytes(&out->inactive_file);
	to_bytes(&out->mapped);
	to_bytes(&out->kernel);
	return 0;
}

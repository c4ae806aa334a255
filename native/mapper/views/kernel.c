// SPDX-License-Identifier: Apache-2.0
//
// The kernel as a whole: whether it is one, and what stays the same while it runs.
#include "css.h"

static int starts_with_swapper(const struct view_proof *proof)
{
	static const char name[] = "swapper";

	for (u64 i = 0; i < host_capacity(name) - 1; i++)
		if (host_at(proof->first_task, i) != host_at(name, i))
			return 0;
	return 1;
}

int view_prove(struct view_proof *out)
{
	struct new_utsname GUEST *names = &guest_symbol(struct uts_namespace, init_uts_ns)->name;
	struct cgroup GUEST *root = &guest_symbol(struct cgroup_root, cgrp_dfl_root)->cgrp;

	guest_string(out->first_task, &guest_symbol(struct task_struct, init_task)->comm[0]);
	guest_string(out->release, &names->release[0]);
	guest_string(out->version, &names->version[0]);
	guest_string(out->nodename, &names->nodename[0]);
	out->jiffies = 0;
	count(out->jiffies, *guest_symbol(u64, jiffies_64));
	out->root_cgroup = (u64)root;
	if (!starts_with_swapper(out) || root->self.cgroup != root || !css_is_online(&root->self))
		fail(CIEL_VIEW_CHANGED);
	return 0;
}

/* Up to 4.4 there is a pointer to it. */
static u64 GUEST *possible_cpus(void)
{
	if (!symbol_exists(__cpu_possible_mask) && symbol_exists(cpu_possible_mask))
		return *guest_symbol(u64 GUEST *, cpu_possible_mask);
	return guest_symbol(u64, __cpu_possible_mask);
}

/* A kernel built for one CPU keeps no offsets: what is per CPU elsewhere is where its pointer points. */
static int is_for_one_cpu(void)
{
	return !symbol_exists(__per_cpu_offset) && !field_exists(struct percpu_counter, counters);
}

static int list_one_cpu(struct view_kernel *out)
{
	host_at(out->cpu, 0) = 0;
	host_at(out->offset, 0) = 0;
	out->cpu_count = 1;
	return 0;
}

/* __per_cpu_offset[] of impossible CPUs is junk, so the mask decides. */
static int list_possible_cpus(struct view_kernel *out)
{
	u64 GUEST *mask = possible_cpus();
	u64 GUEST *offsets = guest_symbol(u64, __per_cpu_offset);
	u64 words = type_size(struct cpumask) / 8;
	u64 count = 0;

	if (symbol_exists(nr_cpu_ids) && words > (*guest_symbol(u32, nr_cpu_ids) + 63) / 64)
		words = (*guest_symbol(u32, nr_cpu_ids) + 63) / 64;
	for (u64 word = 0; word < words; word++) {
		u64 bits = mask[word];

		for (u64 bit = 0; bits >> bit && bit < 64; bit++) {
			if (!(bits >> bit & 1))
				continue;
			host_at(out->cpu, count) = (u32)(word * 64 + bit);
			host_at(out->offset, count) = offsets[word * 64 + bit];
			count++;
		}
	}
	out->cpu_count = (u32)count;
	return count ? 0 : CIEL_VIEW_CHANGED;
}

/* tick_nsec is adjusted a little to the true time: what divides a second is meant. */
static int find_tick(u64 *nanoseconds)
{
	static const u64 second = 1000000000;
	u64 tick;

	*nanoseconds = 1;
	if (!type_exists(cputime_t) || field_exists(struct task_struct, vtime_snap))
		return 0;
	tick = *guest_symbol(u64, tick_nsec);
	if (tick == 0 || tick > second)
		return CIEL_VIEW_CHANGED;
	*nanoseconds = second / divisor((second + tick / 2) / divisor(tick));
	return 0;
}

/* A kernel for one node has no such variable. */
static int find_nodes(u64 *count)
{
	*count = symbol_exists(nr_node_ids) ? *guest_symbol(u32, nr_node_ids) : 1;
	return *count <= VIEW_MAX_NODES ? 0 : CIEL_VIEW_LIMIT;
}

static int is_compacted(void)
{
	return field_exists(struct memcg_vmstats, state) &&
	       field_size(struct memcg_vmstats, state) / 8 < guest_enum(memcg_stat_item, MEMCG_NR_STAT);
}

/*
 * Newer kernels keep only the items that memory cgroups use, and a table says where. Its entries were signed bytes of
 * position + 1 with 0 for a missing one, and are now bytes of positions with all bits set for a missing one; wider entries
 * are foreseen. Nothing in the kernel's types tells. But each counter has its position once, so the reading under which the
 * positions are 0, 1, 2, … up to the number of counters is the right one. Without the table nothing can be read.
 */
enum { MAX_ITEMS = 512 };

struct table_form {
	u64 width, first, missing;
};

static u64 table_entry(u64 table, u64 width, u64 item)
{
	u64 entry = 0;

	for (u64 i = 0; i < width; i++)
		entry |= (u64)*(u8 GUEST *)(table + item * width + i) << 8 * i;
	return entry;
}

/* Whether a table of this form has each of the positions once. */
static int fits(u64 table, const struct table_form *form, u64 items, u64 counters)
{
	u64 seen[MAX_ITEMS / 64] = {}, found = 0;

	for (u64 item = 0; item < items; item++) {
		u64 entry = table_entry(table, form->width, item), position = entry - form->first;

		if (entry == form->missing)
			continue;
		if (position >= counters || position >= MAX_ITEMS || host_at(seen, position / 64) >> position % 64 & 1)
			return 0;
		host_at(seen, position / 64) |= 1ull << position % 64;
		found++;
	}
	return found == counters;
}

static int find_form(u64 table, u64 items, struct table_form *form)
{
	u64 counters = field_size(struct memcg_vmstats, state) / 8;

	for (form->width = 1; form->width <= 4; form->width *= 2) {
		form->first = 0;
		form->missing = (1ull << 8 * form->width) - 1;
		if (fits(table, form, items, counters))
			return 0;
		form->first = 1;
		form->missing = 0;
		if (fits(table, form, items, counters))
			return 0;
	}
	return CIEL_VIEW_CHANGED;
}

static int find_item(u64 item, u64 *position)
{
	struct table_form form;
	u64 table, entry;

	if (!symbol_exists(mem_cgroup_stats_index) && !is_compacted()) {
		*position = item;
		return 0;
	}
	table = (u64)guest_symbol(u8, mem_cgroup_stats_index);
	if (find_form(table, guest_enum(memcg_stat_item, MEMCG_NR_STAT), &form))
		return CIEL_VIEW_CHANGED;
	entry = table_entry(table, form.width, item);
	if (entry == form.missing)
		return VIEW_NOT_ACCOUNTED;
	*position = entry - form.first;
	return 0;
}

#define ITEM(list, name)                                                                                               \
	static int find_##name(u64 *position)                                                                          \
	{                                                                                                              \
		return find_item(guest_enum(list, name), position);                                                    \
	}
ITEM(memcg_stat_item, MEMCG_RSS)
ITEM(memcg_stat_item, MEMCG_CACHE)
ITEM(mem_cgroup_stat_index, MEM_CGROUP_STAT_RSS)
ITEM(mem_cgroup_stat_index, MEM_CGROUP_STAT_CACHE)
ITEM(mem_cgroup_stat_index, MEM_CGROUP_STAT_FILE_MAPPED)
ITEM(node_stat_item, NR_ANON_MAPPED)
ITEM(node_stat_item, NR_FILE_PAGES)
ITEM(node_stat_item, NR_SWAPCACHE)
ITEM(node_stat_item, NR_INACTIVE_FILE)
ITEM(node_stat_item, NR_FILE_MAPPED)
ITEM(memcg_stat_item, MEMCG_KMEM)
ITEM(memcg_stat_item, MEMCG_SWAP)
ITEM(mem_cgroup_stat_index, MEM_CGROUP_STAT_SWAP)

/* What memory cgroups do not count may be an item of the node's all the same: the memory cgroup's own name comes first. */
static int find_anon(u64 *position)
{
	if (enum_exists(mem_cgroup_stat_index, MEM_CGROUP_STAT_RSS))
		return find_MEM_CGROUP_STAT_RSS(position);
	return enum_exists(memcg_stat_item, MEMCG_RSS) ? find_MEMCG_RSS(position) : find_NR_ANON_MAPPED(position);
}

static int find_file(u64 *position)
{
	if (enum_exists(mem_cgroup_stat_index, MEM_CGROUP_STAT_CACHE))
		return find_MEM_CGROUP_STAT_CACHE(position);
	return enum_exists(memcg_stat_item, MEMCG_CACHE) ? find_MEMCG_CACHE(position) : find_NR_FILE_PAGES(position);
}

static int find_mapped(u64 *position)
{
	if (enum_exists(mem_cgroup_stat_index, MEM_CGROUP_STAT_FILE_MAPPED))
		return find_MEM_CGROUP_STAT_FILE_MAPPED(position);
	return find_NR_FILE_MAPPED(position);
}

static int find_swap(u64 *position)
{
	return enum_exists(mem_cgroup_stat_index, MEM_CGROUP_STAT_SWAP) ? find_MEM_CGROUP_STAT_SWAP(position) :
									  find_MEMCG_SWAP(position);
}

/* Pages on LRU lists are an item where there are vmstats only: before, the lists have their lengths (memory.c). */
static int find_inactive_file(u64 *position)
{
	*position = 0;
	return counts_own_items() ? 0 : find_NR_INACTIVE_FILE(position);
}

static int find_swap_cache(u64 *position)
{
	if (counts_own_items())
		*position = field_offset(struct mem_cgroup, vmstats);
	return find_NR_SWAPCACHE(position);
}

int view_kernel(struct view_kernel *out)
{
	if (is_for_one_cpu() ? list_one_cpu(out) : list_possible_cpus(out))
		fail(CIEL_VIEW_CHANGED);
	if (find_nodes(&out->node_count))
		fail(CIEL_VIEW_LIMIT);
	settle(&out->tick, TRY(find_tick(&out->tick.value)));
	settle(&out->anon_item, TRY(find_anon(&out->anon_item.value)));
	settle(&out->file_item, TRY(find_file(&out->file_item.value)));
	settle(&out->swap_cache_item, TRY(find_swap_cache(&out->swap_cache_item.value)));
	settle(&out->inactive_file_item, TRY(find_inactive_file(&out->inactive_file_item.value)));
	settle(&out->swap_item, TRY(find_swap(&out->swap_item.value)));
	settle(&out->mapped_item, TRY(find_mapped(&out->mapped_item.value)));
	settle(&out->kernel_item, TRY(find_MEMCG_KMEM(&out->kernel_item.value)));
	return 0;
}

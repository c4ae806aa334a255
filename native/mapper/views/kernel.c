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

/* __per_cpu_offset[] of impossible CPUs is junk, so the mask decides. */
static int list_cpus(struct view_kernel *out)
{
	u64 GUEST *mask = guest_symbol(u64, __cpu_possible_mask);
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

static int is_compacted(void)
{
	return field_exists(struct memcg_vmstats, state) &&
	       field_size(struct memcg_vmstats, state) / 8 < guest_enum(memcg_stat_item, MEMCG_NR_STAT);
}

/*
 * Newer kernels keep only the items that memory cgroups use, and a table says where. Its entries were signed bytes of
 * position + 1 with 0 for a missing one, and are now positions with 0xff for a missing one: any 0xff tells. Without the
 * table nothing can be read.
 */
static int find_item(u64 item, u64 *position)
{
	u8 GUEST *table;
	u64 entry, items, is_from_zero = 0;

	if (!symbol_exists(mem_cgroup_stats_index) && !is_compacted()) {
		*position = item;
		return 0;
	}
	table = guest_symbol(u8, mem_cgroup_stats_index);
	items = guest_enum(memcg_stat_item, MEMCG_NR_STAT);
	for (u64 i = 0; i < items; i++)
		if (table[i] == 0xff)
			is_from_zero = 1;
	entry = table[item];
	if (is_from_zero ? entry == 0xff : entry == 0)
		return VIEW_NOT_ACCOUNTED;
	*position = is_from_zero ? entry : entry - 1;
	return 0;
}

#define ITEM(list, name)                                                                                               \
	static int find_##name(u64 *position)                                                                          \
	{                                                                                                              \
		return find_item(guest_enum(list, name), position);                                                    \
	}
ITEM(node_stat_item, NR_ANON_MAPPED)
ITEM(node_stat_item, NR_FILE_PAGES)
ITEM(node_stat_item, NR_SWAPCACHE)
ITEM(node_stat_item, NR_INACTIVE_FILE)
ITEM(node_stat_item, NR_FILE_MAPPED)
ITEM(memcg_stat_item, MEMCG_KMEM)

int view_kernel(struct view_kernel *out)
{
	if (list_cpus(out))
		fail(CIEL_VIEW_CHANGED);
	settle(&out->anon_item, TRY(find_NR_ANON_MAPPED(&out->anon_item.value)));
	settle(&out->file_item, TRY(find_NR_FILE_PAGES(&out->file_item.value)));
	settle(&out->swap_cache_item, TRY(find_NR_SWAPCACHE(&out->swap_cache_item.value)));
	settle(&out->inactive_file_item, TRY(find_NR_INACTIVE_FILE(&out->inactive_file_item.value)));
	settle(&out->mapped_item, TRY(find_NR_FILE_MAPPED(&out->mapped_item.value)));
	settle(&out->kernel_item, TRY(find_MEMCG_KMEM(&out->kernel_item.value)));
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
//
// The cgroup hierarchies: version 2's, which every kernel has, and those of version 1 that are mounted. The first task is
// always in the root of each, so its css_set leads to all of them.
#include "css.h"

static u64 has_controller(struct cgroup GUEST *root, u64 controller)
{
	return root->subsys[controller] ? 1 : 0;
}

#define CONTROLLER(name, bit)                                                                                          \
	if (enum_exists(cgroup_subsys_id, name) && has_controller(root, guest_enum(cgroup_subsys_id, name)))           \
		controllers |= bit

static u32 controllers_of(struct cgroup GUEST *root)
{
	u32 controllers = 0;

	CONTROLLER(cpuacct_cgrp_id, VIEW_CONTROLLER_CPUACCT);
	CONTROLLER(memory_cgrp_id, VIEW_CONTROLLER_MEMORY);
	CONTROLLER(io_cgrp_id, VIEW_CONTROLLER_IO);
	CONTROLLER(pids_cgrp_id, VIEW_CONTROLLER_PIDS);
	return controllers;
}

int view_hierarchies(struct view_hierarchy *list, uint64_t capacity, uint64_t *count)
{
	struct css_set GUEST *first = guest_symbol(struct task_struct, init_task)->cgroups;
	struct list_head GUEST *links = &first->cgrp_links;
	u64 number = 0;

	*count = 0;
	for (struct list_head GUEST *link = links->next; link != links; link = link->next) {
		struct cgroup GUEST *root = container_of(link, struct cgrp_cset_link, cgrp_link)->cgrp;

		if (root->self.cgroup != root)
			fail(CIEL_VIEW_CHANGED);
		host_slice(list, capacity, number).root = (u64)root;
		host_slice(list, capacity, number).is_default = (u32)is_in_default_hierarchy(root);
		host_slice(list, capacity, number).controllers = controllers_of(root);
		*count = ++number;
	}
	return 0;
}

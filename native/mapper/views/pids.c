// SPDX-License-Identifier: Apache-2.0
//
// The number of tasks in a cgroup and all below it.
#include "css.h"

static int read_count(struct cgroup GUEST *cgroup, u64 *tasks)
{
	struct cgroup_subsys_state GUEST *css = css_of(cgroup, guest_enum(cgroup_subsys_id, pids_cgrp_id));

	if (!css)
		return VIEW_NOT_ACCOUNTED;
	*tasks = 0;
	count(*tasks, container_of(css, struct pids_cgroup, css)->counter.counter);
	return 0;
}

int view_cgroup_pids(uint64_t address, uint64_t serial, struct view_figure *out)
{
	struct cgroup GUEST *cgroup = guard(address, serial);

	settle(out, TRY(read_count(cgroup, &out->value)));
	g_refresh();
	guard(address, serial);
	return 0;
}

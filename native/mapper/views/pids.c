// SPDX-License-Identifier: Apache-2.0
//
// The number of tasks in a cgroup and all below it, and how many it may have.
#include "css.h"

/* The kernel's "max" is one more than any system can have, PID_MAX_LIMIT. */
enum { MOST_TASKS = 4 * 1024 * 1024 };

static int read_count(struct cgroup_subsys_state GUEST *css, u64 *tasks)
{
	*tasks = 0;
	count(*tasks, container_of(css, struct pids_cgroup, css)->counter.counter);
	return 0;
}

static int read_limit(struct cgroup_subsys_state GUEST *css, u64 *limit)
{
	*limit = (u64)container_of(css, struct pids_cgroup, css)->limit.counter;
	return *limit > MOST_TASKS ? VIEW_NOT_LIMITED : 0;
}

static int read_pids(struct cgroup GUEST *cgroup, struct view_pids *out)
{
	struct cgroup_subsys_state GUEST *css = css_of(cgroup, guest_enum(cgroup_subsys_id, pids_cgrp_id));

	if (!css)
		return VIEW_NOT_ACCOUNTED;
	settle(&out->current, TRY(read_count(css, &out->current.value)));
	settle(&out->limit, TRY(read_limit(css, &out->limit.value)));
	return 0;
}

int view_cgroup_pids(uint64_t address, uint64_t serial, struct view_pids *out)
{
	struct cgroup GUEST *cgroup = guard(address, serial);
	int status = TRY(read_pids(cgroup, out));

	if (status) {
		settle(&out->current, status);
		settle(&out->limit, status);
	}
	g_refresh();
	guard(address, serial);
	return 0;
}

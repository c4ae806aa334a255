// SPDX-License-Identifier: Apache-2.0
//
// The cgroup tree.
#include "css.h"

static u64 directory_id(struct kernfs_node GUEST *node)
{
	struct kernfs_node___with_union GUEST *older = (struct kernfs_node___with_union GUEST *)(u64)node;
	struct kernfs_node___numbered GUEST *oldest = (struct kernfs_node___numbered GUEST *)(u64)node;

	if (field_exists(struct kernfs_node___numbered, ino))
		return oldest->ino;
	if (field_exists(struct kernfs_node___with_union, id.id))
		return older->id.id;
	return node->id;
}

int view_cgroups(uint64_t root, struct view_cgroup *list, uint64_t capacity, uint64_t *count)
{
	struct cgroup GUEST *top = (struct cgroup GUEST *)root;
	struct cgroup_subsys_state GUEST *css = &top->self;
	struct css_walk walk;
	/* The index in the list of the last cgroup seen at each depth. */
	u32 last[VIEW_MAX_DEPTH + 1];
	u64 number = 0;

	*count = 0;
	css_walk_start(&walk, css);
	while (css) {
		struct cgroup GUEST *cgroup = container_of(css, struct cgroup, self);
		struct kernfs_node GUEST *node = cgroup->kn;
		const char GUEST *name;

		host_slice(list, capacity, number).address = (u64)cgroup;
		host_slice(list, capacity, number).serial = css->serial_nr;
		host_slice(list, capacity, number).id = directory_id(node);
		host_slice(list, capacity, number).depth = (u32)walk.depth;
		host_slice(list, capacity, number).parent = walk.depth ? host_at(last, walk.depth - 1) : 0;
		host_slice(list, capacity, number).is_online = (u32)css_is_online(css);
		/* A name is never changed in place: the pointer to it tells. */
		name = node->name;
		passing(guest_string(host_slice(list, capacity, number).name, name));
		host_at(last, walk.depth) = (u32)number;
		*count = ++number;
		css = css_walk_next(&walk);
	}
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cgroups of all hierarchies in one list, and where one container is in each.
 *
 * With cgroup version 2 there is one hierarchy. With version 1 each controller has its own tree, in which a runtime makes
 * the same path for a container; hybrid set-ups have both. What has the same path is the same container, and each figure
 * comes from the hierarchy that its controller is attached to.
 */
#ifndef CIEL_HIERARCHIES_H
#define CIEL_HIERARCHIES_H

#include "views/views.h"

enum { CIEL_MAX_HIERARCHIES = 24 };

struct ciel_hierarchy {
	struct view_hierarchy view;
	uint32_t first, count; /* its cgroups in the list */
};

struct ciel_cgroup_list {
	struct view_cgroup *cgroups; /* hierarchy by hierarchy, the default one first; parents are indices in the whole list */
	uint64_t *path_hashes;
	uint32_t capacity;
	uint64_t count;
	struct ciel_hierarchy hierarchies[CIEL_MAX_HIERARCHIES];
	uint32_t hierarchy_count;
};

/* A cgroup; address 0: none. */
struct ciel_place {
	uint64_t address, serial;
};

/* Of one container. */
struct ciel_places {
	struct ciel_place cpu, memory, io, pids; /* where the controller is attached */
	struct ciel_place pressure; /* kept in the default hierarchy only */
	struct ciel_place network;  /* wherever its processes can be found */
};

/* Memory for up to `capacity` cgroups; 0 when there is none. */
int ciel_cgroup_list_reserve(struct ciel_cgroup_list *list, uint32_t capacity);

/* Fills the list from the guest, by views: their result. LIMIT with count == capacity: it was too small. */
int ciel_cgroup_list_walk(struct ciel_cgroup_list *list);

/* Whether no earlier hierarchy has this path: each container once. */
int ciel_cgroup_list_is_first(const struct ciel_cgroup_list *list, uint32_t index);

struct ciel_places ciel_cgroup_list_places(const struct ciel_cgroup_list *list, uint32_t index);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Paths are compared by hash, depth and name. A guest that makes two paths collide deceives itself about its own figures.
 */
#include <stdlib.h>
#include <string.h>

#include "hierarchies.h"
#include "view-runtime.h"

static const uint32_t NOWHERE = UINT32_MAX;

int ciel_cgroup_list_reserve(struct ciel_cgroup_list *list, uint32_t capacity)
{
	struct view_cgroup *cgroups = realloc(list->cgroups, capacity * sizeof(*cgroups));
	if (cgroups)
		list->cgroups = cgroups;
	uint64_t *hashes = realloc(list->path_hashes, capacity * sizeof(*hashes));
	if (hashes)
		list->path_hashes = hashes;
	if (!cgroups || !hashes)
		return 0;
	list->capacity = capacity;
	return 1;
}

/* Hashes of the paths of one hierarchy, whose parents come before children. */
static void hash_paths(struct ciel_cgroup_list *list, const struct ciel_hierarchy *hierarchy)
{
	for (uint32_t i = hierarchy->first; i < hierarchy->first + hierarchy->count; i++) {
		const struct view_cgroup *cgroup = &list->cgroups[i];
		uint64_t hash = i == hierarchy->first ? 14695981039346656037u : list->path_hashes[cgroup->parent] * 31;

		for (uint32_t at = 0; at < VIEW_NAME_BYTES && cgroup->name[at]; at++)
			hash = (hash ^ (uint8_t)cgroup->name[at]) * 1099511628211u;
		list->path_hashes[i] = hash;
	}
}

static int walk_hierarchy(struct ciel_cgroup_list *list, const struct view_hierarchy *view)
{
	struct ciel_hierarchy *hierarchy = &list->hierarchies[list->hierarchy_count++];
	uint64_t count = 0;
	int result =
		view_cgroups(view->root, list->cgroups + list->count, list->capacity - list->count, &count);

	*hierarchy = (struct ciel_hierarchy){ .view = *view, .first = (uint32_t)list->count, .count = (uint32_t)count };
	list->count += count;
	if (result)
		return result;
	for (uint32_t i = hierarchy->first; i < list->count; i++)
		list->cgroups[i].parent += hierarchy->first;
	hash_paths(list, hierarchy);
	return 0;
}

int ciel_cgroup_list_walk(struct ciel_cgroup_list *list)
{
	struct view_hierarchy found[CIEL_MAX_HIERARCHIES];
	uint64_t count;
	int result = view_hierarchies(found, CIEL_MAX_HIERARCHIES, &count);

	list->count = 0;
	list->hierarchy_count = 0;
	for (int is_default = 1; is_default >= 0; is_default--) {
		for (uint64_t i = 0; !result && i < count; i++) {
			/* Hierarchies without any of the controllers (name=systemd, freezer) have the same paths and no figures. */
			if ((int)found[i].is_default == is_default && (is_default || found[i].controllers))
				result = walk_hierarchy(list, &found[i]);
		}
	}
	return result;
}

static uint32_t hierarchy_of(const struct ciel_cgroup_list *list, uint32_t index)
{
	uint32_t number = 0;

	while (number + 1 < list->hierarchy_count && index >= list->hierarchies[number + 1].first)
		number++;
	return number;
}

/* Where the same path is in another hierarchy. */
static uint32_t find_in(const struct ciel_cgroup_list *list, uint32_t number, uint32_t index)
{
	const struct ciel_hierarchy *hierarchy = &list->hierarchies[number];
	const struct view_cgroup *cgroup = &list->cgroups[index];

	if (index >= hierarchy->first && index < hierarchy->first + hierarchy->count)
		return index;
	for (uint32_t i = hierarchy->first; i < hierarchy->first + hierarchy->count; i++) {
		if (list->path_hashes[i] == list->path_hashes[index] && list->cgroups[i].is_online &&
		    list->cgroups[i].depth == cgroup->depth && strcmp(list->cgroups[i].name, cgroup->name) == 0)
			return i;
	}
	return NOWHERE;
}

int ciel_cgroup_list_is_first(const struct ciel_cgroup_list *list, uint32_t index)
{
	uint32_t number = hierarchy_of(list, index);

	for (uint32_t earlier = 0; earlier < number; earlier++) {
		if (find_in(list, earlier, index) != NOWHERE)
			return 0;
	}
	return 1;
}

static struct ciel_place place_in(const struct ciel_cgroup_list *list, uint32_t number, uint32_t index)
{
	uint32_t found = number == NOWHERE ? NOWHERE : find_in(list, number, index);

	if (found == NOWHERE)
		return (struct ciel_place){ 0 };
	return (struct ciel_place){ .address = list->cgroups[found].address, .serial = list->cgroups[found].serial };
}

/* The hierarchy that has a controller. */
static uint32_t hierarchy_with(const struct ciel_cgroup_list *list, uint32_t controller)
{
	for (uint32_t i = 0; i < list->hierarchy_count; i++) {
		if (list->hierarchies[i].view.controllers & controller)
			return i;
	}
	return NOWHERE;
}

struct ciel_places ciel_cgroup_list_places(const struct ciel_cgroup_list *list, uint32_t index)
{
	uint32_t unified = list->hierarchy_count && list->hierarchies[0].view.is_default ? 0 : NOWHERE;
	uint32_t cpu = hierarchy_with(list, VIEW_CONTROLLER_CPUACCT);

	struct ciel_places places = {
		/* Version 2 counts CPU time without a controller. */
		.cpu = place_in(list, cpu == NOWHERE ? unified : cpu, index),
		.memory = place_in(list, hierarchy_with(list, VIEW_CONTROLLER_MEMORY), index),
		.io = place_in(list, hierarchy_with(list, VIEW_CONTROLLER_IO), index),
		.pids = place_in(list, hierarchy_with(list, VIEW_CONTROLLER_PIDS), index),
		.pressure = place_in(list, unified, index),
	};
	places.network = (struct ciel_place){ list->cgroups[index].address, list->cgroups[index].serial };
	return places;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The figures of one container: what the views read of it, and how that becomes its record in a sample (mapper.h).
 */
#ifndef CIEL_FIGURES_H
#define CIEL_FIGURES_H

#include "fuel.h"
#include "guest.h"
#include "hierarchies.h"

enum { CIEL_TRIES = 3 };

/* The views that are asked about a container; each is repeated by itself (programme.h). */
enum ciel_container_view {
	CIEL_VIEW_CPU,
	CIEL_VIEW_MEMORY,
	CIEL_VIEW_IO,
	/* On demand. */
	CIEL_VIEW_PIDS,
	CIEL_VIEW_PRESSURE,
	CIEL_VIEW_NETWORK,
	CIEL_CONTAINER_VIEWS,
};

struct ciel_container;
struct ciel_programme;

/* What the views know of one container. */
struct ciel_readings {
	struct view_cpu cpu;
	struct view_memory memory;
	struct view_io io;
	struct view_pids pids;
	struct view_pressure pressure;
	struct view_network network;
	int is_detailed; /* with what is read on demand */
	/* Of each view as a whole, and the slot that it lacked. */
	struct view_figure cpu_result, memory_result, io_result, pids_result, pressure_result, network_result;
	uint32_t used[CIEL_CONTAINER_VIEWS]; /* bytes of each answer that may be other than 0 */
};

/*
 * What the views say of one container: repeated where that holds, else run, again when the cgroup changed meanwhile.
 * Whatever fails is a figure without a value.
 */
void ciel_readings_take(struct ciel_guest *guest, struct ciel_tank *tank, struct ciel_container *container,
			struct ciel_readings *ret);

/* How long the record of a container is that has these readings. */
uint64_t ciel_readings_bytes(const struct ciel_readings *readings, uint32_t cpu_count, uint32_t path_length);

/* Fills in the figures of a container's record and what is behind it, up to the path: returns where that begins. */
uint8_t *ciel_readings_write(const struct ciel_readings *readings, const struct view_kernel *kernel, uint32_t cpu_count,
			     struct ciel_sample_container *record);

#endif

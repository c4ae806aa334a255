/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The figures of one container: what the views read of it, and how that becomes its record in a sample (mapper.h).
 */
#ifndef CIEL_FIGURES_H
#define CIEL_FIGURES_H

#include "fuel.h"
#include "guest.h"

enum { CIEL_TRIES = 3 };

/* What the views know of one container. */
struct ciel_readings {
	struct view_cpu cpu;
	struct view_memory memory;
	struct view_io io;
	/* Of each view as a whole, and the slot that it lacked. */
	struct view_figure cpu_result, memory_result, io_result;
};

/* Runs the views on one cgroup, again when it changed meanwhile. Whatever fails is a figure without a value. */
void ciel_readings_take(struct ciel_guest *guest, struct ciel_tank *tank, const struct view_cgroup *cgroup,
			struct ciel_readings *ret);

/* Fills in the figures of a container's record. */
void ciel_readings_write(const struct ciel_readings *readings, struct ciel_sample_container *record);

#endif

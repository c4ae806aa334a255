/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What version 1 hierarchies keep in another way than version 2. The views of a figure ask where their cgroup is, and take
 * these there; what both keep alike (memory, pids) needs nothing here.
 */
#ifndef CIEL_VIEWS_V1_H
#define CIEL_VIEWS_V1_H

#include "views.h"

/* Usage, ticks and by_cpu, of a cgroup that has been guarded. */
int view_v1_cpu_usage(uint64_t address, const struct view_kernel *kernel, struct view_cpu *out);

/* Adds what one blkcg_gq has counted, if it has, to its device. */
int view_v1_io_group(uint64_t address, const struct view_kernel *kernel, struct view_io_device *device);

#endif

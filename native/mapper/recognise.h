/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which cgroups are containers. A runtime names its cgroups after its containers; that name is all that the kernel knows
 * of them. One table, in recognise.c: another runtime is a line more.
 */
#ifndef CIEL_RECOGNISE_H
#define CIEL_RECOGNISE_H

#include <stdint.h>

/* Numbers are part of the ABI. */
enum ciel_runtime {
	CIEL_RUNTIME_NONE = 0,
	CIEL_RUNTIME_DOCKER = 1,
	CIEL_RUNTIME_PODMAN = 2,
	CIEL_RUNTIME_CONTAINERD = 3,
	CIEL_RUNTIME_LXC = 4,
};

/* The runtime of a cgroup by its name and its parent's; where in the name the container's id is. */
enum ciel_runtime ciel_recognise(const char *name, const char *parent, uint32_t *ret_id_offset, uint32_t *ret_id_length);

#endif

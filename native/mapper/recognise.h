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
	CIEL_RUNTIME_LXC = 4, /* LXD and Incus too */
	CIEL_RUNTIME_CRIO = 5,
	CIEL_RUNTIME_NSPAWN = 6,
	CIEL_RUNTIME_SYSTEMD = 7, /* a service of the guest: no container, left out unless asked for */
};

/* A cgroup by the names of it, its parent and its parent's parent. The root's name is empty, and so is what is above. */
struct ciel_cgroup_names {
	const char *name, *parent, *grandparent;
};

/* The runtime that the cgroup is a container of; where in its name the container's id is. */
enum ciel_runtime ciel_recognise(const struct ciel_cgroup_names *names, uint32_t *ret_id_offset,
				 uint32_t *ret_id_length);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table is read from the top, and the first line that fits decides. A container's own children fit none: podman's
 * payload (libpod-<id>.scope/container) and what an init inside keeps (docker/<id>/system.slice/cron.service) belong to
 * the container around them. A container in a container (docker/<id>/docker/<id>, docker/<id>/kubelet/…/pod<uid>/<id>)
 * fits like any other: what runs it is seen by its parent, wherever that is.
 */
#include <string.h>

#include "recognise.h"

enum { ID_LENGTH = 64 };

enum id_kind {
	ID_HASH, /* 64 hexadecimal digits */
	ID_NAME, /* what is between prefix and suffix, whatever it is */
	ID_UNIT, /* prefix and suffix too: a unit of systemd */
};

struct pattern {
	enum ciel_runtime runtime;
	/* NULL: any; "": the root; ending in '*': begins with */
	const char *grandparent, *parent;
	const char *prefix, *suffix;
	enum id_kind id;
};

static const struct pattern patterns[] = {
	{ CIEL_RUNTIME_DOCKER, NULL, NULL, "docker-", ".scope", ID_HASH }, /* systemd driver */
	{ CIEL_RUNTIME_DOCKER, NULL, "docker", "", "", ID_HASH },          /* cgroupfs driver */
	{ CIEL_RUNTIME_PODMAN, NULL, NULL, "libpod-", ".scope", ID_HASH },
	{ CIEL_RUNTIME_PODMAN, NULL, NULL, "libpod-payload-", "", ID_HASH }, /* --cgroups=split, below its service */
	{ CIEL_RUNTIME_PODMAN, NULL, NULL, "libpod-", "", ID_HASH },         /* cgroupfs driver */
	{ CIEL_RUNTIME_NONE, NULL, "libpod_parent", "", "", ID_HASH },       /* a pod; its containers are below */
	{ CIEL_RUNTIME_CONTAINERD, NULL, NULL, "cri-containerd-", ".scope", ID_HASH },
	{ CIEL_RUNTIME_CONTAINERD, NULL, NULL, "nerdctl-", ".scope", ID_HASH },
	{ CIEL_RUNTIME_CRIO, NULL, NULL, "crio-", ".scope", ID_HASH },
	{ CIEL_RUNTIME_CRIO, NULL, "pod*", "crio-", "", ID_HASH },
	{ CIEL_RUNTIME_CONTAINERD, NULL, "pod*", "", "", ID_HASH },    /* kubepods/burstable/pod<uid>/<id> */
	{ CIEL_RUNTIME_CONTAINERD, NULL, "k8s.io", "", "", ID_HASH },  /* <namespace>/<id>, outside of pods */
	{ CIEL_RUNTIME_CONTAINERD, "", "default", "", "", ID_NAME },   /* ctr: <namespace>/<any name> */
	{ CIEL_RUNTIME_LXC, NULL, NULL, "lxc.payload.", "", ID_NAME }, /* since LXC 4; LXD's and Incus' too */
	{ CIEL_RUNTIME_LXC, NULL, "lxc.payload", "", "", ID_NAME },
	{ CIEL_RUNTIME_LXC, NULL, "lxc", "", "", ID_NAME }, /* before */
	/* libvirt's machines bear their driver's name first. */
	{ CIEL_RUNTIME_NONE, NULL, "machine.slice", "machine-qemu\\x2d", ".scope", ID_NAME },
	{ CIEL_RUNTIME_NONE, NULL, "machine.slice", "machine-lxc\\x2d", ".scope", ID_NAME },
	{ CIEL_RUNTIME_NSPAWN, NULL, "machine.slice", "machine-", ".scope", ID_NAME },
	{ CIEL_RUNTIME_NSPAWN, NULL, "machine.slice", "systemd-nspawn@", ".service", ID_NAME },
	/* Docker's --cgroup-parent: a hash below anything else. */
	{ CIEL_RUNTIME_DOCKER, NULL, NULL, "", "", ID_HASH },
	{ CIEL_RUNTIME_SYSTEMD, "", "system.slice", "", ".service", ID_UNIT },
	{ CIEL_RUNTIME_SYSTEMD, "system.slice", "system-*", "", ".service", ID_UNIT },
};

static int is_hash(const char *text, size_t length)
{
	return length == ID_LENGTH && strspn(text, "0123456789abcdef") >= ID_LENGTH;
}

static int matches(const char *pattern, const char *name)
{
	if (!pattern)
		return 1;
	size_t length = strlen(pattern);
	if (length > 0 && pattern[length - 1] == '*')
		return strncmp(name, pattern, length - 1) == 0;
	return strcmp(name, pattern) == 0;
}

enum ciel_runtime ciel_recognise(const struct ciel_cgroup_names *names, uint32_t *ret_id_offset,
				 uint32_t *ret_id_length)
{
	const char *name = names->name;
	size_t length = strlen(name);

	for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
		const struct pattern *pattern = &patterns[i];
		size_t prefix = strlen(pattern->prefix), suffix = strlen(pattern->suffix);

		if (length <= prefix + suffix || strncmp(name, pattern->prefix, prefix) != 0 ||
		    strcmp(name + length - suffix, pattern->suffix) != 0 || !matches(pattern->parent, names->parent) ||
		    !matches(pattern->grandparent, names->grandparent))
			continue;
		size_t id = length - prefix - suffix;
		if (pattern->id == ID_HASH && !is_hash(name + prefix, id))
			continue;
		if (pattern->runtime == CIEL_RUNTIME_NONE)
			break;
		*ret_id_offset = pattern->id == ID_UNIT ? 0 : (uint32_t)prefix;
		*ret_id_length = pattern->id == ID_UNIT ? (uint32_t)length : (uint32_t)id;
		return pattern->runtime;
	}
	return CIEL_RUNTIME_NONE;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "recognise.h"

enum { ID_LENGTH = 64 };

struct pattern {
	enum ciel_runtime runtime;
	const char *parent; /* NULL: any; ending in '*': begins with */
	const char *prefix, *suffix;
	int has_hash_id; /* what is between is 64 hexadecimal digits; else any name */
};

static const struct pattern patterns[] = {
	{ CIEL_RUNTIME_DOCKER, NULL, "docker-", ".scope", 1 },              /* systemd driver */
	{ CIEL_RUNTIME_DOCKER, "docker", "", "", 1 },                       /* cgroupfs driver */
	{ CIEL_RUNTIME_PODMAN, NULL, "libpod-", ".scope", 1 },
	{ CIEL_RUNTIME_PODMAN, "libpod_parent", "libpod-", "", 1 },
	{ CIEL_RUNTIME_CONTAINERD, NULL, "cri-containerd-", ".scope", 1 },
	{ CIEL_RUNTIME_CONTAINERD, "pod*", "", "", 1 },                     /* kubepods/burstable/pod<uid>/<id> */
	{ CIEL_RUNTIME_LXC, NULL, "lxc.payload.", "", 0 },                  /* LXD's too */
};

static int is_hash(const char *text, size_t length)
{
	return length == ID_LENGTH && strspn(text, "0123456789abcdef") >= ID_LENGTH;
}

static int matches_parent(const char *pattern, const char *parent)
{
	size_t length = pattern ? strlen(pattern) : 0;

	if (length == 0)
		return 1;
	if (pattern[length - 1] == '*')
		return strncmp(parent, pattern, length - 1) == 0;
	return strcmp(parent, pattern) == 0;
}

enum ciel_runtime ciel_recognise(const char *name, const char *parent, uint32_t *ret_id_offset, uint32_t *ret_id_length)
{
	size_t length = strlen(name);

	for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
		const struct pattern *pattern = &patterns[i];
		size_t prefix = strlen(pattern->prefix), suffix = strlen(pattern->suffix);

		if (length <= prefix + suffix || strncmp(name, pattern->prefix, prefix) != 0 ||
		    strcmp(name + length - suffix, pattern->suffix) != 0 || !matches_parent(pattern->parent, parent))
			continue;
		size_t id = length - prefix - suffix;
		if (pattern->has_hash_id && !is_hash(name + prefix, id))
			continue;
		*ret_id_offset = (uint32_t)prefix;
		*ret_id_length = (uint32_t)id;
		return pattern->runtime;
	}
	return CIEL_RUNTIME_NONE;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Which cgroup names are containers, and of which runtime. */
#include "recognise.h"
#include "test.h"

#define HASH "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static const struct {
	const char *name, *parent;
	enum ciel_runtime runtime;
	const char *id;
} cases[] = {
	{ "docker-" HASH ".scope", "system.slice", CIEL_RUNTIME_DOCKER, HASH },
	{ HASH, "docker", CIEL_RUNTIME_DOCKER, HASH },
	{ "libpod-" HASH ".scope", "machine.slice", CIEL_RUNTIME_PODMAN, HASH },
	{ "libpod-" HASH, "libpod_parent", CIEL_RUNTIME_PODMAN, HASH },
	{ "libpod-conmon-" HASH ".scope", "machine.slice", CIEL_RUNTIME_NONE, "" },
	{ "cri-containerd-" HASH ".scope", "kubepods-besteffort-pod1.slice", CIEL_RUNTIME_CONTAINERD, HASH },
	{ HASH, "pod8a1c", CIEL_RUNTIME_CONTAINERD, HASH },
	{ "lxc.payload.web", "", CIEL_RUNTIME_LXC, "web" },
	{ "lxc.monitor.web", "", CIEL_RUNTIME_NONE, "" },
	{ "lxc.payload.", "", CIEL_RUNTIME_NONE, "" },
	{ HASH, "somewhere", CIEL_RUNTIME_NONE, "" },
	{ HASH "0", "docker", CIEL_RUNTIME_NONE, "" },
	{ "docker-" HASH ".scopes", "system.slice", CIEL_RUNTIME_NONE, "" },
	{ "docker-.scope", "system.slice", CIEL_RUNTIME_NONE, "" },
	{ "docker.service", "system.slice", CIEL_RUNTIME_NONE, "" },
	{ "DOCKER-" HASH ".scope", "system.slice", CIEL_RUNTIME_NONE, "" },
	{ "", "", CIEL_RUNTIME_NONE, "" },
};

int main(void)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint32_t offset = 0, length = 0;
		enum ciel_runtime runtime = ciel_recognise(cases[i].name, cases[i].parent, &offset, &length);
		if (runtime != cases[i].runtime || length != strlen(cases[i].id) ||
		    strncmp(cases[i].name + offset, cases[i].id, length) != 0) {
			fprintf(stderr, "%s below %s: runtime %d, id of %u bytes at %u\n", cases[i].name, cases[i].parent, runtime,
				length, offset);
			exit(1);
		}
	}
	return 0;
}

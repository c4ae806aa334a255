/* SPDX-License-Identifier: Apache-2.0 */
/* Which cgroup paths are containers, and of which runtime. The paths are what the runtimes make. */
#include "recognise.h"
#include "test.h"

#define HASH "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define OUTER "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"

static const struct {
	const char *path;
	enum ciel_runtime runtime;
	const char *id;
} cases[] = {
	{ "/system.slice/docker-" HASH ".scope", CIEL_RUNTIME_DOCKER, HASH },
	{ "/docker/" HASH, CIEL_RUNTIME_DOCKER, HASH },
	{ "/actions_job/" HASH, CIEL_RUNTIME_DOCKER, HASH },
	{ "/" HASH, CIEL_RUNTIME_DOCKER, HASH },
	{ "/docker/" HASH "0", CIEL_RUNTIME_NONE, "" },
	{ "/docker/buildkit", CIEL_RUNTIME_NONE, "" },
	{ "/system.slice/docker-" HASH ".scopes", CIEL_RUNTIME_NONE, "" },
	{ "/system.slice/docker-.scope", CIEL_RUNTIME_NONE, "" },
	{ "/system.slice/DOCKER-" HASH ".scope", CIEL_RUNTIME_NONE, "" },
	{ "/docker/" HASH "/init.scope", CIEL_RUNTIME_NONE, "" },
	{ "/docker/" HASH "/system.slice/cron.service", CIEL_RUNTIME_NONE, "" },

	{ "/machine.slice/libpod-" HASH ".scope", CIEL_RUNTIME_PODMAN, HASH },
	{ "/machine.slice/libpod-" HASH ".scope/container", CIEL_RUNTIME_NONE, "" },
	{ "/machine.slice/libpod-conmon-" HASH ".scope", CIEL_RUNTIME_NONE, "" },
	{ "/machine.slice/machine-libpod_pod_" OUTER ".slice/libpod-" HASH ".scope", CIEL_RUNTIME_PODMAN, HASH },
	{ "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" HASH ".scope", CIEL_RUNTIME_PODMAN, HASH },
	{ "/system.slice/shop.service/libpod-payload-" HASH, CIEL_RUNTIME_PODMAN, HASH },
	{ "/libpod_parent/libpod-" HASH, CIEL_RUNTIME_PODMAN, HASH },
	{ "/libpod_parent/libpod-conmon-" HASH, CIEL_RUNTIME_NONE, "" },
	{ "/libpod_parent/" OUTER "/libpod-" HASH, CIEL_RUNTIME_PODMAN, HASH },
	{ "/libpod_parent/" OUTER, CIEL_RUNTIME_NONE, "" },

	{ "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/cri-containerd-" HASH ".scope",
	  CIEL_RUNTIME_CONTAINERD, HASH },
	{ "/kubepods/burstable/pod8a1c5f60/" HASH, CIEL_RUNTIME_CONTAINERD, HASH },
	{ "/kubepods/burstable/pod8a1c5f60", CIEL_RUNTIME_NONE, "" },
	{ "/k8s.io/" HASH, CIEL_RUNTIME_CONTAINERD, HASH },
	{ "/default/shop", CIEL_RUNTIME_CONTAINERD, "shop" },
	{ "/somewhere/default/shop", CIEL_RUNTIME_NONE, "" },
	{ "/system.slice/nerdctl-" HASH ".scope", CIEL_RUNTIME_CONTAINERD, HASH },
	{ "/kubepods.slice/kubepods-pod1.slice/crio-" HASH ".scope", CIEL_RUNTIME_CRIO, HASH },
	{ "/kubepods.slice/kubepods-pod1.slice/crio-conmon-" HASH ".scope", CIEL_RUNTIME_NONE, "" },
	{ "/kubepods/besteffort/pod8a1c5f60/crio-" HASH, CIEL_RUNTIME_CRIO, HASH },

	{ "/lxc.payload.web", CIEL_RUNTIME_LXC, "web" },
	{ "/lxc.payload.web/system.slice/nginx.service", CIEL_RUNTIME_NONE, "" },
	{ "/lxc.monitor.web", CIEL_RUNTIME_NONE, "" },
	{ "/lxc.payload.", CIEL_RUNTIME_NONE, "" },
	{ "/lxc/web", CIEL_RUNTIME_LXC, "web" },
	{ "/lxc/web/lxc/inner", CIEL_RUNTIME_LXC, "inner" },
	{ "/lxc", CIEL_RUNTIME_NONE, "" },

	{ "/machine.slice/machine-debian.scope", CIEL_RUNTIME_NSPAWN, "debian" },
	{ "/machine.slice/systemd-nspawn@debian.service", CIEL_RUNTIME_NSPAWN, "debian" },
	{ "/machine.slice/systemd-nspawn@debian.service/payload", CIEL_RUNTIME_NONE, "" },
	{ "/machine.slice/machine-qemu\\x2d1\\x2dshop.scope", CIEL_RUNTIME_NONE, "" },

	/* Docker in Docker; kind; Kubernetes with systemd in kind; Docker in LXC */
	{ "/docker/" OUTER "/docker/" HASH, CIEL_RUNTIME_DOCKER, HASH },
	{ "/system.slice/docker-" OUTER ".scope/docker/" HASH, CIEL_RUNTIME_DOCKER, HASH },
	{ "/docker/" OUTER "/kubelet/kubepods/besteffort/pod8a1c5f60/" HASH, CIEL_RUNTIME_CONTAINERD, HASH },
	{ "/docker/" OUTER
	  "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod1.slice/cri-containerd-" HASH ".scope",
	  CIEL_RUNTIME_CONTAINERD, HASH },
	{ "/lxc.payload.web/system.slice/docker-" HASH ".scope", CIEL_RUNTIME_DOCKER, HASH },

	{ "/system.slice/docker.service", CIEL_RUNTIME_SYSTEMD, "docker.service" },
	{ "/system.slice/system-getty.slice/getty@tty1.service", CIEL_RUNTIME_SYSTEMD, "getty@tty1.service" },
	{ "/system.slice/.service", CIEL_RUNTIME_NONE, "" },
	{ "/user.slice/user-0.slice/user@0.service", CIEL_RUNTIME_NONE, "" },
	{ "/system.slice", CIEL_RUNTIME_NONE, "" },
	{ "/", CIEL_RUNTIME_NONE, "" },
};

/* Cuts the last three names off a path. */
static struct ciel_cgroup_names names_of(char *path)
{
	const char *last[3];

	for (int i = 0; i < 3; i++) {
		char *slash = strrchr(path, '/');
		last[i] = slash ? slash + 1 : "";
		if (slash)
			*slash = '\0';
	}
	return (struct ciel_cgroup_names){ .name = last[0], .parent = last[1], .grandparent = last[2] };
}

int main(void)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char path[512];
		snprintf(path, sizeof(path), "%s", cases[i].path);
		struct ciel_cgroup_names names = names_of(path);
		uint32_t offset = 0, length = 0;
		enum ciel_runtime runtime = ciel_recognise(&names, &offset, &length);
		if (runtime != cases[i].runtime || length != strlen(cases[i].id) ||
		    strncmp(names.name + offset, cases[i].id, length) != 0) {
			fprintf(stderr, "%s: runtime %d, id of %u bytes at %u\n", cases[i].path, runtime, length, offset);
			exit(1);
		}
	}
	return 0;
}

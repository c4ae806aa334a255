/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the views answer: shared by the views (compiled for the guest's layout) and the mapper (compiled for the host's).
 * Fixed-width members only.
 *
 * Order of use: view_prove() and view_kernel() after an attach, and again now and then; view_cgroups() each sample; then
 * view_cgroup_*() for the cgroups that are of interest. Each returns 0, or a negative enum ciel_view_error. When one
 * fails, what it has filled in so far is not to be used, unless said otherwise.
 *
 * A figure that this kernel or this cgroup does not keep is unavailable by itself: the others are still good.
 *
 * A view's answer holds constants and sums of the guest's counters, so that a repeat can make it again from the counters
 * alone (view-runtime.h). What is no sum of counters is worked out of it by the view's _finish(), which reads no guest.
 * Arrays are at the end of an answer, their unused part is left alone, and all that is not written is 0.
 */
#ifndef CIEL_VIEWS_H
#define CIEL_VIEWS_H

#include <stdint.h>

enum {
	VIEW_MAX_CPUS = 512,
	VIEW_MAX_DEPTH = 32, /* of the cgroup tree, the root not counted */
	VIEW_MAX_DEVICES = 32,
	VIEW_MAX_NODES = 1024,
	VIEW_MAX_INTERFACES = 64,
	VIEW_NAME_BYTES = 256, /* the kernel's limit for a cgroup's name, and the NUL */
};

struct view_figure {
	uint64_t value;
	int32_t status; /* 0; a negative ciel_view_error; a positive enum view_reason */
	uint32_t slot;  /* with CIEL_VIEW_NO_SLOT: the one that is missing */
};

enum view_reason {
	VIEW_NOT_ACCOUNTED = 1, /* the controller is not enabled for this cgroup */
	VIEW_NOT_LIMITED = 2,   /* a limit that is not set */
	VIEW_PRIVATE = 3,       /* kept by a driver in records of its own, which no view knows */
	VIEW_EMPTY = 4,         /* no process is in the cgroup, so nothing tells its namespaces */
};

/* --- once per attach ------------------------------------------------------------------------------------------------- */

struct view_proof {
	char first_task[16]; /* "swapper/0", or "swapper" on kernels without SMP */
	char release[65];
	char version[65];
	char nodename[65];
	uint64_t jiffies;     /* stands still in a dead kernel's memory */
	uint64_t root_cgroup; /* the default hierarchy's root; its css points back to it */
};

/* Whether this is a live Linux kernel, and which. CHANGED when what must hold in every kernel does not. */
int view_prove(struct view_proof *out);

/* What does not change while a kernel runs. */
struct view_kernel {
	uint32_t cpu_count;             /* possible CPUs: offline ones hold counts too */
	uint32_t cpu[VIEW_MAX_CPUS];    /* their numbers, ascending */
	uint64_t offset[VIEW_MAX_CPUS]; /* __per_cpu_offset[] of each */
	/* Where memory.stat's items are in the kernel's counters, which newer kernels compact. */
	struct view_figure anon_item, file_item, swap_cache_item, inactive_file_item, swap_item, mapped_item, kernel_item;
	uint64_t node_count;           /* NUMA nodes that there may be */
	struct view_figure tick; /* nanoseconds in one unit of the times that version 1 shows as ticks */
};

int view_kernel(struct view_kernel *out);

/* --- each sample ----------------------------------------------------------------------------------------------------- */

struct view_cgroup {
	uint64_t address; /* of the guest's struct cgroup; with the serial number, its identity */
	uint64_t serial;
	uint64_t id;        /* the inode number of its directory */
	uint32_t parent;    /* index in the list; the root's is its own */
	uint32_t depth;     /* the root is at 0 */
	uint32_t is_online; /* 0: removed, but still in the tree */
	char name[VIEW_NAME_BYTES]; /* the guest's bytes: escape before use; the root's is empty */
};

/* Controllers whose hierarchy matters: on version 1 each may have its own. */
enum view_controller {
	VIEW_CONTROLLER_CPUACCT = 1 << 0, /* on version 2, what every cgroup has */
	VIEW_CONTROLLER_MEMORY = 1 << 1,
	VIEW_CONTROLLER_IO = 1 << 2,
	VIEW_CONTROLLER_PIDS = 1 << 3,
};

struct view_hierarchy {
	uint64_t root; /* of its root's struct cgroup */
	uint32_t is_default; /* version 2 */
	uint32_t controllers; /* enum view_controller, of those that are attached to it */
};

/* Every hierarchy that is mounted, and the default one. LIMIT when the list is full. */
int view_hierarchies(struct view_hierarchy *list, uint64_t capacity, uint64_t *count);

/*
 * The hierarchy of a root, parents before children. *count says how many entries are good, also on failure: LIMIT when
 * the list is full or the tree too deep, CHANGED when the guest changed it meanwhile.
 */
int view_cgroups(uint64_t root, struct view_cgroup *list, uint64_t capacity, uint64_t *count);

/* Time that the cgroup and everything below it has used, in nanoseconds. */
struct view_cpu {
	struct view_figure usage; /* exact: what is not flushed yet is counted */
	struct view_figure user, system; /* split as the kernel's cpu.stat does */
	/* By CPU: of the cgroups that still exist; what removed children used is known only as a part of usage. */
	struct view_figure per_cpu; /* value: the number of CPUs */
	/* The bandwidth limit: period and quota in nanoseconds. */
	struct view_figure quota, period, periods, throttled_periods, throttled_time;
	struct view_figure shares; /* as cgroup v1 says it: 1024 is cpu.weight's 100 */
	/* Until view_cpu_finish(), usage lacks what is in by_cpu, and user and system are what ticks say. */
	uint64_t shown_user, shown_system;
	uint64_t shows_ticks; /* 1: the kernel shows ticks as they are */
	uint64_t by_cpu[VIEW_MAX_CPUS]; /* in the order of view_kernel.cpu */
};

int view_cgroup_cpu(uint64_t address, uint64_t serial, const struct view_kernel *kernel, struct view_cpu *out);
int view_cpu_finish(const struct view_kernel *kernel, struct view_cpu *out);

/* Bytes; children included, as in the kernel's own files. Until view_memory_finish() all but the limit are in pages. */
struct view_memory {
	struct view_figure current, peak, limit, swap;
	struct view_figure oom_kills; /* times that the kernel killed one of its processes for want of memory */
	struct view_figure anon, file, swap_cache, inactive_file;
	/* On demand. */
	struct view_figure mapped, kernel;
};

/* `detail`: with what is read on demand. */
int view_cgroup_memory(uint64_t address, uint64_t serial, const struct view_kernel *kernel, uint64_t detail,
		       struct view_memory *out);
int view_memory_finish(const struct view_kernel *kernel, struct view_memory *out);

struct view_io_device {
	uint64_t queue; /* the guest's struct request_queue: the device's identity */
	uint32_t major, minor;
	uint64_t read_bytes, write_bytes, reads, writes;
	char name[32]; /* the guest's bytes, e.g. "vda" */
};

/* Block I/O as in io.stat; children included. Stacked devices (dm, md) count at each level, as there. */
struct view_io {
	struct view_figure read_bytes, write_bytes, reads, writes; /* over all devices; from view_io_finish() on */
	uint32_t device_count;
	struct view_io_device devices[VIEW_MAX_DEVICES];
};

int view_cgroup_io(uint64_t address, uint64_t serial, const struct view_kernel *kernel, struct view_io *out);
int view_io_finish(const struct view_kernel *kernel, struct view_io *out);

struct view_pids {
	struct view_figure current, limit;
};

int view_cgroup_pids(uint64_t address, uint64_t serial, struct view_pids *out);

/* Time in which some, or all, of the cgroup's tasks that had work to do waited for a resource, in nanoseconds. */
struct view_pressure {
	struct view_figure cpu_some, cpu_full, memory_some, memory_full, io_some, io_full;
};

int view_cgroup_pressure(uint64_t address, uint64_t serial, const struct view_kernel *kernel, struct view_pressure *out);

struct view_interface_counts {
	uint64_t rx_bytes, rx_packets, rx_errors, rx_dropped;
	uint64_t tx_bytes, tx_packets, tx_errors, tx_dropped;
};

struct view_interface {
	uint64_t device; /* the guest's struct net_device */
	struct view_interface_counts counts;
	struct view_figure result; /* value: 0; why counts are missing */
	uint32_t index;            /* its number in its namespace */
	uint32_t flags;            /* IFF_UP, IFF_LOOPBACK, … */
	char name[16];             /* the guest's bytes, e.g. "eth0" */
	char kind[16];             /* "veth", "macvlan", …; empty for hardware and the loopback device */
};

/* The network namespace of the cgroup's processes: that of the first one which is found. */
struct view_network {
	uint64_t net; /* the guest's struct net: the namespace's identity */
	struct view_figure inode; /* as in `readlink /proc/PID/ns/net`; VIEW_EMPTY: there is no namespace to speak of */
	uint32_t is_initial; /* the guest's own: its interfaces are not listed, as they are no container's */
	uint32_t interface_count;
	struct view_interface interfaces[VIEW_MAX_INTERFACES];
};

int view_cgroup_network(uint64_t address, uint64_t serial, const struct view_kernel *kernel, struct view_network *out);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The public interface of libcielmapper.so: reading the containers of a Linux VM out of its RAM.
 *
 * Made for FFI: one prefix, flat structs of fixed-width fields with asserted sizes, an ABI number to check at load, no
 * callbacks, no printing. One thread at a time may use a guest; different guests are independent.
 *
 *   ciel_attach()  finds the kernel in the RAM of a QEMU process: tables, symbols, types. Tenths of a second, or less than
 *                  a millisecond from a cache file of the same boot.
 *   ciel_attach_dump()  the same in a file: an ELF core, a kdump file, a libvirt save image, a QEMU migration stream.
 *   ciel_sample()  walks the cgroup tree and fills a flat buffer. Microseconds.
 *   ciel_detach()  gives everything back; a mapping would keep a dead VM's RAM alive.
 */
#ifndef CIEL_MAPPER_H
#define CIEL_MAPPER_H

#include <stdint.h>

#include "status.h"

#define CIEL_API __attribute__((visibility("default")))

enum { CIEL_ABI = 5 };

struct ciel_guest;

enum ciel_source_choice {
	CIEL_SOURCE_AUTO = 0, /* mapped where the RAM is a sealed shared memfd; another shared file by pread; else process */
	CIEL_SOURCE_MAPPED = 1,
	CIEL_SOURCE_PROCESS = 2,
	CIEL_SOURCE_FILE = 3,
	CIEL_SOURCE_DUMP = 4, /* only ciel_attach_dump()'s answer */
};

enum { CIEL_MAX_NODES = 16 };

struct ciel_attach_request {
	uint32_t pid;
	uint32_t machine; /* enum ciel_machine */
	uint64_t start_time; /* field 22 of /proc/PID/stat: pids are reused. 0: any */
	uint64_t ram_bytes;
	uint64_t max_ram_below_4g; /* QEMU's machine option; 0: not given */
	uint32_t source; /* enum ciel_source_choice */
	uint16_t with_services; /* systemd services of the guest are sampled like containers */
	uint16_t detail;        /* figures on demand are read, too: about as much work as the others together */
	/* A file to attach from and to save to; empty: none. It names offsets and addresses only, and is proved on use. */
	char cache_path[244];
	uint32_t cache_only; /* STALE instead of an attach that takes long */
	/* Where detached BTF files are, for kernels that carry no types (types/detached.h); empty: nowhere. */
	char btf_directory[248];
	/* The sizes of the RAM blocks where each NUMA node has one of its own, in the nodes' order; none: all RAM is one block. */
	uint32_t node_count;
	uint64_t node_bytes[CIEL_MAX_NODES];
};
_Static_assert(sizeof(struct ciel_attach_request) == 672, "the FFI border");

struct ciel_attach_report {
	uint32_t source; /* enum ciel_source_choice, not AUTO */
	uint32_t from_cache;
	uint32_t candidates; /* VMCOREINFO copies that differ */
	uint32_t levels;     /* of page tables */
	uint64_t scan_ns, symbols_ns, types_ns, total_ns;
	uint8_t btf_hash[32];
	uint8_t boot_id[16];
	char release[72];
};
_Static_assert(sizeof(struct ciel_attach_report) == 168, "the FFI border");

/*
 * What a sample looks like in the buffer: one header, then container_count containers, each `bytes` long:
 *
 *   struct ciel_sample_container
 *   cpu_count u64: CPU time by CPU number (UINT64_MAX: not a possible CPU)
 *   device_count struct ciel_sample_device
 *   interface_count struct ciel_sample_interface
 *   path_length bytes: the cgroup's path
 *   padding to 8
 *
 * Names in it are the guest's bytes.
 */
struct ciel_sample_header {
	uint32_t abi;
	uint32_t header_bytes;
	uint32_t container_bytes; /* of the fixed part */
	uint32_t container_count;
	uint32_t cpu_count; /* length of the per-CPU arrays: the highest possible CPU + 1 */
	uint32_t possible_cpus;
	uint32_t bytes;
	uint32_t fuel_used;
	uint64_t at_ns; /* CLOCK_BOOTTIME of the host, before the first load */
	uint64_t elapsed_ns;
	uint64_t jiffies;
	uint8_t boot_id[16];
	char release[72];
	char nodename[72];
	/* How the figures came about: views that ran, and that were repeated from what was recorded (programme.h). */
	uint32_t views_run, views_repeated;
	uint32_t corrections; /* since the attach: recordings that had gone wrong unseen; 0 in a guest that plays by the rules */
	uint32_t reserved;
};
_Static_assert(sizeof(struct ciel_sample_header) == 232, "the FFI border");

/* Times are in nanoseconds. A limit that is not set is UINT64_MAX. */
enum ciel_figure_name {
	CIEL_FIGURE_CPU,
	CIEL_FIGURE_CPU_USER,
	CIEL_FIGURE_CPU_SYSTEM,
	CIEL_FIGURE_CPU_PER_CPU, /* value: 0; the values are behind the container */
	CIEL_FIGURE_CPU_QUOTA,
	CIEL_FIGURE_CPU_PERIOD,
	CIEL_FIGURE_CPU_PERIODS,
	CIEL_FIGURE_CPU_THROTTLED_PERIODS,
	CIEL_FIGURE_CPU_THROTTLED,
	CIEL_FIGURE_CPU_SHARES, /* 1024 is cpu.weight's 100 */
	CIEL_FIGURE_MEMORY,
	CIEL_FIGURE_MEMORY_PEAK,
	CIEL_FIGURE_MEMORY_LIMIT,
	CIEL_FIGURE_MEMORY_SWAP,
	CIEL_FIGURE_MEMORY_OOM_KILLS,
	CIEL_FIGURE_MEMORY_ANON,
	CIEL_FIGURE_MEMORY_FILE,
	CIEL_FIGURE_MEMORY_SWAP_CACHE,
	CIEL_FIGURE_MEMORY_INACTIVE_FILE,
	CIEL_FIGURE_MEMORY_MAPPED, /* on demand */
	CIEL_FIGURE_MEMORY_KERNEL, /* on demand */
	CIEL_FIGURE_IO_READ,
	CIEL_FIGURE_IO_WRITE,
	CIEL_FIGURE_IO_READS,
	CIEL_FIGURE_IO_WRITES,
	/* On demand, all from here on. */
	CIEL_FIGURE_PIDS,
	CIEL_FIGURE_PIDS_LIMIT,
	CIEL_FIGURE_PRESSURE_CPU_SOME,
	CIEL_FIGURE_PRESSURE_CPU_FULL,
	CIEL_FIGURE_PRESSURE_MEMORY_SOME,
	CIEL_FIGURE_PRESSURE_MEMORY_FULL,
	CIEL_FIGURE_PRESSURE_IO_SOME,
	CIEL_FIGURE_PRESSURE_IO_FULL,
	CIEL_FIGURE_NETWORK, /* value: the namespace's inode number; the interfaces are behind the container */
	CIEL_FIGURE_COUNT,
};

struct ciel_figure {
	uint64_t value;
	int32_t status;  /* enum ciel_status: 0, or why there is no value */
	uint32_t detail; /* NO_FIELD: the slot that is missing, for ciel_slot_name() */
};

struct ciel_sample_container {
	uint32_t bytes;
	uint32_t runtime; /* enum ciel_runtime */
	uint32_t path_length;
	uint32_t id_offset, id_length; /* of the container's id, in the path */
	uint32_t device_count, interface_count;
	uint32_t is_host_network; /* its processes are in the guest's first namespace: its interfaces are not listed */
	uint64_t serial; /* of its cgroup: the kernel numbers them in the order in which they are made */
	struct ciel_figure figures[CIEL_FIGURE_COUNT];
};
_Static_assert(sizeof(struct ciel_sample_container) == 40 + 16 * CIEL_FIGURE_COUNT, "the FFI border");

struct ciel_sample_device {
	uint64_t read_bytes, write_bytes, reads, writes;
	uint32_t major, minor;
	char name[32]; /* empty: not known */
};
_Static_assert(sizeof(struct ciel_sample_device) == 72, "the FFI border");

struct ciel_sample_interface {
	uint64_t rx_bytes, rx_packets, rx_errors, rx_dropped;
	uint64_t tx_bytes, tx_packets, tx_errors, tx_dropped;
	int32_t status;  /* enum ciel_status: 0, or why there are no counts */
	uint32_t detail; /* as in struct ciel_figure */
	uint32_t index, flags;
	char name[16];
	char kind[16]; /* empty: hardware, or the loopback device */
};
_Static_assert(sizeof(struct ciel_sample_interface) == 112, "the FFI border");

CIEL_API uint32_t ciel_abi(void);

/* On success *ret is the guest. On failure the status, and error is filled. */
CIEL_API int32_t ciel_attach(const struct ciel_attach_request *request, struct ciel_guest **ret,
			     struct ciel_attach_report *report, struct ciel_error *error);
/* The file's format is recognised by its content and told in `format`, which holds 64 bytes. */
CIEL_API int32_t ciel_attach_dump(const char *path, const char *btf_directory, struct ciel_guest **ret,
				  struct ciel_attach_report *report, char *format, struct ciel_error *error);
CIEL_API int32_t ciel_sample(struct ciel_guest *guest, uint8_t *buffer, uint64_t capacity, struct ciel_error *error);
CIEL_API void ciel_detach(struct ciel_guest *guest);

/*
 * All guests of a host in one call, into one buffer that another process may have mapped, too: a header, a row for each
 * guest in the order in which they were given, then samples (or a struct ciel_error) at 8-byte boundaries.
 */
struct ciel_host;

enum {
	CIEL_LANES = 3, /* guests read at a time */
	/* How long what is left of a tick is waited for when nothing gets done any more. */
	CIEL_BUDGET_NS = 250 * 1000 * 1000,
};

struct ciel_board_header {
	uint32_t abi;
	uint32_t count; /* of rows */
	uint64_t tag;  /* the caller's */
	uint64_t used; /* bytes, so far */
	uint32_t reading[CIEL_LANES]; /* row + 1 that each lane is reading, for a post-mortem */
	uint32_t reserved;
};
_Static_assert(sizeof(struct ciel_board_header) == 40, "the FFI border");

struct ciel_board_row {
	int32_t status; /* enum ciel_status: 0 a sample, else a struct ciel_error at `at`; `bytes` 0: the buffer is full */
	uint32_t bytes;
	uint64_t at;
	uint64_t elapsed_ns; /* 0: it was not read, or not to the end */
};
_Static_assert(sizeof(struct ciel_board_row) == 24, "the FFI border");

CIEL_API int32_t ciel_host_open(struct ciel_host **ret, struct ciel_error *error);
/* A guest of NULL is a row of zeros. Fails only for the caller's mistakes: what takes too long is a row with that error. */
CIEL_API int32_t ciel_host_sample(struct ciel_host *host, struct ciel_guest *const *guests, uint32_t count, uint64_t tag,
				  uint8_t *buffer, uint64_t capacity, uint64_t limit_ns, struct ciel_error *error);
/* Instead of ciel_detach(), for a guest that has been given to ciel_host_sample(). */
CIEL_API void ciel_host_detach(struct ciel_host *host, struct ciel_guest *guest);
CIEL_API void ciel_host_close(struct ciel_host *host);

/* A sealed memfd; -1 and an error. Closed and unmapped with the process. */
CIEL_API int32_t ciel_board_create(uint64_t bytes, struct ciel_error *error);
CIEL_API uint8_t *ciel_board_map(int32_t file, uint64_t bytes, int32_t is_writable, struct ciel_error *error);

/* "field cgroup.bstat" for a slot number; an empty string for a wrong one. Static storage of the calling thread. */
CIEL_API const char *ciel_slot_name(uint32_t slot);

#endif

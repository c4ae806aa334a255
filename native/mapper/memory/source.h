/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory/ is where bytes of a guest's RAM come from.
 *
 * A source is a flat array of RAM, addressed by offset from the start of the RAM block; layout/ says which
 * guest-physical addresses those offsets are. Everything above knows only this interface:
 *
 *   mapped.c   the RAM's own pages, mapped read-only from a sealed memfd that QEMU shares. A load is a load.
 *   file.c     a shared file that must not be mapped (huge pages, files that may shrink): pread, staged.
 *   process.c  process_vm_readv from the QEMU process, a page at a time, staged.
 *   joined.c   several sources one behind the other: a VM with several RAM blocks.
 *   dump.c     a dump: elf.c, kdump.c, save.c are its formats.
 *   array.c    an array of this process: tests, and images in files.
 *
 * A new source is one more file. Xen's foreign memory, say: page() finds the offset in its cache of mappings, or maps the
 * frame with xenforeignmemory_map(PROT_READ) and, when that fails, returns NULL; read() is the same, a page at a time;
 * scan() goes over the frames below the domain's maximum that map; refresh() drops nothing, as a mapped frame is the
 * guest's own, but unmaps the frames that were not used lately, so that ballooned ones are given back; alive() asks
 * xc_domain_getinfo() whether domain id and UUID are still one. It opens with ciel_source_open_xen(domid, uuid, …), and
 * layout/ gets a file for where Xen puts RAM.
 *
 * Rules for every source
 *   1. Nothing is ever written, and reading never makes the guest's memory grow: holes of a file and absent pages of a
 *      process read as zeros without being allocated.
 *   2. No offset, however wild, makes a source fault: it returns NULL or an error. What is behind it may go away at any
 *      time (a file that is truncated, a process that ends): an error, never a signal.
 *   3. A page pointer is valid until the next call on the source, and must be read once (volatile): the guest runs.
 *   4. ciel_source_refresh() makes what is loaded next fresh. Between two refreshes a source may serve a page from a
 *      staged copy.
 * One thread at a time uses a source.
 */
#ifndef CIEL_SOURCE_H
#define CIEL_SOURCE_H

#include <stddef.h>
#include <stdint.h>

#include "../status.h"

#define CIEL_PAGE_SIZE 4096ull
#define CIEL_PAGE_MASK (~(CIEL_PAGE_SIZE - 1))

/* How many bytes of each page a scan looks at. */
#define CIEL_SCAN_BYTES 32

struct ciel_source;

/* Called for each page of a scan with its first bytes. Returns 0 to go on, 1 to end the scan. */
typedef int (*ciel_scan_visitor)(void *context, uint64_t offset, const uint8_t head[CIEL_SCAN_BYTES]);

/* A piece of RAM to be copied. */
struct ciel_piece {
	uint64_t offset;
	uint64_t length;
};

struct ciel_source_operations {
	const char *name;
	/* 1: pages are copies, each of its own instant: reading twice proves nothing without a refresh between. */
	int is_staged;
	/* The page at a page-aligned offset within the RAM, or NULL when it cannot be read. */
	const volatile uint8_t *(*page)(struct ciel_source *source, uint64_t offset);
	/* Copies a range that is within the RAM. */
	enum ciel_status (*read)(struct ciel_source *source, uint64_t offset, void *to, size_t length,
				 struct ciel_error *error);
	/* Visits the resident pages in ascending order. */
	enum ciel_status (*scan)(struct ciel_source *source, ciel_scan_visitor visit, void *context,
				 struct ciel_error *error);
	void (*refresh)(struct ciel_source *source);
	/*
	 * For repeats (record.h), which load from pages that have been read before. A source has one of the two, or neither:
	 * then views run each time.
	 */
	/* The whole RAM as an array; its pages are loaded from as long as resident() says so, asked now and then. */
	const volatile uint8_t *(*array)(struct ciel_source *source);
	/* Copies pieces, in their order, one behind the other. */
	enum ciel_status (*gather)(struct ciel_source *source, const struct ciel_piece *pieces, uint32_t count, uint8_t *to,
				   struct ciel_error *error);
	/* Whether loading from the page allocates nothing. With array or gather. */
	int (*resident)(struct ciel_source *source, uint64_t offset);
	/* CIEL_OK while what was read since the last refresh can be believed: the process that owns the RAM still lives. */
	enum ciel_status (*alive)(struct ciel_source *source, struct ciel_error *error);
	void (*destroy)(struct ciel_source *source);
};

struct ciel_source {
	const struct ciel_source_operations *operations;
	uint64_t size; /* bytes of RAM */
};

static inline const volatile uint8_t *ciel_source_page(struct ciel_source *source, uint64_t offset)
{
	if (offset >= source->size || (offset & ~CIEL_PAGE_MASK))
		return NULL;
	return source->operations->page(source, offset);
}

enum ciel_status ciel_source_read(struct ciel_source *source, uint64_t offset, void *to, size_t length,
				  struct ciel_error *error);

static inline enum ciel_status ciel_source_scan(struct ciel_source *source, ciel_scan_visitor visit, void *context,
						struct ciel_error *error)
{
	return source->operations->scan(source, visit, context, error);
}

static inline void ciel_source_refresh(struct ciel_source *source)
{
	source->operations->refresh(source);
}

static inline enum ciel_status ciel_source_alive(struct ciel_source *source, struct ciel_error *error)
{
	return source->operations->alive(source, error);
}

void ciel_source_destroy(struct ciel_source *source);
void ciel_source_cleanup(struct ciel_source **source);

/* Which process, and that it is still the same one: pids are reused, so the start time belongs to the name. */
struct ciel_process {
	int pid;
	int pidfd; /* -1: none */
};

enum ciel_status ciel_process_open(int pid, uint64_t start_time, struct ciel_process *ret, struct ciel_error *error);
void ciel_process_close(struct ciel_process *process);
enum ciel_status ciel_process_alive(const struct ciel_process *process, struct ciel_error *error);

/*
 * A RAM block of a QEMU process, from /proc/PID/maps: one mapping (or a run of adjoining ones) of exactly `size` bytes.
 * Shared mappings carry the inode and offset of the file that backs them; a private one is reached by its address only,
 * whatever file is behind it: after copy-on-write the file holds something else.
 */
struct ciel_ram_block {
	uint64_t address; /* in the QEMU process */
	uint64_t size;
	uint64_t file_offset;
	uint64_t inode; /* 0: private or anonymous */
	uint32_t device_major, device_minor;
};

/*
 * The blocks of these sizes, one a NUMA node or just one. Which of several of one size is which no file says: QEMU maps one
 * after the other, as a rule from higher addresses to lower ones. *ret_is_guess: there were several of one size, and
 * `upward` is worth a try when the guest's memory disproves this order.
 */
enum ciel_status ciel_ram_blocks_find(const struct ciel_process *process, const uint64_t *sizes, uint32_t count, int upward,
				      struct ciel_ram_block *ret, int *ret_is_guess, struct ciel_error *error);

/* Takes over the process on success. UNSUPPORTED when the block is not a sealed shared file: use the process instead. */
enum ciel_status ciel_source_open_mapped(struct ciel_process *process, const struct ciel_ram_block *block,
					 struct ciel_source **ret, struct ciel_error *error);
/* Takes over the process on success. UNSUPPORTED when the block is private. */
enum ciel_status ciel_source_open_file(struct ciel_process *process, const struct ciel_ram_block *block,
				       struct ciel_source **ret, struct ciel_error *error);
/* Takes over the process on success. */
enum ciel_status ciel_source_open_process(struct ciel_process *process, const struct ciel_ram_block *block,
					  struct ciel_source **ret, struct ciel_error *error);

/* What the offsets of a dump are. */
struct ciel_dump_shape {
	const char *format; /* for people */
	/* Empty: offsets are guest-physical addresses. Else QEMU's machine type, and offsets are of its main RAM. */
	char machine[64];
};

/* Recognises the format by content. */
enum ciel_status ciel_source_open_dump(const char *path, struct ciel_source **ret, struct ciel_dump_shape *ret_shape,
				       struct ciel_error *error);

/*
 * The parts one behind the other, each at the offset where the one before ends. Takes them over on success. All of one
 * kind or not: what is staged in one is staged in all.
 */
enum ciel_status ciel_source_open_joined(struct ciel_source *const *parts, uint32_t count, struct ciel_source **ret,
					 struct ciel_error *error);

/* Borrows the bytes. */
enum ciel_status ciel_source_open_array(const uint8_t *bytes, uint64_t size, struct ciel_source **ret,
					struct ciel_error *error);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest-virtual to guest-physical to source.
 *
 * Two kinds of addresses translate by arithmetic and never by tables: the kernel image (one physically contiguous piece)
 * and the direct map (all RAM at page_offset_base). Everything else — vmalloc, modules, dynamic per-CPU chunks — is walked
 * through the guest's page tables, 4 or 5 levels, 4 KiB, 2 MiB and 1 GiB pages.
 *
 * Such translations are kept in a small cache until ciel_space_refresh(): kept over ticks they would give plausible wrong
 * values instead of faults.
 */
#ifndef CIEL_TRANSLATE_H
#define CIEL_TRANSLATE_H

#include "layout/layout.h"

/* The kernel image's virtual base on x86-64: physical = virtual - this + phys_base. */
#define CIEL_KERNEL_MAP 0xffffffff80000000ull

enum { CIEL_WALK_CACHE = 1024 };

struct ciel_walk_entry {
	uint64_t page; /* virtual page number + 1; 0: empty */
	uint64_t offset; /* of the page in the source */
};

struct ciel_space {
	struct ciel_source *source;
	const struct ciel_layout *layout;
	uint64_t root;   /* guest-physical address of the top table */
	uint32_t levels; /* 4 or 5 */
	uint64_t encryption_mask;
	/* Half-open ranges with arithmetic translation; empty until they are known. */
	uint64_t image_start, image_end, phys_base;
	uint64_t direct_start, direct_end;
	uint32_t has_faulted; /* a view asked for what is not in the RAM that is known */
	struct ciel_walk_entry cache[CIEL_WALK_CACHE];
};

/* Where a guest-virtual address is: the source's offset, and how many bytes follow contiguously. */
struct ciel_extent {
	uint64_t offset;
	uint64_t left;
};

/* Through the page tables only. */
enum ciel_status ciel_space_walk(struct ciel_space *space, uint64_t address, struct ciel_extent *ret,
				 struct ciel_error *error);

/* By arithmetic when possible. 1 and *ret, or 0 when the address does not translate: the fast path, without messages. */
int ciel_space_find(struct ciel_space *space, uint64_t address, struct ciel_extent *ret);

/* What of a page table entry says where a page is. The rest (accessed, dirty, software's) changes as it likes. */
#define CIEL_ENTRY_MEANS 0x000ffffffffff081ull

/* How a page came to be found: where it is in the source, and the table entries that led there; none by arithmetic. */
struct ciel_trace {
	uint64_t offset;
	uint32_t count;
	struct {
		uint64_t offset, value;
	} entries[5];
};

/* Finds a page anew, without the cache. 0 when it does not translate. */
int ciel_space_trace(struct ciel_space *space, uint64_t page, struct ciel_trace *ret);

/* Copies guest-virtual memory; every page of it must translate. */
enum ciel_status ciel_space_read(struct ciel_space *space, uint64_t address, void *to, size_t length,
				 struct ciel_error *error);

/* Forgets walked translations and the source's staged pages. */
void ciel_space_refresh(struct ciel_space *space);

#endif

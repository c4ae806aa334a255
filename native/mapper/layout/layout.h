/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layout/ says which guest-physical addresses the RAM has.
 *
 * A layout is a short table of ranges, each mapping guest-physical addresses to offsets in the source. What a hypervisor
 * puts where is one file a hypervisor (qemu.c); of a dump, dump.c. A table is a guess until it is proved: the page walk from VMCOREINFO to
 * init_uts_ns proves the part with the kernel, the guest's own iomem_resource the rest (attach.c).
 */
#ifndef CIEL_LAYOUT_H
#define CIEL_LAYOUT_H

#include "../memory/source.h"

enum { CIEL_MAX_RANGES = 8 };

struct ciel_range {
	uint64_t address; /* guest-physical */
	uint64_t size;
	uint64_t offset; /* in the source */
};

struct ciel_layout {
	struct ciel_range ranges[CIEL_MAX_RANGES];
	uint32_t count;
	uint32_t nodes; /* NUMA nodes whose RAM lies one behind the other in the source, in an order to be proved; 0: one block */
};

enum ciel_machine {
	CIEL_MACHINE_I440FX = 1,
	CIEL_MACHINE_Q35 = 2,
};

/* max_below_4g: QEMU's machine option max-ram-below-4g, 0 when not given. */
enum ciel_status ciel_layout_of_qemu(enum ciel_machine machine, uint64_t ram_size, uint64_t max_below_4g,
				     struct ciel_layout *ret, struct ciel_error *error);

/* The other place where QEMU may put the RAM above 4 GiB; 0 when there is none. */
int ciel_layout_above_1_tib(const struct ciel_layout *layout, struct ciel_layout *ret);

/* size: of the dump's source. */
enum ciel_status ciel_layout_of_dump(const struct ciel_dump_shape *shape, uint64_t size, struct ciel_layout *ret,
				     struct ciel_error *error);

/* The source's offset of a guest-physical address, and how many bytes follow in the range; 0 when it is no RAM. */
int ciel_layout_find(const struct ciel_layout *layout, uint64_t address, uint64_t *ret_offset, uint64_t *ret_left);

/* The source's offset back to a guest-physical address: for what a scan found. */
int ciel_layout_address(const struct ciel_layout *layout, uint64_t offset, uint64_t *ret_address);

/* The end of the highest range. */
uint64_t ciel_layout_end(const struct ciel_layout *layout);

#endif

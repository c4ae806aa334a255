/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where QEMU's x86 machines put their RAM (hw/i386/pc_piix.c and pc_q35.c, unchanged from 2.x to 10.x):
 *
 *   i440fx  RAM < 3.5 GiB: one range. From there on 3 GiB below the hole, the rest from 4 GiB.
 *   q35     RAM < 2.75 GiB: one range. From there on 2 GiB below the hole, the rest from 4 GiB.
 *
 * max-ram-below-4g replaces i440fx's 3.5 GiB (then rounded to 3 GiB when larger and RAM reaches it), and lowers q35's.
 * With an AMD processor, and RAM, memory slots and PCI window together beyond 0xfd00000000 (HyperTransport's), the upper part
 * begins at 1 TiB instead of 4 GiB (from QEMU 7.1 on). The command line does not tell: this is tried when the first does not
 * prove itself.
 */
#include "layout.h"

static const uint64_t GiB = 1ull << 30;

static uint64_t below_4g(enum ciel_machine machine, uint64_t ram_size, uint64_t max_below_4g)
{
	if (machine == CIEL_MACHINE_Q35) {
		uint64_t low = ram_size >= 0xb0000000ull ? 2 * GiB : 0xb0000000ull;
		return max_below_4g && max_below_4g < low ? max_below_4g : low;
	}
	uint64_t low = max_below_4g ? max_below_4g : 0xe0000000ull;
	return ram_size >= low && low > 3 * GiB ? 3 * GiB : low;
}

enum ciel_status ciel_layout_of_qemu(enum ciel_machine machine, uint64_t ram_size, uint64_t max_below_4g,
				     struct ciel_layout *ret, struct ciel_error *error)
{
	if (machine != CIEL_MACHINE_I440FX && machine != CIEL_MACHINE_Q35)
		return ciel_fail(error, CIEL_UNSUPPORTED, "machine type %d is not known", (int)machine);
	if (ram_size == 0 || (ram_size & ~CIEL_PAGE_MASK) || max_below_4g > 4 * GiB)
		return ciel_fail(error, CIEL_BAD_ARGUMENT, "RAM of %llu bytes", (unsigned long long)ram_size);

	uint64_t low = below_4g(machine, ram_size, max_below_4g);
	if (low > ram_size)
		low = ram_size;
	*ret = (struct ciel_layout){ .count = 1, .ranges = { { .address = 0, .size = low, .offset = 0 } } };
	if (ram_size > low)
		ret->ranges[ret->count++] =
			(struct ciel_range){ .address = 4 * GiB, .size = ram_size - low, .offset = low };
	return CIEL_OK;
}

int ciel_layout_above_1_tib(const struct ciel_layout *layout, struct ciel_layout *ret)
{
	if (layout->count != 2 || layout->ranges[1].address != 4 * GiB)
		return 0;
	*ret = *layout;
	ret->ranges[1].address = 1024 * GiB;
	return 1;
}

int ciel_layout_find(const struct ciel_layout *layout, uint64_t address, uint64_t *ret_offset, uint64_t *ret_left)
{
	for (uint32_t i = 0; i < layout->count; i++) {
		const struct ciel_range *range = &layout->ranges[i];
		uint64_t inside = address - range->address;
		if (address >= range->address && inside < range->size) {
			*ret_offset = range->offset + inside;
			*ret_left = range->size - inside;
			return 1;
		}
	}
	return 0;
}

int ciel_layout_address(const struct ciel_layout *layout, uint64_t offset, uint64_t *ret_address)
{
	for (uint32_t i = 0; i < layout->count; i++) {
		const struct ciel_range *range = &layout->ranges[i];
		if (offset >= range->offset && offset - range->offset < range->size) {
			*ret_address = range->address + (offset - range->offset);
			return 1;
		}
	}
	return 0;
}

uint64_t ciel_layout_end(const struct ciel_layout *layout)
{
	const struct ciel_range *last = &layout->ranges[layout->count - 1];
	return last->address + last->size;
}

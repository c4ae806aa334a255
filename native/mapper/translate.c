/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The x86-64 page walk. An entry is 8 bytes:
 *
 *   bit 0 present · bit 7 large page (levels 2 and 3 only) · bits 12..51 physical address · 63 no-execute, 59..62 keys
 *
 * Tables are the guest's: an entry may point anywhere, to holes, to itself. The walk has as many steps as there are
 * levels, each reads 8 bytes of RAM once, and an address outside the layout ends it.
 */
#include <inttypes.h>
#include <string.h>

#include "translate.h"

static const uint64_t ENTRY_PRESENT = 1ull << 0, ENTRY_LARGE = 1ull << 7;
static const uint64_t ENTRY_ADDRESS = 0x000ffffffffff000ull;

enum walk_end { WALK_DONE, WALK_NOT_PRESENT, WALK_RESERVED, WALK_OUTSIDE, WALK_NOT_CANONICAL };

struct walk_result {
	enum walk_end end;
	uint32_t level;    /* where it ended, 1 = the 4 KiB table */
	uint64_t physical; /* of the address, or of the table entry that could not be read */
	uint64_t page_size;
};

static int read_entry(const struct ciel_space *space, uint64_t physical, uint64_t *ret, struct ciel_trace *trace)
{
	uint64_t offset, left;

	if (!ciel_layout_find(space->layout, physical, &offset, &left))
		return 0;
	const volatile uint8_t *page = ciel_source_page(space->source, offset & CIEL_PAGE_MASK);
	if (!page)
		return 0;
	*ret = *(const volatile uint64_t *)(page + (offset & ~CIEL_PAGE_MASK));
	if (trace) {
		trace->entries[trace->count].offset = offset;
		trace->entries[trace->count++].value = *ret;
	}
	return 1;
}

/* With `trace` (empty), each entry on the way is noted. */
static struct walk_result walk(const struct ciel_space *space, uint64_t address, struct ciel_trace *trace)
{
	uint32_t bits = 12 + 9 * space->levels;
	int64_t sign = (int64_t)address >> (bits - 1);

	if (sign != 0 && sign != -1)
		return (struct walk_result){ .end = WALK_NOT_CANONICAL };

	/* Masked like every other table's address: an entry then lies within one page. */
	uint64_t table = space->root & ENTRY_ADDRESS;
	for (uint32_t level = space->levels; level >= 1; level--) {
		uint32_t shift = 12 + 9 * (level - 1);
		uint64_t entry_at = table + ((address >> shift) & 511) * sizeof(uint64_t);
		uint64_t entry;

		if (!read_entry(space, entry_at, &entry, trace))
			return (struct walk_result){ .end = WALK_OUTSIDE, .level = level, .physical = entry_at };
		if (!(entry & ENTRY_PRESENT))
			return (struct walk_result){ .end = WALK_NOT_PRESENT, .level = level, .physical = entry_at };

		uint64_t physical = entry & ENTRY_ADDRESS & ~space->encryption_mask;
		int is_large = level > 1 && (entry & ENTRY_LARGE);
		if (is_large && level > 3)
			return (struct walk_result){ .end = WALK_RESERVED, .level = level, .physical = entry_at };
		if (level == 1 || is_large) {
			uint64_t size = 1ull << shift;
			/* Bit 12 of a large page's entry is a memory type, not an address. */
			return (struct walk_result){
				.end = WALK_DONE,
				.level = level,
				.physical = (physical & ~(size - 1)) | (address & (size - 1)),
				.page_size = size,
			};
		}
		table = physical;
	}
	return (struct walk_result){ .end = WALK_NOT_PRESENT };
}

/* Turns a finished walk into an extent; 0 when the page lies outside the RAM. */
static int extent_of_walk(const struct ciel_space *space, const struct walk_result *result, struct ciel_extent *ret)
{
	uint64_t in_page = result->page_size - (result->physical & (result->page_size - 1));

	if (!ciel_layout_find(space->layout, result->physical, &ret->offset, &ret->left))
		return 0;
	if (ret->left > in_page)
		ret->left = in_page;
	return 1;
}

enum ciel_status ciel_space_walk(struct ciel_space *space, uint64_t address, struct ciel_extent *ret,
				 struct ciel_error *error)
{
	struct walk_result result = walk(space, address, NULL);

	switch (result.end) {
	case WALK_DONE:
		if (extent_of_walk(space, &result, ret))
			return CIEL_OK;
		return ciel_fail(error, CIEL_FAULTED, "0x%" PRIx64 " maps to guest-physical 0x%" PRIx64 ", which is no RAM",
				 address, result.physical);
	case WALK_NOT_CANONICAL:
		return ciel_fail(error, CIEL_FAULTED, "0x%" PRIx64 " is not a canonical address", address);
	case WALK_OUTSIDE:
		return ciel_fail(error, CIEL_FAULTED,
				 "page table of level %u for 0x%" PRIx64 " is at guest-physical 0x%" PRIx64 ", which cannot be read",
				 result.level, address, result.physical);
	case WALK_RESERVED:
		return ciel_fail(error, CIEL_FAULTED, "page table entry of level %u for 0x%" PRIx64 " has a reserved bit",
				 result.level, address);
	case WALK_NOT_PRESENT:
	default:
		return ciel_fail(error, CIEL_FAULTED, "page not present at 0x%" PRIx64 " (level %u)", address, result.level);
	}
}

/* The part of `region` from `address` on, when the physical address that corresponds is RAM. */
static int find_linear(const struct ciel_space *space, uint64_t address, uint64_t physical, uint64_t region_end,
		       struct ciel_extent *ret)
{
	if (!ciel_layout_find(space->layout, physical, &ret->offset, &ret->left))
		return 0;
	if (ret->left > region_end - address)
		ret->left = region_end - address;
	return 1;
}

/* 1 and the extent, 0: no RAM there, -1: the address is in no linear region. */
static int find_by_arithmetic(const struct ciel_space *space, uint64_t address, struct ciel_extent *ret)
{
	if (address >= space->direct_start && address < space->direct_end)
		return find_linear(space, address, address - space->direct_start, space->direct_end, ret);
	if (address >= space->image_start && address < space->image_end)
		return find_linear(space, address, address - CIEL_KERNEL_MAP + space->phys_base, space->image_end, ret);
	return -1;
}

int ciel_space_trace(struct ciel_space *space, uint64_t page, struct ciel_trace *ret)
{
	struct ciel_extent extent;
	int found = find_by_arithmetic(space, page, &extent);

	ret->count = 0;
	if (found < 0) {
		struct walk_result result = walk(space, page, ret);
		found = result.end == WALK_DONE && extent_of_walk(space, &result, &extent);
	}
	ret->offset = extent.offset;
	return found;
}

/* What the kernel keeps by CPU lies at distances that are powers of two as a rule, which a modulus would put into few places. */
static uint32_t cache_place(uint64_t page_number)
{
	return (uint32_t)((page_number * 0x9e3779b97f4a7c15ull) >> 32) % CIEL_WALK_CACHE;
}

int ciel_space_find(struct ciel_space *space, uint64_t address, struct ciel_extent *ret)
{
	int found = find_by_arithmetic(space, address, ret);

	if (found >= 0)
		return found;

	uint64_t number = address / CIEL_PAGE_SIZE, in_page = address & ~CIEL_PAGE_MASK;
	struct ciel_walk_entry *entry = &space->cache[cache_place(number)];

	if (entry->page != number + 1) {
		struct walk_result result = walk(space, address, NULL);
		struct ciel_extent extent;

		if (result.end != WALK_DONE || !extent_of_walk(space, &result, &extent))
			return 0;
		*entry = (struct ciel_walk_entry){ .page = number + 1, .offset = extent.offset - in_page };
	}
	*ret = (struct ciel_extent){ .offset = entry->offset + in_page, .left = CIEL_PAGE_SIZE - in_page };
	return 1;
}

enum ciel_status ciel_space_read(struct ciel_space *space, uint64_t address, void *to, size_t length,
				 struct ciel_error *error)
{
	size_t done = 0;

	while (done < length) {
		struct ciel_extent extent;
		uint64_t at = address + done;

		if (at < address)
			return ciel_fail(error, CIEL_FAULTED, "0x%" PRIx64 " + %zu wraps around", address, length);
		if (!ciel_space_find(space, at, &extent)) {
			enum ciel_status status = ciel_space_walk(space, at, &extent, error);
			return status ? status : ciel_fail(error, CIEL_FAULTED, "0x%" PRIx64 " is no RAM", at);
		}
		size_t piece = length - done < extent.left ? length - done : (size_t)extent.left;
		enum ciel_status status = ciel_source_read(space->source, extent.offset, (uint8_t *)to + done, piece, error);
		if (status)
			return ciel_context(error, "reading guest-virtual 0x%" PRIx64, at);
		done += piece;
	}
	return CIEL_OK;
}

void ciel_space_refresh(struct ciel_space *space)
{
	memset(space->cache, 0, sizeof(space->cache));
	ciel_source_refresh(space->source);
}

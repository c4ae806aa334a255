/* SPDX-License-Identifier: Apache-2.0 */
/*
 * QEMU has a block for the RAM, or one a NUMA node, and one more for each piece that is plugged in (a DIMM), of which its
 * command line says nothing: the guest's kernel has an entry for it in its table (iomem.c). A block's size is all that says
 * which piece it is, so no two pieces may be of one size. That the rest is what it was is proved as at an attach.
 *
 * The table is the guest's word. What x86 plugs in is whole sections of 128 MiB (SECTION_SIZE_BITS in asm/sparsemem.h), and
 * nothing else that QEMU has in its memory is of such a size, so a guest cannot have QEMU's own memory taken for its RAM.
 */
#include <string.h>

#include "cleanup.h"
#include "programme.h"
#include "ram.h"

static const uint64_t SECTION = 128ull << 20;

static enum ciel_status open_block(const struct ciel_attach_request *request, const struct ciel_ram_block *block,
				   struct ciel_source **ret, uint32_t *ret_kind, struct ciel_error *error)
{
	_cleanup_(ciel_process_close) struct ciel_process process = { .pidfd = -1 };
	enum ciel_status status = ciel_process_open((int)request->pid, request->start_time, &process, error);

	if (status)
		return status;
	if (request->source == CIEL_SOURCE_AUTO || request->source == CIEL_SOURCE_MAPPED) {
		status = ciel_source_open_mapped(&process, block, ret, error);
		*ret_kind = CIEL_SOURCE_MAPPED;
		if (status != CIEL_UNSUPPORTED || request->source == CIEL_SOURCE_MAPPED)
			return status;
	}
	if (request->source != CIEL_SOURCE_PROCESS) {
		status = ciel_source_open_file(&process, block, ret, error);
		*ret_kind = CIEL_SOURCE_FILE;
		if (status != CIEL_UNSUPPORTED || request->source == CIEL_SOURCE_FILE)
			return status;
	}
	*ret_kind = CIEL_SOURCE_PROCESS;
	return ciel_source_open_process(&process, block, ret, error);
}

struct ciel_ram_blocks ciel_ram_blocks_of(const struct ciel_attach_request *request)
{
	struct ciel_ram_blocks blocks = { .sizes = { request->ram_bytes }, .count = 1 };

	if (request->node_count > 0) {
		memcpy(blocks.sizes, request->node_bytes, sizeof(request->node_bytes));
		blocks.count = request->node_count;
	}
	return blocks;
}

enum ciel_status ciel_ram_open(const struct ciel_attach_request *request, const struct ciel_ram_blocks *wanted, int upward,
			       struct ciel_source **ret, uint32_t *ret_kind, int *ret_is_guess, struct ciel_error *error)
{
	_cleanup_(ciel_process_close) struct ciel_process process = { .pidfd = -1 };
	struct ciel_ram_block blocks[CIEL_MAX_BLOCKS];
	struct ciel_source *parts[CIEL_MAX_BLOCKS] = { NULL };
	uint32_t opened = 0;
	enum ciel_status status = ciel_process_open((int)request->pid, request->start_time, &process, error);

	if (!status)
		status = ciel_ram_blocks_find(&process, wanted->sizes, wanted->count, upward, blocks, ret_is_guess, error);
	for (; !status && opened < wanted->count; opened++) {
		status = open_block(request, &blocks[opened], &parts[opened], ret_kind, error);
		if (status)
			break;
	}
	if (!status && wanted->count == 1)
		*ret = ciel_take(parts[0]);
	else if (!status)
		status = ciel_source_open_joined(parts, wanted->count, ret, error);
	for (uint32_t i = 0; status && i < opened; i++)
		ciel_source_destroy(parts[i]);
	return status;
}

/* 1 when the guest's table asks for another layout than there is, and it can be told which block is which piece. */
static int lay_out(struct ciel_guest *guest, struct ciel_layout *ret, struct ciel_ram_blocks *ret_blocks)
{
	struct ciel_system_ram ram;
	struct ciel_error ignored;
	uint64_t offset = guest->request->ram_bytes;

	*ret = guest->layout;
	ret->count = guest->own_ranges;
	*ret_blocks = ciel_ram_blocks_of(guest->request);
	uint64_t end = ciel_layout_end(ret);
	/* The table's next entry may lie in a piece that is not known yet: what was found before it is a step on. */
	int is_whole = ciel_guest_system_ram(guest, &ram, &ignored) == CIEL_OK;
	for (uint32_t i = 0; i < ram.count; i++) {
		struct ciel_range range = ram.ranges[i];

		if (range.address < end)
			continue;
		if (ret->count == CIEL_MAX_RANGES || ((range.address | range.size) & (SECTION - 1)))
			return 0;
		for (uint32_t j = guest->own_ranges; j < ret->count; j++) {
			if (ret->ranges[j].size == range.size)
				return 0;
		}
		range.offset = offset;
		if (__builtin_add_overflow(offset, range.size, &offset))
			return 0;
		ret->ranges[ret->count++] = range;
		ret_blocks->sizes[ret_blocks->count++] = range.size;
	}
	if (!is_whole)
		return ret->count > guest->layout.count;
	return ret->count != guest->layout.count ||
	       memcmp(ret->ranges, guest->layout.ranges, ret->count * sizeof(ret->ranges[0])) != 0;
}

static void use(struct ciel_guest *guest, struct ciel_source *source, const struct ciel_layout *layout)
{
	guest->source = source;
	guest->space.source = source;
	guest->layout = *layout;
	ciel_guest_set_linear_ranges(guest);
	ciel_space_refresh(&guest->space);
}

static int follow_a_step(struct ciel_guest *guest)
{
	struct ciel_layout before = guest->layout, layout;
	struct ciel_source *old = guest->source;
	struct ciel_ram_blocks blocks;
	struct ciel_error ignored;
	int is_guess = 0, is_right = 0;

	if (!lay_out(guest, &layout, &blocks))
		return 0;
	for (int upward = 0; !is_right && upward <= is_guess; upward++) {
		struct ciel_source *source;
		uint32_t kind;

		if (ciel_ram_open(guest->request, &blocks, upward, &source, &kind, &is_guess, &ignored))
			return 0;
		use(guest, source, &layout);
		is_right = ciel_guest_prove(guest, &ignored) == CIEL_OK;
		if (!is_right) {
			use(guest, old, &before);
			ciel_source_destroy(source);
		}
	}
	if (!is_right)
		return 0;
	ciel_source_destroy(old);
	/* What was recorded names places in the source that was. */
	ciel_programme_destroy(guest->programme);
	guest->programme = NULL;
	return 1;
}

void ciel_guest_follow_plugged(struct ciel_guest *guest)
{
	for (int steps = 0; guest->request && steps < CIEL_MAX_RANGES && follow_a_step(guest); steps++)
		;
}

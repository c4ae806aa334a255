/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "image.h"

int ciel_image_pieces(struct ciel_space *space, uint64_t start, size_t overlap, ciel_image_piece_visitor visit, void *context)
{
	uint8_t bytes[CIEL_MAX_PATTERN + CIEL_PAGE_SIZE];
	size_t kept = 0;
	uint64_t end;

	if (overlap > CIEL_MAX_PATTERN)
		return 0;
	start &= CIEL_PAGE_MASK;
	if (__builtin_add_overflow(start, (uint64_t)CIEL_IMAGE_BYTES, &end))
		end = CIEL_PAGE_MASK;
	for (uint64_t page = start; page < end; page += CIEL_PAGE_SIZE) {
		struct ciel_extent extent;
		struct ciel_error ignored;

		if (!ciel_space_find(space, page, &extent) || extent.left < CIEL_PAGE_SIZE ||
		    ciel_source_read(space->source, extent.offset, bytes + kept, CIEL_PAGE_SIZE, &ignored)) {
			kept = 0;
			continue;
		}
		size_t length = kept + CIEL_PAGE_SIZE;
		if (visit(context, page - kept, bytes, length, kept))
			return 1;
		kept = overlap;
		memmove(bytes, bytes + length - kept, kept);
	}
	return 0;
}

struct search {
	const void *pattern;
	size_t length;
	ciel_image_visitor visit;
	void *context;
};

static int visit_matches(void *context, uint64_t address, const uint8_t *bytes, size_t length, size_t kept)
{
	const struct search *search = context;
	const uint8_t *next = bytes;

	(void)kept;
	while ((next = memmem(next, length - (size_t)(next - bytes), search->pattern, search->length))) {
		if (search->visit(search->context, address + (uint64_t)(next - bytes)))
			return 1;
		next++;
	}
	return 0;
}

int ciel_image_search(struct ciel_space *space, uint64_t start, const void *pattern, size_t length,
		      ciel_image_visitor visit, void *context)
{
	struct search search = { .pattern = pattern, .length = length, .visit = visit, .context = context };

	return length > 0 && length <= CIEL_MAX_PATTERN &&
	       ciel_image_pieces(space, start, length - 1, visit_matches, &search);
}

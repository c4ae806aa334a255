/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "image.h"

/* Matches that begin in bytes[0..filled), which are those at `address`. */
static int visit_matches(const uint8_t *bytes, size_t filled, uint64_t address, const void *pattern, size_t length,
			 ciel_image_visitor visit, void *context)
{
	const uint8_t *next = bytes;

	while ((next = memmem(next, filled - (size_t)(next - bytes), pattern, length))) {
		if (visit(context, address + (uint64_t)(next - bytes)))
			return 1;
		next++;
	}
	return 0;
}

int ciel_image_search(struct ciel_space *space, uint64_t start, const void *pattern, size_t length,
		      ciel_image_visitor visit, void *context)
{
	uint8_t bytes[CIEL_MAX_PATTERN + CIEL_PAGE_SIZE];
	size_t kept = 0; /* of the page before: where a match may have begun */
	uint64_t end;

	if (length == 0 || length > CIEL_MAX_PATTERN)
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
		size_t filled = kept + CIEL_PAGE_SIZE;
		if (visit_matches(bytes, filled, page - kept, pattern, length, visit, context))
			return 1;
		kept = length - 1;
		memmove(bytes, bytes + filled - kept, kept);
	}
	return 0;
}

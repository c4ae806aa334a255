/* SPDX-License-Identifier: Apache-2.0 */
/* Page tables: a header (root, addresses to look up, number of levels, encryption mask), then RAM full of tables. */
#include "../test.h"
#include "fuzz-layout.h"
#include "translate.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	static uint8_t ram[WALK_BYTES];
	static const struct ciel_layout layout = {
		.count = 2,
		.ranges = { { .size = WALK_BYTES / 2 }, { .address = 4ull << 30, .size = WALK_BYTES / 2, .offset = WALK_BYTES / 2 } },
	};
	uint64_t header[WALK_HEADER / 8] = { 0 };
	struct ciel_source *source;
	struct ciel_error error = { 0 };
	uint8_t some[9000];

	memset(ram, 0, sizeof(ram));
	memcpy(header, bytes, length < sizeof(header) ? length : sizeof(header));
	if (length > sizeof(header))
		memcpy(ram, bytes + sizeof(header), length - sizeof(header) < sizeof(ram) ? length - sizeof(header) : sizeof(ram));
	CHECK(ciel_source_open_array(ram, sizeof(ram), &source, &error) == CIEL_OK);
	struct ciel_space space = {
		.source = source, .layout = &layout, .root = header[0], .levels = header[6] & 1 ? 5 : 4, .encryption_mask = header[7],
	};
	for (int i = 1; i < 6; i++) {
		struct ciel_extent walked, found;
		enum ciel_status status = ciel_space_walk(&space, header[i], &walked, &error);
		/* Both ways to the same place, which is within the RAM. */
		int is_found = ciel_space_find(&space, header[i], &found);
		CHECK(is_found == (status == CIEL_OK));
		if (is_found)
			CHECK(found.offset == walked.offset && walked.offset < WALK_BYTES && walked.left <= WALK_BYTES - walked.offset);
		ciel_space_read(&space, header[i], some, sizeof(some), &error);
	}
	ciel_source_destroy(source);
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* BTF as the guest shows it, asked every question that the mapper has. A slot that comes of it stays within its record. */
#include "../test.h"
#include "guest.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	static struct ciel_slot *slots;
	struct ciel_error error = { 0 };
	uint32_t count;
	const struct ciel_slot_desc *descriptors = ciel_all_descriptors(&count);

	if (!slots)
		slots = calloc(count, sizeof(*slots));
	if (ciel_slots_resolve(bytes, (uint32_t)length, descriptors, count, slots, &error))
		return 0;
	for (uint32_t i = 0; i < count; i++) {
		CHECK(slots[i].size <= 8);
		/* A record has at most 2^32 bytes; an element behind a flexible array 2^20 times as many. */
		if (slots[i].available && descriptors[i].kind == CIEL_SLOT_FIELD_OFFSET)
			CHECK(slots[i].value <= 1ull << 53);
	}
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * __ksymtab has an entry for each exported symbol, and nothing says where it is. But an entry points at the symbol's name:
 *
 *   place-relative   s32 value, s32 name [, s32 namespace]   from 4.19 on ("module: use relative references for __ksymtab
 *                                                            entries", 7290d58095712)
 *   absolute         u64 value, u64 name                     before
 *
 *   1. each name is looked for in the image: a name may stand there more often than once
 *   2. all words of the image are tried as pointers to one of these places; the value is just before
 *   3. a value must lie in the image: what does not is another word by chance
 */
#include <stdlib.h>
#include <string.h>

#include "../cleanup.h"
#include "image.h"
#include "ksymtab.h"

enum { MAX_NAMES = 1024, PLACES_A_NAME = 8, BEFORE = 8, BTF_HEADER = 24, MAX_BTF_BYTES = 64 << 20 };
static const uint64_t IMAGE_SPAN = 1ull << 30;

struct place {
	uint64_t address;
	uint32_t symbol;
};

struct names {
	struct place places[MAX_NAMES];
	uint32_t count, of_this, symbol;
};

static int note_name(void *context, uint64_t address)
{
	struct names *names = context;

	if (names->count == MAX_NAMES)
		return 1;
	names->places[names->count++] = (struct place){ .address = address, .symbol = names->symbol };
	return ++names->of_this == PLACES_A_NAME;
}

static int compare(const void *a, const void *b)
{
	uint64_t left = ((const struct place *)a)->address, right = ((const struct place *)b)->address;

	return left < right ? -1 : left > right;
}

static const struct place *place_at(const struct names *names, uint64_t address)
{
	const struct place key = { .address = address };

	if (address < names->places[0].address || address > names->places[names->count - 1].address)
		return NULL;
	return bsearch(&key, names->places, names->count, sizeof(key), compare);
}

static void note_value(struct ciel_symbol *symbols, const struct place *place, uint64_t value)
{
	struct ciel_symbol *symbol = &symbols[place->symbol];

	if (symbol->found || value < CIEL_KERNEL_MAP || value >= CIEL_KERNEL_MAP + IMAGE_SPAN)
		return;
	symbol->found = 1;
	symbol->address = value;
}

/* Step 2. */
static void try_words(const struct names *names, struct ciel_symbol *symbols, uint64_t address, const uint8_t *bytes,
		      uint32_t length)
{
	for (uint32_t at = 4; at + 4 <= length; at += 4) {
		int32_t value, name;
		memcpy(&value, bytes + at - 4, 4);
		memcpy(&name, bytes + at, 4);
		const struct place *place = place_at(names, address + at + (uint64_t)(int64_t)name);
		if (place)
			note_value(symbols, place, address + at - 4 + (uint64_t)(int64_t)value);
	}
	for (uint32_t at = 8; at + 8 <= length; at += 8) {
		uint64_t value, name;
		memcpy(&value, bytes + at - 8, 8);
		memcpy(&name, bytes + at, 8);
		const struct place *place = place_at(names, name);
		if (place)
			note_value(symbols, place, value);
	}
}

void ciel_ksymtab_find(struct ciel_space *space, uint64_t text_start, struct ciel_symbol *symbols, uint32_t count)
{
	_cleanup_free_ struct names *names = calloc(1, sizeof(*names));
	uint64_t start = text_start & CIEL_PAGE_MASK;

	if (!names)
		return;
	for (uint32_t i = 0; i < count; i++) {
		size_t length = strlen(symbols[i].name) + 1;
		if (symbols[i].found || length > CIEL_MAX_PATTERN)
			continue;
		names->symbol = i;
		names->of_this = 0;
		ciel_image_search(space, text_start, symbols[i].name, length, note_name, names);
	}
	if (names->count == 0)
		return;
	qsort(names->places, names->count, sizeof(names->places[0]), compare);
	/* An entry may begin in the page before. */
	uint8_t bytes[BEFORE + CIEL_PAGE_SIZE];
	uint32_t kept = 0;
	for (uint64_t page = start; page < start + CIEL_IMAGE_BYTES; page += CIEL_PAGE_SIZE) {
		struct ciel_extent extent;
		struct ciel_error ignored;

		if (!ciel_space_find(space, page, &extent) || extent.left < CIEL_PAGE_SIZE ||
		    ciel_source_read(space->source, extent.offset, bytes + BEFORE, CIEL_PAGE_SIZE, &ignored)) {
			kept = 0;
			continue;
		}
		try_words(names, symbols, page - kept, bytes + BEFORE - kept, kept + CIEL_PAGE_SIZE);
		kept = BEFORE;
		memcpy(bytes, bytes + CIEL_PAGE_SIZE, BEFORE);
	}
}

struct btf_place {
	struct ciel_space *space;
	uint64_t address;
	uint32_t length;
};

static int visit_btf(void *context, uint64_t address)
{
	struct btf_place *place = context;
	struct {
		uint16_t magic;
		uint8_t version, flags;
		uint32_t header_length, type_offset, type_length, string_offset, string_length;
	} header;
	struct ciel_error ignored;
	uint32_t length;

	if (ciel_space_read(place->space, address, &header, sizeof(header), &ignored))
		return 0;
	if (header.type_offset != 0 || header.string_offset != header.type_length || header.type_length == 0 ||
	    __builtin_add_overflow(header.string_offset, header.string_length, &length) || length > MAX_BTF_BYTES)
		return 0;
	place->address = address;
	place->length = length + BTF_HEADER;
	return 1;
}

int ciel_btf_search(struct ciel_space *space, uint64_t text_start, uint64_t *ret, uint32_t *ret_length)
{
	static const uint8_t head[] = { 0x9f, 0xeb, 1, 0, BTF_HEADER, 0, 0, 0 };
	struct btf_place place = { .space = space };

	if (!ciel_image_search(space, text_start, head, sizeof(head), visit_btf, &place))
		return 0;
	*ret = place.address;
	*ret_length = place.length;
	return 1;
}

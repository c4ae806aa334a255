/* SPDX-License-Identifier: Apache-2.0 */
/*
 * __ksymtab has an entry for each exported symbol, and nothing says where it is. But an entry points at the symbol's name:
 *
 *   place-relative   s32 value, s32 name [, s32 namespace]   from 4.19 on ("module: use relative references for __ksymtab
 *                                                            entries", 7290d58095712)
 *   absolute         u64 value, u64 name                     before
 *
 *   1. the names are looked for among the image's texts: a name may stand there more often than once
 *   2. all words of the image are tried as pointers to one of these places; the value is just before
 *   3. a value must lie in the image: what does not is another word by chance
 */
#include <stdlib.h>
#include <string.h>

#include "../cleanup.h"
#include "image.h"
#include "ksymtab.h"

enum {
	MAX_NAMES = 1024,
	BUCKETS = 256,
	ENTRY_BEFORE = 8,
	BTF_HEADER = 24,
	MAX_BTF_BYTES = 64 << 20,
	MAX_BTF_MATCHES = 1024,
};
static const uint64_t IMAGE_SPAN = 1ull << 30;

struct place {
	uint64_t address;
	uint32_t symbol;
};

struct search {
	struct ciel_symbol *symbols;
	struct place places[MAX_NAMES];
	uint32_t place_count;
	uint32_t heads[BUCKETS]; /* symbol + 1 of the first name with this hash */
	uint32_t *next;
};

static uint32_t hash_name(const char *name)
{
	uint32_t hash = 2166136261u;

	for (; *name; name++)
		hash = (hash ^ (uint8_t)*name) * 16777619u;
	return hash % BUCKETS;
}

static void note_text(struct search *search, uint64_t address, const char *text)
{
	for (uint32_t i = search->heads[hash_name(text)]; i; i = search->next[i - 1]) {
		if (strcmp(search->symbols[i - 1].name, text) == 0 && search->place_count < MAX_NAMES)
			search->places[search->place_count++] = (struct place){ .address = address, .symbol = i - 1 };
	}
}

/* Texts between two NULs; those that end in what was kept have been seen with the page before. */
static int visit_texts(void *context, uint64_t address, const uint8_t *bytes, size_t length, size_t kept)
{
	struct search *search = context;
	const uint8_t *text = memchr(bytes, 0, length);

	while (text && (size_t)(++text - bytes) < length) {
		const uint8_t *end = memchr(text, 0, length - (size_t)(text - bytes));
		if (!end)
			break;
		if (end > text && end - text < CIEL_MAX_PATTERN && (size_t)(end - bytes) >= kept)
			note_text(search, address + (uint64_t)(text - bytes), (const char *)text);
		text = end;
	}
	return search->place_count == MAX_NAMES;
}

static int compare(const void *a, const void *b)
{
	uint64_t left = ((const struct place *)a)->address, right = ((const struct place *)b)->address;

	return left < right ? -1 : left > right;
}

static const struct place *place_at(const struct search *search, uint64_t address)
{
	const struct place key = { .address = address };

	if (address < search->places[0].address || address > search->places[search->place_count - 1].address)
		return NULL;
	return bsearch(&key, search->places, search->place_count, sizeof(key), compare);
}

static void note_value(struct search *search, const struct place *place, uint64_t value)
{
	struct ciel_symbol *symbol = &search->symbols[place->symbol];

	if (symbol->found || value < CIEL_KERNEL_MAP || value >= CIEL_KERNEL_MAP + IMAGE_SPAN)
		return;
	symbol->found = 1;
	symbol->address = value;
}

/* Step 2. */
static int visit_words(void *context, uint64_t address, const uint8_t *bytes, size_t length, size_t kept)
{
	struct search *search = context;

	(void)kept;
	for (uint32_t at = 4; at + 4 <= length; at += 4) {
		int32_t value, name;
		memcpy(&value, bytes + at - 4, 4);
		memcpy(&name, bytes + at, 4);
		const struct place *place = place_at(search, address + at + (uint64_t)(int64_t)name);
		if (place)
			note_value(search, place, address + at - 4 + (uint64_t)(int64_t)value);
	}
	for (uint32_t at = 8; at + 8 <= length; at += 8) {
		uint64_t value, name;
		memcpy(&value, bytes + at - 8, 8);
		memcpy(&name, bytes + at, 8);
		const struct place *place = place_at(search, name);
		if (place)
			note_value(search, place, value);
	}
	return 0;
}

void ciel_ksymtab_find(struct ciel_space *space, uint64_t text_start, struct ciel_symbol *symbols, uint32_t count)
{
	_cleanup_free_ struct search *search = calloc(1, sizeof(*search));
	_cleanup_free_ uint32_t *next = calloc(count + 1, sizeof(*next));

	if (!search || !next)
		return;
	search->symbols = symbols;
	search->next = next;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t bucket = hash_name(symbols[i].name);
		if (symbols[i].found)
			continue;
		next[i] = search->heads[bucket];
		search->heads[bucket] = i + 1;
	}
	ciel_image_pieces(space, text_start, CIEL_MAX_PATTERN, visit_texts, search);
	if (search->place_count == 0)
		return;
	qsort(search->places, search->place_count, sizeof(search->places[0]), compare);
	/* An entry may begin in the page before. */
	ciel_image_pieces(space, text_start, ENTRY_BEFORE, visit_words, search);
}

struct btf_place {
	struct ciel_space *space;
	uint64_t address;
	uint32_t length, matches;
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

	if (++place->matches == MAX_BTF_MATCHES)
		return 1;
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

	ciel_image_search(space, text_start, head, sizeof(head), visit_btf, &place);
	if (!place.length)
		return 0;
	*ret = place.address;
	*ret_length = place.length;
	return 1;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * __ksymtab has an entry for each exported symbol, and nothing says where it is. But an entry points at the symbol's name:
 *
 *   place-relative   s32 value, s32 name [, s32 namespace]   from 4.19 on ("module: use relative references for __ksymtab
 *                                                            entries", 7290d58095712)
 *   absolute         u64 value, u64 name                     before
 *
 *   1. the names are looked for among the image's texts and at their ends: a name may stand there more often than once, and
 *      the linker keeps one that another one ends in only there
 *   2. all words of the image are tried as pointers to one of these places; the value is just before
 *   3. a value must lie in the image, and an entry before or behind must have such a value, and the name of a symbol: what
 *      has not is another word by chance
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
	struct ciel_space *space;
	struct ciel_symbol *symbols;
	struct place places[MAX_NAMES];
	uint32_t place_count;
	uint32_t heads[BUCKETS]; /* symbol + 1 of the first name with this hash */
	uint32_t *next;
};

/* Of a text's end, from the back: each letter before it adds to what is known. */
static const uint32_t no_letters = 2166136261u;

static uint32_t add_letter(uint32_t hash, char letter)
{
	return (hash ^ (uint8_t)letter) * 16777619u;
}

static uint32_t hash_name(const char *name)
{
	uint32_t hash = no_letters;

	for (size_t i = strlen(name); i > 0; i--)
		hash = add_letter(hash, name[i - 1]);
	return hash;
}

static void note_text(struct search *search, uint32_t hash, uint64_t address, const char *text)
{
	for (uint32_t i = search->heads[hash % BUCKETS]; i; i = search->next[i - 1]) {
		if (strcmp(search->symbols[i - 1].name, text) == 0 && search->place_count < MAX_NAMES)
			search->places[search->place_count++] = (struct place){ .address = address, .symbol = i - 1 };
	}
}

/* Texts before a NUL, and their ends; those before one that was kept have been seen with the page before. */
static int visit_texts(void *context, uint64_t address, const uint8_t *bytes, size_t length, size_t kept)
{
	struct search *search = context;

	for (const uint8_t *end = bytes + kept; (end = memchr(end, 0, length - (size_t)(end - bytes))); end++) {
		uint32_t hash = no_letters;
		for (const uint8_t *text = end; text > bytes && end - text < CIEL_MAX_PATTERN - 1 && text[-1] != 0; text--) {
			hash = add_letter(hash, (char)text[-1]);
			note_text(search, hash, address + (uint64_t)(text - 1 - bytes), (const char *)text - 1);
		}
		if ((size_t)(end + 1 - bytes) == length)
			break;
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

static int is_in_image(uint64_t address)
{
	return address >= CIEL_KERNEL_MAP && address < CIEL_KERNEL_MAP + IMAGE_SPAN;
}

static int is_symbol_name(struct ciel_space *space, uint64_t address)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
	char name[CIEL_MAX_PATTERN];
	struct ciel_error ignored;

	if (!is_in_image(address) || ciel_space_read(space, address, name, sizeof(name), &ignored))
		return 0;
	if (!memchr(name, 0, sizeof(name)))
		return 0;
	size_t length = strspn(name, letters);
	return length > 0 && name[length] == '\0';
}

static int is_relative_entry(struct ciel_space *space, uint64_t address)
{
	int32_t words[2];
	struct ciel_error ignored;

	return ciel_space_read(space, address, words, sizeof(words), &ignored) == CIEL_OK &&
	       is_in_image(address + (uint64_t)(int64_t)words[0]) &&
	       is_symbol_name(space, address + 4 + (uint64_t)(int64_t)words[1]);
}

static int is_absolute_entry(struct ciel_space *space, uint64_t address)
{
	uint64_t words[2];
	struct ciel_error ignored;

	return ciel_space_read(space, address, words, sizeof(words), &ignored) == CIEL_OK && is_in_image(words[0]) &&
	       is_symbol_name(space, words[1]);
}

/* Step 3. */
static void note_value(struct search *search, const struct place *place, uint64_t entry, uint64_t value, int is_relative)
{
	static const uint64_t relative_sizes[] = { 12, 8 }, absolute_sizes[] = { 24, 16 };
	const uint64_t *sizes = is_relative ? relative_sizes : absolute_sizes;
	int (*is_entry)(struct ciel_space *, uint64_t) = is_relative ? is_relative_entry : is_absolute_entry;
	struct ciel_symbol *symbol = &search->symbols[place->symbol];

	if (symbol->found || !is_in_image(value))
		return;
	for (int i = 0; i < 2; i++) {
		if (!is_entry(search->space, entry - sizes[i]) && !is_entry(search->space, entry + sizes[i]))
			continue;
		symbol->found = 1;
		symbol->address = value;
		return;
	}
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
			note_value(search, place, address + at - 4, address + at - 4 + (uint64_t)(int64_t)value, 1);
	}
	for (uint32_t at = 8; at + 8 <= length; at += 8) {
		uint64_t value, name;
		memcpy(&value, bytes + at - 8, 8);
		memcpy(&name, bytes + at, 8);
		const struct place *place = place_at(search, name);
		if (place)
			note_value(search, place, address + at - 8, value, 0);
	}
	return 0;
}

static int is_listed(const struct search *search, uint32_t bucket, const char *name)
{
	for (uint32_t i = search->heads[bucket]; i; i = search->next[i - 1]) {
		if (strcmp(search->symbols[i - 1].name, name) == 0)
			return 1;
	}
	return 0;
}

/* Several may wish for the same symbol: it is looked for once. */
static const struct ciel_symbol *first_of_name(const struct ciel_symbol *symbols, uint32_t index)
{
	uint32_t first = 0;

	while (strcmp(symbols[first].name, symbols[index].name) != 0)
		first++;
	return &symbols[first];
}

void ciel_ksymtab_find(struct ciel_space *space, uint64_t text_start, struct ciel_symbol *symbols, uint32_t count)
{
	_cleanup_free_ struct search *search = calloc(1, sizeof(*search));
	_cleanup_free_ uint32_t *next = calloc(count + 1, sizeof(*next));

	if (!search || !next)
		return;
	search->space = space;
	search->symbols = symbols;
	search->next = next;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t bucket = hash_name(symbols[i].name) % BUCKETS;
		if (symbols[i].found || is_listed(search, bucket, symbols[i].name))
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
	for (uint32_t i = 0; i < count; i++) {
		const struct ciel_symbol *first = first_of_name(symbols, i);
		symbols[i].found = first->found;
		symbols[i].address = first->address;
	}
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
	/* Programs in the image have types of their own, and the kernel's are more. */
	if (length + BTF_HEADER > place->length) {
		place->address = address;
		place->length = length + BTF_HEADER;
	}
	return 0;
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

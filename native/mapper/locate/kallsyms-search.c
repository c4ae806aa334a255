/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scripts/kallsyms.c writes the tables one behind the other, each aligned to 8 bytes. Up to 6.3:
 *
 *   addresses u64[n]   |   offsets s32[n], relative_base u64
 *   num_syms           u64 up to 4.19, then u32
 *   names              n × (length, tokens)
 *   markers            of each 256th name, where it is in names: u64[] up to 4.19, then u32[]
 *   token_table        256 texts
 *   token_index        u16[256]
 *
 *   1. A token's number that is a character which names are made of stands for that character: so the texts "0" to "9"
 *      follow each other in the table. 48 texts before them it begins.
 *   2. token_index can be worked out from the texts, and must be found behind them.
 *   3. markers end before token_table; backwards they fall to 0, which is the first.
 *   4. names end before markers. Where they begin is tried: num_syms, just before, must agree with the number of markers,
 *      and 256 names must end where the second marker says.
 *   5. What is before num_syms is both tried as addresses and as offsets: kallsyms.c decides by _stext.
 *
 * Every table is the guest's: sizes are bounded, and what does not fit is another match of step 1 or none.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "../cleanup.h"
#include "image.h"
#include "kallsyms-search.h"

enum {
	TOKENS = 256,
	FIRST_DIGIT = '0',
	MAX_TOKEN_BYTES = 8192, /* real tables have about a thousand */
	MAX_MARKERS = 4096, /* of 256 symbols each */
	MAX_CHUNK = 256 * 512, /* bytes of the names behind one marker */
	CHUNK_NAMES = 256,
	MAX_PADDING = 8,
	MAX_MATCHES = 64, /* kernels have one or two */
};

static const char digits[] = "0\0001\0002\0003\0004\0005\0006\0007\0008\0009";

struct search {
	struct ciel_space *space;
	struct ciel_kallsyms_tables tables;
	uint32_t matches;
	int is_found;
};

static int read_at(const struct search *search, uint64_t address, void *to, size_t length)
{
	struct ciel_error ignored;

	return ciel_space_read(search->space, address, to, length, &ignored) == CIEL_OK;
}

static uint64_t align8(uint64_t number)
{
	return (number + 7) & ~7ull;
}

/* Steps 1 and 2: `digit` is where the text "0" is. */
static int find_tokens(struct search *search, uint64_t digit)
{
	char before[MAX_TOKEN_BYTES], after[MAX_TOKEN_BYTES];
	uint16_t index[TOKENS], found[TOKENS];
	size_t at = sizeof(before), text = 0;

	/* Both may end at a page that is not there: what is needed lies near. */
	if (!read_at(search, digit - sizeof(before), before, sizeof(before)) ||
	    !read_at(search, digit, after, sizeof(after)))
		return 0;
	for (int token = 0; token < FIRST_DIGIT; token++) {
		if (at < 2 || before[at - 1] != '\0')
			return 0;
		for (at--; at > 0 && before[at - 1] != '\0'; at--)
			;
	}
	uint64_t table = digit - (sizeof(before) - at);
	size_t position = 0;
	for (int token = 0; token < TOKENS; token++) {
		index[token] = (uint16_t)position;
		const char *from = token < FIRST_DIGIT ? before + at + position : after + text;
		size_t left = token < FIRST_DIGIT ? sizeof(before) - at - position : sizeof(after) - text;
		size_t length = strnlen(from, left);
		if (length == left)
			return 0;
		position += length + 1;
		if (token >= FIRST_DIGIT)
			text += length + 1;
	}
	if (table % 8 || !read_at(search, align8(table + position), found, sizeof(found)) ||
	    memcmp(found, index, sizeof(index)) != 0)
		return 0;
	search->tables.token_table = table;
	search->tables.token_index = align8(table + position);
	return 1;
}

struct markers {
	uint64_t address;
	uint32_t count;
	uint64_t second, last; /* offsets in names */
};

/* Step 3, for markers of `width` bytes. */
static int find_markers(const struct search *search, uint32_t width, struct markers *ret)
{
	uint64_t end = search->tables.token_table, above = UINT64_MAX, second = 0;

	for (uint32_t count = 0; count < MAX_MARKERS; count++) {
		uint64_t address = end - (count + 1ull) * width, marker = 0;
		if (!read_at(search, address, &marker, width))
			return 0;
		/* One u32 of padding, when their number is odd. */
		if (count == 0 && marker == 0 && width == sizeof(uint32_t)) {
			end -= width;
			address -= width;
			if (!read_at(search, address, &marker, width))
				return 0;
		}
		if (marker >= above)
			return 0;
		if (above == UINT64_MAX)
			ret->last = marker;
		else if (above - marker > MAX_CHUNK)
			return 0;
		if (marker == 0) {
			*ret = (struct markers){ .address = address, .count = count + 1, .second = second, .last = ret->last };
			return count > 0 && address % 8 == 0;
		}
		second = marker;
		above = marker;
	}
	return 0;
}

/* Bytes of 256 names, or 0. Lengths have two bytes when the first says so (kallsyms.c). */
static size_t chunk_length(const uint8_t *names, size_t left)
{
	size_t at = 0;

	for (int i = 0; i < CHUNK_NAMES; i++) {
		if (left - at < 2)
			return 0;
		size_t length = names[at++];
		if (length & 0x80)
			length = (length & 0x7f) | (size_t)names[at++] << 7;
		if (length == 0 || length > left - at)
			return 0;
		at += length;
	}
	return at;
}

/* Step 4. */
static int find_names(struct search *search, const struct markers *markers)
{
	uint64_t highest = markers->address - markers->last, lowest = highest - MAX_CHUNK - MAX_PADDING;
	size_t length = (size_t)(highest - lowest) + MAX_CHUNK;
	_cleanup_free_ uint8_t *bytes = malloc(length);

	if (markers->address < length || !bytes)
		return 0;
	if (length > markers->address - lowest)
		length = (size_t)(markers->address - lowest);
	if (!read_at(search, lowest, bytes, length))
		return 0;
	for (uint64_t names = highest & ~7ull; names >= lowest + 8; names -= 8) {
		size_t at = (size_t)(names - lowest);
		uint32_t count;
		memcpy(&count, bytes + at - 8, sizeof(count));
		if ((count + 255ull) / 256 != markers->count || chunk_length(bytes + at, length - at) != markers->second)
			continue;
		search->tables.names = names;
		search->tables.count = names - 8;
		/* Step 5. */
		search->tables.addresses = search->tables.count - 8ull * count;
		search->tables.relative_base = search->tables.count - 8;
		search->tables.offsets = search->tables.relative_base - align8(4ull * count);
		return 1;
	}
	return 0;
}

static int visit_digits(void *context, uint64_t address)
{
	struct search *search = context;
	struct markers markers;

	search->is_found = find_tokens(search, address) &&
			   ((find_markers(search, sizeof(uint32_t), &markers) && find_names(search, &markers)) ||
			    (find_markers(search, sizeof(uint64_t), &markers) && find_names(search, &markers)));
	return search->is_found || ++search->matches == MAX_MATCHES;
}

enum ciel_status ciel_kallsyms_search(struct ciel_space *space, uint64_t text_start, struct ciel_kallsyms_tables *ret,
				      struct ciel_error *error)
{
	struct search search = { .space = space, .tables = { .known_text = text_start } };

	ciel_image_search(space, text_start, digits, sizeof(digits), visit_digits, &search);
	if (!search.is_found)
		return ciel_fail(error, CIEL_NO_SYMBOLS,
				 "VMCOREINFO does not name the kallsyms tables, and they were not found behind _stext at 0x%" PRIx64,
				 text_start);
	*ret = search.tables;
	return CIEL_OK;
}

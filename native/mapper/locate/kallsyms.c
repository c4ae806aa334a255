/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How kallsyms is laid out (scripts/kallsyms.c of each kernel).
 *
 *   kallsyms_names        for each symbol: length, then that many token numbers. The expanded text is a type letter (as nm
 *                         prints it) and the name. The length is one byte; from 6.1 on ("kallsyms: support "big" kernel
 *                         symbols", 73bbb94466fd), a byte ≥ 0x80 carries 7 bits and a second byte the rest. Before, names
 *                         had at most 128 bytes uncompressed, so reading each length the new way is right for both.
 *   kallsyms_token_index  u16[256]: where each token's text begins in
 *   kallsyms_token_table  NUL-terminated texts.
 *   kallsyms_num_syms     u32 (a u64 before 4.20, little-endian: the same low half).
 *
 * and where a symbol's address comes from, by index i:
 *
 *   absolute          kallsyms_addresses[i], u64                                            up to 6.11
 *   base-relative     relative_base + (u32)kallsyms_offsets[i]                              4.6 to 7.0
 *   absolute-percpu   offset ≥ 0: the offset itself; < 0: relative_base - 1 - offset        4.6 to 6.15
 *   place-relative    &kallsyms_offsets[i] + (s32)kallsyms_offsets[i]                       from 7.0
 *
 * The version decides nothing here: the one encoding that gives _stext the value that VMCOREINFO states is the right one.
 *
 * Everything comes from the guest. The names are read through a cursor that refills a fixed buffer and cannot leave it;
 * the number of symbols, of bytes and of expanded characters is bounded.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../cleanup.h"
#include "kallsyms.h"

enum {
	MAX_SYMBOLS = 1 << 20, /* kernels have up to 250,000 */
	MAX_NAME = 512, /* KSYM_NAME_LEN */
	TOKEN_TEXT = 1 << 16, /* token_index is 16 bits wide */
	CURSOR_BYTES = 1 << 16,
	WISH_BUCKETS = 1024,
};

/* A window onto guest-virtual bytes that moves forward. */
struct cursor {
	struct ciel_space *space;
	uint64_t next; /* guest-virtual address of what is behind the buffer */
	uint32_t position, filled;
	uint8_t bytes[CURSOR_BYTES];
};

static int cursor_refill(struct cursor *cursor)
{
	struct ciel_error ignored;
	/* Up to the next boundary: what is behind the tables may not be mapped. */
	uint32_t length = CURSOR_BYTES - (uint32_t)(cursor->next % CURSOR_BYTES);

	/* What is left of the image behind the table may be less than a buffer: fall back to what its page holds. */
	if (ciel_space_read(cursor->space, cursor->next, cursor->bytes, length, &ignored)) {
		length = (uint32_t)(CIEL_PAGE_SIZE - cursor->next % CIEL_PAGE_SIZE);
		if (ciel_space_read(cursor->space, cursor->next, cursor->bytes, length, &ignored))
			return 0;
	}
	cursor->next += length;
	cursor->position = 0;
	cursor->filled = length;
	return 1;
}

static inline int cursor_byte(struct cursor *cursor, uint8_t *ret)
{
	if (cursor->position == cursor->filled && !cursor_refill(cursor))
		return 0;
	*ret = cursor->bytes[cursor->position++];
	return 1;
}

struct token {
	const char *text;
	uint32_t length;
};

struct tokens {
	struct token list[256];
	char text[TOKEN_TEXT];
};

static enum ciel_status read_tokens(struct ciel_space *space, const struct ciel_kallsyms_tables *tables,
				    struct tokens *tokens, struct ciel_error *error)
{
	uint16_t index[256];
	enum ciel_status status = ciel_space_read(space, tables->token_index, index, sizeof(index), error);

	if (status)
		return ciel_context(error, "reading kallsyms_token_index");

	/* The last token begins at the highest index and is a token's length long: MAX_NAME bounds it. */
	uint32_t end = 0;
	for (uint32_t i = 0; i < 256; i++) {
		if (index[i] > end)
			end = index[i];
	}
	end = end + MAX_NAME < TOKEN_TEXT ? end + MAX_NAME : TOKEN_TEXT;
	memset(tokens->text, 0, sizeof(tokens->text));
	status = ciel_space_read(space, tables->token_table, tokens->text, end, error);
	if (status)
		return ciel_context(error, "reading kallsyms_token_table");
	tokens->text[TOKEN_TEXT - 1] = '\0';
	for (uint32_t i = 0; i < 256; i++) {
		tokens->list[i].text = tokens->text + index[i];
		tokens->list[i].length = (uint32_t)strnlen(tokens->list[i].text, MAX_NAME);
	}
	return CIEL_OK;
}

/* The wished symbols by hash, chained: a look-up for each of the kernel's 200,000 names must cost next to nothing. */
struct wishes {
	struct ciel_symbol *symbols;
	int32_t heads[WISH_BUCKETS];
	int32_t *next;
};

static uint32_t hash_name(const char *name, size_t length)
{
	uint32_t hash = 2166136261u;

	for (size_t i = 0; i < length; i++)
		hash = (hash ^ (uint8_t)name[i]) * 16777619u;
	return hash % WISH_BUCKETS;
}

/*
 * Static functions and variables may share a name, and views ask for data and for global text. A letter t or w is a static
 * function as a rule, but 7.x marks its data so, too: such a symbol counts as long as no other one is found. Of several
 * others the first one wins.
 */
enum { NOT_FOUND, FOUND_STATIC, FOUND };

/* Without what link-time optimisation appends to the name of a static variable: ".llvm.123", ".lto_priv.0". */
static size_t plain_length(const char *name, size_t length)
{
	static const char *const suffixes[] = { ".llvm.", ".lto_priv." };

	for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
		const char *suffix = memmem(name, length, suffixes[i], strlen(suffixes[i]));
		if (suffix)
			return (size_t)(suffix - name);
	}
	return length;
}

static void note_symbol(struct wishes *wishes, char type, const char *name, size_t full_length, uint32_t index)
{
	size_t length = plain_length(name, full_length);
	uint8_t kind = type == 't' || type == 'w' ? FOUND_STATIC : FOUND;

	for (int32_t i = wishes->heads[hash_name(name, length)]; i >= 0; i = wishes->next[i]) {
		struct ciel_symbol *symbol = &wishes->symbols[i];
		if (symbol->found < kind && strlen(symbol->name) == length && memcmp(symbol->name, name, length) == 0) {
			symbol->found = kind;
			symbol->index = index;
		}
	}
}

static int decode_name(struct cursor *cursor, const struct tokens *tokens, char name[MAX_NAME + 1], uint32_t *ret_length)
{
	uint8_t byte;
	uint32_t count, length = 0;

	if (!cursor_byte(cursor, &byte))
		return 0;
	count = byte;
	if (count & 0x80) {
		if (!cursor_byte(cursor, &byte))
			return 0;
		count = (count & 0x7f) | (uint32_t)byte << 7;
	}
	for (uint32_t i = 0; i < count; i++) {
		if (!cursor_byte(cursor, &byte))
			return 0;
		const struct token *token = &tokens->list[byte];
		if (token->length > MAX_NAME - length)
			return 0;
		memcpy(name + length, token->text, token->length);
		length += token->length;
	}
	*ret_length = length;
	return 1;
}

static enum ciel_status find_indices(struct ciel_space *space, const struct ciel_kallsyms_tables *tables, uint32_t total,
				     const struct tokens *tokens, struct wishes *wishes, struct ciel_error *error)
{
	_cleanup_free_ struct cursor *cursor = malloc(sizeof(*cursor));
	if (!cursor)
		return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory to decode kallsyms");
	*cursor = (struct cursor){ .space = space, .next = tables->names };

	for (uint32_t i = 0; i < total; i++) {
		char name[MAX_NAME + 1];
		uint32_t length;

		if (!decode_name(cursor, tokens, name, &length) || length < 1)
			return ciel_fail(error, CIEL_NO_SYMBOLS, "kallsyms_names at 0x%" PRIx64 " does not decode at symbol %u of %u",
					 tables->names, i, total);
		note_symbol(wishes, name[0], name + 1, length - 1, i);
	}
	return CIEL_OK;
}

enum encoding { ABSOLUTE, BASE_RELATIVE, ABSOLUTE_PERCPU, PLACE_RELATIVE, ENCODINGS };

static int address_of(struct ciel_space *space, const struct ciel_kallsyms_tables *tables, uint64_t relative_base,
		      enum encoding encoding, uint32_t index, uint64_t *ret)
{
	struct ciel_error ignored;
	int32_t offset;

	if (encoding == ABSOLUTE)
		return tables->addresses &&
		       ciel_space_read(space, tables->addresses + index * 8ull, ret, 8, &ignored) == CIEL_OK;

	uint64_t place = tables->offsets + index * 4ull;
	if (!tables->offsets || ciel_space_read(space, place, &offset, 4, &ignored))
		return 0;
	switch (encoding) {
	case BASE_RELATIVE:
		*ret = relative_base + (uint32_t)offset;
		return relative_base != 0;
	case ABSOLUTE_PERCPU:
		*ret = offset >= 0 ? (uint64_t)offset : relative_base - 1 - (uint64_t)(int64_t)offset;
		return relative_base != 0;
	case PLACE_RELATIVE:
		*ret = place + (uint64_t)(int64_t)offset;
		return 1;
	default:
		return 0;
	}
}

static enum ciel_status resolve_addresses(struct ciel_space *space, const struct ciel_kallsyms_tables *tables,
					  uint32_t text_index, struct ciel_symbol *symbols, uint32_t count,
					  struct ciel_error *error)
{
	struct ciel_error ignored;
	uint64_t relative_base = 0, text = 0;
	enum encoding encoding;

	if (tables->relative_base && ciel_space_read(space, tables->relative_base, &relative_base, 8, &ignored))
		relative_base = 0;
	for (encoding = ABSOLUTE; encoding < ENCODINGS; encoding++) {
		if (address_of(space, tables, relative_base, encoding, text_index, &text) && text == tables->known_text)
			break;
	}
	if (encoding == ENCODINGS)
		return ciel_fail(error, CIEL_NO_SYMBOLS, "no known kallsyms encoding gives _stext its address 0x%" PRIx64,
				 tables->known_text);
	for (uint32_t i = 0; i < count; i++) {
		if (symbols[i].found)
			symbols[i].found =
				(uint8_t)address_of(space, tables, relative_base, encoding, symbols[i].index, &symbols[i].address);
	}
	return CIEL_OK;
}

enum ciel_status ciel_kallsyms_find(struct ciel_space *space, const struct ciel_kallsyms_tables *tables,
				    struct ciel_symbol *symbols, uint32_t count, struct ciel_error *error)
{
	uint32_t total;

	if (!tables->names || !tables->count || !tables->token_table || !tables->token_index ||
	    (!tables->offsets && !tables->addresses))
		return ciel_fail(error, CIEL_NO_SYMBOLS, "the kernel's VMCOREINFO does not name the kallsyms tables");
	enum ciel_status status = ciel_space_read(space, tables->count, &total, sizeof(total), error);
	if (status)
		return ciel_context(error, "reading kallsyms_num_syms");
	if (total == 0 || total > MAX_SYMBOLS)
		return ciel_fail(error, CIEL_NO_SYMBOLS, "kallsyms_num_syms says %u", total);

	/* _stext decides the encoding, so it is a wish of our own, behind the caller's. */
	_cleanup_free_ struct tokens *tokens = malloc(sizeof(*tokens));
	_cleanup_free_ struct ciel_symbol *all = calloc(count + 1, sizeof(*all));
	_cleanup_free_ int32_t *next = calloc(count + 1, sizeof(*next));
	if (!tokens || !all || !next)
		return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory to decode kallsyms");
	struct wishes wishes = { .symbols = all, .next = next };
	memset(wishes.heads, 0xff, sizeof(wishes.heads));
	for (uint32_t i = 0; i <= count; i++) {
		all[i].name = i < count ? symbols[i].name : "_stext";
		uint32_t bucket = hash_name(all[i].name, strlen(all[i].name));
		next[i] = wishes.heads[bucket];
		wishes.heads[bucket] = (int32_t)i;
	}

	status = read_tokens(space, tables, tokens, error);
	if (status)
		return status;
	status = find_indices(space, tables, total, tokens, &wishes, error);
	if (status)
		return status;
	if (!all[count].found)
		return ciel_fail(error, CIEL_NO_SYMBOLS, "kallsyms has %u symbols, but no _stext", total);
	status = resolve_addresses(space, tables, all[count].index, all, count, error);
	if (status)
		return status;
	memcpy(symbols, all, count * sizeof(*all));
	return CIEL_OK;
}

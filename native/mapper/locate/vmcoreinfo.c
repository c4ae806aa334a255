/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "vmcoreinfo.h"

enum {
	NOTE_NAME = 12, /* behind three u32 */
	NOTE_HEADER = 24, /* namesz, descsz, type, "VMCOREINFO\0" padded to 12 */
	MAX_TEXT = 8192,
	MAX_LINES = 1024,
	MAX_PAGES_WITH_NOTES = 4096,
	MAX_UTS_OFFSET = 4096,
	MAX_GUESSED_UTS_OFFSET = 64,
	UTS_RELEASE = 130, /* struct new_utsname: six char[65], release is the third; user ABI */
};

static const int64_t IMAGE_SPAN = 1ll << 30, IMAGE_ALIGNMENT = 2 << 20;

struct field {
	const char *key;
	int base;
	uint16_t offset; /* of a uint64_t in struct ciel_vmcoreinfo */
};

#define FIELD(name, number_base, member) { name, number_base, offsetof(struct ciel_vmcoreinfo, member) }
static const struct field fields[] = {
	FIELD("SYMBOL(swapper_pg_dir)", 16, page_table_root),
	FIELD("NUMBER(phys_base)", 10, phys_base),
	FIELD("SYMBOL(phys_base)", 16, phys_base_symbol),
	FIELD("NUMBER(sme_mask)", 10, encryption_mask),
	FIELD("SYMBOL(_stext)", 16, text_start),
	FIELD("SYMBOL(init_uts_ns)", 16, init_uts_ns),
	FIELD("OFFSET(uts_namespace.name)", 10, uts_name_offset),
	FIELD("SYMBOL(kallsyms_names)", 16, kallsyms_names),
	FIELD("SYMBOL(kallsyms_num_syms)", 16, kallsyms_count),
	FIELD("SYMBOL(kallsyms_token_table)", 16, kallsyms_token_table),
	FIELD("SYMBOL(kallsyms_token_index)", 16, kallsyms_token_index),
	FIELD("SYMBOL(kallsyms_offsets)", 16, kallsyms_offsets),
	FIELD("SYMBOL(kallsyms_relative_base)", 16, kallsyms_relative_base),
	FIELD("SYMBOL(kallsyms_addresses)", 16, kallsyms_addresses),
};
#undef FIELD

/* A number up to the line's end. phys_base is printed signed: with KASLR off and a low kernel it may be negative. */
static int parse_number(const char *text, int base, uint64_t *ret)
{
	char *end;

	errno = 0;
	uint64_t value = text[0] == '-' ? (uint64_t)strtoll(text, &end, base) : strtoull(text, &end, base);
	if (errno || end == text || *end)
		return 0;
	*ret = value;
	return 1;
}

/*
 * The guest's word, on its way into messages and to a file name (of detached BTF): visible ASCII without a slash, as any
 * kernel has it.
 */
static int is_release(const char *text)
{
	if (text[0] == '.')
		return 0;
	for (; *text; text++) {
		if (*text <= ' ' || *text > '~' || *text == '/' || *text == '\\')
			return 0;
	}
	return 1;
}

static void parse_line(const char *key, const char *value, struct ciel_vmcoreinfo *info, uint64_t *five_levels)
{
	if (strcmp(key, "OSRELEASE") == 0) {
		size_t length = strnlen(value, sizeof(info->release));
		if (length < sizeof(info->release) && is_release(value))
			memcpy(info->release, value, length + 1);
		return;
	}
	if (strcmp(key, "NUMBER(pgtable_l5_enabled)") == 0) {
		parse_number(value, 10, five_levels);
		return;
	}
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		if (strcmp(key, fields[i].key) == 0) {
			parse_number(value, fields[i].base, (uint64_t *)((char *)info + fields[i].offset));
			return;
		}
	}
}

enum ciel_status ciel_vmcoreinfo_parse(const char *text, size_t length, struct ciel_vmcoreinfo *ret,
				       struct ciel_error *error)
{
	char copy[MAX_TEXT + 1];
	struct ciel_vmcoreinfo info = { .phys_base = UINT64_MAX, .uts_name_offset = UINT64_MAX };
	uint64_t five_levels = 0;

	length = strnlen(text, length < MAX_TEXT ? length : MAX_TEXT);
	memcpy(copy, text, length);
	copy[length] = '\0';

	char *rest = copy;
	for (int i = 0; i < MAX_LINES && rest; i++) {
		char *line = strsep(&rest, "\n");
		char *value = strchr(line, '=');
		if (!value)
			continue;
		*value++ = '\0';
		parse_line(line, value, &info, &five_levels);
	}
	info.levels = five_levels ? 5 : 4;

	if (!info.release[0] || !info.page_table_root || !info.init_uts_ns || !info.text_start ||
	    (info.phys_base == UINT64_MAX && !info.phys_base_symbol))
		return ciel_fail(error, CIEL_MALFORMED,
				 "VMCOREINFO of %zu bytes lacks OSRELEASE, swapper_pg_dir, init_uts_ns, _stext or phys_base", length);
	*ret = info;
	return CIEL_OK;
}

struct note_pages {
	uint64_t offsets[MAX_PAGES_WITH_NOTES];
	uint32_t count;
};

static int is_note(const uint8_t head[CIEL_SCAN_BYTES])
{
	static const uint8_t name[12] = "VMCOREINFO";
	uint32_t name_size, type;

	memcpy(&name_size, head, 4);
	memcpy(&type, head + 8, 4);
	return name_size == 11 && type == 0 && memcmp(head + 12, name, 11) == 0;
}

static int visit_page(void *context, uint64_t offset, const uint8_t head[CIEL_SCAN_BYTES])
{
	struct note_pages *pages = context;

	if (is_note(head))
		pages->offsets[pages->count++] = offset;
	return pages->count == MAX_PAGES_WITH_NOTES;
}

static int is_known(const struct ciel_vmcoreinfo_candidates *candidates, const struct ciel_vmcoreinfo *info)
{
	for (uint32_t i = 0; i < candidates->count; i++) {
		const struct ciel_vmcoreinfo *known = &candidates->info[i];
		if (known->page_table_root == info->page_table_root && known->phys_base == info->phys_base &&
		    known->init_uts_ns == info->init_uts_ns && strcmp(known->release, info->release) == 0)
			return 1;
	}
	return 0;
}

/* Parses the note at an offset of the RAM, and keeps what is new. */
static void note_candidate(struct ciel_source *source, uint64_t offset, struct ciel_vmcoreinfo_candidates *candidates)
{
	char note[NOTE_HEADER + MAX_TEXT];
	uint64_t left = source->size - offset;
	size_t length = left < sizeof(note) ? (size_t)left : sizeof(note);
	uint32_t text_length;
	struct ciel_vmcoreinfo info;
	struct ciel_error ignored;

	if (candidates->count == CIEL_MAX_CANDIDATES || length <= NOTE_HEADER ||
	    ciel_source_read(source, offset, note, length, &ignored))
		return;
	memcpy(&text_length, note + 4, 4);
	if (text_length > length - NOTE_HEADER)
		text_length = (uint32_t)(length - NOTE_HEADER);
	if (ciel_vmcoreinfo_parse(note + NOTE_HEADER, text_length, &info, &ignored) == CIEL_OK && !is_known(candidates, &info))
		candidates->info[candidates->count++] = info;
}

enum ciel_status ciel_vmcoreinfo_scan(struct ciel_source *source, struct ciel_vmcoreinfo_candidates *ret,
				      struct ciel_error *error)
{
	struct note_pages pages = { .count = 0 };
	enum ciel_status status = ciel_source_scan(source, visit_page, &pages, error);

	if (status)
		return ciel_context(error, "looking for VMCOREINFO");
	ret->count = 0;
	for (uint32_t i = 0; i < pages.count; i++)
		note_candidate(source, pages.offsets[i], ret);
	if (ret->count == 0)
		return ciel_fail(error, CIEL_NO_VMCOREINFO,
				 "no VMCOREINFO in %" PRIu64 " bytes of RAM (%u pages look like its note): no Linux kernel has started, or one that was built without it",
				 source->size, pages.count);
	return CIEL_OK;
}

struct deep_scan {
	struct ciel_source *source;
	struct ciel_vmcoreinfo_candidates *candidates;
};

static int visit_whole_page(void *context, uint64_t offset, const uint8_t head[CIEL_SCAN_BYTES])
{
	static const uint8_t name[] = "VMCOREINFO";
	struct deep_scan *scan = context;
	uint8_t page[CIEL_PAGE_SIZE];
	struct ciel_error ignored;
	const uint8_t *next = page;

	(void)head;
	if (ciel_source_read(scan->source, offset, page, sizeof(page), &ignored))
		return 0;
	while ((next = memmem(next, sizeof(page) - (size_t)(next - page), name, sizeof(name)))) {
		size_t at = (size_t)(next++ - page);
		/* Where a page begins the other scan has looked. */
		if (at % 4 == 0 && at > NOTE_NAME && at - NOTE_NAME + CIEL_SCAN_BYTES <= sizeof(page) &&
		    is_note(page + at - NOTE_NAME))
			note_candidate(scan->source, offset + at - NOTE_NAME, scan->candidates);
	}
	return scan->candidates->count == CIEL_MAX_CANDIDATES;
}

enum ciel_status ciel_vmcoreinfo_scan_deep(struct ciel_source *source, struct ciel_vmcoreinfo_candidates *ret,
					   struct ciel_error *error)
{
	struct deep_scan scan = { .source = source, .candidates = ret };

	ret->count = 0;
	enum ciel_status status = ciel_source_scan(source, visit_whole_page, &scan, error);
	if (status)
		return ciel_context(error, "looking for an old kernel's VMCOREINFO");
	if (ret->count == 0)
		return ciel_fail(error, CIEL_NO_VMCOREINFO, "no VMCOREINFO in %" PRIu64 " bytes of RAM: no Linux kernel has started, or one that was built without it",
				 source->size);
	return CIEL_OK;
}

/* Whether `release` is what the uts_namespace says when its names begin at `offset`. */
static int holds_release(const struct ciel_vmcoreinfo *info, struct ciel_space *space, uint64_t offset,
			 struct ciel_error *error)
{
	char name[UTS_RELEASE + 65];

	if (ciel_space_read(space, info->init_uts_ns + offset, name, sizeof(name), error))
		return 0;
	name[sizeof(name) - 1] = '\0';
	return strcmp(name, "Linux") == 0 && strcmp(name + UTS_RELEASE, info->release) == 0;
}

static enum ciel_status prove_at(const struct ciel_vmcoreinfo *info, uint64_t phys_base, struct ciel_space *space,
				 struct ciel_error *error)
{
	space->root = info->page_table_root - CIEL_KERNEL_MAP + phys_base;
	space->levels = info->levels;
	space->encryption_mask = info->encryption_mask;
	space->phys_base = phys_base;
	space->image_start = space->image_end = 0;
	space->direct_start = space->direct_end = 0;
	ciel_space_refresh(space);
	*error = (struct ciel_error){ 0 };

	/* Before 5.11 the offset is not told: a reference count comes first. */
	int is_told = info->uts_name_offset <= MAX_UTS_OFFSET;
	uint64_t first = is_told ? info->uts_name_offset : 0, last = is_told ? first : MAX_GUESSED_UTS_OFFSET;
	for (uint64_t offset = first; offset <= last; offset += 4) {
		if (holds_release(info, space, offset, error))
			return CIEL_OK;
	}
	if (error->status)
		return ciel_context(error, "reading init_uts_ns of %s", info->release);
	return ciel_fail(error, CIEL_STALE, "VMCOREINFO speaks of %s, but init_uts_ns at 0x%" PRIx64 " does not", info->release,
			 info->init_uts_ns);
}

/* Whether the variable phys_base, read where it is when that is its value, has that value. */
static int says_itself(const struct ciel_vmcoreinfo *info, uint64_t phys_base, struct ciel_space *space)
{
	uint64_t offset, left, value;
	struct ciel_error ignored;

	return ciel_layout_find(space->layout, info->phys_base_symbol - CIEL_KERNEL_MAP + phys_base, &offset, &left) &&
	       left >= sizeof(value) && ciel_source_read(space->source, offset, &value, sizeof(value), &ignored) == CIEL_OK &&
	       value == phys_base;
}

enum ciel_status ciel_vmcoreinfo_prove(struct ciel_vmcoreinfo *info, struct ciel_space *space, struct ciel_error *error)
{
	if (info->phys_base != UINT64_MAX)
		return prove_at(info, info->phys_base, space, error);

	/* The image may be anywhere in the RAM, 2 MiB aligned, and at any of its virtual places. */
	enum ciel_status status = ciel_fail(error, CIEL_STALE, "VMCOREINFO speaks of %s, whose phys_base is nowhere", info->release);
	uint64_t end = ciel_layout_end(space->layout);
	for (int64_t base = -IMAGE_SPAN; base < (int64_t)end; base += IMAGE_ALIGNMENT) {
		if (!says_itself(info, (uint64_t)base, space))
			continue;
		status = prove_at(info, (uint64_t)base, space, error);
		if (!status) {
			info->phys_base = (uint64_t)base;
			return CIEL_OK;
		}
	}
	return status;
}

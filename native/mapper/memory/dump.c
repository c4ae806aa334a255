/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A dump as a source. The format is recognised by content; its file (elf.c, kdump.c, save.c) knows where pages are. Pages
 * are read, and decompressed, one at a time into a small direct-mapped cache: a dump does not change, so a staged page
 * stays good. What a dump does not hold (memory that is no RAM, pages that its writer left out) cannot be read: it is
 * never zeros.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "../cleanup.h"
#include "dump.h"

enum { STAGED_PAGES = 256 };
static const uint64_t NO_PAGE = UINT64_MAX;

static const struct ciel_dump_format *const formats[] = {
	&ciel_dump_elf,
	&ciel_dump_kdump,
	&ciel_dump_save,
	&ciel_dump_stream,
};

struct dump_source {
	struct ciel_source source;
	struct ciel_dump_file file;
	const struct ciel_dump_format *format;
	void *index;
	uint64_t staged[STAGED_PAGES]; /* the number of the page in each place, or NO_PAGE */
	uint8_t pages[STAGED_PAGES][CIEL_PAGE_SIZE];
};

static struct dump_source *dump_of(struct ciel_source *source)
{
	return (struct dump_source *)source;
}

static enum ciel_status stage(struct dump_source *dump, uint64_t number, const uint8_t **ret, struct ciel_error *error)
{
	/* Neighbouring pages of different regions would collide with a plain modulus: mix the higher bits in. */
	uint32_t place = (uint32_t)((number * 0x9e3779b97f4a7c15ull) >> 56) % STAGED_PAGES;

	if (dump->staged[place] != number) {
		dump->staged[place] = NO_PAGE;
		enum ciel_status status = dump->format->read_page(dump->index, &dump->file, number, dump->pages[place], error);
		if (status)
			return status;
		dump->staged[place] = number;
	}
	*ret = dump->pages[place];
	return CIEL_OK;
}

static const volatile uint8_t *dump_page(struct ciel_source *source, uint64_t offset)
{
	const uint8_t *page;
	struct ciel_error ignored;

	return stage(dump_of(source), offset / CIEL_PAGE_SIZE, &page, &ignored) ? NULL : page;
}

static enum ciel_status dump_read(struct ciel_source *source, uint64_t offset, void *to, size_t length,
				  struct ciel_error *error)
{
	size_t done = 0;

	while (done < length) {
		uint64_t at = offset + done, in_page = at & ~CIEL_PAGE_MASK;
		size_t piece = CIEL_PAGE_SIZE - in_page < length - done ? (size_t)(CIEL_PAGE_SIZE - in_page) : length - done;
		const uint8_t *page;
		enum ciel_status status = stage(dump_of(source), at / CIEL_PAGE_SIZE, &page, error);
		if (status)
			return status;
		memcpy((uint8_t *)to + done, page + in_page, piece);
		done += piece;
	}
	return CIEL_OK;
}

static enum ciel_status dump_scan(struct ciel_source *source, ciel_scan_visitor visit, void *context,
				  struct ciel_error *error)
{
	struct dump_source *dump = dump_of(source);
	uint64_t end = source->size / CIEL_PAGE_SIZE;

	for (uint64_t number = dump->format->next_page(dump->index, 0); number < end;
	     number = dump->format->next_page(dump->index, number + 1)) {
		const uint8_t *page;
		enum ciel_status status = stage(dump, number, &page, error);
		/* One damaged page does not take the others away. A file that ends early does. */
		if (status == CIEL_MALFORMED)
			continue;
		if (status)
			return status;
		if (visit(context, number * CIEL_PAGE_SIZE, page))
			break;
	}
	return CIEL_OK;
}

static void dump_refresh(struct ciel_source *source)
{
	(void)source;
}

static enum ciel_status dump_alive(struct ciel_source *source, struct ciel_error *error)
{
	return ciel_dump_file_unchanged(&dump_of(source)->file, error);
}

static void dump_destroy(struct ciel_source *source)
{
	struct dump_source *dump = dump_of(source);

	if (dump->index)
		dump->format->close(dump->index);
	ciel_dump_file_close(&dump->file);
	free(dump);
}

static const struct ciel_source_operations dump_operations = {
	.name = "dump",
	.page = dump_page,
	.read = dump_read,
	.scan = dump_scan,
	.refresh = dump_refresh,
	.alive = dump_alive,
	.destroy = dump_destroy,
};

static const struct ciel_dump_format *recognise(const uint8_t head[CIEL_DUMP_HEAD])
{
	for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
		if (formats[i]->recognises(head))
			return formats[i];
	}
	return NULL;
}

enum ciel_status ciel_source_open_dump(const char *path, struct ciel_source **ret, struct ciel_dump_shape *ret_shape,
				       struct ciel_error *error)
{
	_cleanup_(ciel_source_cleanup) struct ciel_source *source = NULL;
	uint8_t head[CIEL_DUMP_HEAD] = { 0 };
	uint64_t pages;
	struct dump_source *dump = calloc(1, sizeof(*dump));

	if (!dump)
		return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory to read a dump");
	dump->source.operations = &dump_operations;
	dump->file.descriptor = -1;
	memset(dump->staged, 0xff, sizeof(dump->staged));
	source = &dump->source;

	enum ciel_status status = ciel_dump_file_open(path, &dump->file, error);
	if (!status && dump->file.size >= sizeof(head))
		status = ciel_dump_file_read(&dump->file, 0, head, sizeof(head), error);
	if (status)
		return status;
	dump->format = recognise(head);
	if (!dump->format)
		return ciel_fail(error, CIEL_UNSUPPORTED,
				 "%" PRIu64 " bytes that are no ELF core, kdump file, libvirt save image or QEMU migration stream",
				 dump->file.size);
	*ret_shape = (struct ciel_dump_shape){ .format = dump->format->name };
	status = dump->format->open(&dump->file, &dump->index, &pages, ret_shape, error);
	if (status)
		return ciel_context(error, "reading the %s", dump->format->name);
	dump->source.size = pages * CIEL_PAGE_SIZE;
	*ret = ciel_take(source);
	return CIEL_OK;
}

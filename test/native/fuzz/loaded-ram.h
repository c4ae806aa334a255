/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A dump's RAM as an array of this process that may be written to, and a source over it that can note which pages are read.
 * A scan shows the pages that the dump holds, so that a gigabyte of which little is left is searched in no time.
 */
#ifndef CIEL_LOADED_RAM_H
#define CIEL_LOADED_RAM_H

#include <sys/mman.h>

#include "../dump-writer.h"
#include "guest.h"

struct loaded_ram {
	uint8_t *bytes;
	uint64_t size;
	struct ciel_layout layout;
	uint8_t *present; /* one byte a page */
	uint8_t *was_read;
	int is_recording, is_copied;
	struct ciel_source source;
};

static inline struct loaded_ram *loaded_of(struct ciel_source *source)
{
	return (struct loaded_ram *)((uint8_t *)source - offsetof(struct loaded_ram, source));
}

static inline const volatile uint8_t *loaded_page(struct ciel_source *source, uint64_t offset)
{
	struct loaded_ram *ram = loaded_of(source);

	if (!ram->present[offset / CIEL_PAGE_SIZE])
		return NULL;
	if (ram->is_recording)
		ram->was_read[offset / CIEL_PAGE_SIZE] = 1;
	return ram->bytes + offset;
}

static inline enum ciel_status loaded_read(struct ciel_source *source, uint64_t offset, void *to, size_t length,
					   struct ciel_error *error)
{
	for (uint64_t page = offset & CIEL_PAGE_MASK; page < offset + length; page += CIEL_PAGE_SIZE) {
		if (!loaded_page(source, page))
			return ciel_fail(error, CIEL_FAULTED, "page 0x%llx is not in the dump", (unsigned long long)page);
	}
	memcpy(to, loaded_of(source)->bytes + offset, length);
	return CIEL_OK;
}

static inline enum ciel_status loaded_scan(struct ciel_source *source, ciel_scan_visitor visit, void *context,
					   struct ciel_error *error)
{
	struct loaded_ram *ram = loaded_of(source);

	(void)error;
	for (uint64_t page = 0; page < ram->size / CIEL_PAGE_SIZE; page++) {
		if (ram->present[page] && visit(context, page * CIEL_PAGE_SIZE, ram->bytes + page * CIEL_PAGE_SIZE))
			break;
	}
	return CIEL_OK;
}

static inline void loaded_refresh(struct ciel_source *source)
{
	(void)source;
}

static inline const volatile uint8_t *loaded_array(struct ciel_source *source)
{
	return loaded_of(source)->bytes;
}

static inline enum ciel_status loaded_gather(struct ciel_source *source, const struct ciel_piece *pieces, uint32_t count,
					     uint8_t *to, struct ciel_error *error)
{
	enum ciel_status status = CIEL_OK;

	for (uint32_t i = 0; !status && i < count; i++) {
		status = ciel_source_read(source, pieces[i].offset, to, pieces[i].length, error);
		to += pieces[i].length;
	}
	return status;
}

static inline int loaded_resident(struct ciel_source *source, uint64_t offset)
{
	return loaded_of(source)->present[offset / CIEL_PAGE_SIZE];
}

static inline enum ciel_status loaded_alive(struct ciel_source *source, struct ciel_error *error)
{
	(void)source;
	(void)error;
	return CIEL_OK;
}

/* The RAM as it is, like a mapped one; or copies of it, like a process's. */
static const struct ciel_source_operations loaded_operations = {
	.name = "loaded RAM",
	.page = loaded_page,
	.read = loaded_read,
	.scan = loaded_scan,
	.refresh = loaded_refresh,
	.array = loaded_array,
	.resident = loaded_resident,
	.alive = loaded_alive,
	.destroy = loaded_refresh,
};

static const struct ciel_source_operations copied_operations = {
	.name = "copies of loaded RAM",
	.is_staged = 1,
	.page = loaded_page,
	.read = loaded_read,
	.scan = loaded_scan,
	.refresh = loaded_refresh,
	.gather = loaded_gather,
	.resident = loaded_resident,
	.alive = loaded_alive,
	.destroy = loaded_refresh,
};

/* Belongs to the RAM: nothing is given back when it is destroyed. */
static inline struct ciel_source *loaded_ram_source(struct loaded_ram *ram)
{
	ram->source = (struct ciel_source){
		.operations = ram->is_copied ? &copied_operations : &loaded_operations,
		.size = ram->size,
	};
	return &ram->source;
}

static inline int load_page(void *context, uint64_t offset, const uint8_t head[CIEL_SCAN_BYTES])
{
	struct loaded_ram *ram = context;

	(void)head;
	ram->present[offset / CIEL_PAGE_SIZE] = 1;
	return 0;
}

static inline struct loaded_ram load_ram(const char *path)
{
	struct loaded_ram ram = { 0 };
	struct ciel_source *dump;
	struct ciel_dump_shape shape;
	struct ciel_error error = { 0 };

	if (ciel_source_open_dump(path, &dump, &shape, &error) || ciel_layout_of_dump(&shape, dump->size, &ram.layout, &error)) {
		fprintf(stderr, "%s: %s\n", path, error.message);
		exit(1);
	}
	ram.size = dump->size;
	ram.bytes = mmap(NULL, ram.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ram.present = calloc(ram.size / CIEL_PAGE_SIZE, 1);
	ram.was_read = calloc(ram.size / CIEL_PAGE_SIZE, 1);
	CHECK(ram.bytes != MAP_FAILED && ram.present && ram.was_read);
	CHECK(ciel_source_scan(dump, load_page, &ram, &error) == CIEL_OK);
	for (uint64_t page = 0; page < ram.size / CIEL_PAGE_SIZE; page++) {
		if (ram.present[page])
			CHECK(ciel_source_read(dump, page * CIEL_PAGE_SIZE, ram.bytes + page * CIEL_PAGE_SIZE, CIEL_PAGE_SIZE, &error) ==
			      CIEL_OK);
	}
	ciel_source_destroy(dump);
	return ram;
}

#endif

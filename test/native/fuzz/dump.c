/* SPDX-License-Identifier: Apache-2.0 */
/* The parsers of dumps: each input is a file, opened as any format, scanned, and read here and there. */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../test.h"
#include "memory/source.h"

enum { MOST_PAGES = 4096 };

static int visit(void *context, uint64_t offset, const uint8_t head[CIEL_SCAN_BYTES])
{
	uint32_t *visited = context;

	(void)offset;
	(void)head;
	return ++*visited == MOST_PAGES;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	static int file = -1;
	static char path[32];
	struct ciel_source *source;
	struct ciel_dump_shape shape;
	struct ciel_error error = { 0 };
	uint8_t some[8192];
	uint32_t visited = 0;

	if (file < 0) {
		file = memfd_create("dump", 0);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	}
	CHECK(ftruncate(file, 0) == 0 && pwrite(file, bytes, length, 0) == (ssize_t)length);
	if (ciel_source_open_dump(path, &source, &shape, &error)) {
		CHECK(error.status > 0 && error.message[0]);
		return 0;
	}
	CHECK(memchr(shape.machine, 0, sizeof(shape.machine)));
	ciel_source_scan(source, visit, &visited, &error);
	for (uint64_t i = 0; i < 64; i++)
		ciel_source_read(source, source->size / 64 * i + i * 77, some, sizeof(some), &error);
	ciel_source_page(source, (source->size - 1) & CIEL_PAGE_MASK);
	/* It shrinks while it is open. */
	CHECK(ftruncate(file, (off_t)(length / 2)) == 0);
	for (uint64_t i = 0; i < 64; i++)
		ciel_source_page(source, source->size / 64 * i & CIEL_PAGE_MASK);
	ciel_source_alive(source, &error);
	ciel_source_destroy(source);
	return 0;
}

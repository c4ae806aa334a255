/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between dump.c, which makes a source of a dump, and the formats, one file each: elf.c, kdump.c, save.c.
 *
 * A format parses the dump's tables once, into an index of its own, and from then on answers where a page is. Every number
 * comes from a file that may be truncated, damaged or made to hurt: offsets and sizes are compared with the file's size,
 * counts have bounds, nothing is allocated for what the file merely claims. Bytes come by pread: a file that shrinks under
 * the reader is an error, where a mapping would be SIGBUS.
 */
#ifndef CIEL_DUMP_H
#define CIEL_DUMP_H

#include <sys/stat.h>

#include "source.h"

/* How many bytes of its start a dump is recognised by. */
#define CIEL_DUMP_HEAD 16

/* Guests of up to 4 TiB: bounds what a format keeps in memory. */
#define CIEL_DUMP_MAX_PAGES (1ull << 30)

/* One record of a flattened file: `size` bytes of content at `offset`, found at `position` in the file. */
struct ciel_flat_record {
	uint64_t offset, size, position;
	uint32_t order;
};

enum { CIEL_DUMP_PATCHES = 64 };

/*
 * A dump's content. Dumps that were written through a pipe are flattened: a header, then records that say where in the
 * content their bytes belong (QEMU writes kdump files so). Reading puts them together.
 */
struct ciel_dump_file {
	int descriptor;
	uint64_t size; /* of the content */
	struct stat status; /* when it was opened */
	struct ciel_flat_record *records; /* NULL: the content is the file. Sorted by offset, disjoint. */
	uint32_t record_count;
	/* Records that overlap, in the order in which they were written: headers are written again at the end. */
	struct ciel_flat_record patches[CIEL_DUMP_PATCHES];
	uint32_t patch_count;
};

enum ciel_status ciel_dump_file_open(const char *path, struct ciel_dump_file *ret, struct ciel_error *error);
void ciel_dump_file_close(struct ciel_dump_file *file);

/* All of a range of the content, or an error. Holes of a flattened file are zeros. */
enum ciel_status ciel_dump_file_read(const struct ciel_dump_file *file, uint64_t offset, void *to, size_t length,
				     struct ciel_error *error);

/* CIEL_OK while the file is as it was when it was opened. */
enum ciel_status ciel_dump_file_unchanged(const struct ciel_dump_file *file, struct ciel_error *error);

struct ciel_dump_format {
	const char *name;
	int (*recognises)(const uint8_t head[CIEL_DUMP_HEAD]);
	/* Parses the tables. *ret_pages: all pages have lower numbers. */
	enum ciel_status (*open)(struct ciel_dump_file *file, void **ret_index, uint64_t *ret_pages,
				 struct ciel_dump_shape *shape, struct ciel_error *error);
	/* The lowest page from `number` on that the dump holds; UINT64_MAX when there is none. */
	uint64_t (*next_page)(const void *index, uint64_t number);
	/* A page that the dump holds; FAULTED for another. */
	enum ciel_status (*read_page)(void *index, const struct ciel_dump_file *file, uint64_t number,
				      uint8_t to[CIEL_PAGE_SIZE], struct ciel_error *error);
	void (*close)(void *index);
};

extern const struct ciel_dump_format ciel_dump_elf, ciel_dump_kdump, ciel_dump_save, ciel_dump_stream;

#endif

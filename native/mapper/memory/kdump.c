/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kdump-compressed files: `virsh dump --memory-only --format kdump-zlib` (and -lzo, -snappy), makedumpfile.
 *
 *   block 0                      header: "KDUMP   ", version, utsname, …, block size, blocks of the sub-header and bitmaps
 *   block 1                      sub-header: …, number of pages (64 bits from version 6 on)
 *   then                         two bitmaps, each half of bitmap_blocks: pages that are RAM, pages that are in the dump
 *   then                         a descriptor {offset i64, size u32, flags u32, page flags u64} for each page in the dump, in order
 *   then                         pages, raw or compressed; equal ones (zeros) once
 *
 * A page's descriptor is found by counting the bits before its own; counts are kept for each 512 pages.
 *
 * libkdumpfile reads this format as well, and was not taken: its 0.5.1 (Debian 12) refuses flattened files, and QEMU
 * writes no others; it maps the file, which is SIGBUS when that shrinks; and it looks into the guest's memory by itself.
 */
#include <inttypes.h>
#include <lzo/lzo1x.h>
#include <snappy-c.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "../cleanup.h"
#include "dump.h"

enum {
	/* Offsets in the header and the sub-header, as an x86-64 writer has them. */
	HEADER_BYTES = 464,
	HEADER_VERSION = 8,
	HEADER_BLOCK_SIZE = 428,
	HEADER_SUB_BLOCKS = 432,
	HEADER_BITMAP_BLOCKS = 436,
	HEADER_PAGES = 440,
	SUB_HEADER_BYTES = 104,
	SUB_HEADER_SPLIT = 12,
	SUB_HEADER_PAGES = 96,
	VERSION_WITH_WIDE_PAGES = 6,

	DESCRIPTOR_BYTES = 24,
	MAX_SUB_BLOCKS = 1 << 16, /* notes of each CPU, VMCOREINFO */
	PAGES_A_COUNT = 512,
	COMPRESSED_MOST = 2 * 4096,
};

enum page_flags {
	PAGE_ZLIB = 0x1,
	PAGE_LZO = 0x2,
	PAGE_SNAPPY = 0x4,
	PAGE_ZSTD = 0x20,
};

struct kdump_index {
	uint64_t pages;
	uint64_t *bitmap; /* of the pages in the dump */
	uint32_t *before; /* how many of them lie before each 512 pages */
	uint64_t descriptors; /* where they begin */
};

static int recognises(const uint8_t head[CIEL_DUMP_HEAD])
{
	return memcmp(head, "KDUMP   ", 8) == 0;
}

static uint32_t word_at(const uint8_t *bytes, uint32_t offset)
{
	uint32_t word;

	memcpy(&word, bytes + offset, sizeof(word));
	return word;
}

/* Where the tables are. */
struct geometry {
	uint64_t pages;
	uint64_t bitmap, bitmap_bytes; /* the second one */
	uint64_t descriptors;
};

static enum ciel_status read_geometry(const struct ciel_dump_file *file, struct geometry *ret, struct ciel_error *error)
{
	uint8_t header[HEADER_BYTES], sub_header[SUB_HEADER_BYTES];
	enum ciel_status status = ciel_dump_file_read(file, 0, header, sizeof(header), error);

	if (!status)
		status = ciel_dump_file_read(file, CIEL_PAGE_SIZE, sub_header, sizeof(sub_header), error);
	if (status)
		return ciel_context(error, "reading the kdump header");
	uint32_t block_size = word_at(header, HEADER_BLOCK_SIZE), sub_blocks = word_at(header, HEADER_SUB_BLOCKS);
	uint64_t bitmap_blocks = word_at(header, HEADER_BITMAP_BLOCKS), pages = word_at(header, HEADER_PAGES);
	if (block_size != CIEL_PAGE_SIZE)
		return ciel_fail(error, CIEL_UNSUPPORTED, "a kdump file with blocks of %u bytes: not of an x86-64 guest", block_size);
	if (word_at(sub_header, SUB_HEADER_SPLIT))
		return ciel_fail(error, CIEL_UNSUPPORTED, "a part of a split kdump file: put the parts together first (makedumpfile --reassemble)");
	if (word_at(header, HEADER_VERSION) >= VERSION_WITH_WIDE_PAGES)
		memcpy(&pages, sub_header + SUB_HEADER_PAGES, sizeof(pages));
	if (sub_blocks == 0 || sub_blocks > MAX_SUB_BLOCKS || pages == 0 || pages > CIEL_DUMP_MAX_PAGES)
		return ciel_fail(error, CIEL_MALFORMED, "a kdump file of %" PRIu64 " pages with a sub-header of %u blocks", pages, sub_blocks);

	*ret = (struct geometry){
		.pages = pages,
		.bitmap = (1 + sub_blocks) * CIEL_PAGE_SIZE + bitmap_blocks * CIEL_PAGE_SIZE / 2,
		.bitmap_bytes = bitmap_blocks * CIEL_PAGE_SIZE / 2,
		.descriptors = (1 + sub_blocks + bitmap_blocks) * CIEL_PAGE_SIZE,
	};
	if (ret->bitmap_bytes < (pages + 7) / 8)
		return ciel_fail(error, CIEL_MALFORMED, "a kdump file of %" PRIu64 " pages whose bitmap has %" PRIu64 " bytes", pages,
				 ret->bitmap_bytes);
	if (ret->descriptors > file->size)
		return ciel_fail(error, CIEL_FAULTED, "the dump is truncated: its pages' descriptors begin at byte %" PRIu64 " of %" PRIu64,
				 ret->descriptors, file->size);
	return CIEL_OK;
}

static void kdump_close(void *opened)
{
	struct kdump_index *index = opened;

	free(index->bitmap);
	free(index->before);
	free(index);
}

static void close_index(struct kdump_index **index)
{
	if (*index)
		kdump_close(*index);
}

static enum ciel_status kdump_open(struct ciel_dump_file *file, void **ret_index, uint64_t *ret_pages,
				   struct ciel_dump_shape *shape, struct ciel_error *error)
{
	struct geometry geometry;
	enum ciel_status status = read_geometry(file, &geometry, error);

	if (status)
		return status;
	uint64_t counts = (geometry.pages + PAGES_A_COUNT - 1) / PAGES_A_COUNT, words = counts * (PAGES_A_COUNT / 64);
	_cleanup_(close_index) struct kdump_index *index = calloc(1, sizeof(*index));
	if (!index || !(index->bitmap = calloc(words, sizeof(uint64_t))) || !(index->before = calloc(counts, sizeof(uint32_t))))
		return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory for the bitmap of %" PRIu64 " pages", geometry.pages);
	index->pages = geometry.pages;
	index->descriptors = geometry.descriptors;
	status = ciel_dump_file_read(file, geometry.bitmap, index->bitmap, (geometry.pages + 7) / 8, error);
	if (status)
		return ciel_context(error, "reading the kdump bitmap");
	if (geometry.pages % 64)
		index->bitmap[geometry.pages / 64] &= (1ull << geometry.pages % 64) - 1;

	uint64_t total = 0, descriptors_end;
	for (uint64_t i = 0; i < words; i++) {
		if (i % (PAGES_A_COUNT / 64) == 0)
			index->before[i / (PAGES_A_COUNT / 64)] = (uint32_t)total;
		total += (uint64_t)__builtin_popcountll(index->bitmap[i]);
	}
	descriptors_end = geometry.descriptors + total * DESCRIPTOR_BYTES;
	if (total == 0)
		return ciel_fail(error, CIEL_MALFORMED, "a kdump file without pages");
	if (descriptors_end > file->size)
		return ciel_fail(error, CIEL_FAULTED,
				 "the dump is truncated: descriptors of %" PRIu64 " pages end at byte %" PRIu64 " of %" PRIu64, total,
				 descriptors_end, file->size);
	shape->machine[0] = '\0';
	*ret_pages = geometry.pages;
	*ret_index = ciel_take(index);
	return CIEL_OK;
}

static int is_present(const struct kdump_index *index, uint64_t number)
{
	return number < index->pages && (index->bitmap[number / 64] >> number % 64 & 1);
}

static uint64_t kdump_next_page(const void *opened, uint64_t number)
{
	const struct kdump_index *index = opened;
	uint64_t words = (index->pages + 63) / 64;

	for (uint64_t word = number / 64; word < words; word++) {
		uint64_t bits = index->bitmap[word];
		if (word == number / 64)
			bits &= ~0ull << number % 64;
		if (bits)
			return word * 64 + (uint64_t)__builtin_ctzll(bits);
	}
	return UINT64_MAX;
}

static uint64_t rank_of(const struct kdump_index *index, uint64_t number)
{
	uint64_t count = number / PAGES_A_COUNT, rank = index->before[count];

	for (uint64_t word = count * (PAGES_A_COUNT / 64); word < number / 64; word++)
		rank += (uint64_t)__builtin_popcountll(index->bitmap[word]);
	return rank + (uint64_t)__builtin_popcountll(index->bitmap[number / 64] & ((1ull << number % 64) - 1));
}

/* Whether `size` bytes are exactly one page when decompressed. */
static int decompress(uint32_t flags, const uint8_t *from, size_t size, uint8_t to[CIEL_PAGE_SIZE])
{
	size_t small = CIEL_PAGE_SIZE;
	lzo_uint lzo_size = CIEL_PAGE_SIZE;
	uLongf zlib_size = CIEL_PAGE_SIZE;

	switch (flags & (PAGE_ZLIB | PAGE_LZO | PAGE_SNAPPY | PAGE_ZSTD)) {
	case PAGE_ZLIB:
		return uncompress(to, &zlib_size, from, size) == Z_OK && zlib_size == CIEL_PAGE_SIZE;
	case PAGE_LZO:
		return lzo1x_decompress_safe(from, size, to, &lzo_size, NULL) == LZO_E_OK && lzo_size == CIEL_PAGE_SIZE;
	case PAGE_SNAPPY:
		return snappy_uncompress((const char *)from, size, (char *)to, &small) == SNAPPY_OK && small == CIEL_PAGE_SIZE;
	case PAGE_ZSTD:
		return ZSTD_decompress(to, CIEL_PAGE_SIZE, from, size) == CIEL_PAGE_SIZE;
	default:
		return 0;
	}
}

static enum ciel_status kdump_read_page(void *opened, const struct ciel_dump_file *file, uint64_t number,
					uint8_t to[CIEL_PAGE_SIZE], struct ciel_error *error)
{
	const struct kdump_index *index = opened;
	uint8_t descriptor[DESCRIPTOR_BYTES], compressed[COMPRESSED_MOST];
	uint64_t offset;

	if (!is_present(index, number))
		return ciel_fail(error, CIEL_FAULTED, "the dump does not hold physical address 0x%llx", number * CIEL_PAGE_SIZE);
	enum ciel_status status = ciel_dump_file_read(file, index->descriptors + rank_of(index, number) * DESCRIPTOR_BYTES,
						      descriptor, sizeof(descriptor), error);
	if (status)
		return status;
	memcpy(&offset, descriptor, sizeof(offset));
	uint32_t size = word_at(descriptor, 8), flags = word_at(descriptor, 12);
	int is_compressed = (flags & (PAGE_ZLIB | PAGE_LZO | PAGE_SNAPPY | PAGE_ZSTD)) != 0;
	if (size == 0 || size > sizeof(compressed) || (!is_compressed && size != CIEL_PAGE_SIZE))
		return ciel_fail(error, CIEL_MALFORMED, "page 0x%" PRIx64 " of the dump has %u bytes, flags 0x%x", number, size, flags);
	status = ciel_dump_file_read(file, offset, is_compressed ? compressed : to, size, error);
	if (status)
		return status;
	if (is_compressed && !decompress(flags, compressed, size, to))
		return ciel_fail(error, CIEL_MALFORMED, "page 0x%" PRIx64 " of the dump does not decompress (flags 0x%x)", number, flags);
	return CIEL_OK;
}

const struct ciel_dump_format ciel_dump_kdump = {
	.name = "kdump",
	.recognises = recognises,
	.open = kdump_open,
	.next_page = kdump_next_page,
	.read_page = kdump_read_page,
	.close = kdump_close,
};

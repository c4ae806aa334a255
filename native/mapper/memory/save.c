/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libvirt save images (virsh save, managedsave) and bare QEMU migration streams (virsh dump without --memory-only, migrate
 * to a file).
 *
 * A save image is a header of 92 bytes, `data_len` bytes of domain XML and cookie, and QEMU's migration stream. All numbers
 * of the stream are big-endian:
 *
 *   "QEVM", version 3
 *   0x07  configuration: machine type (length u32, text), then subsections 0x05
 *   0x01  section start: id u32, name (length u8, text), instance u32, version u32, then its data
 *   0x02  section part, 0x03 section end: id u32, data.     0x7e  footer: id u32.     0x08  command: u16, length u16
 *
 * The data of section "ram" are records: a u64 whose low 12 bits are flags and whose rest is an offset in a RAM block, up
 * to one with EOS. The first, MEM_SIZE, lists the blocks: name and length. PAGE brings 4096 bytes, ZERO one byte that fills
 * a page, COMPRESS a zlib stream; without CONTINUE the block's name stands before them. A page that the guest changed
 * meanwhile comes again: the last one counts. Behind the end of "ram" come the devices, which are not read.
 *
 * The stream does not say where in the guest's physical address space its blocks are. The machine's type does, for the
 * main one, so the source has offsets in that (layout/dump.c), like the RAM of a running QEMU.
 */
#include <endian.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <zlib.h>

#include "../cleanup.h"
#include "dump.h"

enum {
	SAVE_HEADER = 92,
	SAVE_VERSION = 2,
	MAX_XML = 64 << 20,

	STREAM_VERSION = 3,
	SECTION_END_OF_FILE = 0x00,
	SECTION_START = 0x01,
	SECTION_PART = 0x02,
	SECTION_END = 0x03,
	SECTION_FULL = 0x04,
	SECTION_SUBSECTION = 0x05,
	SECTION_CONFIGURATION = 0x07,
	SECTION_COMMAND = 0x08,
	SECTION_FOOTER = 0x7e,

	RAM_ZERO = 0x02,
	RAM_MEM_SIZE = 0x04,
	RAM_PAGE = 0x08,
	RAM_EOS = 0x10,
	RAM_CONTINUE = 0x20,
	RAM_COMPRESS = 0x100,
	RAM_MULTIFD_FLUSH = 0x200,
	RAM_FLAGS = 0xfff,

	MAX_BLOCKS = 512,
	MAX_SECTIONS = 1 << 20,
	MAX_CAPABILITIES = 256,
	COMPRESSED_MOST = 2 * 4096,
	WINDOW_BYTES = 1 << 18,
};

/* Where a page of RAM is: one of these, and a position in the file or the byte that fills it. 0: not in the dump. */
static const uint64_t AT_BYTES = 1ull << 63, AT_COMPRESSED = 1ull << 62, AT_FILL = 1ull << 61;
static const uint64_t POSITION = (1ull << 61) - 1;

struct block {
	char name[256];
	uint64_t length;
	uint64_t base; /* page number in the source; UINT64_MAX: no main RAM */
};

struct save_index {
	uint64_t *pages;
	uint64_t count;
};

/* Parsing goes forward through a window, so that a page's bytes are read with its record. */
struct stream {
	const struct ciel_dump_file *file;
	uint64_t position;
	uint64_t window_at, window_filled;
	struct block blocks[MAX_BLOCKS];
	uint32_t block_count;
	const struct block *block; /* of the last page: CONTINUE means it, in another section too */
	struct save_index *index;
	char machine[64];
	uint8_t window[WINDOW_BYTES];
};

static int is_save(const uint8_t head[CIEL_DUMP_HEAD])
{
	return memcmp(head, "LibvirtQemudSave", 16) == 0 || memcmp(head, "LibvirtQemudPart", 16) == 0;
}

static int is_stream(const uint8_t head[CIEL_DUMP_HEAD])
{
	return memcmp(head, "QEVM", 4) == 0;
}

static enum ciel_status take(struct stream *stream, void *to, size_t length, struct ciel_error *error)
{
	uint64_t in_window = stream->position - stream->window_at;

	if (stream->position < stream->window_at || in_window + length > stream->window_filled) {
		uint64_t left = stream->position < stream->file->size ? stream->file->size - stream->position : 0;
		uint64_t filled = left < WINDOW_BYTES ? left : WINDOW_BYTES;
		if (length > filled)
			return ciel_fail(error, CIEL_FAULTED, "the dump is truncated: QEMU's stream ends at byte %" PRIu64, stream->file->size);
		enum ciel_status status = ciel_dump_file_read(stream->file, stream->position, stream->window, filled, error);
		if (status)
			return status;
		stream->window_at = stream->position;
		stream->window_filled = filled;
		in_window = 0;
	}
	memcpy(to, stream->window + in_window, length);
	stream->position += length;
	return CIEL_OK;
}

static enum ciel_status take_u8(struct stream *stream, uint8_t *ret, struct ciel_error *error)
{
	return take(stream, ret, sizeof(*ret), error);
}

static enum ciel_status take_u16(struct stream *stream, uint16_t *ret, struct ciel_error *error)
{
	enum ciel_status status = take(stream, ret, sizeof(*ret), error);

	*ret = status ? 0 : be16toh(*ret);
	return status;
}

static enum ciel_status take_u32(struct stream *stream, uint32_t *ret, struct ciel_error *error)
{
	enum ciel_status status = take(stream, ret, sizeof(*ret), error);

	*ret = status ? 0 : be32toh(*ret);
	return status;
}

static enum ciel_status take_u64(struct stream *stream, uint64_t *ret, struct ciel_error *error)
{
	enum ciel_status status = take(stream, ret, sizeof(*ret), error);

	*ret = status ? 0 : be64toh(*ret);
	return status;
}

/* A name of up to 255 bytes behind its length. */
static enum ciel_status take_name(struct stream *stream, char ret[256], struct ciel_error *error)
{
	uint8_t length = 0;
	enum ciel_status status = take_u8(stream, &length, error);

	if (!status)
		status = take(stream, ret, length, error);
	ret[status ? 0 : length] = '\0';
	return status;
}

static enum ciel_status skip(struct stream *stream, uint64_t length, struct ciel_error *error)
{
	if (length > stream->file->size - stream->position)
		return ciel_fail(error, CIEL_FAULTED, "the dump is truncated: QEMU's stream ends at byte %" PRIu64, stream->file->size);
	stream->position += length;
	return CIEL_OK;
}

static enum ciel_status take_capabilities(struct stream *stream, struct ciel_error *error)
{
	uint32_t count = 0;
	enum ciel_status status = take_u32(stream, &count, error);

	if (!status && count > MAX_CAPABILITIES)
		return ciel_fail(error, CIEL_MALFORMED, "a QEMU stream with %u capabilities", count);
	/* Those that change how RAM is sent are the only ones that are written. */
	if (!status && count > 0) {
		char name[256];
		status = take_name(stream, name, error);
		if (!status)
			return ciel_fail(error, CIEL_UNSUPPORTED, "a QEMU stream made with capability %s", name);
	}
	return status;
}

static enum ciel_status take_configuration(struct stream *stream, struct ciel_error *error)
{
	uint32_t length = 0;
	enum ciel_status status = take_u32(stream, &length, error);

	if (!status && (length == 0 || length >= sizeof(stream->machine)))
		return ciel_fail(error, CIEL_MALFORMED, "a QEMU stream whose machine type has %u bytes", length);
	if (!status)
		status = take(stream, stream->machine, length, error);
	while (!status) {
		uint8_t next = 0;
		char name[256];
		uint32_t version;

		status = take_u8(stream, &next, error);
		if (!status && next != SECTION_SUBSECTION) {
			stream->position--;
			break;
		}
		if (!status)
			status = take_name(stream, name, error);
		if (!status)
			status = take_u32(stream, &version, error);
		if (status)
			break;
		if (strcmp(name, "configuration/target-page-bits") == 0)
			status = skip(stream, 4, error);
		else if (strcmp(name, "configuration/uuid") == 0)
			status = skip(stream, 16, error);
		else if (strcmp(name, "configuration/capabilities") == 0)
			status = take_capabilities(stream, error);
		else
			return ciel_fail(error, CIEL_UNSUPPORTED, "a QEMU stream with the unknown part %s", name);
	}
	return status ? ciel_context(error, "reading the stream's configuration") : CIEL_OK;
}

/* ---- the blocks of RAM ---- */

static struct block *find_block(struct stream *stream, const char *name)
{
	for (uint32_t i = 0; i < stream->block_count; i++) {
		if (strcmp(stream->blocks[i].name, name) == 0)
			return &stream->blocks[i];
	}
	return NULL;
}

/* Puts a block behind what the source has so far. */
static void append_block(struct block *block, uint64_t *pages)
{
	block->base = *pages;
	*pages += block->length / CIEL_PAGE_SIZE;
}

static struct block *largest_block(struct stream *stream)
{
	struct block *largest = &stream->blocks[0];

	for (uint32_t i = 1; i < stream->block_count; i++) {
		if (stream->blocks[i].length > largest->length)
			largest = &stream->blocks[i];
	}
	return largest;
}

/* The main RAM is pc.ram; with NUMA, ram-node0, ram-node1, … one behind the other; of a named backend, the largest block. */
static enum ciel_status choose_blocks(struct stream *stream, struct ciel_error *error)
{
	struct block *main_block = find_block(stream, "pc.ram");
	uint64_t pages = 0;

	for (uint32_t i = 0; !main_block && i < MAX_BLOCKS; i++) {
		char name[32];
		snprintf(name, sizeof(name), "ram-node%u", i);
		struct block *node = find_block(stream, name);
		if (!node)
			break;
		append_block(node, &pages);
	}
	if (pages == 0)
		append_block(main_block ? main_block : largest_block(stream), &pages);
	if (pages == 0 || pages > CIEL_DUMP_MAX_PAGES)
		return ciel_fail(error, CIEL_UNSUPPORTED, "a QEMU stream with %" PRIu64 " pages of RAM in %u blocks", pages,
				 stream->block_count);

	/* Not touched where the stream brings no pages, so that a large claim costs nothing. */
	void *entries = mmap(NULL, pages * sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
			     0);
	if (entries == MAP_FAILED)
		return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory for an index of %" PRIu64 " pages", pages);
	stream->index->pages = entries;
	stream->index->count = pages;
	return CIEL_OK;
}

static enum ciel_status take_blocks(struct stream *stream, uint64_t total, struct ciel_error *error)
{
	if (stream->block_count > 0)
		return ciel_fail(error, CIEL_MALFORMED, "a QEMU stream that lists its RAM blocks twice");
	while (total > 0) {
		struct block *block = &stream->blocks[stream->block_count];
		if (stream->block_count == MAX_BLOCKS)
			return ciel_fail(error, CIEL_EXHAUSTED, "a QEMU stream of more than %d RAM blocks", (int)MAX_BLOCKS);
		enum ciel_status status = take_name(stream, block->name, error);
		if (!status)
			status = take_u64(stream, &block->length, error);
		if (status)
			return status;
		if (block->length == 0 || block->length > total)
			return ciel_fail(error, CIEL_MALFORMED, "RAM block %s of %" PRIu64 " bytes, where %" PRIu64 " are left", block->name,
					 block->length, total);
		block->base = UINT64_MAX;
		total -= block->length;
		stream->block_count++;
	}
	return stream->block_count > 0 ? choose_blocks(stream, error) : CIEL_OK;
}

/* ---- the pages ---- */

static enum ciel_status take_page(struct stream *stream, const struct block *block, uint64_t offset, uint32_t flags,
				  struct ciel_error *error)
{
	uint64_t entry = AT_BYTES | stream->position;
	enum ciel_status status;

	if (offset >= block->length)
		return ciel_fail(error, CIEL_MALFORMED, "a page at 0x%" PRIx64 " of RAM block %s, which has %" PRIu64 " bytes", offset,
				 block->name, block->length);
	if (flags & RAM_PAGE) {
		status = skip(stream, CIEL_PAGE_SIZE, error);
	} else if (flags & RAM_ZERO) {
		uint8_t fill = 0;
		status = take_u8(stream, &fill, error);
		entry = AT_FILL | fill;
	} else {
		uint32_t length = 0;
		entry = AT_COMPRESSED | stream->position;
		status = take_u32(stream, &length, error);
		if (!status && (length == 0 || length > COMPRESSED_MOST))
			return ciel_fail(error, CIEL_MALFORMED, "a compressed page of %u bytes", length);
		if (!status)
			status = skip(stream, length, error);
	}
	if (!status && block->base != UINT64_MAX && offset / CIEL_PAGE_SIZE < block->length / CIEL_PAGE_SIZE)
		stream->index->pages[block->base + offset / CIEL_PAGE_SIZE] = entry;
	return status;
}

/* Records up to the next EOS. Each takes 8 bytes of the file at least, so its end bounds them. */
static enum ciel_status take_ram(struct stream *stream, struct ciel_error *error)
{
	for (;;) {
		uint64_t record = 0;
		enum ciel_status status = take_u64(stream, &record, error);
		uint32_t flags = record & RAM_FLAGS;
		uint64_t offset = record & ~(uint64_t)RAM_FLAGS;

		if (status)
			return status;
		if (flags == RAM_EOS)
			return CIEL_OK;
		if (flags == RAM_MULTIFD_FLUSH)
			continue;
		if (flags == RAM_MEM_SIZE) {
			status = take_blocks(stream, offset, error);
			if (status)
				return status;
			continue;
		}
		uint32_t kind = flags & ~(uint32_t)RAM_CONTINUE;
		if (kind != RAM_PAGE && kind != RAM_ZERO && kind != RAM_COMPRESS)
			return ciel_fail(error, CIEL_UNSUPPORTED, "a QEMU stream with RAM records of kind 0x%x at byte %" PRIu64, flags,
					 stream->position - 8);
		if (!(flags & RAM_CONTINUE)) {
			char name[256];
			status = take_name(stream, name, error);
			if (status)
				return status;
			stream->block = find_block(stream, name);
		}
		if (!stream->block)
			return ciel_fail(error, CIEL_MALFORMED, "a page of no listed RAM block at byte %" PRIu64, stream->position);
		status = take_page(stream, stream->block, offset, kind, error);
		if (status)
			return status;
	}
}

/* The head of a section: only RAM may come before the RAM has ended. */
static enum ciel_status take_section_start(struct stream *stream, uint32_t *ret_id, struct ciel_error *error)
{
	char name[256];
	uint32_t instance, version;
	enum ciel_status status = take_u32(stream, ret_id, error);

	if (!status)
		status = take_name(stream, name, error);
	if (!status)
		status = take_u32(stream, &instance, error);
	if (!status)
		status = take_u32(stream, &version, error);
	if (!status && strcmp(name, "ram") != 0)
		return ciel_fail(error, CIEL_UNSUPPORTED, "a QEMU stream with section %s before its RAM ends", name);
	return status;
}

/* One section of the stream. *ret_done: the RAM has ended. */
static enum ciel_status take_section(struct stream *stream, uint32_t *ram_section, int *ret_done, struct ciel_error *error)
{
	uint8_t kind = 0;
	uint32_t id = 0;
	uint16_t command, length = 0;
	enum ciel_status status = take_u8(stream, &kind, error);

	if (status)
		return status;
	switch (kind) {
	case SECTION_CONFIGURATION:
		return take_configuration(stream, error);
	case SECTION_START:
		status = take_section_start(stream, ram_section, error);
		return status ? status : take_ram(stream, error);
	case SECTION_PART:
	case SECTION_END:
		status = take_u32(stream, &id, error);
		if (!status && id != *ram_section)
			return ciel_fail(error, CIEL_UNSUPPORTED, "a QEMU stream with a part of section %u before its RAM ends", id);
		if (!status)
			status = take_ram(stream, error);
		*ret_done = !status && kind == SECTION_END;
		return status;
	case SECTION_FOOTER:
		return skip(stream, 4, error);
	case SECTION_COMMAND:
		status = take_u16(stream, &command, error);
		if (!status)
			status = take_u16(stream, &length, error);
		return status ? status : skip(stream, length, error);
	case SECTION_FULL:
	case SECTION_END_OF_FILE:
		return ciel_fail(error, CIEL_MALFORMED, "a QEMU stream that ends before its RAM does, at byte %" PRIu64, stream->position);
	default:
		return ciel_fail(error, CIEL_UNSUPPORTED, "a QEMU stream with a section of kind 0x%x at byte %" PRIu64, kind,
				 stream->position - 1);
	}
}

static void save_close(void *opened)
{
	struct save_index *index = opened;

	if (index->pages)
		munmap(index->pages, index->count * sizeof(uint64_t));
	free(index);
}

static void close_index(struct save_index **index)
{
	if (*index)
		save_close(*index);
}

static enum ciel_status parse_stream(struct ciel_dump_file *file, uint64_t start, void **ret_index, uint64_t *ret_pages,
				     struct ciel_dump_shape *shape, struct ciel_error *error)
{
	_cleanup_(close_index) struct save_index *index = calloc(1, sizeof(*index));
	_cleanup_free_ struct stream *stream = calloc(1, sizeof(*stream));
	uint32_t magic = 0, version = 0, ram_section = UINT32_MAX;
	int is_done = 0;

	if (!index || !stream)
		return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory to read a QEMU stream");
	stream->file = file;
	stream->position = start;
	stream->index = index;
	enum ciel_status status = take_u32(stream, &magic, error);
	if (!status)
		status = take_u32(stream, &version, error);
	if (!status && (magic != 0x5145564d || version != STREAM_VERSION))
		return ciel_fail(error, CIEL_UNSUPPORTED, "no QEMU stream of version 3 at byte %" PRIu64, start);
	for (int i = 0; !status && !is_done; i++) {
		if (i == MAX_SECTIONS)
			return ciel_fail(error, CIEL_EXHAUSTED, "a QEMU stream of more than %d sections", (int)MAX_SECTIONS);
		status = take_section(stream, &ram_section, &is_done, error);
	}
	if (status)
		return status;
	if (!index->pages)
		return ciel_fail(error, CIEL_MALFORMED, "a QEMU stream without RAM");
	if (!stream->machine[0])
		return ciel_fail(error, CIEL_UNSUPPORTED, "a QEMU stream that does not name its machine type");
	memcpy(shape->machine, stream->machine, sizeof(shape->machine));
	*ret_pages = index->count;
	*ret_index = ciel_take(index);
	return CIEL_OK;
}

static enum ciel_status stream_open(struct ciel_dump_file *file, void **ret_index, uint64_t *ret_pages,
				    struct ciel_dump_shape *shape, struct ciel_error *error)
{
	return parse_stream(file, 0, ret_index, ret_pages, shape, error);
}

static enum ciel_status save_open(struct ciel_dump_file *file, void **ret_index, uint64_t *ret_pages,
				  struct ciel_dump_shape *shape, struct ciel_error *error)
{
	static const char *const compressions[] = { "none", "gzip", "bzip2", "xz", "lzop", "zstd", "sparse" };
	struct {
		char magic[16];
		uint32_t version, data_length, was_running, compression, cookie_offset, unused[14];
	} header;
	_Static_assert(sizeof(header) == SAVE_HEADER, "libvirt's own");
	enum ciel_status status = ciel_dump_file_read(file, 0, &header, sizeof(header), error);

	if (status)
		return status;
	if (memcmp(header.magic, "LibvirtQemudPart", sizeof(header.magic)) == 0)
		return ciel_fail(error, CIEL_UNSUPPORTED, "a save image that libvirt has not finished writing");
	if (header.version != SAVE_VERSION)
		return ciel_fail(error, CIEL_UNSUPPORTED, "a libvirt save image of version %u", header.version);
	if (header.data_length > MAX_XML)
		return ciel_fail(error, CIEL_MALFORMED, "a libvirt save image with %u bytes of XML", header.data_length);
	if (header.compression) {
		uint32_t known = sizeof(compressions) / sizeof(compressions[0]);
		return ciel_fail(error, CIEL_UNSUPPORTED,
				 "a compressed libvirt save image (%s): save it with save_image_format = \"raw\" in /etc/libvirt/qemu.conf",
				 header.compression < known ? compressions[header.compression] : "in a way not known");
	}
	return parse_stream(file, SAVE_HEADER + (uint64_t)header.data_length, ret_index, ret_pages, shape, error);
}

static uint64_t save_next_page(const void *opened, uint64_t number)
{
	const struct save_index *index = opened;

	for (; number < index->count; number++) {
		if (index->pages[number])
			return number;
	}
	return UINT64_MAX;
}

static enum ciel_status save_read_page(void *opened, const struct ciel_dump_file *file, uint64_t number,
				       uint8_t to[CIEL_PAGE_SIZE], struct ciel_error *error)
{
	const struct save_index *index = opened;
	uint64_t entry = number < index->count ? index->pages[number] : 0;
	uint8_t compressed[COMPRESSED_MOST];
	uLongf size = CIEL_PAGE_SIZE;
	uint32_t length;

	if (!entry)
		return ciel_fail(error, CIEL_FAULTED, "the dump does not hold RAM offset 0x%llx", number * CIEL_PAGE_SIZE);
	if (entry & AT_FILL) {
		memset(to, (int)(entry & 0xff), CIEL_PAGE_SIZE);
		return CIEL_OK;
	}
	if (entry & AT_BYTES)
		return ciel_dump_file_read(file, entry & POSITION, to, CIEL_PAGE_SIZE, error);

	enum ciel_status status = ciel_dump_file_read(file, entry & POSITION, &length, sizeof(length), error);
	length = be32toh(length);
	if (!status && length > sizeof(compressed))
		return ciel_fail(error, CIEL_TORN, "the dump was changed while it was read");
	if (!status)
		status = ciel_dump_file_read(file, (entry & POSITION) + sizeof(length), compressed, length, error);
	if (!status && (uncompress(to, &size, compressed, length) != Z_OK || size != CIEL_PAGE_SIZE))
		return ciel_fail(error, CIEL_MALFORMED, "the page at RAM offset 0x%llx does not decompress", number * CIEL_PAGE_SIZE);
	return status;
}

const struct ciel_dump_format ciel_dump_save = {
	.name = "libvirt save image",
	.recognises = is_save,
	.open = save_open,
	.next_page = save_next_page,
	.read_page = save_read_page,
	.close = save_close,
};

const struct ciel_dump_format ciel_dump_stream = {
	.name = "QEMU migration stream",
	.recognises = is_stream,
	.open = stream_open,
	.next_page = save_next_page,
	.read_page = save_read_page,
	.close = save_close,
};

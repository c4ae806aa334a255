/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes dumps of a made-up RAM, as QEMU and makedumpfile write them, into memory: for the tests of the sources and as
 * seeds of the fuzzers. Pages [left_out, left_out + left_out_count) are not in the dump; kdump files hold what `present` says
 * instead, when it is given.
 */
#ifndef CIEL_DUMP_WRITER_H
#define CIEL_DUMP_WRITER_H

#include <elf.h>
#include <endian.h>
#include <lzo/lzo1x.h>
#include <snappy-c.h>
#include <stdint.h>
#include <zlib.h>
#include <zstd.h>

#include "test.h"

enum { WRITER_PAGE = 4096 };

struct dump_content {
	const uint8_t *ram;
	uint32_t pages, left_out, left_out_count;
	const uint8_t *present; /* one byte a page */
};

struct dump_buffer {
	uint8_t *bytes;
	size_t length, capacity;
};

static inline int is_left_out(const struct dump_content *content, uint32_t page)
{
	if (content->present)
		return !content->present[page];
	return page >= content->left_out && page < content->left_out + content->left_out_count;
}

/* Puts bytes at an offset; what lies between is zeros. */
static inline void put_at(struct dump_buffer *buffer, size_t offset, const void *bytes, size_t length)
{
	if (offset + length > buffer->capacity) {
		size_t capacity = (offset + length) * 2;
		buffer->bytes = realloc(buffer->bytes, capacity);
		CHECK(buffer->bytes);
		memset(buffer->bytes + buffer->capacity, 0, capacity - buffer->capacity);
		buffer->capacity = capacity;
	}
	memcpy(buffer->bytes + offset, bytes, length);
	if (offset + length > buffer->length)
		buffer->length = offset + length;
}

static inline void put(struct dump_buffer *buffer, const void *bytes, size_t length)
{
	put_at(buffer, buffer->length, bytes, length);
}

/* One PT_LOAD for what lies before the pages that are left out, one behind. `overlapping`: and one over the first again. */
static inline struct dump_buffer write_elf(const struct dump_content *content, int overlapping)
{
	struct dump_buffer buffer = { 0 };
	uint32_t segments = overlapping ? 4 : 3, behind = content->left_out + content->left_out_count;
	Elf64_Ehdr header = {
		.e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_CORE, .e_machine = EM_X86_64, .e_version = EV_CURRENT, .e_phoff = sizeof(header),
		.e_ehsize = sizeof(header), .e_phentsize = sizeof(Elf64_Phdr), .e_phnum = (uint16_t)segments,
	};
	uint64_t note = sizeof(header) + segments * sizeof(Elf64_Phdr), first = note + 20;
	uint64_t low = (uint64_t)content->left_out * WRITER_PAGE, high = (uint64_t)(content->pages - behind) * WRITER_PAGE;
	Elf64_Phdr headers[4] = {
		{ .p_type = PT_NOTE, .p_offset = note, .p_filesz = 20 },
		/* The second one first: writers do not sort. */
		{ .p_type = PT_LOAD, .p_offset = first + low, .p_paddr = (uint64_t)behind * WRITER_PAGE, .p_filesz = high, .p_memsz = high },
		/* What is left out is in memory, but not in the file. */
		{ .p_type = PT_LOAD, .p_offset = first, .p_paddr = 0, .p_filesz = low,
		  .p_memsz = (uint64_t)behind * WRITER_PAGE },
		{ .p_type = PT_LOAD, .p_offset = first + WRITER_PAGE, .p_paddr = WRITER_PAGE, .p_filesz = WRITER_PAGE, .p_memsz = WRITER_PAGE },
	};

	put(&buffer, &header, sizeof(header));
	put(&buffer, headers, segments * sizeof(headers[0]));
	put_at(&buffer, first, content->ram, low);
	put(&buffer, content->ram + (uint64_t)behind * WRITER_PAGE, high);
	return buffer;
}

enum writer_compression { WRITE_RAW, WRITE_ZLIB = 1, WRITE_LZO = 2, WRITE_SNAPPY = 4, WRITE_ZSTD = 0x20 };

static inline size_t compress_page(enum writer_compression how, const uint8_t *page, uint8_t to[2 * WRITER_PAGE])
{
	static uint8_t lzo_memory[LZO1X_1_MEM_COMPRESS];
	uLongf zlib_size = 2 * WRITER_PAGE;
	size_t size = 2 * WRITER_PAGE;
	lzo_uint lzo_size = 2 * WRITER_PAGE;

	switch (how) {
	case WRITE_ZLIB:
		CHECK(compress2(to, &zlib_size, page, WRITER_PAGE, Z_BEST_SPEED) == Z_OK);
		return zlib_size;
	case WRITE_LZO:
		CHECK(lzo_init() == LZO_E_OK && lzo1x_1_compress(page, WRITER_PAGE, to, &lzo_size, lzo_memory) == LZO_E_OK);
		return lzo_size;
	case WRITE_SNAPPY:
		CHECK(snappy_compress((const char *)page, WRITER_PAGE, (char *)to, &size) == SNAPPY_OK);
		return size;
	case WRITE_ZSTD:
		size = ZSTD_compress(to, 2 * WRITER_PAGE, page, WRITER_PAGE, 19);
		CHECK(!ZSTD_isError(size));
		return size;
	case WRITE_RAW:
		break;
	}
	memcpy(to, page, WRITER_PAGE);
	return WRITER_PAGE;
}

static inline void put_word(struct dump_buffer *buffer, size_t offset, uint64_t value, size_t width)
{
	put_at(buffer, offset, &value, width);
}

static inline struct dump_buffer write_kdump(const struct dump_content *content, enum writer_compression how)
{
	struct dump_buffer buffer = { 0 };
	size_t half = (content->pages / 8 + WRITER_PAGE - 1) / WRITER_PAGE * WRITER_PAGE;
	size_t bitmap = 2 * WRITER_PAGE, descriptors = bitmap + 2 * half;
	uint32_t in_dump = 0;
	uint8_t compressed[2 * WRITER_PAGE];

	for (uint32_t page = 0; page < content->pages; page++)
		in_dump += !is_left_out(content, page);
	uint64_t at = descriptors + in_dump * 24ull;
	put_at(&buffer, 0, "KDUMP   ", 8);
	put_word(&buffer, 8, 6, 4);
	put_word(&buffer, 428, WRITER_PAGE, 4);
	put_word(&buffer, 432, 1, 4);
	put_word(&buffer, 436, 2 * half / WRITER_PAGE, 4);
	put_word(&buffer, 440, content->pages, 4);
	put_word(&buffer, WRITER_PAGE + 96, content->pages, 8);
	put_word(&buffer, descriptors - 1, 0, 1);
	for (uint32_t page = 0, next = 0; page < content->pages; page++) {
		buffer.bytes[bitmap + page / 8] |= (uint8_t)(1 << page % 8);
		if (is_left_out(content, page))
			continue;
		buffer.bytes[bitmap + half + page / 8] |= (uint8_t)(1 << page % 8);
		size_t size = compress_page(how, content->ram + (uint64_t)page * WRITER_PAGE, compressed);
		put_word(&buffer, descriptors + next * 24, at, 8);
		put_word(&buffer, descriptors + next * 24 + 8, size, 4);
		put_word(&buffer, descriptors + next * 24 + 12, how, 4);
		put_at(&buffer, at, compressed, size);
		at += size;
		next++;
	}
	return buffer;
}

/* As through a pipe: records of `piece` bytes, the later half first, and the first one again at the end, right this time. */
static inline struct dump_buffer flatten(const struct dump_buffer *plain, size_t piece)
{
	struct dump_buffer buffer = { 0 };
	uint64_t words[2];
	size_t pieces = (plain->length + piece - 1) / piece;

	put_at(&buffer, 0, "makedumpfile", 12);
	put_word(&buffer, 16, htobe64(1), 8);
	put_word(&buffer, 24, htobe64(1), 8);
	put_word(&buffer, 4095, 0, 1);
	for (size_t i = 0; i <= pieces; i++) {
		size_t number = i == pieces ? 0 : (i + pieces / 2) % pieces, offset = number * piece;
		size_t length = plain->length - offset < piece ? plain->length - offset : piece;
		words[0] = htobe64(offset);
		words[1] = htobe64(length);
		put(&buffer, words, sizeof(words));
		put(&buffer, plain->bytes + offset, length);
		if (number == 0 && i < pieces)
			memset(buffer.bytes + buffer.length - length, 0xee, 16);
	}
	words[0] = words[1] = UINT64_MAX;
	put(&buffer, words, sizeof(words));
	return buffer;
}

static inline void put_u32(struct dump_buffer *buffer, uint32_t value)
{
	value = htobe32(value);
	put(buffer, &value, sizeof(value));
}

static inline void put_u64(struct dump_buffer *buffer, uint64_t value)
{
	value = htobe64(value);
	put(buffer, &value, sizeof(value));
}

static inline void put_name(struct dump_buffer *buffer, const char *name)
{
	uint8_t length = (uint8_t)strlen(name);

	put(buffer, &length, 1);
	put(buffer, name, length);
}

static inline void put_section(struct dump_buffer *buffer, uint8_t kind)
{
	put(buffer, &kind, 1);
	put_u32(buffer, 2);
}

static inline int is_zeros(const uint8_t *page)
{
	return page[0] == 0 && memcmp(page, page + 1, WRITER_PAGE - 1) == 0;
}

/*
 * A migration stream: the RAM in two blocks' company, each 7th page compressed, zeros by their byte, each page of the first
 * half once before with another content, the second half in sections of its own.
 */
static inline struct dump_buffer write_stream(const struct dump_content *content)
{
	static const char machine[] = "pc-q35-7.2";
	struct dump_buffer buffer = { 0 };
	uint64_t size = (uint64_t)content->pages * WRITER_PAGE;
	uint8_t compressed[2 * WRITER_PAGE];
	uint8_t kind = 0x07, stale[WRITER_PAGE];
	int is_first = 1;

	memset(stale, 0xdd, sizeof(stale));
	put(&buffer, "QEVM\0\0\0\3", 8);
	put(&buffer, &kind, 1);
	put_u32(&buffer, sizeof(machine) - 1);
	put(&buffer, machine, sizeof(machine) - 1);
	put(&buffer, "\x05", 1);
	put_name(&buffer, "configuration/uuid");
	put_u32(&buffer, 1);
	put(&buffer, stale, 16);

	put_section(&buffer, 0x01);
	put_name(&buffer, "ram");
	put_u32(&buffer, 0);
	put_u32(&buffer, 4);
	put_u64(&buffer, (size + 2 * WRITER_PAGE) | 0x04);
	put_name(&buffer, "pc.ram");
	put_u64(&buffer, size);
	put_name(&buffer, "vga.vram");
	put_u64(&buffer, 2 * WRITER_PAGE);
	put_u64(&buffer, 0x10);
	put(&buffer, "\x7e", 1);
	put_u32(&buffer, 2);

	put_section(&buffer, 0x02);
	put_u64(&buffer, 0x08);
	put_name(&buffer, "vga.vram");
	put(&buffer, stale, sizeof(stale));
	for (uint32_t page = 0; page < content->pages; page++) {
		const uint8_t *bytes = content->ram + (uint64_t)page * WRITER_PAGE;
		uint64_t offset = (uint64_t)page * WRITER_PAGE, again = is_first ? 0 : 0x20;

		if (page == content->pages / 2) {
			put_u64(&buffer, 0x10);
			put(&buffer, "\x7e", 1);
			put_u32(&buffer, 2);
			put_section(&buffer, 0x03);
		}
		if (is_left_out(content, page))
			continue;
		if (page < content->pages / 2) {
			put_u64(&buffer, offset | again | 0x08);
			if (is_first)
				put_name(&buffer, "pc.ram");
			put(&buffer, stale, sizeof(stale));
			is_first = 0;
			again = 0x20;
		}
		if (is_zeros(bytes)) {
			put_u64(&buffer, offset | again | 0x02);
			put(&buffer, "\0", 1);
		} else if (page % 7 == 0) {
			size_t length = compress_page(WRITE_ZLIB, bytes, compressed);
			put_u64(&buffer, offset | again | 0x100);
			put_u32(&buffer, (uint32_t)length);
			put(&buffer, compressed, length);
		} else {
			put_u64(&buffer, offset | again | 0x08);
			put(&buffer, bytes, WRITER_PAGE);
		}
	}
	put_u64(&buffer, 0x10);
	put(&buffer, "\x7e", 1);
	put_u32(&buffer, 2);
	put(&buffer, "\x04 devices, which nobody reads", 30);
	return buffer;
}

static inline struct dump_buffer write_save(const struct dump_content *content, uint32_t compression)
{
	struct dump_buffer buffer = { 0 }, stream = write_stream(content);
	static const char xml[] = "<domain type='kvm'><name>shop</name></domain>";
	const uint32_t words[19] = { 2, sizeof(xml), 1, compression };

	put(&buffer, "LibvirtQemudSave", 16);
	put(&buffer, words, sizeof(words));
	put(&buffer, xml, sizeof(xml));
	put(&buffer, stream.bytes, stream.length);
	free(stream.bytes);
	return buffer;
}

#endif

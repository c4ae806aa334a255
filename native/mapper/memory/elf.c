/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ELF cores: `virsh dump --memory-only`, QEMU's dump-guest-memory, makedumpfile -E, /proc/vmcore.
 *
 * The RAM is the PT_LOAD segments, by p_paddr: `p_filesz` bytes from `p_offset` on. Between p_filesz and p_memsz lies what
 * the writer left out: it is not in the dump, and not zeros. With paging=true QEMU writes a segment a mapping, so
 * segments overlap in what is physically the same memory: the first one that covers a page is taken.
 */
#include <elf.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "../cleanup.h"
#include "dump.h"

enum {
	MAX_SEGMENTS = 1 << 20,
	BATCH = 512,
};

/* Pages that lie one behind the other in memory and in the file. */
struct extent {
	uint64_t first, count;
	uint64_t position;
};

struct elf_index {
	struct extent *extents; /* by first page, disjoint */
	uint32_t count;
};

static int recognises(const uint8_t head[CIEL_DUMP_HEAD])
{
	return memcmp(head, ELFMAG, SELFMAG) == 0;
}

static enum ciel_status read_header(const struct ciel_dump_file *file, Elf64_Ehdr *header, uint32_t *ret_segments,
				    struct ciel_error *error)
{
	enum ciel_status status = ciel_dump_file_read(file, 0, header, sizeof(*header), error);

	if (status)
		return status;
	if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB ||
	    header->e_machine != EM_X86_64)
		return ciel_fail(error, CIEL_UNSUPPORTED, "an ELF file of class %u, machine %u: not of an x86-64 guest in 64-bit mode",
				 header->e_ident[EI_CLASS], header->e_machine);
	if (header->e_type != ET_CORE)
		return ciel_fail(error, CIEL_UNSUPPORTED, "an ELF file of type %u, not a core: a program, not a dump", header->e_type);
	if (header->e_phentsize != sizeof(Elf64_Phdr))
		return ciel_fail(error, CIEL_MALFORMED, "ELF program headers of %u bytes", header->e_phentsize);

	*ret_segments = header->e_phnum;
	if (header->e_phnum == PN_XNUM) {
		/* More than fit: the number is in section header 0. */
		Elf64_Shdr section;
		status = ciel_dump_file_read(file, header->e_shoff, &section, sizeof(section), error);
		if (status)
			return ciel_context(error, "reading the ELF section header");
		*ret_segments = section.sh_info;
	}
	if (*ret_segments > MAX_SEGMENTS)
		return ciel_fail(error, CIEL_EXHAUSTED, "an ELF file of %u segments", *ret_segments);
	return CIEL_OK;
}

static enum ciel_status add_segment(struct elf_index *index, const struct ciel_dump_file *file, const Elf64_Phdr *segment,
				    struct ciel_error *error)
{
	uint64_t end;

	if (segment->p_type != PT_LOAD || segment->p_filesz < CIEL_PAGE_SIZE)
		return CIEL_OK;
	if (segment->p_paddr & ~CIEL_PAGE_MASK)
		return ciel_fail(error, CIEL_MALFORMED, "an ELF segment at physical address 0x%" PRIx64 ": not a page", segment->p_paddr);
	if (__builtin_add_overflow(segment->p_offset, segment->p_filesz, &end) || end > file->size)
		return ciel_fail(error, CIEL_FAULTED,
				 "the dump is truncated: RAM from 0x%" PRIx64 " on is %" PRIu64 " bytes at byte %" PRIu64
				 " of the file, which has %" PRIu64, segment->p_paddr, segment->p_filesz, segment->p_offset, file->size);
	if (segment->p_paddr / CIEL_PAGE_SIZE + segment->p_filesz / CIEL_PAGE_SIZE > CIEL_DUMP_MAX_PAGES)
		return ciel_fail(error, CIEL_UNSUPPORTED, "RAM at physical address 0x%" PRIx64 ": beyond what is read", segment->p_paddr);
	index->extents[index->count++] = (struct extent){
		.first = segment->p_paddr / CIEL_PAGE_SIZE,
		.count = segment->p_filesz / CIEL_PAGE_SIZE,
		.position = segment->p_offset,
	};
	return CIEL_OK;
}

static int by_page(const void *left, const void *right)
{
	const struct extent *a = left, *b = right;

	if (a->first != b->first)
		return a->first < b->first ? -1 : 1;
	return a->count > b->count ? -1 : a->count < b->count;
}

/* Sorts the extents, and cuts off each one's beginning that an earlier one covers. Returns the end of the last one. */
static uint64_t make_disjoint(struct elf_index *index)
{
	uint64_t end = 0;
	uint32_t kept = 0;

	qsort(index->extents, index->count, sizeof(*index->extents), by_page);
	for (uint32_t i = 0; i < index->count; i++) {
		struct extent extent = index->extents[i];
		uint64_t covered = extent.first < end ? end - extent.first : 0;

		if (covered >= extent.count)
			continue;
		extent.first += covered;
		extent.count -= covered;
		extent.position += covered * CIEL_PAGE_SIZE;
		end = extent.first + extent.count;
		index->extents[kept++] = extent;
	}
	index->count = kept;
	return end;
}

static void elf_close(void *opened)
{
	struct elf_index *index = opened;

	free(index->extents);
	free(index);
}

static void close_index(struct elf_index **index)
{
	if (*index)
		elf_close(*index);
}

static enum ciel_status elf_open(struct ciel_dump_file *file, void **ret_index, uint64_t *ret_pages,
				 struct ciel_dump_shape *shape, struct ciel_error *error)
{
	Elf64_Ehdr header;
	uint32_t segments = 0;
	enum ciel_status status = read_header(file, &header, &segments, error);

	if (status)
		return status;
	_cleanup_(close_index) struct elf_index *index = calloc(1, sizeof(*index));
	if (!index || !(index->extents = calloc(segments + 1, sizeof(*index->extents))))
		return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory for %u ELF segments", segments);
	for (uint32_t done = 0; done < segments;) {
		Elf64_Phdr batch[BATCH];
		uint32_t count = segments - done < BATCH ? segments - done : BATCH;
		uint64_t position;

		if (__builtin_add_overflow(header.e_phoff, (uint64_t)done * sizeof(batch[0]), &position))
			return ciel_fail(error, CIEL_MALFORMED, "ELF program headers at byte %" PRIu64, header.e_phoff);
		status = ciel_dump_file_read(file, position, batch, count * sizeof(batch[0]), error);
		for (uint32_t i = 0; !status && i < count; i++)
			status = add_segment(index, file, &batch[i], error);
		if (status)
			return ciel_context(error, "reading the ELF program headers");
		done += count;
	}
	*ret_pages = make_disjoint(index);
	if (index->count == 0)
		return ciel_fail(error, CIEL_MALFORMED, "an ELF file whose %u segments hold no memory", segments);
	shape->machine[0] = '\0';
	*ret_index = ciel_take(index);
	return CIEL_OK;
}

/* The first extent that ends behind the page; index->count when there is none. */
static uint32_t find_extent(const struct elf_index *index, uint64_t number)
{
	uint32_t low = 0, high = index->count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		if (index->extents[middle].first + index->extents[middle].count <= number)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static uint64_t elf_next_page(const void *opened, uint64_t number)
{
	const struct elf_index *index = opened;
	uint32_t at = find_extent(index, number);

	if (at == index->count)
		return UINT64_MAX;
	return index->extents[at].first > number ? index->extents[at].first : number;
}

static enum ciel_status elf_read_page(void *opened, const struct ciel_dump_file *file, uint64_t number,
				      uint8_t to[CIEL_PAGE_SIZE], struct ciel_error *error)
{
	const struct elf_index *index = opened;
	uint32_t at = find_extent(index, number);

	if (at == index->count || index->extents[at].first > number)
		return ciel_fail(error, CIEL_FAULTED, "the dump does not hold physical address 0x%llx", number * CIEL_PAGE_SIZE);
	const struct extent *extent = &index->extents[at];
	return ciel_dump_file_read(file, extent->position + (number - extent->first) * CIEL_PAGE_SIZE, to, CIEL_PAGE_SIZE, error);
}

const struct ciel_dump_format ciel_dump_elf = {
	.name = "ELF core",
	.recognises = recognises,
	.open = elf_open,
	.next_page = elf_next_page,
	.read_page = elf_read_page,
	.close = elf_close,
};

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RAM of a file that QEMU shares and that must not be mapped here, by pread:
 *
 *   hugetlbfs          a mapping that touches a hole takes a huge page out of the pool, or is SIGBUS when the pool is empty;
 *                      and a hole cannot be told from data, as hugetlbfs has no SEEK_DATA. pread gives zeros.
 *   an unsealed memfd, a file on tmpfs or a disk: it may shrink, which is SIGBUS in a mapping and the end of the file here.
 *
 * process_vm_readv would not do for these: pages of a shared file that QEMU itself has never touched, or whose page table
 * entries the host has taken away, are absent in QEMU's page map and would read as zeros.
 *
 * A pread of a page costs about 0.5 µs. Pages are staged in a small cache until the next refresh.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../cleanup.h"
#include "backing.h"

enum { STAGED_PAGES = 256 };
static const uint64_t NO_PAGE = UINT64_MAX;

struct file_source {
	struct ciel_source source;
	struct ciel_process process;
	int file;
	uint64_t file_offset;
	uint64_t staged[STAGED_PAGES]; /* the RAM offset of the page in each place, or NO_PAGE */
	uint8_t pages[STAGED_PAGES][CIEL_PAGE_SIZE];
};

static struct file_source *file_of(struct ciel_source *source)
{
	return (struct file_source *)source;
}

static enum ciel_status file_read(struct ciel_source *source, uint64_t offset, void *to, size_t length,
				  struct ciel_error *error)
{
	struct file_source *file = file_of(source);

	return ciel_backing_read(file->file, file->file_offset, offset, to, length, error);
}

static const volatile uint8_t *file_page(struct ciel_source *source, uint64_t offset)
{
	struct file_source *file = file_of(source);
	/* Neighbouring pages of different regions would collide with a plain modulus: mix the higher bits in. */
	uint64_t number = offset / CIEL_PAGE_SIZE;
	uint32_t place = (uint32_t)((number * 0x9e3779b97f4a7c15ull) >> 56) % STAGED_PAGES;
	struct ciel_error ignored;

	if (file->staged[place] == offset)
		return file->pages[place];
	file->staged[place] = NO_PAGE;
	if (file_read(source, offset, file->pages[place], CIEL_PAGE_SIZE, &ignored))
		return NULL;
	file->staged[place] = offset;
	return file->pages[place];
}

static enum ciel_status file_scan(struct ciel_source *source, ciel_scan_visitor visit, void *context,
				  struct ciel_error *error)
{
	struct file_source *file = file_of(source);

	return ciel_backing_scan(file->file, file->file_offset, source->size, visit, context, error);
}

static enum ciel_status file_gather(struct ciel_source *source, const struct ciel_piece *pieces, uint32_t count, uint8_t *to,
				    struct ciel_error *error)
{
	enum ciel_status status = CIEL_OK;

	for (uint32_t i = 0; !status && i < count; i++) {
		status = file_read(source, pieces[i].offset, to, pieces[i].length, error);
		to += pieces[i].length;
	}
	return status;
}

/* pread allocates nothing anywhere. */
static int file_resident(struct ciel_source *source, uint64_t offset)
{
	(void)source;
	(void)offset;
	return 1;
}

static void file_refresh(struct ciel_source *source)
{
	memset(file_of(source)->staged, 0xff, sizeof(file_of(source)->staged));
}

static enum ciel_status file_alive(struct ciel_source *source, struct ciel_error *error)
{
	return ciel_process_alive(&file_of(source)->process, error);
}

static void file_destroy(struct ciel_source *source)
{
	struct file_source *file = file_of(source);

	if (file->file >= 0)
		close(file->file);
	ciel_process_close(&file->process);
	free(file);
}

static const struct ciel_source_operations file_operations = {
	.name = "file",
	.is_staged = 1,
	.page = file_page,
	.read = file_read,
	.scan = file_scan,
	.refresh = file_refresh,
	.gather = file_gather,
	.resident = file_resident,
	.alive = file_alive,
	.destroy = file_destroy,
};

enum ciel_status ciel_source_open_file(struct ciel_process *process, const struct ciel_ram_block *block,
				       struct ciel_source **ret, struct ciel_error *error)
{
	_cleanup_close_ int opened = -1;
	enum ciel_status status = ciel_backing_open(process, block, &opened, error);

	if (status)
		return status;
	struct file_source *file = calloc(1, sizeof(*file));
	if (!file)
		return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory for a file source");
	file->source = (struct ciel_source){ .operations = &file_operations, .size = block->size };
	file->process = *process;
	file->file = opened;
	file->file_offset = block->file_offset;
	memset(file->staged, 0xff, sizeof(file->staged));
	opened = -1;
	process->pidfd = -1;
	*ret = &file->source;
	return CIEL_OK;
}

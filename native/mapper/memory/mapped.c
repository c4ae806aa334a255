/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RAM mapped read-only from the sealed memfd that QEMU shares: a load costs what a load costs (76 to 92 ns when cold).
 *
 * Which files may be mapped. Only what /proc/PID/maps marks shared: with private pages (copy-on-write forks) the file
 * that QEMU holds open is empty, or the template's frozen RAM. And only memfds sealed against shrinking: a mapping of a
 * file that shrinks is SIGBUS. And none of huge pages: holes cannot be told there, and to touch one takes a huge page from
 * the pool, or is SIGBUS when that is empty. The others are read by file.c.
 *
 * Holes. Reading a hole of a memfd through a mapping allocates it, which would undo the guest's balloon and grow the
 * host's memory by what is read. A page that the guest's page tables point to is resident as a rule, but a hostile
 * table, or one read just after a balloon took the page, may point anywhere. So the first touch of each page asks
 * lseek(SEEK_DATA), 0.3 µs, and the answer is kept in a bitmap for EPOCH_REFRESHES refreshes: a page freed meanwhile
 * costs at most itself, once an epoch. Pages in holes read as zeros from a page of ours. Scans and large reads use
 * pread, which never allocates (backing.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "../cleanup.h"
#include "backing.h"

enum {
	EPOCH_REFRESHES = 64,
	/* Touched words remembered for clearing; beyond this the epoch ends early. */
	MAX_TOUCHED = 16384,
};

struct mapped_source {
	struct ciel_source source;
	struct ciel_process process;
	int file;
	uint64_t file_offset;
	const volatile uint8_t *bytes;
	/* One bit a page: known to be resident in this epoch. Lazily allocated by the kernel, so sparse RAM is cheap. */
	uint64_t *resident;
	size_t resident_bytes;
	uint32_t *touched;
	uint32_t touched_count;
	uint32_t refreshes;
};

static const _Alignas(4096) uint8_t zero_page[4096];

static struct mapped_source *mapped_of(struct ciel_source *source)
{
	return (struct mapped_source *)source;
}

static void end_epoch(struct mapped_source *mapped)
{
	for (uint32_t i = 0; i < mapped->touched_count; i++)
		mapped->resident[mapped->touched[i]] = 0;
	mapped->touched_count = 0;
	mapped->refreshes = 0;
}

static int mapped_resident(struct ciel_source *source, uint64_t offset)
{
	struct mapped_source *mapped = mapped_of(source);
	off_t position = (off_t)(mapped->file_offset + offset);

	return lseek(mapped->file, position, SEEK_DATA) == position;
}

static const volatile uint8_t *mapped_page(struct ciel_source *source, uint64_t offset)
{
	struct mapped_source *mapped = mapped_of(source);
	uint64_t page = offset / CIEL_PAGE_SIZE;
	uint64_t word = page / 64, bit = 1ull << (page % 64);

	if (mapped->resident[word] & bit)
		return mapped->bytes + offset;

	if (!mapped_resident(source, offset))
		return zero_page;

	if (mapped->touched_count == MAX_TOUCHED)
		end_epoch(mapped);
	if (mapped->resident[word] == 0)
		mapped->touched[mapped->touched_count++] = (uint32_t)word;
	mapped->resident[word] |= bit;
	return mapped->bytes + offset;
}

static enum ciel_status mapped_read(struct ciel_source *source, uint64_t offset, void *to, size_t length,
				    struct ciel_error *error)
{
	struct mapped_source *mapped = mapped_of(source);

	return ciel_backing_read(mapped->file, mapped->file_offset, offset, to, length, error);
}

static enum ciel_status mapped_scan(struct ciel_source *source, ciel_scan_visitor visit, void *context,
				    struct ciel_error *error)
{
	struct mapped_source *mapped = mapped_of(source);

	return ciel_backing_scan(mapped->file, mapped->file_offset, source->size, visit, context, error);
}

static void mapped_refresh(struct ciel_source *source)
{
	struct mapped_source *mapped = mapped_of(source);

	if (++mapped->refreshes >= EPOCH_REFRESHES)
		end_epoch(mapped);
}

static const volatile uint8_t *mapped_array(struct ciel_source *source)
{
	return mapped_of(source)->bytes;
}

static enum ciel_status mapped_alive(struct ciel_source *source, struct ciel_error *error)
{
	return ciel_process_alive(&mapped_of(source)->process, error);
}

static void mapped_destroy(struct ciel_source *source)
{
	struct mapped_source *mapped = mapped_of(source);

	if (mapped->bytes)
		munmap((void *)mapped->bytes, source->size);
	if (mapped->resident)
		munmap(mapped->resident, mapped->resident_bytes);
	free(mapped->touched);
	if (mapped->file >= 0)
		close(mapped->file);
	ciel_process_close(&mapped->process);
	free(mapped);
}

static const struct ciel_source_operations mapped_operations = {
	.name = "mapped",
	.page = mapped_page,
	.read = mapped_read,
	.scan = mapped_scan,
	.refresh = mapped_refresh,
	.array = mapped_array,
	.resident = mapped_resident,
	.alive = mapped_alive,
	.destroy = mapped_destroy,
};

enum ciel_status ciel_source_open_mapped(struct ciel_process *process, const struct ciel_ram_block *block,
					 struct ciel_source **ret, struct ciel_error *error)
{
	_cleanup_close_ int file = -1;
	enum ciel_status status = ciel_backing_open(process, block, &file, error);
	if (status)
		return status;

	struct statfs system;
	if (fstatfs(file, &system) != 0)
		return ciel_fail_errno(error, errno, "looking at the RAM's file");
	if (system.f_type == HUGETLBFS_MAGIC)
		return ciel_fail(error, CIEL_UNSUPPORTED, "the RAM is of huge pages: a mapping could take more of them from the pool");

	int seals = fcntl(file, F_GET_SEALS);
	if (seals < 0 || !(seals & F_SEAL_SHRINK))
		return ciel_fail(error, CIEL_UNSUPPORTED, "the RAM's file is not sealed against shrinking: not mapped");
	struct stat now;
	if (fstat(file, &now) != 0 || (uint64_t)now.st_size < block->file_offset ||
	    (uint64_t)now.st_size - block->file_offset < block->size)
		return ciel_fail(error, CIEL_UNSUPPORTED, "the RAM's file is shorter than the RAM");

	_cleanup_(ciel_source_cleanup) struct ciel_source *source = NULL;
	struct mapped_source *mapped = calloc(1, sizeof(*mapped));
	if (!mapped)
		return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory for a mapped source");
	*mapped = (struct mapped_source){
		.source = { .operations = &mapped_operations, .size = block->size },
		.process = { .pid = process->pid, .pidfd = -1 },
		.file = file,
		.file_offset = block->file_offset,
	};
	file = -1;
	source = &mapped->source;

	void *bytes = mmap(NULL, block->size, PROT_READ, MAP_SHARED | MAP_NORESERVE, mapped->file, (off_t)block->file_offset);
	if (bytes == MAP_FAILED)
		return ciel_fail_errno(error, errno, "mapping %" PRIu64 " bytes of RAM", block->size);
	mapped->bytes = bytes;

	mapped->resident_bytes = (block->size / CIEL_PAGE_SIZE + 63) / 64 * sizeof(uint64_t);
	void *bits = mmap(NULL, mapped->resident_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			  -1, 0);
	mapped->touched = calloc(MAX_TOUCHED, sizeof(uint32_t));
	if (bits != MAP_FAILED)
		mapped->resident = bits;
	if (!mapped->resident || !mapped->touched)
		return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory for a mapped source");

	mapped->process = *process;
	process->pidfd = -1;
	*ret = ciel_take(source);
	return CIEL_OK;
}

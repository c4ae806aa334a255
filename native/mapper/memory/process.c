/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RAM by process_vm_readv, for VMs whose RAM is private to QEMU: any VM as it runs, and copy-on-write forks.
 *
 * A call costs about 3 µs however few bytes it moves, so pages are fetched whole and staged in a small direct-mapped
 * cache until the next refresh; a value read twice between two refreshes is therefore the same value.
 *
 * Absent pages are not fetched: reading them would fault them into QEMU (a scan without this grew one from 220 to
 * 1,145 MB). /proc/PID/pagemap says in 8 bytes a page whether it is present or swapped; absent ones read as zeros. What was
 * present is believed to be so for a while: a page that a balloon takes meanwhile costs at most itself.
 *
 * What was read counts only when the process still lives afterwards: a pid may be reused between two calls, but not while
 * alive() on the pidfd says that its process lives.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

#include "../cleanup.h"
#include "source.h"

enum {
	STAGED_PAGES = 256,
	/* Pages that were present are asked for again after so many refreshes. */
	KNOWN_PAGES = 4096,
	EPOCH_REFRESHES = 4096,
	SCAN_BATCH = 512,
};

static const uint64_t PAGEMAP_PRESENT = 1ull << 63, PAGEMAP_SWAPPED = 1ull << 62;
static const uint64_t NO_PAGE = UINT64_MAX;

struct process_source {
	struct ciel_source source;
	struct ciel_process process;
	int pagemap;
	uint64_t address;
	uint32_t known[KNOWN_PAGES]; /* numbers of pages that are present, + 1; a hash without chains */
	uint32_t refreshes;
	uint64_t number; /* names the source: its address may be another's, later */
};

/*
 * The pages that are staged: of one source at a time, as a sample is taken in one go, so that a thousand VMs cost this
 * once a thread.
 */
struct stage {
	uint64_t owner; /* number of the source */
	uint64_t staged[STAGED_PAGES]; /* the RAM offset of the page in each place, or NO_PAGE */
	uint8_t pages[STAGED_PAGES][CIEL_PAGE_SIZE];
};
static _Thread_local struct stage *thread_stage;

static void clear_stage(struct stage *stage, const struct process_source *process)
{
	stage->owner = process->number;
	for (uint32_t i = 0; i < STAGED_PAGES; i++)
		stage->staged[i] = NO_PAGE;
}

/* This thread's stage, for this source. */
static struct stage *stage_of(const struct process_source *process)
{
	if (!thread_stage)
		thread_stage = calloc(1, sizeof(*thread_stage));
	if (thread_stage && thread_stage->owner != process->number)
		clear_stage(thread_stage, process);
	return thread_stage;
}

static atomic_uint_fast64_t next_number = 1;

static struct process_source *process_of(struct ciel_source *source)
{
	return (struct process_source *)source;
}

/* Reads pagemap entries of `count` pages from a RAM offset on. */
static enum ciel_status read_pagemap(const struct process_source *process, uint64_t offset, uint64_t *entries, size_t count,
				     struct ciel_error *error)
{
	uint64_t first = (process->address + offset) / CIEL_PAGE_SIZE;
	ssize_t wanted = (ssize_t)(count * sizeof(*entries));
	ssize_t got = pread(process->pagemap, entries, (size_t)wanted, (off_t)(first * sizeof(*entries)));

	if (got == wanted)
		return CIEL_OK;
	/* An empty answer is an address space that is gone. */
	return ciel_fail_errno(error, got < 0 ? errno : ESRCH, "reading the pagemap of process %d", process->process.pid);
}

static int is_present(uint64_t pagemap_entry)
{
	return (pagemap_entry & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)) != 0;
}

static ssize_t read_process(const struct process_source *process, uint64_t offset, void *to, size_t length)
{
	struct iovec local = { .iov_base = to, .iov_len = length };
	struct iovec remote = { .iov_base = (void *)(uintptr_t)(process->address + offset), .iov_len = length };

	return process_vm_readv(process->process.pid, &local, 1, &remote, 1, 0);
}

static const volatile uint8_t *process_page(struct ciel_source *source, uint64_t offset)
{
	struct process_source *process = process_of(source);
	struct stage *stage = stage_of(process);
	/* Neighbouring pages of different regions would collide with a plain modulus: mix the higher bits in. */
	uint64_t number = offset / CIEL_PAGE_SIZE;
	uint32_t place = (uint32_t)((number * 0x9e3779b97f4a7c15ull) >> 56) % STAGED_PAGES;
	uint32_t *known = &process->known[(number * 0x9e3779b97f4a7c15ull) >> 52];
	struct ciel_error ignored;
	uint64_t entry = PAGEMAP_PRESENT;

	if (!stage)
		return NULL;
	if (stage->staged[place] == offset)
		return stage->pages[place];
	stage->staged[place] = NO_PAGE;
	if (*known != (uint32_t)number + 1 && read_pagemap(process, offset, &entry, 1, &ignored))
		return NULL;
	*known = is_present(entry) ? (uint32_t)number + 1 : 0;
	if (!is_present(entry))
		memset(stage->pages[place], 0, CIEL_PAGE_SIZE);
	else if (read_process(process, offset, stage->pages[place], CIEL_PAGE_SIZE) != (ssize_t)CIEL_PAGE_SIZE)
		return NULL;
	stage->staged[place] = offset;
	return stage->pages[place];
}

static enum ciel_status process_read(struct ciel_source *source, uint64_t offset, void *to, size_t length,
				     struct ciel_error *error)
{
	const struct process_source *process = process_of(source);
	uint64_t entries[SCAN_BATCH];
	size_t done = 0;

	/* Batches of pages; within a batch, runs of present pages are one call each. */
	while (done < length) {
		uint64_t first = (offset + done) & CIEL_PAGE_MASK;
		uint64_t end = offset + length;
		size_t pages = (size_t)((end - first + CIEL_PAGE_SIZE - 1) / CIEL_PAGE_SIZE);
		if (pages > SCAN_BATCH)
			pages = SCAN_BATCH;
		enum ciel_status status = read_pagemap(process, first, entries, pages, error);
		if (status)
			return status;

		for (size_t i = 0; i < pages;) {
			size_t run = i + 1;
			while (run < pages && is_present(entries[run]) == is_present(entries[i]))
				run++;
			uint64_t from = offset + done, until = first + run * CIEL_PAGE_SIZE;
			if (until > end)
				until = end;
			size_t bytes = (size_t)(until - from);
			if (!is_present(entries[i]))
				memset((uint8_t *)to + done, 0, bytes);
			else if (read_process(process, from, (uint8_t *)to + done, bytes) != (ssize_t)bytes)
				return ciel_fail_errno(error, errno, "reading process %d at RAM offset 0x%" PRIx64,
						       process->process.pid, from);
			done += bytes;
			i = run;
		}
	}
	return CIEL_OK;
}

static enum ciel_status process_scan(struct ciel_source *source, ciel_scan_visitor visit, void *context,
				     struct ciel_error *error)
{
	struct process_source *process = process_of(source);
	uint64_t entries[SCAN_BATCH];
	uint8_t heads[SCAN_BATCH][CIEL_SCAN_BYTES];
	struct iovec remote[SCAN_BATCH];

	for (uint64_t offset = 0; offset < source->size; offset += SCAN_BATCH * CIEL_PAGE_SIZE) {
		size_t pages = (size_t)((source->size - offset) / CIEL_PAGE_SIZE);
		if (pages > SCAN_BATCH)
			pages = SCAN_BATCH;
		enum ciel_status status = read_pagemap(process, offset, entries, pages, error);
		if (status)
			return status;

		size_t present = 0;
		uint64_t offsets[SCAN_BATCH];
		for (size_t i = 0; i < pages; i++) {
			if (!is_present(entries[i]))
				continue;
			offsets[present] = offset + i * CIEL_PAGE_SIZE;
			remote[present] = (struct iovec){
				.iov_base = (void *)(uintptr_t)(process->address + offsets[present]),
				.iov_len = CIEL_SCAN_BYTES,
			};
			present++;
		}
		if (present == 0)
			continue;
		struct iovec local = { .iov_base = heads, .iov_len = present * CIEL_SCAN_BYTES };
		ssize_t got = process_vm_readv(process->process.pid, &local, 1, remote, present, 0);
		if (got < 0)
			return ciel_fail_errno(error, errno, "scanning process %d", process->process.pid);
		/* A page that went away since ends the batch early; what is behind it is another boot's at worst. */
		for (size_t i = 0; i < (size_t)got / CIEL_SCAN_BYTES; i++) {
			if (visit(context, offsets[i], heads[i]))
				return CIEL_OK;
		}
	}
	return CIEL_OK;
}

/* Pieces are small and many: each costs about 1 µs, however few bytes it has, and a call 3 µs. */
static enum ciel_status process_gather(struct ciel_source *source, const struct ciel_piece *pieces, uint32_t count,
				       uint8_t *to, struct ciel_error *error)
{
	const struct process_source *process = process_of(source);
	struct iovec remote[SCAN_BATCH];

	for (uint32_t done = 0; done < count;) {
		uint32_t batch = count - done < SCAN_BATCH ? count - done : SCAN_BATCH;
		size_t bytes = 0;

		for (uint32_t i = 0; i < batch; i++) {
			const struct ciel_piece *piece = &pieces[done + i];
			remote[i] = (struct iovec){
				.iov_base = (void *)(uintptr_t)(process->address + piece->offset),
				.iov_len = piece->length,
			};
			bytes += piece->length;
		}
		struct iovec local = { .iov_base = to, .iov_len = bytes };
		if (process_vm_readv(process->process.pid, &local, 1, remote, batch, 0) != (ssize_t)bytes)
			return ciel_fail_errno(error, errno, "reading %u pieces of process %d", count, process->process.pid);
		to += bytes;
		done += batch;
	}
	return CIEL_OK;
}

static int process_resident(struct ciel_source *source, uint64_t offset)
{
	struct ciel_error ignored;
	uint64_t entry;

	return read_pagemap(process_of(source), offset, &entry, 1, &ignored) == CIEL_OK && is_present(entry);
}

static void process_refresh(struct ciel_source *source)
{
	struct process_source *process = process_of(source);

	struct stage *stage = stage_of(process);

	if (stage)
		clear_stage(stage, process);
	if (++process->refreshes >= EPOCH_REFRESHES) {
		memset(process->known, 0, sizeof(process->known));
		process->refreshes = 0;
	}
}

static enum ciel_status process_alive(struct ciel_source *source, struct ciel_error *error)
{
	return ciel_process_alive(&process_of(source)->process, error);
}

static void process_destroy(struct ciel_source *source)
{
	struct process_source *process = process_of(source);

	if (process->pagemap >= 0)
		close(process->pagemap);
	ciel_process_close(&process->process);
	free(process);
}

static const struct ciel_source_operations process_operations = {
	.name = "process",
	.is_staged = 1,
	.page = process_page,
	.read = process_read,
	.scan = process_scan,
	.refresh = process_refresh,
	.gather = process_gather,
	.resident = process_resident,
	.alive = process_alive,
	.destroy = process_destroy,
};

enum ciel_status ciel_source_open_process(struct ciel_process *process, const struct ciel_ram_block *block,
					  struct ciel_source **ret, struct ciel_error *error)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/pagemap", process->pid);
	_cleanup_close_ int pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (pagemap < 0)
		return ciel_fail_errno(error, errno, "opening %s (this needs root or CAP_SYS_PTRACE)", path);

	struct process_source *opened = malloc(sizeof(*opened));
	if (!opened)
		return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory for a process source");
	opened->source = (struct ciel_source){ .operations = &process_operations, .size = block->size };
	opened->address = block->address;

	/* The right to read is tested here, so that a refusal is a refusal and not a fault somewhere in a walk. */
	uint8_t byte;
	opened->process = *process;
	if (read_process(opened, 0, &byte, 1) != 1) {
		enum ciel_status status =
			ciel_fail_errno(error, errno, "process_vm_readv on process %d (this needs CAP_SYS_PTRACE)", process->pid);
		free(opened);
		return status;
	}
	opened->pagemap = pagemap;
	opened->number = atomic_fetch_add(&next_number, 1);
	opened->refreshes = EPOCH_REFRESHES; /* the first refresh clears what is known */
	pagemap = -1;
	process->pidfd = -1;
	process_refresh(&opened->source);
	*ret = &opened->source;
	return CIEL_OK;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One suite over the sources, on a child process that plays QEMU: a RAM block in a sealed memfd (mapped), the same by
 * process_vm_readv, and a private one. What each must hold: the bytes, zeros in holes, no growth, errors at the ends, and
 * an end that is noticed.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memory/source.h"
#include "test.h"

enum { PAGES = 1024, PRESENT_EVERY = 16 };
static const uint64_t SIZE = PAGES * CIEL_PAGE_SIZE;

struct pretender {
	pid_t pid;
	int memfd; /* -1: private memory */
};

static void fill(uint8_t *ram)
{
	for (uint64_t page = 0; page < PAGES; page += PRESENT_EVERY) {
		memset(ram + page * CIEL_PAGE_SIZE, (int)(page / PRESENT_EVERY + 1), CIEL_PAGE_SIZE);
		memcpy(ram + page * CIEL_PAGE_SIZE, &page, sizeof(page));
	}
}

/* A process with a RAM block between guard pages, filled here and there. */
static struct pretender pretend(int is_shared, int is_sealed)
{
	struct pretender result = { .memfd = -1 };
	int ready[2];

	if (is_shared) {
		result.memfd = memfd_create("memory-backend-memfd", MFD_ALLOW_SEALING);
		CHECK(result.memfd >= 0 && ftruncate(result.memfd, (off_t)SIZE) == 0);
		if (is_sealed)
			CHECK(fcntl(result.memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
	}
	CHECK(pipe(ready) == 0);
	result.pid = fork();
	if (result.pid == 0) {
		uint8_t *area = mmap(NULL, SIZE + 2 * CIEL_PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		int flags = MAP_FIXED | (is_shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);
		uint8_t *ram = mmap(area + CIEL_PAGE_SIZE, SIZE, PROT_READ | PROT_WRITE, flags, result.memfd, 0);
		madvise(ram, SIZE, MADV_NOHUGEPAGE);
		fill(ram);
		if (write(ready[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	char byte;
	CHECK(read(ready[0], &byte, 1) == 1);
	close(ready[0]);
	close(ready[1]);
	return result;
}

static uint64_t allocated(const struct pretender *pretender)
{
	struct stat status;
	char path[64];
	unsigned long total, resident = 0;

	if (pretender->memfd >= 0) {
		CHECK(fstat(pretender->memfd, &status) == 0);
		return (uint64_t)status.st_blocks * 512;
	}
	snprintf(path, sizeof(path), "/proc/%d/statm", pretender->pid);
	FILE *file = fopen(path, "r");
	CHECK(file && fscanf(file, "%lu %lu", &total, &resident) == 2);
	fclose(file);
	return resident * CIEL_PAGE_SIZE;
}

static int count_page(void *context, uint64_t offset, const uint8_t head[CIEL_SCAN_BYTES])
{
	uint64_t page;

	memcpy(&page, head, sizeof(page));
	CHECK_EQUAL(page, offset / CIEL_PAGE_SIZE);
	++*(uint32_t *)context;
	return 0;
}

static void suite(const char *name, struct pretender *pretender, struct ciel_source *source)
{
	struct ciel_error error = { 0 };
	uint64_t before = allocated(pretender);
	uint32_t visited = 0;
	static uint8_t bytes[40 * 4096];

	/* A scan sees the resident pages and no others. */
	CHECK(ciel_source_scan(source, count_page, &visited, &error) == CIEL_OK);
	CHECK_EQUAL(visited, PAGES / PRESENT_EVERY);

	/* Pages: the bytes where there are some, zeros in holes, nothing beyond. */
	for (uint64_t page = 0; page < PAGES; page++) {
		const volatile uint8_t *found = ciel_source_page(source, page * CIEL_PAGE_SIZE);
		CHECK(found);
		CHECK_EQUAL(found[100], page % PRESENT_EVERY ? 0 : page / PRESENT_EVERY + 1);
	}
	CHECK(!ciel_source_page(source, SIZE));
	CHECK(!ciel_source_page(source, UINT64_MAX & CIEL_PAGE_MASK));
	CHECK(!ciel_source_page(source, 1));

	/* Ranges across resident pages and holes, unaligned. */
	CHECK(ciel_source_read(source, 15 * CIEL_PAGE_SIZE + 7, bytes, sizeof(bytes), &error) == CIEL_OK);
	CHECK_EQUAL(bytes[CIEL_PAGE_SIZE - 8], 0);
	CHECK_EQUAL(bytes[CIEL_PAGE_SIZE - 7], 16); /* the page's number */
	CHECK_EQUAL(bytes[CIEL_PAGE_SIZE + 100], 2);
	CHECK_EQUAL(bytes[2 * CIEL_PAGE_SIZE], 0);
	CHECK(ciel_source_read(source, SIZE - 4, bytes, 8, &error) == CIEL_FAULTED);
	CHECK(ciel_source_read(source, UINT64_MAX - 3, bytes, 8, &error) == CIEL_FAULTED);

	/* Nothing of that made the guest grow. */
	if (allocated(pretender) > before) {
		fprintf(stderr, "%s: reading grew the RAM from %llu to %llu bytes\n", name, (unsigned long long)before,
			(unsigned long long)allocated(pretender));
		exit(1);
	}

	CHECK(ciel_source_alive(source, &error) == CIEL_OK);
	kill(pretender->pid, SIGKILL);
	waitpid(pretender->pid, NULL, 0);
	CHECK(ciel_source_alive(source, &error) == CIEL_PROCESS_GONE);
	ciel_source_destroy(source);
	if (pretender->memfd >= 0)
		close(pretender->memfd);
}

static struct ciel_process open_process(const struct pretender *pretender)
{
	struct ciel_process process;
	struct ciel_error error = { 0 };

	if (ciel_process_open(pretender->pid, 0, &process, &error)) {
		fprintf(stderr, "%s\n", error.message);
		CHECK(0);
	}
	return process;
}

static struct ciel_ram_block find_block(const struct ciel_process *process)
{
	struct ciel_ram_block block;
	struct ciel_error error = { 0 };

	CHECK(ciel_ram_block_find(process, SIZE, &block, &error) == CIEL_OK);
	return block;
}

int main(void)
{
	struct ciel_error error = { 0 };
	struct ciel_source *source;

	struct pretender shared = pretend(1, 1);
	struct ciel_process process = open_process(&shared);
	struct ciel_ram_block block = find_block(&process);
	CHECK(block.inode != 0);
	CHECK(ciel_ram_block_find(&process, SIZE + CIEL_PAGE_SIZE, &block, &error) == CIEL_UNSUPPORTED);
	CHECK(ciel_process_open(shared.pid, 12345, &process, &error) == CIEL_PROCESS_GONE); /* another's start time */
	process = open_process(&shared);
	block = find_block(&process);
	CHECK(ciel_source_open_mapped(&process, &block, &source, &error) == CIEL_OK);
	CHECK(process.pidfd == -1);
	suite("mapped", &shared, source);

	struct pretender read_shared = pretend(1, 1);
	process = open_process(&read_shared);
	block = find_block(&process);
	CHECK(ciel_source_open_process(&process, &block, &source, &error) == CIEL_OK);
	suite("process, shared", &read_shared, source);

	struct pretender private = pretend(0, 0);
	process = open_process(&private);
	block = find_block(&process);
	CHECK_EQUAL(block.inode, 0);
	CHECK(ciel_source_open_mapped(&process, &block, &source, &error) == CIEL_UNSUPPORTED); /* never map private RAM */
	CHECK(ciel_source_open_process(&process, &block, &source, &error) == CIEL_OK);
	suite("process, private", &private, source);

	/* A file that could shrink is never mapped: that would be SIGBUS. */
	struct pretender unsealed = pretend(1, 0);
	process = open_process(&unsealed);
	block = find_block(&process);
	CHECK(ciel_source_open_mapped(&process, &block, &source, &error) == CIEL_UNSUPPORTED);
	CHECK(strstr(error.message, "sealed"));
	ciel_process_close(&process);
	kill(unsealed.pid, SIGKILL);
	waitpid(unsealed.pid, NULL, 0);

	CHECK(ciel_process_open(unsealed.pid, 0, &process, &error) == CIEL_PROCESS_GONE);
	return 0;
}

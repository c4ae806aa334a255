/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One suite over the sources. Live ones read a child process that plays QEMU: a RAM block in a sealed memfd (mapped), in one
 * that may shrink and in a file on disk (pread), the same by process_vm_readv, a private one, huge pages where the machine
 * has any. Dumps of the same RAM are written in each format. What each must hold: the bytes, zeros in holes, no growth,
 * errors at the ends, and an end that is noticed.
 */
#include <fcntl.h>
#include <linux/memfd.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dump-writer.h"
#include "memory/source.h"
#include "test.h"

enum { PAGES = 1024, PRESENT_EVERY = 16, LEFT_OUT = 500, LEFT_OUT_COUNT = 4, HUGE_PAGE = 2 << 20 };
static const uint64_t SIZE = PAGES * CIEL_PAGE_SIZE;

enum backing { PRIVATE, SEALED_MEMFD, OPEN_MEMFD, DISK_FILE, HUGE_PAGES };

struct pretender {
	pid_t pid;
	int file; /* -1: private memory */
};

/* A page in PRESENT_EVERY has content: its number, then bytes of its own. */
static void fill(uint8_t *ram)
{
	for (uint64_t page = 0; page < PAGES; page += PRESENT_EVERY) {
		memset(ram + page * CIEL_PAGE_SIZE, (int)(page / PRESENT_EVERY + 1), CIEL_PAGE_SIZE);
		memcpy(ram + page * CIEL_PAGE_SIZE, &page, sizeof(page));
	}
}

/* Huge pages cannot be filled here and there: the first of two is, whole. */
static void fill_first_huge_page(uint8_t *ram)
{
	for (uint64_t page = 0; page < HUGE_PAGE / CIEL_PAGE_SIZE; page++)
		memcpy(ram + page * CIEL_PAGE_SIZE, &page, sizeof(page));
}

static int make_file(enum backing backing)
{
	char path[] = "/tmp/ciel-memory-XXXXXX";
	int file;

	switch (backing) {
	case PRIVATE:
		return -1;
	case DISK_FILE:
		file = mkstemp(path);
		CHECK(file >= 0 && unlink(path) == 0);
		break;
	case HUGE_PAGES:
		file = memfd_create("memory-backend-memfd", MFD_ALLOW_SEALING | MFD_HUGETLB | MFD_HUGE_2MB);
		if (file < 0)
			return -1;
		break;
	default:
		file = memfd_create("memory-backend-memfd", MFD_ALLOW_SEALING);
	}
	CHECK(file >= 0 && ftruncate(file, (off_t)SIZE) == 0);
	if (backing == SEALED_MEMFD || backing == HUGE_PAGES)
		CHECK(fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
	return file;
}

/* A process with a RAM block between guard pages, filled here and there. pid -1: it could not be had. */
static struct pretender pretend(enum backing backing)
{
	struct pretender result = { .file = make_file(backing), .pid = -1 };
	int ready[2];

	if (backing == HUGE_PAGES && result.file < 0)
		return result;
	CHECK(pipe(ready) == 0);
	result.pid = fork();
	if (result.pid == 0) {
		uint8_t *area = mmap(NULL, SIZE + 3 * HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		uint8_t *aligned = (uint8_t *)(((uintptr_t)area + HUGE_PAGE) & ~((uintptr_t)HUGE_PAGE - 1));
		int flags = MAP_FIXED | (result.file >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);
		uint8_t *ram = mmap(aligned, SIZE, PROT_READ | PROT_WRITE, flags, result.file, 0);
		char outcome = ram == MAP_FAILED ? 'n' : 'y';
		if (ram != MAP_FAILED && backing == HUGE_PAGES) {
			fill_first_huge_page(ram);
		} else if (ram != MAP_FAILED) {
			madvise(ram, SIZE, MADV_NOHUGEPAGE);
			fill(ram);
		}
		if (write(ready[1], &outcome, 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	char outcome;
	CHECK(read(ready[0], &outcome, 1) == 1);
	close(ready[0]);
	close(ready[1]);
	if (outcome == 'n') {
		kill(result.pid, SIGKILL);
		waitpid(result.pid, NULL, 0);
		close(result.file);
		result.pid = -1;
	}
	return result;
}

static void end(struct pretender *pretender)
{
	kill(pretender->pid, SIGKILL);
	waitpid(pretender->pid, NULL, 0);
	if (pretender->file >= 0)
		close(pretender->file);
}

static uint64_t free_huge_pages(void)
{
	char line[128];
	unsigned long count = 0;
	FILE *file = fopen("/proc/meminfo", "r");

	CHECK(file);
	while (fgets(line, sizeof(line), file) && sscanf(line, "HugePages_Free: %lu", &count) != 1)
		;
	fclose(file);
	return count;
}

/* What the guest's memory costs the host: blocks of its file (huge pages: those that are no longer free), or the process. */
static uint64_t allocated(const struct pretender *pretender, enum backing backing)
{
	struct stat status;
	char path[64];
	unsigned long total, resident = 0;

	if (backing == HUGE_PAGES)
		return UINT32_MAX - free_huge_pages();
	if (pretender->file >= 0) {
		CHECK(fstat(pretender->file, &status) == 0);
		return (uint64_t)status.st_blocks * 512;
	}
	snprintf(path, sizeof(path), "/proc/%d/statm", pretender->pid);
	FILE *file = fopen(path, "r");
	CHECK(file && fscanf(file, "%lu %lu", &total, &resident) == 2);
	fclose(file);
	return resident * CIEL_PAGE_SIZE;
}

struct visits {
	uint32_t count, with_content;
	uint64_t next;
};

static int count_page(void *context, uint64_t offset, const uint8_t head[CIEL_SCAN_BYTES])
{
	struct visits *visits = context;
	uint64_t word;

	CHECK(offset >= visits->next && (offset & ~CIEL_PAGE_MASK) == 0);
	visits->next = offset + CIEL_PAGE_SIZE;
	visits->count++;
	memcpy(&word, head, sizeof(word));
	if (word == 0 && offset > 0)
		return 0;
	CHECK_EQUAL(word, offset / CIEL_PAGE_SIZE);
	visits->with_content++;
	return 0;
}

static int end_at_once(void *context, uint64_t offset, const uint8_t head[CIEL_SCAN_BYTES])
{
	(void)offset;
	(void)head;
	++*(uint32_t *)context;
	return 1;
}

/* What every source holds. `visited`: pages that its scan shows. `is_dump`: what is left out cannot be read. */
static void contract(const char *name, struct ciel_source *source, uint32_t visited, int is_dump)
{
	struct ciel_error error = { 0 };
	struct visits visits = { 0 };
	static uint8_t bytes[40 * 4096];
	uint32_t once = 0;

	/* A scan goes upward, sees all that is there, and ends when it is told to. */
	CHECK_EQUAL(source->size, SIZE);
	CHECK(ciel_source_scan(source, count_page, &visits, &error) == CIEL_OK);
	if (visits.count != visited)
		fprintf(stderr, "%s: scan\n", name);
	CHECK_EQUAL(visits.count, visited);
	CHECK_EQUAL(visits.with_content, PAGES / PRESENT_EVERY);
	CHECK(ciel_source_scan(source, end_at_once, &once, &error) == CIEL_OK && once == 1);

	/* Pages: the bytes where there are some, zeros in holes, nothing beyond. */
	for (uint64_t page = 0; page < PAGES; page++) {
		const volatile uint8_t *found = ciel_source_page(source, page * CIEL_PAGE_SIZE);
		if (is_dump && page >= LEFT_OUT && page < LEFT_OUT + LEFT_OUT_COUNT) {
			CHECK(!found);
			continue;
		}
		CHECK(found);
		CHECK_EQUAL(found[100], page % PRESENT_EVERY ? 0 : page / PRESENT_EVERY + 1);
		CHECK_EQUAL(found[CIEL_PAGE_SIZE - 1], page % PRESENT_EVERY ? 0 : page / PRESENT_EVERY + 1);
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
	if (is_dump)
		CHECK(ciel_source_read(source, (LEFT_OUT - 1) * CIEL_PAGE_SIZE, bytes, sizeof(bytes), &error) == CIEL_FAULTED);

	ciel_source_refresh(source);
	const volatile uint8_t *again = ciel_source_page(source, 16 * CIEL_PAGE_SIZE);
	CHECK(again && again[100] == 2);
	CHECK(ciel_source_alive(source, &error) == CIEL_OK);
}

static void check_growth(const char *name, uint64_t before, uint64_t after)
{
	if (after <= before)
		return;
	fprintf(stderr, "%s: reading grew the RAM from %llu to %llu bytes\n", name, (unsigned long long)before,
		(unsigned long long)after);
	exit(1);
}

/* A live source: besides the contract no growth, and an end that is noticed. */
static void suite(const char *name, struct pretender *pretender, struct ciel_source *source, uint32_t visited)
{
	struct ciel_error error = { 0 };
	uint64_t before = allocated(pretender, PRIVATE);

	contract(name, source, visited, 0);
	check_growth(name, before, allocated(pretender, PRIVATE));
	kill(pretender->pid, SIGKILL);
	waitpid(pretender->pid, NULL, 0);
	CHECK(ciel_source_alive(source, &error) == CIEL_PROCESS_GONE);
	ciel_source_destroy(source);
	if (pretender->file >= 0)
		close(pretender->file);
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
	static const uint64_t size = SIZE;
	struct ciel_ram_block block;
	struct ciel_error error = { 0 };
	int is_guess;

	CHECK(ciel_ram_blocks_find(process, &size, 1, 0, &block, &is_guess, &error) == CIEL_OK);
	return block;
}

/* Blocks of one size, a NUMA node each, are told apart by their addresses alone. */
static void test_nodes(void)
{
	enum { NODES = 3, NODE = 77 * CIEL_PAGE_SIZE, OTHER = 93 * CIEL_PAGE_SIZE };
	static const uint64_t sizes[NODES] = { NODE, OTHER, NODE }, four[] = { NODE, NODE, NODE };
	struct ciel_ram_block down[NODES], up[NODES];
	struct ciel_error error = { 0 };
	struct ciel_process process;
	uint8_t *room = mmap(NULL, 512 * CIEL_PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *low = room + CIEL_PAGE_SIZE, *middle = low + NODE + CIEL_PAGE_SIZE, *high = middle + OTHER + CIEL_PAGE_SIZE;
	int is_guess;

	CHECK(room != MAP_FAILED);
	CHECK(mprotect(low, NODE, PROT_READ | PROT_WRITE) == 0);
	CHECK(mprotect(middle, OTHER, PROT_READ | PROT_WRITE) == 0);
	CHECK(mprotect(high, NODE, PROT_READ | PROT_WRITE) == 0);
	CHECK(ciel_process_open(getpid(), 0, &process, &error) == CIEL_OK);
	CHECK(ciel_ram_blocks_find(&process, sizes, NODES, 0, down, &is_guess, &error) == CIEL_OK);
	CHECK(is_guess);
	CHECK(ciel_ram_blocks_find(&process, sizes, NODES, 1, up, &is_guess, &error) == CIEL_OK);
	CHECK_EQUAL(down[0].address, (uintptr_t)high);
	CHECK_EQUAL(down[1].address, (uintptr_t)middle);
	CHECK_EQUAL(down[2].address, (uintptr_t)low);
	CHECK_EQUAL(up[0].address, (uintptr_t)low);
	CHECK_EQUAL(up[1].address, (uintptr_t)middle);
	CHECK_EQUAL(up[2].address, (uintptr_t)high);
	CHECK(ciel_ram_blocks_find(&process, sizes + 1, 1, 0, down, &is_guess, &error) == CIEL_OK);
	CHECK(!is_guess);
	CHECK(ciel_ram_blocks_find(&process, four, NODES, 0, down, &is_guess, &error) == CIEL_UNSUPPORTED);
	ciel_process_close(&process);
	munmap(room, 512 * CIEL_PAGE_SIZE);
}

static struct ciel_source *open_shared(const struct pretender *pretender,
				       enum ciel_status (*open)(struct ciel_process *, const struct ciel_ram_block *,
								struct ciel_source **, struct ciel_error *))
{
	struct ciel_error error = { 0 };
	struct ciel_process process = open_process(pretender);
	struct ciel_ram_block block = find_block(&process);
	struct ciel_source *source;

	if (open(&process, &block, &source, &error)) {
		fprintf(stderr, "%s\n", error.message);
		CHECK(0);
	}
	CHECK(process.pidfd == -1);
	return source;
}

/* The first page that is looked at may be anywhere; none of this may be a signal. */
static void test_shrinking_file(struct pretender *pretender)
{
	struct ciel_error error = { 0 };
	struct ciel_source *source = open_shared(pretender, ciel_source_open_file);
	uint8_t bytes[64];

	CHECK(ciel_source_page(source, SIZE - CIEL_PAGE_SIZE));
	CHECK(ftruncate(pretender->file, (off_t)(SIZE / 2 + 100)) == 0);
	ciel_source_refresh(source);
	CHECK(ciel_source_page(source, SIZE / 2 - CIEL_PAGE_SIZE));
	CHECK(!ciel_source_page(source, SIZE / 2));
	CHECK(!ciel_source_page(source, SIZE - CIEL_PAGE_SIZE));
	CHECK(ciel_source_read(source, SIZE / 2 + 80, bytes, sizeof(bytes), &error) == CIEL_FAULTED);
	CHECK(strstr(error.message, "ends"));
	ciel_source_destroy(source);
	end(pretender);
}

/* The pool's size, and changing it: root gets pages for the time of the test, others use what there is. */
static unsigned long huge_pages(void)
{
	unsigned long count = 0;
	FILE *file = fopen("/proc/sys/vm/nr_hugepages", "r");

	if (file && fscanf(file, "%lu", &count) != 1)
		count = 0;
	if (file)
		fclose(file);
	return count;
}

static void set_huge_pages(unsigned long count)
{
	FILE *file = fopen("/proc/sys/vm/nr_hugepages", "w");

	if (file) {
		fprintf(file, "%lu", count);
		fclose(file);
	}
}

static void test_huge_pages(void)
{
	unsigned long had = huge_pages();
	set_huge_pages(had + SIZE / HUGE_PAGE);
	struct pretender pretender = pretend(HUGE_PAGES);
	struct ciel_error error = { 0 };
	struct ciel_source *source;
	static uint8_t bytes[2 * 4096];

	if (pretender.pid < 0) {
		set_huge_pages(had);
		printf("note    huge pages: there are no two free ones of 2 MiB (vm.nr_hugepages) to test with\n");
		CHECK(!getenv("CIEL_NO_SKIP"));
		return;
	}
	struct ciel_process process = open_process(&pretender);
	struct ciel_ram_block block = find_block(&process);
	CHECK(ciel_source_open_mapped(&process, &block, &source, &error) == CIEL_UNSUPPORTED);
	CHECK(strstr(error.message, "huge"));
	ciel_process_close(&process);

	uint64_t before = allocated(&pretender, HUGE_PAGES);
	source = open_shared(&pretender, ciel_source_open_file);
	for (uint64_t page = 0; page < PAGES; page++) {
		const volatile uint64_t *found = (const volatile uint64_t *)ciel_source_page(source, page * CIEL_PAGE_SIZE);
		CHECK(found);
		CHECK_EQUAL(*found, page < HUGE_PAGE / CIEL_PAGE_SIZE ? page : 0);
	}
	CHECK(ciel_source_read(source, HUGE_PAGE - 8, bytes, sizeof(bytes), &error) == CIEL_OK);
	struct visits visits = { 0 };
	CHECK(ciel_source_scan(source, count_page, &visits, &error) == CIEL_OK);
	CHECK_EQUAL(visits.with_content, HUGE_PAGE / CIEL_PAGE_SIZE);
	check_growth("huge pages", before, allocated(&pretender, HUGE_PAGES));
	ciel_source_destroy(source);
	end(&pretender);
	set_huge_pages(had);
}

static void test_joined(void)
{
	static uint8_t ram[PAGES * 4096ull];
	const uint64_t cuts[] = { 0, 3 * CIEL_PAGE_SIZE, 16 * CIEL_PAGE_SIZE, SIZE };
	struct ciel_source *parts[3], *joined;
	struct ciel_error error = { 0 };

	fill(ram);
	for (int i = 0; i < 3; i++)
		CHECK(ciel_source_open_array(ram + cuts[i], cuts[i + 1] - cuts[i], &parts[i], &error) == CIEL_OK);
	CHECK(ciel_source_open_joined(parts, 0, &joined, &error) == CIEL_UNSUPPORTED);
	CHECK(ciel_source_open_joined(parts, 3, &joined, &error) == CIEL_OK);
	CHECK(!joined->operations->is_staged);
	contract("joined", joined, PAGES, 0);
	ciel_source_destroy(joined);

	struct ciel_source *alone;
	CHECK(ciel_source_open_array(ram, SIZE, &alone, &error) == CIEL_OK);
	contract("array", alone, PAGES, 0);
	ciel_source_destroy(alone);

	/* Two RAM blocks of a VM, one of them private: staged, and gone with its process. */
	struct pretender first = pretend(SEALED_MEMFD), second = pretend(PRIVATE);
	parts[0] = open_shared(&first, ciel_source_open_mapped);
	parts[1] = open_shared(&second, ciel_source_open_process);
	CHECK(ciel_source_open_joined(parts, 2, &joined, &error) == CIEL_OK);
	CHECK(joined->operations->is_staged);
	CHECK_EQUAL(joined->size, 2 * SIZE);
	const volatile uint8_t *page = ciel_source_page(joined, SIZE + 32 * CIEL_PAGE_SIZE);
	CHECK(page && page[100] == 3);
	CHECK(ciel_source_alive(joined, &error) == CIEL_OK);
	end(&second);
	CHECK(ciel_source_alive(joined, &error) == CIEL_PROCESS_GONE);
	ciel_source_destroy(joined);
	end(&first);
}

/* ---- dumps ---- */

static char dump_path[] = "/tmp/ciel-dump-XXXXXX";

static void write_dump(const struct dump_buffer *dump, size_t length)
{
	int file = open(dump_path, O_WRONLY | O_TRUNC);

	CHECK(file >= 0 && write(file, dump->bytes, length) == (ssize_t)length);
	close(file);
}

static enum ciel_status open_dump(struct ciel_source **ret, struct ciel_dump_shape *shape, struct ciel_error *error)
{
	*error = (struct ciel_error){ 0 };
	return ciel_source_open_dump(dump_path, ret, shape, error);
}

/* The contract; then, cut off anywhere, an error that says so, and cut off under the reader an error as well. */
static void dump_suite(const char *name, struct dump_buffer dump, const char *format, const char *machine)
{
	struct ciel_error error;
	struct ciel_dump_shape shape;
	struct ciel_source *source;
	uint8_t bytes[4096];

	write_dump(&dump, dump.length);
	if (open_dump(&source, &shape, &error)) {
		fprintf(stderr, "%s: %s\n", name, error.message);
		CHECK(0);
	}
	CHECK(strcmp(shape.format, format) == 0 && strcmp(shape.machine, machine) == 0);
	contract(name, source, PAGES - LEFT_OUT_COUNT, 1);
	ciel_source_destroy(source);

	/* The stream's last bytes are devices, and a flattened file's its end mark. */
	for (size_t cut = 0; cut + 64 < dump.length; cut += dump.length / 37 + 1) {
		write_dump(&dump, cut);
		enum ciel_status status = open_dump(&source, &shape, &error);
		if (status) {
			if (cut >= 8192 && !strstr(error.message, "truncated")) {
				fprintf(stderr, "%s, cut off at %zu: %s\n", name, cut, error.message);
				CHECK(0);
			}
			continue;
		}
		/* Kdump files end with their pages: the tables may be all there. */
		struct visits visits = { 0 };
		CHECK(ciel_source_scan(source, count_page, &visits, &error) == CIEL_FAULTED);
		CHECK(strstr(error.message, "truncated"));
		ciel_source_destroy(source);
	}

	write_dump(&dump, dump.length);
	CHECK(open_dump(&source, &shape, &error) == CIEL_OK);
	CHECK(truncate(dump_path, 100) == 0);
	CHECK(!ciel_source_page(source, 16 * CIEL_PAGE_SIZE));
	CHECK(ciel_source_read(source, 32 * CIEL_PAGE_SIZE, bytes, sizeof(bytes), &error) == CIEL_FAULTED);
	CHECK(ciel_source_alive(source, &error) == CIEL_TORN);
	ciel_source_destroy(source);
	free(dump.bytes);
}

static void refused(struct dump_buffer dump, enum ciel_status status, const char *message)
{
	struct ciel_error error;
	struct ciel_dump_shape shape;
	struct ciel_source *source;

	write_dump(&dump, dump.length);
	CHECK_EQUAL(open_dump(&source, &shape, &error), status);
	if (!strstr(error.message, message)) {
		fprintf(stderr, "\"%s\" does not say \"%s\"\n", error.message, message);
		CHECK(0);
	}
	free(dump.bytes);
}

static struct dump_buffer with(struct dump_buffer dump, size_t offset, uint64_t value, size_t width)
{
	put_word(&dump, offset, value, width);
	return dump;
}

static void test_dumps(void)
{
	static uint8_t ram[PAGES * 4096ull];
	const struct dump_content content = { .ram = ram, .pages = PAGES, .left_out = LEFT_OUT, .left_out_count = LEFT_OUT_COUNT };
	static const struct {
		const char *name;
		enum writer_compression how;
	} compressions[] = {
		{ "kdump, raw", WRITE_RAW }, { "kdump, zlib", WRITE_ZLIB }, { "kdump, lzo", WRITE_LZO },
		{ "kdump, snappy", WRITE_SNAPPY }, { "kdump, zstd", WRITE_ZSTD },
	};

	fill(ram);
	int made = mkstemp(dump_path);
	CHECK(made >= 0 && close(made) == 0);
	dump_suite("ELF", write_elf(&content, 0), "ELF core", "");
	dump_suite("ELF with overlaps", write_elf(&content, 1), "ELF core", "");
	for (size_t i = 0; i < sizeof(compressions) / sizeof(compressions[0]); i++) {
		struct dump_buffer plain = write_kdump(&content, compressions[i].how);
		dump_suite(compressions[i].name, plain, "kdump", "");
		plain = write_kdump(&content, compressions[i].how);
		struct dump_buffer flat = flatten(&plain, 16 * 1024);
		dump_suite(compressions[i].name, flat, "kdump", "");
		free(plain.bytes);
	}
	dump_suite("stream", write_stream(&content), "QEMU migration stream", "pc-q35-7.2");
	dump_suite("save image", write_save(&content, 0), "libvirt save image", "pc-q35-7.2");

	refused(write_save(&content, 5), CIEL_UNSUPPORTED, "zstd");
	refused(write_save(&content, 99), CIEL_UNSUPPORTED, "compressed");
	struct dump_buffer partial = write_save(&content, 0);
	memcpy(partial.bytes, "LibvirtQemudPart", 16);
	refused(partial, CIEL_UNSUPPORTED, "not finished");
	refused(with(write_elf(&content, 0), 4, ELFCLASS32, 1), CIEL_UNSUPPORTED, "class 1");
	refused(with(write_elf(&content, 0), 16, ET_DYN, 2), CIEL_UNSUPPORTED, "not a core");
	refused(with(write_elf(&content, 0), 56, 0, 2), CIEL_MALFORMED, "no memory");
	/* Segments that reach beyond the file, beyond any address, and a table of them that does. */
	refused(with(write_elf(&content, 0), 64 + 56 + 32, UINT64_MAX, 8), CIEL_FAULTED, "truncated");
	refused(with(write_elf(&content, 0), 64 + 56 + 24, UINT64_MAX & CIEL_PAGE_MASK, 8), CIEL_UNSUPPORTED, "beyond");
	refused(with(write_elf(&content, 0), 32, UINT64_MAX - 8, 8), CIEL_FAULTED, "truncated");
	/* A bitmap of 2^32 blocks, a number of pages without a bitmap for them, a part of a split file. */
	refused(with(write_kdump(&content, WRITE_ZLIB), 436, UINT32_MAX, 4), CIEL_FAULTED, "truncated");
	refused(with(write_kdump(&content, WRITE_ZLIB), 4096 + 96, 1ull << 29, 8), CIEL_MALFORMED, "bitmap");
	refused(with(write_kdump(&content, WRITE_ZLIB), 4096 + 96, UINT64_MAX, 8), CIEL_MALFORMED, "pages");
	refused(with(write_kdump(&content, WRITE_ZLIB), 4096 + 12, 1, 4), CIEL_UNSUPPORTED, "split");
	refused((struct dump_buffer){ .bytes = calloc(1, 64), .length = 64 }, CIEL_UNSUPPORTED, "no ELF core");
	refused((struct dump_buffer){ .bytes = calloc(1, 1), .length = 0 }, CIEL_UNSUPPORTED, "0 bytes");

	struct ciel_source *source;
	struct ciel_dump_shape shape;
	struct ciel_error error = { 0 };
	CHECK(ciel_source_open_dump("/dev/zero", &source, &shape, &error) == CIEL_UNSUPPORTED);
	CHECK(ciel_source_open_dump("/nonexistent/dump", &source, &shape, &error) == CIEL_BAD_ARGUMENT);
	unlink(dump_path);
}

int main(void)
{
	struct ciel_error error = { 0 };
	struct ciel_source *source;
	const uint32_t resident = PAGES / PRESENT_EVERY;

	test_nodes();

	struct pretender shared = pretend(SEALED_MEMFD);
	struct ciel_process process = open_process(&shared);
	struct ciel_ram_block block = find_block(&process);
	CHECK(block.inode != 0);
	static const uint64_t another = SIZE + CIEL_PAGE_SIZE;
	int is_guess;
	CHECK(ciel_ram_blocks_find(&process, &another, 1, 0, &block, &is_guess, &error) == CIEL_UNSUPPORTED);
	ciel_process_close(&process);
	CHECK(ciel_process_open(shared.pid, 12345, &process, &error) == CIEL_PROCESS_GONE); /* another's start time */
	suite("mapped", &shared, open_shared(&shared, ciel_source_open_mapped), resident);

	struct pretender read_shared = pretend(SEALED_MEMFD);
	suite("process, shared", &read_shared, open_shared(&read_shared, ciel_source_open_process), resident);

	struct pretender private = pretend(PRIVATE);
	process = open_process(&private);
	block = find_block(&process);
	CHECK_EQUAL(block.inode, 0);
	/* Private RAM is never mapped, nor its file read. */
	CHECK(ciel_source_open_mapped(&process, &block, &source, &error) == CIEL_UNSUPPORTED);
	CHECK(ciel_source_open_file(&process, &block, &source, &error) == CIEL_UNSUPPORTED);
	CHECK(ciel_source_open_process(&process, &block, &source, &error) == CIEL_OK);
	suite("process, private", &private, source, resident);

	/* A file that could shrink is never mapped: that would be SIGBUS. */
	struct pretender unsealed = pretend(OPEN_MEMFD);
	process = open_process(&unsealed);
	block = find_block(&process);
	CHECK(ciel_source_open_mapped(&process, &block, &source, &error) == CIEL_UNSUPPORTED);
	CHECK(strstr(error.message, "sealed"));
	ciel_process_close(&process);
	suite("file, memfd", &unsealed, open_shared(&unsealed, ciel_source_open_file), resident);
	CHECK(ciel_process_open(unsealed.pid, 0, &process, &error) == CIEL_PROCESS_GONE);

	struct pretender on_disk = pretend(DISK_FILE);
	suite("file, on disk", &on_disk, open_shared(&on_disk, ciel_source_open_file), resident);
	struct pretender shrinking = pretend(OPEN_MEMFD);
	test_shrinking_file(&shrinking);
	test_huge_pages();
	test_joined();
	test_dumps();
	return 0;
}

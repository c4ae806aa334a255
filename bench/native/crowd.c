/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stand-ins for many VMs: processes that hold RAM and have command lines as QEMU's, and nothing else.
 *
 *   kvm-crowd IMAGE MACHINE COUNT shared|private|forked CACHE
 *
 * RAM that is "forked" maps IMAGE's copy as a VM does that was forked from another: what it writes (here every second
 * page) becomes its own. IMAGE is a copy of a real guest's RAM. With COUNT 1 the stand-in's RAM is all of it. With more, each has a RAM of its
 * own, of those pages only that an attach from CACHE and a few samples read: so that a thousand fit into a machine and
 * still none shares a cache line with another. CACHE is where the attach is left, for the reader to copy.
 *
 * Prints "UUID PID" for each, then "ready". Their clocks go on, once a second: jiffies_64 is all that changes in them.
 * They end when standard input does.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest.h"

enum { MAX_STAND_INS = 4096, MAX_PAGES = 1 << 20, SAMPLE_BYTES = 16 << 20, TICKS_PER_SECOND = 250 };

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

/* The stand-in itself: execed with QEMU's arguments, its RAM as descriptor 3. It must look as QEMU maps it. */
static _Noreturn void stand_in(const char *memory)
{
	struct stat status;

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || fstat(3, &status) != 0)
		fail("stand-in");
	size_t size = (size_t)status.st_size;
	if (strcmp(memory, "shared") == 0) {
		if (mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, 3, 0) == MAP_FAILED)
			fail("mmap");
	} else if (strcmp(memory, "forked") == 0) {
		volatile uint8_t *ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, 3, 0);
		if (ram == MAP_FAILED)
			fail("mmap");
		for (size_t at = 0; at < size; at += 2 * CIEL_PAGE_SIZE)
			ram[at] = ram[at];
	} else {
		uint8_t *ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (ram == MAP_FAILED)
			fail("mmap");
		for (off_t data = 0; (data = lseek(3, data, SEEK_DATA)) >= 0;) {
			off_t hole = lseek(3, data, SEEK_HOLE);
			for (; data < hole; data += 4096) {
				if (pread(3, ram + data, 4096, data) != 4096)
					fail("pread");
			}
		}
		close(3);
	}
	/* The parent waits for this, so that nobody looks into RAM that is being filled. */
	if (write(4, "!", 1) != 1)
		fail("write");
	for (;;)
		pause();
}

static struct ciel_source_operations noting_operations;
static const struct ciel_source_operations *plain;
static uint8_t *noted; /* a byte a page */

static const volatile uint8_t *noting_page(struct ciel_source *source, uint64_t offset)
{
	noted[offset / CIEL_PAGE_SIZE] = 1;
	return plain->page(source, offset);
}

static enum ciel_status noting_read(struct ciel_source *source, uint64_t offset, void *to, size_t length,
				    struct ciel_error *error)
{
	for (uint64_t page = offset / CIEL_PAGE_SIZE; page <= (offset + length - 1) / CIEL_PAGE_SIZE; page++)
		noted[page] = 1;
	return plain->read(source, offset, to, length, error);
}

static struct ciel_source *open_noting(const uint8_t *ram, uint64_t size)
{
	struct ciel_source *source;
	struct ciel_error error;

	if (ciel_source_open_array(ram, size, &source, &error)) {
		fprintf(stderr, "%s\n", error.message);
		exit(1);
	}
	plain = source->operations;
	noting_operations = *plain;
	noting_operations.page = noting_page;
	noting_operations.read = noting_read;
	source->operations = &noting_operations;
	return source;
}

/* Leaves the cache; notes what is read from it on. Returns where jiffies_64 is in the RAM. */
static uint64_t attach(const uint8_t *ram, uint64_t size, enum ciel_machine machine, const char *cache)
{
	struct ciel_layout layout;
	struct ciel_error error;
	struct ciel_attach_report report;
	struct ciel_guest *guest;
	struct ciel_extent jiffies;
	uint8_t *sample = malloc(SAMPLE_BYTES);

	noted = calloc(1, size / CIEL_PAGE_SIZE);
	if (!noted || !sample)
		fail("malloc");
	if (ciel_layout_of_qemu(machine, size, 0, &layout, &error) ||
	    ciel_guest_attach(open_noting(ram, size), &layout, "", &guest, &report, &error) ||
	    ciel_guest_save(guest, cache, &error))
		goto failed;
	memset(noted, 0, size / CIEL_PAGE_SIZE);
	if (ciel_guest_load(cache, open_noting(ram, size), &layout, &guest, &error))
		goto failed;
	for (int i = 0; i < 4; i++) {
		if (ciel_sample(guest, sample, SAMPLE_BYTES, &error))
			goto failed;
	}
	if (!ciel_space_find(&guest->space, ciel_core_value(guest, CIEL_CORE_JIFFIES), &jiffies))
		goto failed;
	free(sample);
	return jiffies.offset;
failed:
	fprintf(stderr, "the image: %s\n", error.message);
	exit(1);
}

static int copy_ram(const uint8_t *ram, uint64_t size, int is_whole)
{
	static const uint8_t zeros[CIEL_PAGE_SIZE];
	int file = memfd_create("memory-backend-memfd", MFD_ALLOW_SEALING);

	if (file < 0 || ftruncate(file, (off_t)size) != 0)
		fail("memfd");
	for (uint64_t page = 0; page < size / CIEL_PAGE_SIZE; page++) {
		const uint8_t *from = ram + page * CIEL_PAGE_SIZE;
		/* What a guest has filled with zeros is there in its QEMU, and what its kernel keeps for a CPU mostly is. */
		if (!noted[page] && (!is_whole || memcmp(from, zeros, sizeof(zeros)) == 0))
			continue;
		if (pwrite(file, from, CIEL_PAGE_SIZE, (off_t)(page * CIEL_PAGE_SIZE)) != (ssize_t)CIEL_PAGE_SIZE)
			fail("pwrite");
	}
	if (fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0)
		fail("seal");
	return file;
}

static pid_t start(const char *program, int number, int ram, uint64_t size, const char *machine, const char *kind)
{
	char uuid[40], memory[32];
	int ready[2];
	char byte;

	snprintf(uuid, sizeof(uuid), "00000000-0000-4000-9000-%012d", number);
	snprintf(memory, sizeof(memory), "%" PRIu64 "b", size);
	if (pipe(ready) != 0)
		fail("pipe");
	pid_t pid = fork();
	if (pid < 0)
		fail("fork");
	if (pid == 0) {
		int low = fcntl(ram, F_DUPFD, 10), done = fcntl(ready[1], F_DUPFD, 10);
		if (low < 0 || done < 0 || dup2(low, 3) < 0 || dup2(done, 4) < 0)
			fail("dup");
		close(low);
		close(done);
		execl("/proc/self/exe", program, "-machine", machine, "-m", memory, "-uuid", uuid, kind, (char *)NULL);
		fail("exec");
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		fail("a stand-in");
	close(ready[0]);
	printf("%s %d\n", uuid, (int)pid);
	return pid;
}

int main(int argc, char **argv)
{
	if (argc == 8 && strcmp(argv[1], "-machine") == 0)
		stand_in(argv[7]);
	if (argc != 6) {
		fprintf(stderr, "usage: kvm-crowd IMAGE q35|i440fx COUNT shared|private|forked CACHE\n");
		return 1;
	}
	int image = open(argv[1], O_RDONLY), count = atoi(argv[3]);
	struct stat status;
	if (image < 0 || fstat(image, &status) != 0 || count < 1 || count > MAX_STAND_INS)
		fail(argv[1]);
	uint64_t size = (uint64_t)status.st_size;
	uint8_t *ram = mmap(NULL, size, PROT_READ, MAP_SHARED, image, 0);
	if (ram == MAP_FAILED)
		fail("mmap");
	int is_q35 = strcmp(argv[2], "q35") == 0;
	uint64_t jiffies_at = attach(ram, size, is_q35 ? CIEL_MACHINE_Q35 : CIEL_MACHINE_I440FX, argv[5]);

	static int rams[MAX_STAND_INS];
	for (int i = 0; i < count; i++) {
		rams[i] = copy_ram(ram, size, count == 1);
		start(argv[0], i, rams[i], size, is_q35 ? "q35" : "pc", argv[4]);
	}
	munmap(ram, size);
	printf("ready\n");
	fflush(stdout);
	for (uint64_t ticks = TICKS_PER_SECOND;; ticks += TICKS_PER_SECOND) {
		struct pollfd input = { .fd = 0, .events = POLLIN };
		if (poll(&input, 1, 1000) > 0)
			return 0; /* the stand-ins die with this */
		for (int i = 0; i < count; i++) {
			uint64_t jiffies;
			if (pread(rams[i], &jiffies, sizeof(jiffies), (off_t)jiffies_at) != sizeof(jiffies))
				fail("pread");
			jiffies += TICKS_PER_SECOND;
			if (pwrite(rams[i], &jiffies, sizeof(jiffies), (off_t)jiffies_at) != sizeof(jiffies))
				fail("pwrite");
		}
	}
}

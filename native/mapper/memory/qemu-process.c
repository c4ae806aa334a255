/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The QEMU process that owns the RAM: that it is the one meant and still lives, and where in it the RAM block is.
 *
 * QEMU maps a RAM block with a guard page behind it, so a block is one mapping or a run of adjoining ones (madvise splits
 * them), and its size is exactly the RAM's.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "../cleanup.h"
#include "source.h"

/* Field 22 of /proc/PID/stat, counted after the command's closing parenthesis: a command may contain spaces. */
static enum ciel_status read_start_time(int pid, uint64_t *ret, struct ciel_error *error)
{
	char path[64], line[1024];

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	FILE *file = fopen(path, "re");
	if (!file)
		return ciel_fail_errno(error, errno, "opening %s", path);
	size_t length = fread(line, 1, sizeof(line) - 1, file);
	fclose(file);
	line[length] = '\0';

	char *after = strrchr(line, ')');
	if (!after || sscanf(after + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %" SCNu64,
			     ret) != 1)
		return ciel_fail(error, CIEL_PROCESS_GONE, "%s has no start time", path);
	return CIEL_OK;
}

enum ciel_status ciel_process_open(int pid, uint64_t start_time, struct ciel_process *ret, struct ciel_error *error)
{
	if (pid <= 0)
		return ciel_fail(error, CIEL_BAD_ARGUMENT, "%d is no process id", pid);

	_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0)
		return ciel_fail_errno(error, errno, "opening process %d", pid);

	/* After the pidfd is open the pid can no longer be somebody else's unnoticed, so this comparison settles it. */
	uint64_t found;
	enum ciel_status status = read_start_time(pid, &found, error);
	if (status)
		return status;
	if (start_time && found != start_time)
		return ciel_fail(error, CIEL_PROCESS_GONE, "process %d started at tick %" PRIu64 ", not %" PRIu64 ": another one",
				 pid, found, start_time);
	*ret = (struct ciel_process){ .pid = pid, .pidfd = pidfd };
	pidfd = -1;
	return CIEL_OK;
}

void ciel_process_close(struct ciel_process *process)
{
	if (process->pidfd >= 0)
		close(process->pidfd);
	process->pidfd = -1;
}

enum ciel_status ciel_process_alive(const struct ciel_process *process, struct ciel_error *error)
{
	struct pollfd ended = { .fd = process->pidfd, .events = POLLIN };

	if (poll(&ended, 1, 0) != 0)
		return ciel_fail(error, CIEL_PROCESS_GONE, "process %d has ended", process->pid);
	return CIEL_OK;
}

struct maps_line {
	uint64_t start, end, offset, inode;
	uint32_t major, minor;
	int shared, writable;
};

static int parse_maps_line(const char *text, struct maps_line *ret)
{
	char permissions[5];

	if (sscanf(text, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64, &ret->start, &ret->end, permissions,
		   &ret->offset, &ret->major, &ret->minor, &ret->inode) != 7)
		return 0;
	ret->writable = permissions[0] == 'r' && permissions[1] == 'w';
	ret->shared = permissions[3] == 's';
	return 1;
}

/* A run of adjoining mappings of one kind, by where each of them begins. */
struct maps_run {
	struct maps_line lines[64];
	uint32_t count;
};

static int continues(const struct maps_run *run, const struct maps_line *next)
{
	if (run->count == 0)
		return 0;
	const struct maps_line *last = &run->lines[run->count - 1];
	if (next->start != last->end || next->shared != last->shared)
		return 0;
	return !next->shared ||
	       (next->inode == last->inode && next->offset == last->offset + (last->end - last->start));
}

/* More than NUMA nodes of one size; what lies beyond is none. */
enum { MAX_ALIKE = 64 };

/* The blocks of one size, upward by address. */
struct alike {
	struct ciel_ram_block blocks[MAX_ALIKE];
	uint32_t count;
};

/* Something else may end just where the RAM begins, so the RAM is any tail of the run. */
static void add_tails(struct alike *alike, const struct maps_run *run, uint64_t size)
{
	uint64_t end = run->lines[run->count - 1].end;

	for (uint32_t i = 0; i < run->count; i++) {
		const struct maps_line *first = &run->lines[i];
		if (end - first->start != size || alike->count == MAX_ALIKE)
			continue;
		alike->blocks[alike->count++] = (struct ciel_ram_block){
			.address = first->start,
			.size = size,
			.file_offset = first->offset,
			.inode = first->shared ? first->inode : 0,
			.device_major = first->major,
			.device_minor = first->minor,
		};
	}
}

static enum ciel_status find_alike(const struct ciel_process *process, uint64_t size, struct alike *ret,
				   struct ciel_error *error)
{
	enum { MAX_LINES = 100000 };
	char path[64], text[4096];

	snprintf(path, sizeof(path), "/proc/%d/maps", process->pid);
	FILE *file = fopen(path, "re");
	if (!file)
		return ciel_fail_errno(error, errno, "opening %s (this needs root or CAP_SYS_PTRACE)", path);

	struct maps_run run = { .count = 0 };
	uint64_t largest = 0;

	for (int number = 0; number < MAX_LINES && fgets(text, sizeof(text), file); number++) {
		struct maps_line line;

		if (!parse_maps_line(text, &line) || !line.writable) {
			run.count = 0;
			continue;
		}
		if (!continues(&run, &line) || run.count == sizeof(run.lines) / sizeof(run.lines[0]))
			run.count = 0;
		run.lines[run.count++] = line;
		if (line.end - line.start > largest)
			largest = line.end - line.start;
		add_tails(ret, &run, size);
	}
	fclose(file);
	if (ret->count == 0)
		return ciel_fail(error, CIEL_UNSUPPORTED,
				 "process %d has no RAM block of %" PRIu64 " bytes (its largest mapping has %" PRIu64 ")",
				 process->pid, size, largest);
	return CIEL_OK;
}

enum ciel_status ciel_ram_blocks_find(const struct ciel_process *process, const uint64_t *sizes, uint32_t count, int upward,
				      struct ciel_ram_block *ret, int *ret_is_guess, struct ciel_error *error)
{
	*ret_is_guess = 0;
	for (uint32_t i = 0; i < count; i++) {
		struct alike alike = { .count = 0 };
		uint32_t rank = 0;

		for (uint32_t j = 0; j < i; j++)
			rank += sizes[j] == sizes[i];
		enum ciel_status status = find_alike(process, sizes[i], &alike, error);
		if (status)
			return status;
		if (rank >= alike.count)
			return ciel_fail(error, CIEL_UNSUPPORTED, "process %d has only %u RAM blocks of %" PRIu64 " bytes",
					 process->pid, alike.count, sizes[i]);
		*ret_is_guess |= alike.count > 1;
		ret[i] = alike.blocks[upward ? rank : alike.count - 1 - rank];
	}
	return CIEL_OK;
}

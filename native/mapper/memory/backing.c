/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every memfd has the same name, so the way goes from QEMU's address range through inode and offset to the descriptor with
 * that inode. pread never allocates: holes read as zeros (190 ms for 900 MB of resident pages of a memfd).
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "backing.h"

enum { MAX_DESCRIPTORS = 65536 };

enum ciel_status ciel_backing_open(const struct ciel_process *process, const struct ciel_ram_block *block, int *ret,
				   struct ciel_error *error)
{
	char path[64];

	if (block->inode == 0)
		return ciel_fail(error, CIEL_UNSUPPORTED, "the RAM of process %d is private, not shared", process->pid);

	snprintf(path, sizeof(path), "/proc/%d/fd", process->pid);
	DIR *directory = opendir(path);
	if (!directory)
		return ciel_fail_errno(error, errno, "listing %s (this needs root or CAP_SYS_PTRACE)", path);

	enum ciel_status status = ciel_fail(error, CIEL_UNSUPPORTED, "process %d has no descriptor of its RAM (inode %" PRIu64 ")",
					    process->pid, block->inode);
	struct dirent *entry;
	for (int i = 0; i < MAX_DESCRIPTORS && (entry = readdir(directory)); i++) {
		struct stat file;

		if (entry->d_name[0] == '.' || fstatat(dirfd(directory), entry->d_name, &file, 0) != 0)
			continue;
		if (file.st_ino != block->inode || major(file.st_dev) != block->device_major ||
		    minor(file.st_dev) != block->device_minor)
			continue;
		int opened = openat(dirfd(directory), entry->d_name, O_RDONLY | O_CLOEXEC);
		if (opened < 0) {
			status = ciel_fail_errno(error, errno, "opening the RAM of process %d (%s/%s)", process->pid, path,
						 entry->d_name);
			break;
		}
		*ret = opened;
		status = CIEL_OK;
		break;
	}
	closedir(directory);
	return status;
}

enum ciel_status ciel_backing_read(int file, uint64_t file_offset, uint64_t offset, void *to, size_t length,
				   struct ciel_error *error)
{
	size_t done = 0;

	while (done < length) {
		ssize_t got = pread(file, (uint8_t *)to + done, length - done, (off_t)(file_offset + offset + done));
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return ciel_fail_errno(error, errno, "reading %zu bytes at RAM offset 0x%" PRIx64, length, offset);
		if (got == 0)
			return ciel_fail(error, CIEL_FAULTED, "the RAM's file ends before RAM offset 0x%" PRIx64, offset + done);
		done += (size_t)got;
	}
	return CIEL_OK;
}

enum ciel_status ciel_backing_scan(int file, uint64_t file_offset, uint64_t size, ciel_scan_visitor visit, void *context,
				   struct ciel_error *error)
{
	off_t end = (off_t)(file_offset + size);
	off_t position = (off_t)file_offset;
	uint8_t head[CIEL_SCAN_BYTES];

	while (position < end) {
		off_t data = lseek(file, position, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			break; /* nothing but holes up to the end */
		off_t hole = data < 0 ? -1 : lseek(file, data, SEEK_HOLE);
		if (data < 0 || hole < 0)
			return ciel_fail_errno(error, errno, "seeking data in the RAM's file");
		if (hole > end)
			hole = end;
		data &= (off_t)CIEL_PAGE_MASK;
		for (; data < hole; data += (off_t)CIEL_PAGE_SIZE) {
			if (pread(file, head, sizeof(head), data) != (ssize_t)sizeof(head))
				continue;
			if (visit(context, (uint64_t)data - file_offset, head))
				return CIEL_OK;
		}
		position = hole;
	}
	return CIEL_OK;
}

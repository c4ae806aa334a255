/* SPDX-License-Identifier: Apache-2.0 */
/* The file behind a RAM block that QEMU shares: finding it, and reading it without a mapping. For mapped.c and file.c. */
#ifndef CIEL_BACKING_H
#define CIEL_BACKING_H

#include "source.h"

/* Opens, by its /proc/PID/fd entry, the file with the block's inode: a descriptor of our own, read-only. */
enum ciel_status ciel_backing_open(const struct ciel_process *process, const struct ciel_ram_block *block, int *ret,
				   struct ciel_error *error);

/* All of a range, or an error. Holes read as zeros and are not allocated. */
enum ciel_status ciel_backing_read(int file, uint64_t file_offset, uint64_t offset, void *to, size_t length,
				   struct ciel_error *error);

/* Visits the pages that are not holes, as far as the file system tells. */
enum ciel_status ciel_backing_scan(int file, uint64_t file_offset, uint64_t size, ciel_scan_visitor visit, void *context,
				   struct ciel_error *error);

#endif

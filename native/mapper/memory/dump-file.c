/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A flattened file (makedumpfile's -F, and every kdump file that QEMU writes):
 *
 *   "makedumpfile" NUL-padded to 16 bytes, type i64 = 1, version i64 = 1, zeros up to 4096; then records
 *   offset i64, size i64, `size` bytes; the last record has offset -1. All big-endian.
 *
 * A record may lie over an earlier one: the later bytes count.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../cleanup.h"
#include "dump.h"

enum {
	FLAT_HEADER = 4096,
	MAX_RECORDS = 8 << 20, /* QEMU writes one for 16 KB and more; makedumpfile one for 4 MB */
};

static const char flat_magic[16] = "makedumpfile";

static enum ciel_status read_file(int descriptor, uint64_t position, void *to, size_t length, struct ciel_error *error)
{
	size_t done = 0;

	while (done < length) {
		ssize_t got = pread(descriptor, (uint8_t *)to + done, length - done, (off_t)(position + done));
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return ciel_fail_errno(error, errno, "reading %zu bytes of the dump at byte %" PRIu64, length, position);
		if (got == 0)
			return ciel_fail(error, CIEL_FAULTED, "the dump is truncated: it ends at byte %" PRIu64 ", %zu bytes are needed from %" PRIu64
					 " on", position + done, length, position);
		done += (size_t)got;
	}
	return CIEL_OK;
}

static int by_offset(const void *left, const void *right)
{
	const struct ciel_flat_record *a = left, *b = right;

	if (a->offset != b->offset)
		return a->offset < b->offset ? -1 : 1;
	return a->order < b->order ? -1 : a->order > b->order;
}

static int by_order(const void *left, const void *right)
{
	const struct ciel_flat_record *a = left, *b = right;

	return a->order < b->order ? -1 : a->order > b->order;
}

/* Sorts the records. Those that overlap others go aside, to be laid over one another in the order of their writing. */
static enum ciel_status arrange(struct ciel_dump_file *file, struct ciel_error *error)
{
	uint32_t kept = 0, next;

	qsort(file->records, file->record_count, sizeof(*file->records), by_offset);
	for (uint32_t first = 0; first < file->record_count; first = next) {
		uint64_t end = file->records[first].offset + file->records[first].size;

		for (next = first + 1; next < file->record_count && file->records[next].offset < end; next++) {
			uint64_t its_end = file->records[next].offset + file->records[next].size;
			end = its_end > end ? its_end : end;
		}
		if (next == first + 1) {
			file->records[kept++] = file->records[first];
			continue;
		}
		if (next - first > CIEL_DUMP_PATCHES - file->patch_count)
			return ciel_fail(error, CIEL_MALFORMED, "the flattened dump writes more than %d places twice",
					 (int)CIEL_DUMP_PATCHES);
		for (uint32_t i = first; i < next; i++)
			file->patches[file->patch_count++] = file->records[i];
	}
	file->record_count = kept;
	qsort(file->patches, file->patch_count, sizeof(*file->patches), by_order);
	return CIEL_OK;
}

static enum ciel_status read_records(struct ciel_dump_file *file, struct ciel_error *error)
{
	uint64_t position = FLAT_HEADER, file_size = (uint64_t)file->status.st_size;
	uint32_t capacity = 0;

	file->size = 0;
	for (;;) {
		uint64_t words[2];
		enum ciel_status status = read_file(file->descriptor, position, words, sizeof(words), error);
		if (status)
			return ciel_context(error, "reading record %u of a flattened dump", file->record_count);
		uint64_t offset = be64toh(words[0]), size = be64toh(words[1]), end;
		if (offset == UINT64_MAX)
			break;
		position += sizeof(words);
		if (size == 0 || offset > INT64_MAX || __builtin_add_overflow(offset, size, &end))
			return ciel_fail(error, CIEL_MALFORMED, "record %u of a flattened dump: %" PRIu64 " bytes at %" PRIu64,
					 file->record_count, size, offset);
		if (size > file_size - position)
			return ciel_fail(error, CIEL_FAULTED,
					 "the dump is truncated: its record at byte %" PRIu64 " has %" PRIu64 " bytes, the file ends at %" PRIu64,
					 position, size, file_size);
		if (file->record_count == MAX_RECORDS)
			return ciel_fail(error, CIEL_EXHAUSTED, "a flattened dump of more than %d records", (int)MAX_RECORDS);
		if (file->record_count == capacity) {
			capacity = capacity ? capacity * 2 : 1024;
			void *grown = realloc(file->records, capacity * sizeof(*file->records));
			if (!grown)
				return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory for the dump's records");
			file->records = grown;
		}
		file->records[file->record_count] = (struct ciel_flat_record){
			.offset = offset, .size = size, .position = position, .order = file->record_count,
		};
		file->record_count++;
		position += size;
		if (end > file->size)
			file->size = end;
	}
	if (file->record_count == 0)
		return ciel_fail(error, CIEL_MALFORMED, "a flattened dump without content");
	return arrange(file, error);
}

enum ciel_status ciel_dump_file_open(const char *path, struct ciel_dump_file *ret, struct ciel_error *error)
{
	_cleanup_(ciel_dump_file_close) struct ciel_dump_file file = { .descriptor = -1 };
	char magic[sizeof(flat_magic)];

	/* Not blocking: opening a pipe would wait for its writer. */
	file.descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (file.descriptor < 0)
		return ciel_fail(error, errno == EACCES || errno == EPERM ? CIEL_PERMISSION_DENIED : CIEL_BAD_ARGUMENT,
				 "opening the dump: %s", strerrordesc_np(errno));
	if (fstat(file.descriptor, &file.status) != 0)
		return ciel_fail_errno(error, errno, "looking at the dump");
	if (!S_ISREG(file.status.st_mode))
		return ciel_fail(error, CIEL_UNSUPPORTED, "a dump is a regular file; this is none");
	file.size = (uint64_t)file.status.st_size;

	if (file.size >= FLAT_HEADER) {
		enum ciel_status status = read_file(file.descriptor, 0, magic, sizeof(magic), error);
		if (!status && memcmp(magic, flat_magic, sizeof(magic)) == 0)
			status = read_records(&file, error);
		if (status)
			return status;
	}
	*ret = file;
	file = (struct ciel_dump_file){ .descriptor = -1 };
	return CIEL_OK;
}

void ciel_dump_file_close(struct ciel_dump_file *file)
{
	if (file->descriptor >= 0)
		close(file->descriptor);
	free(file->records);
	*file = (struct ciel_dump_file){ .descriptor = -1 };
}

/* The first record that ends behind `offset`. */
static uint32_t first_record(const struct ciel_dump_file *file, uint64_t offset)
{
	uint32_t low = 0, high = file->record_count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		const struct ciel_flat_record *record = &file->records[middle];
		if (record->offset + record->size <= offset)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* The part of a record that lies in the range, into its place. */
static enum ciel_status read_record(const struct ciel_dump_file *file, const struct ciel_flat_record *record,
				    uint64_t offset, uint8_t *to, size_t length, struct ciel_error *error)
{
	uint64_t start = record->offset > offset ? record->offset : offset;
	uint64_t record_end = record->offset + record->size;
	uint64_t end = record_end < offset + length ? record_end : offset + length;

	if (start >= end)
		return CIEL_OK;
	return read_file(file->descriptor, record->position + (start - record->offset), to + (start - offset),
			 (size_t)(end - start), error);
}

enum ciel_status ciel_dump_file_read(const struct ciel_dump_file *file, uint64_t offset, void *to, size_t length,
				     struct ciel_error *error)
{
	uint64_t end;
	enum ciel_status status = CIEL_OK;

	if (__builtin_add_overflow(offset, length, &end) || end > file->size)
		return ciel_fail(error, CIEL_FAULTED,
				 "the dump is truncated: %zu bytes are needed at byte %" PRIu64 ", it has %" PRIu64, length, offset,
				 file->size);
	if (!file->records)
		return read_file(file->descriptor, offset, to, length, error);

	memset(to, 0, length);
	for (uint32_t i = first_record(file, offset); !status && i < file->record_count && file->records[i].offset < end; i++)
		status = read_record(file, &file->records[i], offset, to, length, error);
	for (uint32_t i = 0; !status && i < file->patch_count; i++)
		status = read_record(file, &file->patches[i], offset, to, length, error);
	return status;
}

enum ciel_status ciel_dump_file_unchanged(const struct ciel_dump_file *file, struct ciel_error *error)
{
	struct stat now;

	if (fstat(file->descriptor, &now) != 0)
		return ciel_fail_errno(error, errno, "looking at the dump");
	if (now.st_size != file->status.st_size || now.st_mtim.tv_sec != file->status.st_mtim.tv_sec ||
	    now.st_mtim.tv_nsec != file->status.st_mtim.tv_nsec)
		return ciel_fail(error, CIEL_TORN, "the dump was changed while it was read (%lld bytes before, %lld now)",
				 (long long)file->status.st_size, (long long)now.st_size);
	return CIEL_OK;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VM with several RAM blocks (hotplugged DIMMs, NUMA nodes): its blocks' sources as one. layout/ then maps each range of
 * guest-physical addresses to an offset in the sum.
 */
#include <stdlib.h>
#include <string.h>

#include "source.h"

/* QEMU has 256 slots for DIMMs at most. */
enum { MAX_PARTS = 260, GATHER_BATCH = 512 };

struct joined_source {
	struct ciel_source source;
	struct ciel_source_operations operations; /* its own, as being staged depends on the parts */
	uint32_t count;
	uint64_t ends[MAX_PARTS];
	struct ciel_source *parts[MAX_PARTS];
};

static struct joined_source *joined_of(struct ciel_source *source)
{
	return (struct joined_source *)source;
}

/* The part with that offset, which is within the RAM; *ret_start: where it begins. */
static uint32_t find_part(const struct joined_source *joined, uint64_t offset, uint64_t *ret_start)
{
	uint32_t low = 0, high = joined->count - 1;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		if (joined->ends[middle] <= offset)
			low = middle + 1;
		else
			high = middle;
	}
	*ret_start = low > 0 ? joined->ends[low - 1] : 0;
	return low;
}

static const volatile uint8_t *joined_page(struct ciel_source *source, uint64_t offset)
{
	struct joined_source *joined = joined_of(source);
	uint64_t start;
	uint32_t part = find_part(joined, offset, &start);

	return ciel_source_page(joined->parts[part], offset - start);
}

static enum ciel_status joined_read(struct ciel_source *source, uint64_t offset, void *to, size_t length,
				    struct ciel_error *error)
{
	struct joined_source *joined = joined_of(source);
	size_t done = 0;

	while (done < length) {
		uint64_t start;
		uint32_t part = find_part(joined, offset + done, &start);
		uint64_t left = joined->ends[part] - (offset + done);
		size_t piece = left < length - done ? (size_t)left : length - done;
		enum ciel_status status =
			ciel_source_read(joined->parts[part], offset + done - start, (uint8_t *)to + done, piece, error);
		if (status)
			return status;
		done += piece;
	}
	return CIEL_OK;
}

struct part_visit {
	ciel_scan_visitor visit;
	void *context;
	uint64_t start;
	int has_ended;
};

static int visit_in_part(void *context, uint64_t offset, const uint8_t head[CIEL_SCAN_BYTES])
{
	struct part_visit *part = context;

	part->has_ended = part->visit(part->context, part->start + offset, head);
	return part->has_ended;
}

static enum ciel_status joined_scan(struct ciel_source *source, ciel_scan_visitor visit, void *context,
				    struct ciel_error *error)
{
	struct joined_source *joined = joined_of(source);
	struct part_visit part = { .visit = visit, .context = context };
	enum ciel_status status = CIEL_OK;

	for (uint32_t i = 0; !status && !part.has_ended && i < joined->count; i++) {
		part.start = i > 0 ? joined->ends[i - 1] : 0;
		status = ciel_source_scan(joined->parts[i], visit_in_part, &part, error);
	}
	return status;
}

/* Pieces of one part that follow one another go to it together, where it can do that. */
static enum ciel_status joined_gather(struct ciel_source *source, const struct ciel_piece *pieces, uint32_t count,
				      uint8_t *to, struct ciel_error *error)
{
	struct joined_source *joined = joined_of(source);
	enum ciel_status status = CIEL_OK;

	for (uint32_t done = 0, run; !status && done < count; done += run) {
		struct ciel_piece within[GATHER_BATCH];
		uint64_t start, bytes = 0;
		uint32_t number = find_part(joined, pieces[done].offset, &start);
		struct ciel_source *part = joined->parts[number];

		for (run = 0; run < GATHER_BATCH && done + run < count; run++) {
			const struct ciel_piece *piece = &pieces[done + run];
			if (piece->offset < start || piece->offset + piece->length > joined->ends[number])
				break;
			within[run] = (struct ciel_piece){ .offset = piece->offset - start, .length = piece->length };
			bytes += piece->length;
		}
		if (run > 0 && part->operations->gather) {
			status = part->operations->gather(part, within, run, to, error);
		} else {
			/* A part without, or a piece across two parts. */
			run = 1;
			bytes = pieces[done].length;
			status = ciel_source_read(source, pieces[done].offset, to, bytes, error);
		}
		to += bytes;
	}
	return status;
}

static int joined_resident(struct ciel_source *source, uint64_t offset)
{
	struct joined_source *joined = joined_of(source);
	uint64_t start;
	struct ciel_source *part = joined->parts[find_part(joined, offset, &start)];

	return !part->operations->resident || part->operations->resident(part, offset - start);
}

static void joined_refresh(struct ciel_source *source)
{
	struct joined_source *joined = joined_of(source);

	for (uint32_t i = 0; i < joined->count; i++)
		ciel_source_refresh(joined->parts[i]);
}

static enum ciel_status joined_alive(struct ciel_source *source, struct ciel_error *error)
{
	struct joined_source *joined = joined_of(source);
	enum ciel_status status = CIEL_OK;

	for (uint32_t i = 0; !status && i < joined->count; i++)
		status = ciel_source_alive(joined->parts[i], error);
	return status;
}

static void joined_destroy(struct ciel_source *source)
{
	struct joined_source *joined = joined_of(source);

	for (uint32_t i = 0; i < joined->count; i++)
		ciel_source_destroy(joined->parts[i]);
	free(joined);
}

enum ciel_status ciel_source_open_joined(struct ciel_source *const *parts, uint32_t count, struct ciel_source **ret,
					 struct ciel_error *error)
{
	if (count == 0 || count > MAX_PARTS)
		return ciel_fail(error, CIEL_UNSUPPORTED, "RAM in %u blocks", count);
	struct joined_source *joined = calloc(1, sizeof(*joined));
	if (!joined)
		return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory for a source of %u blocks", count);
	joined->operations = (struct ciel_source_operations){
		.name = "joined",
		.page = joined_page,
		.read = joined_read,
		.scan = joined_scan,
		.refresh = joined_refresh,
		.gather = joined_gather,
		.resident = joined_resident,
		.alive = joined_alive,
		.destroy = joined_destroy,
	};
	joined->source.operations = &joined->operations;
	joined->count = count;
	for (uint32_t i = 0; i < count; i++) {
		if (__builtin_add_overflow(joined->source.size, parts[i]->size, &joined->source.size)) {
			free(joined);
			return ciel_fail(error, CIEL_BAD_ARGUMENT, "RAM blocks that are larger than any memory");
		}
		joined->parts[i] = parts[i];
		joined->ends[i] = joined->source.size;
		joined->operations.is_staged |= parts[i]->operations->is_staged;
	}
	*ret = &joined->source;
	return CIEL_OK;
}

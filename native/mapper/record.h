/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recordings: what a view has read of one cgroup, so that the next reading is one flat gather (view-runtime.h says which
 * loads are what).
 *
 *   constants   the view's answer, up to its last word that says anything, without what counters have added to it
 *   terms       where a counter is in the RAM, and the word of the answer that it is added to
 *   checks      where a value was found that the view's way depended on, and that value; the page table entries that lead
 *               to what is not mapped linearly are among them
 *   pages       all pages of both
 *
 * A repeat copies the constants, adds the terms, and then looks at the checks: terms first, so that whatever was freed
 * meanwhile is found gone. When a check fails nothing of the answer counts, and the view runs again.
 *
 * A recording is believed when a second one, made at another sample, is the same: that of a moment at which the guest was
 * just moving counts from a cgroup that had ended would be off by them for good. And it is made anew now and then.
 */
#ifndef CIEL_RECORD_H
#define CIEL_RECORD_H

#include <stddef.h>

#include "translate.h"
#include "view-runtime.h"

enum {
	/* Of one view of one cgroup; with more it runs each time. 512 CPUs and one cgroup need 5,000 terms. */
	CIEL_MAX_TERMS = 32768,
	CIEL_MAX_CHECKS = 32768,
	CIEL_MAX_RECORDED_PAGES = 8192,
};

struct ciel_term {
	uint64_t where;
	uint32_t staged; /* where its copy is, after a gather */
	uint32_t answer; /* byte offset of the word in the answer */
};

struct ciel_check {
	uint64_t where;
	uint64_t expected;
	uint32_t staged;
	uint32_t reserved;
};

/* A place in the RAM and how to read it, in one word. */
enum { CIEL_WHERE_SIZE = 0x0f, CIEL_WHERE_SIGNED = 0x10, CIEL_WHERE_ENTRY = 0x20, CIEL_WHERE_BITS = 8 };

static inline uint64_t ciel_where_offset(uint64_t where)
{
	return where >> CIEL_WHERE_BITS;
}

static inline uint32_t ciel_where_size(uint64_t where)
{
	return where & CIEL_WHERE_SIZE;
}

struct ciel_recording {
	uint32_t term_count, check_count, page_count, constant_bytes;
	uint32_t uses;     /* since it was made or found to be right again */
	uint8_t is_proven; /* a second recording was the same */
	uint8_t is_linked; /* its `staged` are filled in */
	struct ciel_term *terms; /* all in one allocation behind this */
	struct ciel_check *checks;
	uint64_t *constants;
	uint32_t *pages; /* numbers, in no order */
};

/* --- making one -------------------------------------------------------------------------------------------------------- */

/* From here on the views of this thread are recorded, with what they answer at `answer`, which must be all 0. */
void ciel_record_begin(struct ciel_view_context *context, struct ciel_space *space, void *answer, size_t answer_bytes);

/* Notes a load that the mapper itself has made. Nothing when nothing is being recorded. */
void ciel_record_check(uint64_t address, uint32_t size, uint64_t value);

/* The end, and the recording; NULL when it cannot be repeated, or memory is short. */
struct ciel_recording *ciel_record_end(struct ciel_view_context *context);

/* The end, and nothing was recorded. */
void ciel_record_abort(struct ciel_view_context *context);

/* --- using it ---------------------------------------------------------------------------------------------------------- */

/* Bytes that it takes. */
size_t ciel_recording_bytes(const struct ciel_recording *recording);

/* Whether both say the same. */
int ciel_recording_equals(const struct ciel_recording *a, const struct ciel_recording *b);

/* From the RAM itself, an array at `ram`. 1: the answer is there. 0: a check failed. */
int ciel_recording_repeat(const struct ciel_recording *recording, const volatile uint8_t *ram, void *answer);

/* From copies (programme.h). */
int ciel_recording_repeat_staged(const struct ciel_recording *recording, const uint8_t *copies, void *answer);

/* Asks the processor for what a repeat will load. */
void ciel_recording_prefetch(const struct ciel_recording *recording, const volatile uint8_t *ram);

#endif

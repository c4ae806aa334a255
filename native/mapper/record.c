/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "record.h"

enum {
	CHECK_SLOTS = 2 * CIEL_MAX_CHECKS,
	PAGE_SLOTS = 2 * CIEL_MAX_RECORDED_PAGES,
	MAX_ANSWER = 1 << 16,
};

/* Two hash tables with open addressing; what belongs to an older recording has another stamp, so that none is cleared. */
struct check_slot {
	uint32_t stamp, check;
};
struct page_slot {
	uint64_t number; /* of the guest-virtual page */
	uint64_t offset; /* of the page in the RAM */
	uint32_t stamp;
};

/* What is being recorded on this thread. */
struct recorder {
	struct ciel_recorder view; /* what the views know of it */
	struct ciel_space *space;
	uint8_t *answer;
	size_t answer_bytes;
	uint32_t term_count, check_count, page_count, stamp;
	uint64_t values[CIEL_MAX_TERMS]; /* of the terms, as they were loaded */
	struct ciel_term terms[CIEL_MAX_TERMS];
	struct ciel_check checks[CIEL_MAX_CHECKS];
	uint32_t pages[CIEL_MAX_RECORDED_PAGES];
	struct check_slot check_slots[CHECK_SLOTS];
	struct page_slot page_slots[PAGE_SLOTS];
};
static _Thread_local struct recorder *thread_recorder;

static void spoil(struct recorder *recorder)
{
	recorder->view.is_spoilt = 1;
}

static uint32_t slot_of(uint64_t key, uint32_t slots)
{
	return (uint32_t)((key * 0x9e3779b97f4a7c15ull) >> 40) & (slots - 1);
}

static void add_page(struct recorder *recorder, uint64_t offset)
{
	if (recorder->page_count == CIEL_MAX_RECORDED_PAGES)
		return spoil(recorder);
	recorder->pages[recorder->page_count++] = (uint32_t)(offset / CIEL_PAGE_SIZE);
}

/* A place that was loaded twice must have said the same both times. 1: it is new. */
static int add_check(struct recorder *recorder, uint64_t where, uint64_t value)
{
	uint32_t at = slot_of(where, CHECK_SLOTS);

	for (; recorder->check_slots[at].stamp == recorder->stamp; at = (at + 1) & (CHECK_SLOTS - 1)) {
		const struct ciel_check *known = &recorder->checks[recorder->check_slots[at].check];

		if (known->where != where)
			continue;
		if (known->expected != value)
			spoil(recorder);
		return 0;
	}
	if (recorder->check_count == CIEL_MAX_CHECKS) {
		spoil(recorder);
		return 0;
	}
	recorder->check_slots[at] = (struct check_slot){ recorder->stamp, recorder->check_count };
	recorder->checks[recorder->check_count++] = (struct ciel_check){ .where = where, .expected = value };
	return 1;
}

/* Where a page is in the RAM. What leads there is checked from now on. */
static int find_page(struct recorder *recorder, uint64_t address, uint64_t *ret)
{
	uint64_t number = address / CIEL_PAGE_SIZE;
	uint32_t at = slot_of(number, PAGE_SLOTS);

	for (; recorder->page_slots[at].stamp == recorder->stamp; at = (at + 1) & (PAGE_SLOTS - 1)) {
		if (recorder->page_slots[at].number == number) {
			*ret = recorder->page_slots[at].offset;
			return 1;
		}
	}
	struct ciel_trace trace;
	struct ciel_extent extent;
	/* The view has just read there; another answer now is a table that changes. */
	if (recorder->page_count == CIEL_MAX_RECORDED_PAGES || !ciel_space_find(recorder->space, address, &extent) ||
	    !ciel_space_trace(recorder->space, address & CIEL_PAGE_MASK, &trace) ||
	    trace.offset != (extent.offset & CIEL_PAGE_MASK)) {
		spoil(recorder);
		return 0;
	}
	recorder->page_slots[at] =
		(struct page_slot){ .number = number, .offset = trace.offset, .stamp = recorder->stamp };
	add_page(recorder, trace.offset);
	for (uint32_t i = 0; i < trace.count; i++) {
		uint64_t where = trace.entries[i].offset << CIEL_WHERE_BITS | CIEL_WHERE_ENTRY | sizeof(uint64_t);
		if (add_check(recorder, where, trace.entries[i].value & CIEL_ENTRY_MEANS))
			add_page(recorder, trace.entries[i].offset & CIEL_PAGE_MASK);
	}
	*ret = trace.offset;
	return 1;
}

static void add_term(struct recorder *recorder, uint64_t where, uint64_t value)
{
	size_t place = (size_t)((uint8_t *)recorder->view.place - recorder->answer);

	if (place >= recorder->answer_bytes || recorder->term_count == CIEL_MAX_TERMS)
		return spoil(recorder);
	recorder->values[recorder->term_count] = value;
	recorder->terms[recorder->term_count++] = (struct ciel_term){ .where = where, .answer = (uint32_t)place };
}

void g_record(uint64_t address, uint32_t size, uint32_t is_signed, uint64_t value)
{
	struct recorder *recorder = (struct recorder *)ciel_view->recorder;
	uint64_t page, where;

	recorder->view.loads++;
	if (recorder->view.note == CIEL_NOTE_PASSING || recorder->view.is_spoilt)
		return;
	if ((address & ~CIEL_PAGE_MASK) + size > CIEL_PAGE_SIZE)
		return spoil(recorder);
	if (!find_page(recorder, address, &page))
		return;
	where = (page | (address & ~CIEL_PAGE_MASK)) << CIEL_WHERE_BITS | (is_signed ? CIEL_WHERE_SIGNED : 0) | size;
	if (recorder->view.note == CIEL_NOTE_COUNT)
		add_term(recorder, where, value);
	else
		add_check(recorder, where, value);
}

void ciel_record_check(uint64_t address, uint32_t size, uint64_t value)
{
	if (ciel_view && ciel_view->recorder)
		g_record(address, size, 0, value);
}

void ciel_record_begin(struct ciel_view_context *context, struct ciel_space *space, void *answer, size_t answer_bytes)
{
	struct recorder *recorder = thread_recorder;

	context->recorder = NULL;
	if (answer_bytes > MAX_ANSWER)
		return;
	if (!recorder) {
		thread_recorder = recorder = calloc(1, sizeof(*recorder));
		if (!recorder)
			return;
	}
	if (++recorder->stamp == 0) {
		memset(recorder->check_slots, 0, sizeof(recorder->check_slots));
		memset(recorder->page_slots, 0, sizeof(recorder->page_slots));
		recorder->stamp = 1;
	}
	recorder->view = (struct ciel_recorder){ 0 };
	recorder->space = space;
	recorder->answer = answer;
	recorder->answer_bytes = answer_bytes;
	recorder->term_count = recorder->check_count = recorder->page_count = 0;
	context->recorder = &recorder->view;
}

void ciel_record_abort(struct ciel_view_context *context)
{
	context->recorder = NULL;
}

/* The answer without the counters, up to the last word that is not 0 or is added to. */
static uint32_t take_constants(const struct recorder *recorder, uint64_t *constants)
{
	size_t words = recorder->answer_bytes / sizeof(uint64_t), last = 0;

	memcpy(constants, recorder->answer, words * sizeof(uint64_t));
	for (size_t i = 0; i < words; i++) {
		if (constants[i])
			last = i + 1;
	}
	for (uint32_t i = 0; i < recorder->term_count; i++) {
		size_t word = recorder->terms[i].answer / sizeof(uint64_t);
		constants[word] -= recorder->values[i];
		last = word + 1 > last ? word + 1 : last;
	}
	return (uint32_t)(last * sizeof(uint64_t));
}

struct ciel_recording *ciel_record_end(struct ciel_view_context *context)
{
	static _Thread_local uint64_t constants[MAX_ANSWER / sizeof(uint64_t)];
	const struct recorder *recorder = (const struct recorder *)context->recorder;

	context->recorder = NULL;
	if (!recorder || recorder->view.is_spoilt)
		return NULL;
	uint32_t constant_bytes = take_constants(recorder, constants);
	size_t terms_at = sizeof(struct ciel_recording);
	size_t checks_at = terms_at + recorder->term_count * sizeof(struct ciel_term);
	size_t constants_at = checks_at + recorder->check_count * sizeof(struct ciel_check);
	size_t pages_at = constants_at + constant_bytes;
	uint8_t *bytes = malloc(pages_at + recorder->page_count * sizeof(uint32_t));
	if (!bytes)
		return NULL;

	struct ciel_recording *recording = (struct ciel_recording *)bytes;
	*recording = (struct ciel_recording){
		.term_count = recorder->term_count,
		.check_count = recorder->check_count,
		.page_count = recorder->page_count,
		.constant_bytes = constant_bytes,
		.terms = (struct ciel_term *)(bytes + terms_at),
		.checks = (struct ciel_check *)(bytes + checks_at),
		.constants = (uint64_t *)(bytes + constants_at),
		.pages = (uint32_t *)(bytes + pages_at),
	};
	memcpy(recording->terms, recorder->terms, recorder->term_count * sizeof(struct ciel_term));
	memcpy(recording->checks, recorder->checks, recorder->check_count * sizeof(struct ciel_check));
	memcpy(recording->constants, constants, constant_bytes);
	memcpy(recording->pages, recorder->pages, recorder->page_count * sizeof(uint32_t));
	return recording;
}

size_t ciel_recording_bytes(const struct ciel_recording *recording)
{
	return sizeof(*recording) + recording->term_count * sizeof(struct ciel_term) +
	       recording->check_count * sizeof(struct ciel_check) + recording->constant_bytes +
	       recording->page_count * sizeof(uint32_t);
}

int ciel_recording_equals(const struct ciel_recording *a, const struct ciel_recording *b)
{
	if (a->term_count != b->term_count || a->check_count != b->check_count || a->constant_bytes != b->constant_bytes ||
	    memcmp(a->constants, b->constants, a->constant_bytes) != 0)
		return 0;
	for (uint32_t i = 0; i < a->term_count; i++) {
		if (a->terms[i].where != b->terms[i].where || a->terms[i].answer != b->terms[i].answer)
			return 0;
	}
	for (uint32_t i = 0; i < a->check_count; i++) {
		if (a->checks[i].where != b->checks[i].where || a->checks[i].expected != b->checks[i].expected)
			return 0;
	}
	return 1;
}

/* Guests pack some records: no alignment may be assumed. */
typedef uint16_t __attribute__((aligned(1), may_alias)) unaligned_u16;
typedef uint32_t __attribute__((aligned(1), may_alias)) unaligned_u32;
typedef uint64_t __attribute__((aligned(1), may_alias)) unaligned_u64;

static inline uint64_t load(const volatile uint8_t *from, uint64_t where)
{
	uint32_t size = ciel_where_size(where);
	uint64_t value;

	if (__builtin_expect(size == sizeof(uint64_t), 1))
		return *(const volatile unaligned_u64 *)from;
	if (size == sizeof(uint32_t))
		value = *(const volatile unaligned_u32 *)from;
	else if (size == sizeof(uint16_t))
		value = *(const volatile unaligned_u16 *)from;
	else
		value = *from;
	if (where & CIEL_WHERE_SIGNED) {
		uint32_t unused = 64 - 8 * size;
		value = (uint64_t)((int64_t)(value << unused) >> unused);
	}
	return value;
}

static inline int holds(const struct ciel_check *check, uint64_t value)
{
	return (check->where & CIEL_WHERE_ENTRY ? value & CIEL_ENTRY_MEANS : value) == check->expected;
}

static inline void add(void *answer, const struct ciel_term *term, uint64_t value)
{
	*(uint64_t *)((uint8_t *)answer + term->answer) += value;
}

int ciel_recording_repeat(const struct ciel_recording *recording, const volatile uint8_t *ram, void *answer)
{
	enum { AHEAD = 24 };

	memcpy(answer, recording->constants, recording->constant_bytes);
	for (uint32_t i = 0; i < recording->term_count; i++) {
		const struct ciel_term *term = &recording->terms[i];
		add(answer, term, load(ram + ciel_where_offset(term->where), term->where));
	}
	for (uint32_t i = 0; i < recording->check_count; i++) {
		const struct ciel_check *check = &recording->checks[i];
		if (i + AHEAD < recording->check_count)
			__builtin_prefetch((const void *)(ram + ciel_where_offset(check[AHEAD].where)));
		if (!holds(check, load(ram + ciel_where_offset(check->where), check->where)))
			return 0;
	}
	return 1;
}

int ciel_recording_repeat_staged(const struct ciel_recording *recording, const uint8_t *copies, void *answer)
{
	memcpy(answer, recording->constants, recording->constant_bytes);
	for (uint32_t i = 0; i < recording->term_count; i++) {
		const struct ciel_term *term = &recording->terms[i];
		add(answer, term, load(copies + term->staged, term->where));
	}
	for (uint32_t i = 0; i < recording->check_count; i++) {
		const struct ciel_check *check = &recording->checks[i];
		if (!holds(check, load(copies + check->staged, check->where)))
			return 0;
	}
	return 1;
}

void ciel_recording_prefetch(const struct ciel_recording *recording, const volatile uint8_t *ram)
{
	for (uint32_t i = 0; i < recording->term_count; i++)
		__builtin_prefetch((const void *)(ram + ciel_where_offset(recording->terms[i].where)));
	for (uint32_t i = 0; i < recording->check_count; i++)
		__builtin_prefetch((const void *)(ram + ciel_where_offset(recording->checks[i].where)));
}

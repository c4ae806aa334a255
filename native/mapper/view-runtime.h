/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The border between compiled views and the mapper.
 *
 * A view is plain kernel-style C under views/. clang compiles it for the bpf target, so that every access to a guest
 * record is still a CO-RE intrinsic in the IR; the LLView pass turns
 *   - each access path, size, existence question, enumerator and guest symbol into a numbered slot, described in
 *     ciel_view_slots[] (emitted by the pass into the views' object) and filled at attach from the guest's own BTF and
 *     kallsyms;
 *   - each load through a guest pointer (address space 1) into a slot look-up, g_map() and a volatile load of the
 *     slot's size;
 *   - each loop back-edge into g_burn(): a loop that loads nothing costs fuel too.
 * When g_map() returns NULL, g_burn() returns 0, or a slot is unavailable, the view returns at once (the pass branches
 * to the function's exit after each of these, and after each call of another view), with its `int` result set to the
 * error kept in ciel_view->error. So every view returns int: 0 or a positive answer, or a negative enum ciel_view_error.
 *
 * Slots belong to a kernel (immutable, shared by all guests with the same BTF); the context belongs to one walk of one
 * guest. A view finds its context by the thread-local pointer, so views need no parameter for it.
 */
#ifndef CIEL_VIEW_RUNTIME_H
#define CIEL_VIEW_RUNTIME_H

#include <stdint.h>

/* What a slot asks of the guest's kernel. `record` and `path` are C spellings: record "cgroup", path
 * "bstat.cputime.sum_exec_runtime"; a constant index is part of the path ("state[3]"); anonymous members are skipped,
 * as in C. */
enum ciel_slot_kind {
	CIEL_SLOT_FIELD_OFFSET = 1, /* value: byte offset of record.path; size, is_signed: of the member, when scalar */
	CIEL_SLOT_FIELD_EXISTS = 2, /* value: 1 or 0; always available */
	CIEL_SLOT_FIELD_SIZE = 3,   /* value: sizeof(record.path) */
	CIEL_SLOT_ELEMENT_SIZE = 4, /* value: sizeof(*record.path): the stride of an array member, or of what it points to */
	CIEL_SLOT_TYPE_SIZE = 5,    /* value: sizeof(record) */
	CIEL_SLOT_TYPE_EXISTS = 6,  /* value: 1 or 0; always available */
	CIEL_SLOT_ENUM_VALUE = 7,   /* record: the enum's name; path: the enumerator */
	CIEL_SLOT_ENUM_EXISTS = 8,  /* value: 1 or 0; always available */
	CIEL_SLOT_SYMBOL = 9,       /* path: a symbol's name; value: its guest-virtual address */
	CIEL_SLOT_SYMBOL_EXISTS = 10, /* value: 1 or 0; always available */
};

struct ciel_slot_desc {
	uint32_t kind; /* enum ciel_slot_kind */
	const char *record;
	const char *path;
};

/* One answer. An unavailable slot ends the view that needs it with CIEL_VIEW_NO_SLOT and error_slot set. */
struct ciel_slot {
	uint64_t value;
	uint32_t size; /* 1, 2, 4 or 8 when the member can be loaded as a scalar or pointer; else 0 */
	uint8_t is_signed;
	uint8_t available;
	uint8_t reserved[2];
};

enum ciel_view_error {
	CIEL_VIEW_FAULT = -1,   /* an address is not mapped, or its RAM cannot be read: ciel_view->error_address */
	CIEL_VIEW_FUEL = -2,    /* the walk's fuel is used up: a loop in the guest's memory, or a tree too large */
	CIEL_VIEW_NO_SLOT = -3, /* this kernel has no such field, enumerator or symbol: ciel_view->error_slot */
	CIEL_VIEW_LIMIT = -4,   /* a bound of the view itself: too deep, too many, too long */
	CIEL_VIEW_CHANGED = -5, /* the object went away or changed while it was read: try again */
};

/*
 * Recording. The first time that a view reads a cgroup, each of its loads is noted; the next time its answer is made of
 * the notes alone, if they still hold: one flat gather instead of a walk (record.h). A load is
 *
 *   CHECK    as a rule. The view's way depended on it: pointers, flags, lengths, identities, limits. A repeat finds the
 *            same value there, or the view runs again.
 *   COUNT    count(place, load) in a view: the value is added to a member of the answer, and nothing else depends on it.
 *   PASSING  passing(load): what it says is made up for by other loads, so that their sum with it does not change as
 *            long as the checks hold. Neither checked nor read again.
 *
 * A view that uses neither macro is right, too: when a counter is among its checks they fail, and the view runs each time.
 */
enum ciel_note { CIEL_NOTE_CHECK = 0, CIEL_NOTE_COUNT = 1, CIEL_NOTE_PASSING = 2 };

struct ciel_recorder {
	uint32_t note;  /* enum ciel_note, of the next load */
	uint32_t loads; /* since the note was made: a counter is one load */
	uint64_t *place;
	uint32_t is_spoilt; /* what was noted cannot be repeated */
};

struct ciel_view_context {
	const struct ciel_slot *slots; /* one for each ciel_view_slots[] */
	struct ciel_recorder *recorder; /* NULL: nothing is recorded */
	uint64_t fuel;                 /* counts down by 1 a g_map() and a g_burn() */
	int32_t error;                 /* enum ciel_view_error of the last failure, 0 when none */
	uint32_t error_slot;
	uint64_t error_address;
};

extern _Thread_local struct ciel_view_context *ciel_view;

/* Emitted by the pass into the views' object. */
extern const struct ciel_slot_desc ciel_view_slots[];
extern const uint32_t ciel_view_slot_count;

/*
 * `size` (1..8) bytes of guest memory at a guest-virtual address, as a host pointer that stays valid until the next
 * call on this thread; NULL on a fault or an empty tank, with ciel_view->error set. A value that crosses a page is
 * assembled in a bounce buffer, naturally aligned values are not copied. Costs 1 fuel.
 */
const volatile void *g_map(uint64_t address, uint32_t size);

/* 1 while there is fuel; 0, with ciel_view->error = CIEL_VIEW_FUEL, when there is none. Costs 1 fuel. */
int g_burn(void);

/* Sets ciel_view->error = CIEL_VIEW_NO_SLOT and error_slot. Called on the branch where a needed slot is unavailable. */
void g_no_slot(uint32_t slot);

/* Called after each load while there is a recorder. `value` is extended to 64 bits. */
void g_record(uint64_t address, uint32_t size, uint32_t is_signed, uint64_t value);

/* What is loaded from now on is as the guest has it now: copies of pages that a source has staged are forgotten. */
void g_refresh(void);

/*
 * Copies a guest's NUL-terminated string, at most capacity - 1 bytes and always terminated, page by page. Returns the
 * length, or a negative ciel_view_error (CIEL_VIEW_LIMIT when it does not fit). Bytes are the guest's: escape before use.
 */
int g_string(char *destination, uint32_t capacity, uint64_t address);

#endif

// SPDX-License-Identifier: Apache-2.0
//
// What lowered views call (lower.cpp). Plain host code: linked with the views as bitcode after the verifier, and inlined,
// so that a load costs a slot, a g_map() and a move.
#include "view-runtime.h"

#define LOWERED __attribute__((always_inline, visibility("hidden")))

// Guests pack some records: no alignment may be assumed.
typedef uint16_t __attribute__((aligned(1))) unaligned_u16;
typedef uint32_t __attribute__((aligned(1))) unaligned_u32;
typedef uint64_t __attribute__((aligned(1))) unaligned_u64;

// Entered by the mapper: what failed before is no longer of interest.
LOWERED void ciel_rt_enter(void)
{
	ciel_view->error = 0;
}

LOWERED int32_t ciel_rt_error(void)
{
	return ciel_view->error;
}

LOWERED void ciel_rt_fail(int32_t error)
{
	ciel_view->error = error < 0 ? error : CIEL_VIEW_CHANGED;
}

// The end of TRY(): the callee's result, or its error, which is then forgotten unless the whole walk must end.
LOWERED int32_t ciel_rt_tolerate(int32_t result)
{
	int32_t error = ciel_view->error;

	if (!error)
		return result;
	if (error != CIEL_VIEW_FUEL)
		ciel_view->error = 0;
	/* A field that a kernel has not will be missing the next time, too; a fault may not be there again. */
	if (ciel_view->recorder) {
		ciel_view->recorder->note = CIEL_NOTE_CHECK;
		ciel_view->recorder->is_spoilt |= error != CIEL_VIEW_NO_SLOT;
	}
	return error;
}

// --- recording (view-runtime.h) ---

LOWERED void ciel_rt_note(uint32_t note, uint64_t *place)
{
	struct ciel_recorder *recorder = ciel_view->recorder;

	if (recorder) {
		recorder->note = note;
		recorder->place = place;
		recorder->loads = 0;
	}
}

LOWERED void ciel_rt_noted(void)
{
	struct ciel_recorder *recorder = ciel_view->recorder;

	if (recorder) {
		recorder->is_spoilt |= recorder->note == CIEL_NOTE_COUNT && recorder->loads != 1;
		recorder->note = CIEL_NOTE_CHECK;
	}
}

LOWERED void ciel_rt_spoil(void)
{
	if (ciel_view->recorder)
		ciel_view->recorder->is_spoilt = 1;
}

LOWERED uint32_t ciel_rt_failed_slot(void)
{
	return ciel_view->error_slot;
}

LOWERED int32_t ciel_rt_burn(void)
{
	return g_burn();
}

// An index for a host array. What it returns is used only when it is below the bound: the view leaves on the error.
LOWERED uint64_t ciel_rt_bounded(uint64_t index, uint64_t bound)
{
	if (index < bound)
		return index;
	ciel_view->error = CIEL_VIEW_LIMIT;
	return 0;
}

LOWERED uint64_t ciel_rt_divisor(uint64_t divisor)
{
	if (divisor)
		return divisor;
	ciel_view->error = CIEL_VIEW_CHANGED;
	return 1;
}

// A question whose answer is always there: does this kernel have …?
LOWERED uint64_t ciel_rt_fact(uint32_t slot)
{
	return ciel_view->slots[slot].value;
}

LOWERED int32_t ciel_rt_value(uint32_t slot, uint64_t *value)
{
	const struct ciel_slot *s = &ciel_view->slots[slot];

	if (!s->available) {
		g_no_slot(slot);
		return 0;
	}
	*value = s->value;
	return 1;
}

// Whether a member has the size that the view declares for it.
LOWERED int32_t ciel_rt_sized(uint32_t slot, uint32_t size)
{
	const struct ciel_slot *s = &ciel_view->slots[slot];

	if (s->available && s->size == size)
		return 1;
	g_no_slot(slot);
	return 0;
}

static inline __attribute__((always_inline)) int32_t read_value(uint64_t address, uint32_t size, uint32_t is_signed,
							       uint64_t *value)
{
	const volatile void *p = g_map(address, size);

	if (!p)
		return 0;
	switch (size) {
	case 1:
		*value = *(const volatile uint8_t *)p;
		break;
	case 2:
		*value = *(const volatile unaligned_u16 *)p;
		break;
	case 4:
		*value = *(const volatile unaligned_u32 *)p;
		break;
	default:
		*value = *(const volatile unaligned_u64 *)p;
		break;
	}
	if (is_signed) {
		uint32_t unused = 64 - 8 * size;

		*value = (uint64_t)((int64_t)(*value << unused) >> unused);
	}
	if (__builtin_expect(ciel_view->recorder != 0, 0))
		g_record(address, size, is_signed, *value);
	return 1;
}

LOWERED int32_t ciel_rt_read(uint64_t address, uint32_t size, uint64_t *value)
{
	return read_value(address, size, 0, value);
}

/*
 * A member, loaded in its own size and extended by its own sign. `width` is the size of the view's variable: a member that
 * does not fit, or a pointer (`exact`) that is none, is as good as missing.
 */
LOWERED int32_t ciel_rt_load(uint64_t base, uint32_t slot, uint32_t width, uint32_t exact, uint64_t *value)
{
	const struct ciel_slot *s = &ciel_view->slots[slot];
	uint32_t size = s->size;

	if (!s->available || size > width || (exact && size != width) ||
	    (size != 1 && size != 2 && size != 4 && size != 8)) {
		g_no_slot(slot);
		return 0;
	}
	return read_value(base + s->value, size, s->is_signed, value);
}

LOWERED int32_t ciel_rt_string(char *destination, uint32_t capacity, uint64_t address)
{
	int32_t length = g_string(destination, capacity, address);

	if (length < 0 && !ciel_view->error)
		ciel_view->error = length;
	return length;
}

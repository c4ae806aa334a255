/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What compiled views call: guest memory by guest-virtual address, and fuel. See view-runtime.h for the contract.
 *
 * g_map() is the innermost function of a sample: a range check and an addition for the direct map and the image, a cache
 * look-up for the rest, a residency bit for mapped RAM. It hands out pointers into one page only; a value that crosses a
 * page is put together in a buffer.
 */
#include <string.h>

#include "runtime.h"

_Thread_local struct ciel_view_context *ciel_view;
static _Thread_local struct ciel_space *view_space;

void ciel_runtime_enter(struct ciel_view_context *context, struct ciel_space *space)
{
	ciel_view = context;
	view_space = space;
}

void ciel_runtime_leave(void)
{
	ciel_view = NULL;
	view_space = NULL;
}

static inline int burn(void)
{
	if (__builtin_expect(ciel_view->fuel == 0, 0)) {
		ciel_view->error = CIEL_VIEW_FUEL;
		return 0;
	}
	ciel_view->fuel--;
	return 1;
}

static const volatile uint8_t *fault(uint64_t address)
{
	ciel_view->error = CIEL_VIEW_FAULT;
	ciel_view->error_address = address;
	view_space->has_faulted = 1;
	return NULL;
}

/* A pointer to one guest byte; those behind it up to the end of its page are readable too. */
static inline const volatile uint8_t *map_byte(uint64_t address)
{
	struct ciel_extent extent;

	if (!ciel_space_find(view_space, address, &extent))
		return fault(address);
	const volatile uint8_t *page = ciel_source_page(view_space->source, extent.offset & CIEL_PAGE_MASK);
	return page ? page + (extent.offset & ~CIEL_PAGE_MASK) : fault(address);
}

static const volatile void *map_across_pages(uint64_t address, uint32_t size)
{
	static _Thread_local uint64_t bounce;
	uint8_t *to = (uint8_t *)&bounce;

	for (uint32_t i = 0; i < size; i++) {
		const volatile uint8_t *from = map_byte(address + i);
		if (!from)
			return NULL;
		to[i] = *from;
	}
	return &bounce;
}

const volatile void *g_map(uint64_t address, uint32_t size)
{
	if (!burn())
		return NULL;
	if (__builtin_expect((address & ~CIEL_PAGE_MASK) + size > CIEL_PAGE_SIZE, 0))
		return size <= sizeof(uint64_t) ? map_across_pages(address, size) : fault(address);
	return map_byte(address);
}

int g_burn(void)
{
	return burn();
}

void g_refresh(void)
{
	/* Loads from mapped RAM are always fresh; its refreshes count samples. */
	if (view_space->source->operations->is_staged)
		ciel_source_refresh(view_space->source);
}

void g_no_slot(uint32_t slot)
{
	ciel_view->error = CIEL_VIEW_NO_SLOT;
	ciel_view->error_slot = slot;
}

/*
 * Word by word: each is loaded once, and checked by a repeat unless the view says that the string is never changed in
 * place. The words are aligned, so none crosses a page.
 */
int g_string(char *destination, uint32_t capacity, uint64_t address)
{
	uint64_t word_at = address & ~7ull;
	uint32_t length = 0;

	if (capacity == 0)
		return ciel_view->error = CIEL_VIEW_LIMIT;
	for (;; word_at += sizeof(uint64_t)) {
		const volatile void *from = g_map(word_at, sizeof(uint64_t));
		if (!from) {
			destination[length] = '\0';
			return ciel_view->error;
		}
		uint64_t word = *(const volatile uint64_t *)from;
		if (ciel_view->recorder)
			g_record(word_at, sizeof(word), 0, word);
		for (uint32_t i = word_at < address ? (uint32_t)(address & 7) : 0; i < sizeof(word); i++) {
			char byte = (char)(word >> 8 * i);
			if (byte && length == capacity - 1) {
				destination[length] = '\0';
				return ciel_view->error = CIEL_VIEW_LIMIT;
			}
			destination[length] = byte;
			if (!byte)
				return (int)length;
			length++;
		}
	}
}

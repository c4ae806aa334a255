/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What programs that try views on a made-up guest share: the guest's memory is one C object, its layout a table of facts,
 * and g_map() lets the guest act before each load.
 */
#ifndef CIEL_MADE_UP_GUEST_H
#define CIEL_MADE_UP_GUEST_H

#include <stddef.h>

#include "test.h"
#include "view-runtime.h"
#include "views/views.h"

typedef uint64_t u64;
typedef uint32_t u32;

/* --- the layout ------------------------------------------------------------------------------------------------------ */

struct list {
	u64 previous, next;
};

/* What BTF or kallsyms would say, as a slot asks for it. */
struct fact {
	u32 kind;
	const char *record, *path;
	u64 value;
	u32 size;
};

#define OFFSET(record, path, type, member) \
	{ CIEL_SLOT_FIELD_OFFSET, record, path, offsetof(struct type, member), sizeof(((struct type *)0)->member) }

static struct ciel_slot slots[1024];

static struct ciel_slot *slot(u32 kind, const char *record, const char *path)
{
	for (u32 i = 0; i < ciel_view_slot_count; i++)
		if (ciel_view_slots[i].kind == kind && !strcmp(ciel_view_slots[i].record, record) &&
		    !strcmp(ciel_view_slots[i].path, path))
			return &slots[i];
	fprintf(stderr, "no view asks for %s.%s\n", record, path);
	exit(1);
}

/* --- the memory ------------------------------------------------------------------------------------------------------ */

#define BASE 0xffff888000000000ull

static uint8_t *guest_memory;
static size_t guest_size;

static u64 at(const void *place)
{
	return BASE + (u64)((const uint8_t *)place - guest_memory);
}

static void symbol(const char *name, const void *place)
{
	*slot(CIEL_SLOT_SYMBOL, "", name) = (struct ciel_slot){ .value = at(place), .available = 1 };
}

/* --- what the guest does between two loads --------------------------------------------------------------------------- */

static struct ciel_view_context context;
_Thread_local struct ciel_view_context *ciel_view;
static u32 loads, refreshes;
static void (*before_load)(u32 number);

int g_burn(void)
{
	if (context.fuel-- > 0)
		return 1;
	context.fuel = 0;
	context.error = CIEL_VIEW_FUEL;
	return 0;
}

const volatile void *g_map(uint64_t address, uint32_t size)
{
	if (!g_burn())
		return NULL;
	if (before_load)
		before_load(loads);
	loads++;
	if (address < BASE || address - BASE > guest_size - size) {
		context.error = CIEL_VIEW_FAULT;
		context.error_address = address;
		return NULL;
	}
	return guest_memory + (address - BASE);
}

void g_refresh(void)
{
	refreshes++;
}

void g_no_slot(uint32_t missing)
{
	context.error = CIEL_VIEW_NO_SLOT;
	context.error_slot = missing;
}

int g_string(char *destination, uint32_t capacity, uint64_t address)
{
	for (u32 i = 0; i < capacity; i++) {
		const volatile char *from = g_map(address + i, 1);
		if (!from)
			return context.error;
		destination[i] = *from;
		if (!destination[i])
			return (int)i;
	}
	destination[capacity - 1] = '\0';
	return context.error = CIEL_VIEW_LIMIT;
}

/* A guest of zeros at `memory`, of that layout and no symbols. */
static void make_up(void *memory, size_t size, const struct fact *facts, size_t count)
{
	guest_memory = memory;
	guest_size = size;
	memset(memory, 0, size);
	memset(slots, 0, sizeof(slots));
	context = (struct ciel_view_context){ .slots = slots, .fuel = 100000 };
	ciel_view = &context;
	before_load = NULL;
	loads = refreshes = 0;
	for (size_t i = 0; i < count; i++)
		*slot(facts[i].kind, facts[i].record, facts[i].path) =
			(struct ciel_slot){ .value = facts[i].value, .size = facts[i].size, .available = 1 };
}

#endif

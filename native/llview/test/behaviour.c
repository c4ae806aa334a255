// SPDX-License-Identifier: Apache-2.0
//
// What compiled views do: each runs on a made-up guest, a flat memory at BASE with a g_map() of the test's own and slots
// that differ from what the views declare. Exit 0: all hold, 1: one does not.
#include <stdio.h>
#include <string.h>

#include "view-runtime.h"

typedef uint64_t u64;

struct answer {
	u64 number;
	u64 numbers[8];
	char name[16];
};

int view_number(u64 address);
int view_large(u64 address, struct answer *answer);
int view_widened(u64 address, struct answer *answer);
int view_absent(u64 address, struct answer *answer);
int view_exists(u64 address, struct answer *answer);
int view_facts(struct answer *answer);
int view_indexes(u64 address, u64 row, u64 column, struct answer *answer);
int view_address_of(u64 address, struct answer *answer);
int view_list(u64 head, struct answer *answer);
int view_spin(u64 rounds, struct answer *answer);
int view_goto(u64 rounds, struct answer *answer);
int view_nested(u64 address, struct answer *answer);
int view_tolerant(u64 bad, u64 good, struct answer *answer);
int view_tolerant_of_absence(u64 address, struct answer *answer);
int view_tolerant_of_no_fuel(u64 head, struct answer *answer);
int view_fail(u64 number);
int view_host_array(u64 index, u64 value, struct answer *answer);
int view_host_slice(struct answer *answers, u64 capacity, u64 index);
int view_divide(u64 a, u64 b, struct answer *answer);
int view_shift(u64 amount, struct answer *answer);
int view_string(u64 address, struct answer *answer);
int view_once(u64 address, struct answer *answer);
int view_recorded(u64 address, struct answer *answer);
int view_badly_recorded(u64 address, struct answer *answer);
int view_tolerant_while_recording(u64 address, struct answer *answer);

/* --- the made-up guest ----------------------------------------------------------------------------------------------- */

#define BASE 0xffff888000000000ull
#define PAGE 4096ull
#define ITEM (BASE + 0x100)
#define OTHER (BASE + 0x800)
#define HOLE (BASE + 4 * PAGE) /* nothing is mapped from here on */

static uint8_t memory[4 * PAGE];
static struct ciel_slot slots[256];
static struct ciel_view_context context;
static uint64_t maps, bytes_mapped;
static int changes_while_read;
_Thread_local struct ciel_view_context *ciel_view;

int g_burn(void)
{
	if (context.fuel > 0) {
		context.fuel--;
		return 1;
	}
	context.error = CIEL_VIEW_FUEL;
	return 0;
}

const volatile void *g_map(uint64_t address, uint32_t size)
{
	static uint64_t bounce;

	if (!g_burn())
		return NULL;
	if (address < BASE || address - BASE + size > sizeof memory) {
		context.error = CIEL_VIEW_FAULT;
		context.error_address = address;
		return NULL;
	}
	maps++;
	bytes_mapped += size;
	memcpy(&bounce, memory + (address - BASE), size);
	if (changes_while_read)
		memory[address - BASE]++;
	return &bounce;
}

static uint64_t recorded[8], recorded_value[8];
static uint32_t recorded_note[8], recorded_count;

void g_record(uint64_t address, uint32_t size, uint32_t is_signed, uint64_t value)
{
	(void)size, (void)is_signed;
	recorded[recorded_count] = address;
	recorded_value[recorded_count] = value;
	recorded_note[recorded_count++] = context.recorder->note;
	context.recorder->loads++;
}

void g_refresh(void)
{
}

void g_no_slot(uint32_t slot)
{
	context.error = CIEL_VIEW_NO_SLOT;
	context.error_slot = slot;
}

int g_string(char *destination, uint32_t capacity, uint64_t address)
{
	for (uint32_t i = 0; i < capacity; i++) {
		const volatile char *c = g_map(address + i, 1);

		if (!c)
			return context.error;
		destination[i] = *c;
		if (!destination[i])
			return (int)i;
	}
	destination[capacity - 1] = 0;
	return CIEL_VIEW_LIMIT;
}

static void put(uint64_t address, uint64_t value, uint32_t size)
{
	memcpy(memory + (address - BASE), &value, size);
}

/* The guest's own layout of records.h. */
static const struct {
	uint32_t kind;
	const char *record, *path;
	uint64_t value;
	uint32_t size;
	uint8_t is_signed;
} layout[] = {
	{CIEL_SLOT_FIELD_OFFSET, "item", "number", 40, 4, 1},
	{CIEL_SLOT_FIELD_OFFSET, "item", "large", 48, 8, 0},
	{CIEL_SLOT_FIELD_OFFSET, "item", "widened", 56, 8, 1},
	{CIEL_SLOT_FIELD_OFFSET, "item", "link", 16, 0, 0},
	{CIEL_SLOT_FIELD_OFFSET, "item", "link.next", 16, 8, 0},
	{CIEL_SLOT_FIELD_OFFSET, "link", "next", 0, 8, 0},
	{CIEL_SLOT_FIELD_OFFSET, "pair", "right", 8, 2, 0},
	{CIEL_SLOT_FIELD_OFFSET, "item", "pairs[0]", 64, 0, 0},
	{CIEL_SLOT_FIELD_OFFSET, "item", "pairs[0].right", 72, 2, 0},
	{CIEL_SLOT_ELEMENT_SIZE, "item", "pairs", 12, 0, 0},
	{CIEL_SLOT_FIELD_OFFSET, "item", "grid[0]", 128, 0, 0},
	{CIEL_SLOT_FIELD_OFFSET, "item", "grid[0][0]", 128, 4, 0},
	{CIEL_SLOT_FIELD_OFFSET, "item", "grid[2][1]", 128 + 2 * 20 + 4, 4, 0},
	{CIEL_SLOT_ELEMENT_SIZE, "item", "grid", 20, 0, 0},
	{CIEL_SLOT_ELEMENT_SIZE, "item", "grid[0]", 4, 0, 0},
	{CIEL_SLOT_FIELD_OFFSET, "item", "others[0]", 192, 8, 0},
	{CIEL_SLOT_ELEMENT_SIZE, "item", "others", 8, 0, 0},
	{CIEL_SLOT_FIELD_OFFSET, "item", "in_union", 256, 4, 0},
	{CIEL_SLOT_FIELD_OFFSET, "item", "in_struct", 260, 1, 0},
	{CIEL_SLOT_FIELD_EXISTS, "item", "absent", 0, 0, 0},
	{CIEL_SLOT_FIELD_EXISTS, "item", "large", 1, 0, 0},
	{CIEL_SLOT_TYPE_EXISTS, "item", "", 1, 0, 0},
	{CIEL_SLOT_TYPE_SIZE, "item", "", 264, 0, 0},
	{CIEL_SLOT_FIELD_SIZE, "item", "pairs", 48, 0, 0},
	{CIEL_SLOT_ENUM_VALUE, "color", "second_color", 0x1122334455667788, 0, 0},
	{CIEL_SLOT_ENUM_VALUE, "", "nameless_flag", 1 << 5, 0, 0},
	{CIEL_SLOT_ENUM_EXISTS, "", "nameless_flag", 1, 0, 0},
	{CIEL_SLOT_ENUM_EXISTS, "", "absent_flag", 0, 0, 0},
	{CIEL_SLOT_SYMBOL, "", "jiffies_64", BASE + 0x40, 0, 0},
	{CIEL_SLOT_SYMBOL_EXISTS, "", "no_such_symbol", 0, 0, 0},
};

static struct ciel_slot *slot(uint32_t kind, const char *record, const char *path)
{
	for (uint32_t i = 0; i < ciel_view_slot_count; i++)
		if (ciel_view_slots[i].kind == kind && !strcmp(ciel_view_slots[i].record, record) &&
		    !strcmp(ciel_view_slots[i].path, path))
			return &slots[i];
	return NULL;
}

static struct answer answer;

/* A fresh guest, a fresh answer and a full tank. */
static void reset(void)
{
	memset(memory, 0, sizeof memory);
	memset(slots, 0, sizeof slots);
	memset(&answer, 0, sizeof answer);
	context = (struct ciel_view_context){.slots = slots, .fuel = 1000000};
	ciel_view = &context;
	maps = bytes_mapped = 0;
	changes_while_read = 0;
	for (size_t i = 0; i < sizeof layout / sizeof layout[0]; i++) {
		struct ciel_slot *s = slot(layout[i].kind, layout[i].record, layout[i].path);

		if (s)
			*s = (struct ciel_slot){layout[i].value, layout[i].size, layout[i].is_signed, 1, {0, 0}};
	}
	put(ITEM + 40, (uint32_t)-42, 4);
	put(ITEM + 48, 0x8877665544332211, 8);
}

static int failures;

static void check(int holds, int line, const char *what)
{
	if (holds)
		return;
	printf("FAIL behaviour.c:%d: %s\n", line, what);
	failures++;
}
#define CHECK(condition) check(condition, __LINE__, #condition)

/* --- the tests ------------------------------------------------------------------------------------------------------- */

static void sizes_and_signs(void)
{
	static const struct {
		uint32_t size;
		uint8_t is_signed;
		uint64_t stored, expected;
	} cases[] = {
		{1, 0, 0xfffffffffffffff0, 0xf0},	 {1, 1, 0xf0, (uint64_t)-16},
		{2, 0, 0xfffffffffffffff0, 0xfff0},	 {2, 1, 0xfff0, (uint64_t)-16},
		{4, 0, 0xfffffffffffffff0, 0xfffffff0},  {4, 1, 0xfffffff0, (uint64_t)-16},
		{8, 0, 0xfffffffffffffff0, (uint64_t)-16}, {8, 1, 0x7ffffffffffffff0, 0x7ffffffffffffff0},
		{1, 1, 0x7f, 0x7f},
	};

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		reset();
		slot(CIEL_SLOT_FIELD_OFFSET, "item", "widened")->size = cases[i].size;
		slot(CIEL_SLOT_FIELD_OFFSET, "item", "widened")->is_signed = cases[i].is_signed;
		put(ITEM + 56, cases[i].stored, 8);
		CHECK(view_widened(ITEM, &answer) == 0);
		CHECK(answer.number == cases[i].expected);
		CHECK(bytes_mapped == cases[i].size);
	}
	/* No scalar, and one too large for the view's variable. */
	reset();
	slot(CIEL_SLOT_FIELD_OFFSET, "item", "widened")->size = 3;
	CHECK(view_widened(ITEM, &answer) == CIEL_VIEW_NO_SLOT);
	slot(CIEL_SLOT_FIELD_OFFSET, "item", "number")->size = 8;
	CHECK(view_number(ITEM) == CIEL_VIEW_NO_SLOT && maps == 0);
	/* A pointer of 4 bytes is none. */
	slot(CIEL_SLOT_FIELD_OFFSET, "link", "next")->size = 4;
	CHECK(view_list(ITEM, &answer) == CIEL_VIEW_NO_SLOT);
}

static void loads(void)
{
	reset();
	CHECK(view_number(ITEM) == -42);
	CHECK(view_large(ITEM, &answer) == 0 && answer.number == 0x8877665544332211);
	CHECK(context.error == 0 && maps == 2);
	/* A member that lies in two pages. */
	put(BASE + PAGE - 3, 0x0102030405060708, 8);
	CHECK(view_large(BASE + PAGE - 3 - 48, &answer) == 0 && answer.number == 0x0102030405060708);
	/* One value, though it changes while it is read. */
	changes_while_read = 1;
	CHECK(view_once(ITEM, &answer) == 0 && answer.numbers[0] == answer.numbers[1] && answer.numbers[0] != 0);
}

static void faults(void)
{
	reset();
	CHECK(view_large(HOLE, &answer) == CIEL_VIEW_FAULT);
	CHECK(context.error == CIEL_VIEW_FAULT && context.error_address == HOLE + 48);
	CHECK(view_large(0, &answer) == CIEL_VIEW_FAULT);
	/* The next view starts without the last one's error. */
	CHECK(view_large(ITEM, &answer) == 0 && context.error == 0);
	/* A callee's fault ends its callers, too. */
	reset();
	CHECK(view_nested(HOLE, &answer) == CIEL_VIEW_FAULT && !answer.numbers[0] && !answer.numbers[1]);
	CHECK(view_nested(ITEM, &answer) == 5 && answer.numbers[0] && answer.numbers[1]);
}

static void tolerance(void)
{
	reset();
	CHECK(view_tolerant(HOLE, ITEM, &answer) == 0 && context.error == 0);
	CHECK((int64_t)answer.numbers[2] == CIEL_VIEW_FAULT && answer.numbers[3] == 5);
	CHECK(answer.number == 0x8877665544332212);
	reset();
	CHECK(view_tolerant_of_absence(ITEM, &answer) == 0);
	CHECK((int64_t)answer.numbers[2] == CIEL_VIEW_NO_SLOT);
	CHECK(answer.numbers[3] == (uint64_t)(slot(CIEL_SLOT_FIELD_OFFSET, "item", "absent") - slots));
	reset();
	put(ITEM, ITEM + 8, 8);
	put(ITEM + 8, ITEM + 8, 8);
	CHECK(view_tolerant_of_no_fuel(ITEM, &answer) == CIEL_VIEW_FUEL && answer.numbers[3] == 0);
}

static void missing_and_existing(void)
{
	reset();
	CHECK(view_absent(ITEM, &answer) == CIEL_VIEW_NO_SLOT);
	CHECK(context.error_slot == slot(CIEL_SLOT_FIELD_OFFSET, "item", "absent") - slots);
	CHECK(answer.numbers[0] == 1 && maps == 0);
	CHECK(view_exists(ITEM, &answer) == 0 && answer.number == 0x8877665544332211);
	CHECK(answer.numbers[0] == 1 && answer.numbers[1] == 1 && answer.numbers[2] == 0 && answer.numbers[3] == 1);
	CHECK(answer.numbers[4] == 0);
	/* Another kernel, the other branch. */
	slot(CIEL_SLOT_FIELD_EXISTS, "item", "absent")->value = 1;
	*slot(CIEL_SLOT_FIELD_OFFSET, "item", "absent") = (struct ciel_slot){40, 4, 0, 1, {0, 0}};
	CHECK(view_exists(ITEM, &answer) == 0 && answer.number == (uint32_t)-42);
}

static void facts(void)
{
	reset();
	put(BASE + 0x40, 4294937296, 8);
	CHECK(view_facts(&answer) == 0);
	CHECK(answer.numbers[0] == 0x1122334455667788 && answer.numbers[1] == 1 << 5);
	CHECK(answer.numbers[2] == 264 && answer.numbers[3] == 48 && answer.numbers[4] == 16);
	CHECK(answer.numbers[5] == 0x1000 - 16);
	CHECK(answer.numbers[6] == BASE + 0x40 && answer.numbers[7] == 4294937296);
	slot(CIEL_SLOT_SYMBOL, "", "jiffies_64")->available = 0;
	CHECK(view_facts(&answer) == CIEL_VIEW_NO_SLOT);
}

static void indexes(void)
{
	reset();
	put(ITEM + 128 + 1 * 20 + 3 * 4, 13, 4);
	put(ITEM + 128 + 2 * 20 + 1 * 4, 21, 4);
	put(ITEM + 72 + 3 * 12, 0xabcd1234, 4); /* 2 bytes in this guest */
	put(ITEM + 192 + 3 * 8, OTHER, 8);
	put(OTHER + 48, 99, 8);
	put(ITEM + 256, 0xfedcba98, 4);
	put(ITEM + 260, 0x17f, 4); /* 1 byte in this guest */
	CHECK(view_indexes(ITEM, 1, 3, &answer) == 0);
	CHECK(answer.numbers[0] == 13 && answer.numbers[1] == 21);
	CHECK(answer.numbers[2] == 0x1234 && answer.numbers[3] == 0x1234);
	CHECK(answer.numbers[4] == 13 && answer.numbers[5] == 99);
	CHECK(answer.numbers[6] == 0xfedcba98 && answer.numbers[7] == 0x7f);
	CHECK(view_address_of(ITEM, &answer) == 0 && answer.number == ITEM + 56);
	slot(CIEL_SLOT_FIELD_OFFSET, "item", "widened")->size = 4;
	CHECK(view_address_of(ITEM, &answer) == CIEL_VIEW_NO_SLOT);
}

static void fuel(void)
{
	reset();
	put(BASE, BASE + 8, 8);
	put(BASE + 8, BASE + 16, 8);
	put(BASE + 16, BASE, 8);
	CHECK(view_list(BASE, &answer) == 0 && answer.number == 2);
	/* A list that never comes back to its head. */
	put(BASE + 16, BASE + 8, 8);
	CHECK(view_list(BASE, &answer) == CIEL_VIEW_FUEL && context.fuel == 0);
	/* Loops that load nothing. */
	reset();
	CHECK(view_spin(1000, &answer) == 0 && answer.number != 0 && maps == 0);
	CHECK(view_spin(UINT64_MAX, &answer) == CIEL_VIEW_FUEL && context.fuel == 0 && maps == 0);
	reset();
	CHECK(view_goto(10, &answer) == 0);
	CHECK(view_goto(UINT64_MAX, &answer) == CIEL_VIEW_FUEL);
	/* An empty tank from the start. */
	reset();
	context.fuel = 0;
	CHECK(view_large(ITEM, &answer) == CIEL_VIEW_FUEL && answer.number == 0);
}

static void the_hosts_side(void)
{
	struct answer answers[2] = {{0}};

	reset();
	CHECK(view_host_array(7, 5, &answer) == 0 && answer.numbers[7] == 5);
	CHECK(view_host_array(8, 5, &answer) == CIEL_VIEW_LIMIT);
	CHECK(view_host_array(UINT64_MAX, 5, &answer) == CIEL_VIEW_LIMIT);
	CHECK(view_host_slice(answers, 2, 1) == 0 && answers[1].number == 1);
	CHECK(view_host_slice(answers, 2, 2) == CIEL_VIEW_LIMIT);
	CHECK(view_host_slice(answers, 0, 0) == CIEL_VIEW_LIMIT && answers[0].number == 0);
	CHECK(view_divide(100, 7, &answer) == 0 && answer.number == 14);
	CHECK(view_divide(100, 0, &answer) == CIEL_VIEW_CHANGED);
	CHECK(view_shift(3, &answer) == 0 && answer.number == 8);
	CHECK(view_shift(64 + 3, &answer) == 0 && answer.number == 8);
	CHECK(view_fail(7) == CIEL_VIEW_CHANGED && view_fail(8) == 1);
	memcpy(memory + 0x300, "fifteen letters", 16);
	CHECK(view_string(BASE + 0x300, &answer) == 15 && !strcmp(answer.name, "fifteen letters"));
	memcpy(memory + 0x300, "sixteen letters!", 17);
	CHECK(view_string(BASE + 0x300, &answer) == CIEL_VIEW_LIMIT && context.error == CIEL_VIEW_LIMIT);
	CHECK(answer.name[15] == 0);
	CHECK(view_string(HOLE - 1, &answer) == 0);
	memory[sizeof memory - 1] = 'x';
	CHECK(view_string(HOLE - 1, &answer) == CIEL_VIEW_FAULT);
}

static void recording(void)
{
	struct ciel_recorder recorder = { 0 };

	reset();
	put(ITEM + slot(CIEL_SLOT_FIELD_OFFSET, "item", "large")->value, 7, 8);
	CHECK(view_recorded(ITEM, &answer) == 0 && answer.number == 107 && recorded_count == 0);
	context.recorder = &recorder;
	CHECK(view_recorded(ITEM, &answer) == 0 && answer.number == 107 && !recorder.is_spoilt);
	CHECK(recorded_count == 4 && recorder.place == NULL);
	CHECK(recorded_note[0] == CIEL_NOTE_CHECK && recorded_note[1] == CIEL_NOTE_COUNT);
	CHECK(recorded_note[2] == CIEL_NOTE_PASSING && recorded_note[3] == CIEL_NOTE_CHECK);
	CHECK(recorded[1] == recorded[3] && recorded_value[1] == 7);
	/* A counter that is more than one load cannot be repeated. */
	put(ITEM + slot(CIEL_SLOT_FIELD_OFFSET, "item", "others[0]")->value, ITEM, 8);
	CHECK(view_badly_recorded(ITEM, &answer) == 0 && answer.number == 7 && recorder.is_spoilt);
	/* Nor can a fault that was forgiven; a field that is missing stays missing. */
	recorder.is_spoilt = recorded_count = 0;
	put(ITEM + slot(CIEL_SLOT_FIELD_OFFSET, "item", "others[0]")->value, HOLE, 8);
	CHECK(view_tolerant_while_recording(ITEM, &answer) == 0 && recorder.is_spoilt);
	recorder.is_spoilt = recorded_count = 0;
	slot(CIEL_SLOT_FIELD_OFFSET, "item", "others[0]")->available = 0;
	CHECK(view_tolerant_while_recording(ITEM, &answer) == 0 && !recorder.is_spoilt && recorder.note == CIEL_NOTE_CHECK);
}

int main(void)
{
	if (ciel_view_slot_count > sizeof slots / sizeof slots[0])
		return 1;
	sizes_and_signs();
	loads();
	faults();
	tolerance();
	missing_and_existing();
	facts();
	indexes();
	fuel();
	the_hosts_side();
	recording();
	if (failures)
		return 1;
	printf("ok: compiled views behave\n");
	return 0;
}

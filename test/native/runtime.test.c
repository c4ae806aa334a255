/* SPDX-License-Identifier: Apache-2.0 */
/* What views call: values across pages, strings without end, fuel, faults. */
#include "runtime.h"
#include "test.h"

enum { PAGES = 16 };
static const uint64_t DIRECT = 0xffff888000000000ull;

static uint8_t ram[PAGES * 4096];
static struct ciel_layout layout = { .count = 1, .ranges = { { .size = sizeof(ram) } } };
static struct ciel_view_context context;

int main(void)
{
	struct ciel_error error;
	struct ciel_space space = {
		.layout = &layout,
		.levels = 4,
		.root = 0xf000,
		.direct_start = DIRECT,
		.direct_end = DIRECT + sizeof(ram) + 4096, /* one page more than there is RAM */
	};
	uint64_t value = 0x1122334455667788ull;
	char text[16];

	CHECK(ciel_source_open_array(ram, sizeof(ram), &space.source, &error) == CIEL_OK);
	ciel_runtime_enter(&context, &space);
	context.fuel = 1000;

	/* In a page: a pointer into the RAM itself. Across two: put together. */
	memcpy(ram + 8, &value, 8);
	CHECK((const uint8_t *)g_map(DIRECT + 8, 8) == ram + 8);
	memcpy(ram + 4096 - 3, &value, 8);
	CHECK_EQUAL(*(const volatile uint64_t *)g_map(DIRECT + 4096 - 3, 8), value);
	CHECK_EQUAL(context.fuel, 998);
	CHECK(!g_map(DIRECT + 4096 - 3, 9)); /* no value is larger */

	/* The last byte, and across the end. */
	CHECK(g_map(DIRECT + sizeof(ram) - 8, 8));
	context.error = 0;
	CHECK(!g_map(DIRECT + sizeof(ram) - 4, 8));
	CHECK_EQUAL(context.error, CIEL_VIEW_FAULT);
	CHECK(!g_map(0, 8));
	CHECK_EQUAL(context.error_address, 0);
	CHECK(!g_map(UINT64_MAX, 8));

	/* Strings: across pages, too long, just fitting, unterminated up to the end of RAM. */
	memcpy(ram + 2 * 4096 - 5, "across pages", 13);
	CHECK_EQUAL(g_string(text, sizeof(text), DIRECT + 2 * 4096 - 5), 12);
	CHECK(strcmp(text, "across pages") == 0);
	CHECK(g_string(text, 12, DIRECT + 2 * 4096 - 5) == CIEL_VIEW_LIMIT);
	CHECK_EQUAL(strlen(text), 11);
	CHECK_EQUAL(g_string(text, 13, DIRECT + 2 * 4096 - 5), 12);
	memset(ram + sizeof(ram) - 8, 'x', 8);
	CHECK(g_string(text, sizeof(text), DIRECT + sizeof(ram) - 8) == CIEL_VIEW_FAULT);
	CHECK_EQUAL(strlen(text), 8);
	CHECK(g_string(text, 0, DIRECT) == CIEL_VIEW_LIMIT);

	/* An empty tank ends everything. */
	context.fuel = 2;
	context.error = 0;
	CHECK(g_burn());
	CHECK(g_map(DIRECT, 1));
	CHECK(!g_map(DIRECT, 1));
	CHECK_EQUAL(context.error, CIEL_VIEW_FUEL);
	CHECK(!g_burn());
	CHECK(g_string(text, sizeof(text), DIRECT) == CIEL_VIEW_FUEL);

	g_no_slot(7);
	CHECK_EQUAL(context.error, CIEL_VIEW_NO_SLOT);
	CHECK_EQUAL(context.error_slot, 7);
	ciel_runtime_leave();
	ciel_source_destroy(space.source);
	return 0;
}

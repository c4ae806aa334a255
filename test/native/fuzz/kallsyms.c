/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kallsyms: the input is 128 KiB of kernel image, with the tables at fixed places (fuzz-layout.h); its first 16 bytes say
 * which of the tables there are.
 */
#include "../test.h"
#include "fuzz-layout.h"
#include "locate/kallsyms.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	static uint8_t ram[KALLSYMS_BYTES];
	static const struct ciel_layout layout = { .count = 1, .ranges = { { .size = sizeof(ram) } } };
	struct ciel_symbol symbols[] = { { .name = "jiffies_64" }, { .name = "init_task" }, { .name = "_end" }, { .name = "" } };
	struct ciel_source *source;
	struct ciel_error error = { 0 };

	memset(ram, 0, sizeof(ram));
	memcpy(ram, bytes, length < sizeof(ram) ? length : sizeof(ram));
	CHECK(ciel_source_open_array(ram, sizeof(ram), &source, &error) == CIEL_OK);
	struct ciel_space space = {
		.source = source, .layout = &layout, .levels = 4, .direct_start = KALLSYMS_IMAGE,
		.direct_end = KALLSYMS_IMAGE + sizeof(ram),
	};
	struct ciel_kallsyms_tables tables = {
		.names = KALLSYMS_IMAGE + KALLSYMS_NAMES,
		.count = KALLSYMS_IMAGE + KALLSYMS_COUNT,
		.token_table = KALLSYMS_IMAGE + KALLSYMS_TOKENS,
		.token_index = KALLSYMS_IMAGE + KALLSYMS_INDEX,
		.offsets = ram[0] & 1 ? KALLSYMS_IMAGE + KALLSYMS_OFFSETS : 0,
		.relative_base = ram[0] & 2 ? KALLSYMS_IMAGE + KALLSYMS_BASE : 0,
		.addresses = ram[0] & 4 ? KALLSYMS_IMAGE + KALLSYMS_OFFSETS : 0,
	};
	memcpy(&tables.known_text, ram + 8, sizeof(tables.known_text));
	ciel_kallsyms_find(&space, &tables, symbols, sizeof(symbols) / sizeof(symbols[0]), &error);
	ciel_source_destroy(source);
	return 0;
}

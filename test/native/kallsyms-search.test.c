/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finding the kallsyms tables of kernels that do not name them, on memory made by hand: an image with the tables one behind
 * the other, as kernels from 3.10 to 5.19 have them. (5.10 itself is also booted: kernels.vm.test.ts.)
 */
#include "locate/kallsyms-search.h"
#include "test.h"

enum { PAGES = 256, TABLES = 0x40e38, SYMBOLS = 256 * 3 + 17, TEXT_INDEX = 300, WANTED_INDEX = 700 };
static const uint64_t IMAGE = 0xffffffff81000000ull;

static uint8_t ram[PAGES * 4096];
static struct ciel_layout layout = { .count = 1, .ranges = { { .size = sizeof(ram) } } };

static uint64_t address_of(uint32_t index)
{
	return IMAGE + 0x100000 + index * 16ull;
}

static uint32_t at;

static void put(const void *bytes, size_t length)
{
	CHECK(at + length <= sizeof(ram));
	memcpy(ram + at, bytes, length);
	at += (uint32_t)length;
}

static void align(void)
{
	at = (at + 7) & ~7u;
}

/* `wide`: as up to 4.19, with u64 markers and count. `is_absolute`: with an address for each symbol. */
static void make_image(int wide, int is_absolute)
{
	uint64_t base = IMAGE, count = SYMBOLS;
	uint32_t markers[(SYMBOLS + 255) / 256];

	memset(ram, 0, sizeof(ram));
	/* Texts that look like the beginning of a token table, but are none. */
	memcpy(ram + 0x1003, "0\0001\0002\0003\0004\0005\0006\0007\0008\0009\0", 20);
	at = TABLES;
	for (uint32_t i = 0; i < SYMBOLS; i++) {
		uint64_t address = address_of(i);
		int32_t offset = (int32_t)(base - 1 - address);
		if (is_absolute)
			put(&address, 8);
		else
			put(&offset, 4);
	}
	align();
	if (!is_absolute)
		put(&base, 8);
	put(&count, wide ? 8 : 4);
	align();
	uint32_t names = at;
	for (uint32_t i = 0; i < SYMBOLS; i++) {
		char name[64];
		snprintf(name, sizeof(name), "D%s%u",
			 i == TEXT_INDEX ? "_stext" : i == WANTED_INDEX ? "init_task" : "symbol", i);
		if (i == TEXT_INDEX || i == WANTED_INDEX)
			*strpbrk(name, "0123456789") = '\0';
		uint8_t length = (uint8_t)strlen(name);
		if (i % 256 == 0)
			markers[i / 256] = at - names;
		put(&length, 1);
		put(name, length);
	}
	align();
	for (uint32_t i = 0; i < sizeof(markers) / sizeof(markers[0]); i++) {
		uint64_t marker = markers[i];
		put(&marker, wide ? 8 : 4);
	}
	align();
	uint16_t index[256];
	uint32_t tokens = at;
	for (int i = 0; i < 256; i++) {
		/* A token that stands for itself, or for a piece of a name that does not occur. */
		const char *text = i >= '0' ? (char[]){ (char)i, 0 } : "unused_piece";
		index[i] = (uint16_t)(at - tokens);
		put(text, strlen(text) + 1);
	}
	align();
	put(index, sizeof(index));
}

static enum ciel_status search(struct ciel_symbol *symbols, uint32_t count, struct ciel_error *error)
{
	struct ciel_space space = {
		.layout = &layout,
		.levels = 4,
		.phys_base = CIEL_KERNEL_MAP - IMAGE,
		.image_start = IMAGE,
		.image_end = IMAGE + sizeof(ram),
	};
	struct ciel_kallsyms_tables tables;

	CHECK(ciel_source_open_array(ram, sizeof(ram), &space.source, error) == CIEL_OK);
	enum ciel_status status = ciel_kallsyms_search(&space, address_of(TEXT_INDEX) - 0x100000, &tables, error);
	if (!status) {
		tables.known_text = address_of(TEXT_INDEX);
		status = ciel_kallsyms_find(&space, &tables, symbols, count, error);
	}
	ciel_source_destroy(space.source);
	return status;
}

static void tables_are_found(void)
{
	for (int wide = 0; wide < 2; wide++) {
		for (int is_absolute = 0; is_absolute < 2; is_absolute++) {
			struct ciel_symbol symbols[] = { { .name = "init_task" }, { .name = "symbol767" }, { .name = "absent" } };
			struct ciel_error error = { 0 };

			make_image(wide, is_absolute);
			if (search(symbols, 3, &error)) {
				fprintf(stderr, "wide %d, absolute %d: %s\n", wide, is_absolute, error.message);
				CHECK(0);
			}
			CHECK(symbols[0].found && symbols[1].found && !symbols[2].found);
			CHECK_EQUAL(symbols[0].address, address_of(WANTED_INDEX));
			CHECK_EQUAL(symbols[1].address, address_of(767));
		}
	}
}

static void an_image_without_tables_has_none(void)
{
	struct ciel_symbol symbols[] = { { .name = "init_task" } };
	struct ciel_error error = { 0 };

	make_image(0, 0);
	memset(ram + at - 512, 0, 512); /* token_index */
	CHECK(search(symbols, 1, &error) == CIEL_NO_SYMBOLS);
	CHECK(strstr(error.message, "_stext"));
}

static void torn_tables_do_not_crash(void)
{
	struct ciel_symbol symbols[] = { { .name = "init_task" } };
	struct ciel_error error;
	uint64_t seed = 88172645463325252ull;

	for (int round = 0; round < 300; round++) {
		make_image(round & 1, round >> 1 & 1);
		for (int i = 0; i < 8; i++) {
			seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
			ram[TABLES + (seed >> 8) % (at - TABLES)] = (uint8_t)(seed >> 40);
		}
		symbols[0].found = 0;
		search(symbols, 1, &error);
	}
}

int main(void)
{
	tables_are_found();
	an_image_without_tables_has_none();
	torn_tables_do_not_crash();
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kallsyms in each encoding that kernels have used, on tables made by hand, and tables that lie.
 *
 * The "kernel" is 64 pages of RAM that appear at IMAGE by arithmetic. Every token stands for its own character, save a few
 * that stand for pieces of names, as in a real table.
 */
#include "locate/kallsyms.h"
#include "test.h"

enum { PAGES = 64, NAMES = 0x1000, COUNT = 0x9000, TOKENS = 0xa000, INDEX = 0xc000, OFFSETS = 0xd000, BASE = 0xe000 };
static const uint64_t IMAGE = 0xffffffff81000000ull;

static uint8_t ram[PAGES * 4096];
static struct ciel_layout layout = { .count = 1, .ranges = { { .size = sizeof(ram) } } };

struct sample_symbol {
	char type;
	const char *name;
	uint64_t address;
};
static const struct sample_symbol samples[] = {
	{ 'A', "fixed_percpu_data", 0 },
	{ 'T', "_stext", IMAGE + 0x2000 },
	{ 't', "jiffies_64", IMAGE + 0x3000 }, /* a static function of the same name: not what is asked for */
	{ 'D', "jiffies_64", IMAGE + 0x4000 },
	{ 'r', "__start_BTF", IMAGE + 0x5000 },
	{ 't', "static_data", IMAGE + 0x6000 }, /* as 7.x marks it */
	{ 'd', "optimised.llvm.4711", IMAGE + 0x7000 }, /* by clang's LTO, and by gcc's */
	{ 'b', "private.lto_priv.0", IMAGE + 0x8000 },
	{ 'B', "_end", IMAGE + 0x200000 },
};
enum { SAMPLES = sizeof(samples) / sizeof(samples[0]) };

static uint32_t names_length;

static void put_name(uint32_t *at, const uint8_t *tokens, uint32_t count)
{
	if (count >= 0x80) {
		ram[(*at)++] = (uint8_t)(0x80 | (count & 0x7f));
		ram[(*at)++] = (uint8_t)(count >> 7);
	} else {
		ram[(*at)++] = (uint8_t)count;
	}
	memcpy(ram + *at, tokens, count);
	*at += count;
}

/* Names, tokens and the count; `pad` symbols with 300-character names first, for two-byte lengths. */
static void put_names(uint32_t pad)
{
	uint32_t at = NAMES, total = pad + SAMPLES;
	uint16_t position = 0;

	memset(ram, 0, sizeof(ram));
	for (int i = 0; i < 256; i++) {
		const char *text = i == 1 ? "jiffies" : i == 2 ? "_64" : (char[]){ (char)i, 0 };
		uint16_t length = (uint16_t)(strlen(text) + 1);
		memcpy(ram + INDEX + i * 2, &position, 2);
		memcpy(ram + TOKENS + position, text, length);
		position = (uint16_t)(position + length);
	}
	for (uint32_t i = 0; i < pad; i++) {
		uint8_t name[301];
		memset(name, 'x', sizeof(name));
		name[0] = 'd';
		put_name(&at, name, sizeof(name));
	}
	for (int i = 0; i < SAMPLES; i++) {
		uint8_t name[64] = { (uint8_t)samples[i].type };
		uint32_t length = 1;
		if (strcmp(samples[i].name, "jiffies_64") == 0) {
			name[length++] = 1;
			name[length++] = 2;
		} else {
			memcpy(name + 1, samples[i].name, strlen(samples[i].name));
			length += (uint32_t)strlen(samples[i].name);
		}
		put_name(&at, name, length);
	}
	names_length = at - NAMES;
	memcpy(ram + COUNT, &total, 4);
}

static void put_offset(uint32_t index, int64_t offset)
{
	int32_t narrow = (int32_t)offset;
	memcpy(ram + OFFSETS + index * 4, &narrow, 4);
}

static struct ciel_kallsyms_tables tables(void)
{
	return (struct ciel_kallsyms_tables){
		.names = IMAGE + NAMES,
		.count = IMAGE + COUNT,
		.token_table = IMAGE + TOKENS,
		.token_index = IMAGE + INDEX,
		.known_text = IMAGE + 0x2000,
	};
}

static enum ciel_status find(const struct ciel_kallsyms_tables *where, struct ciel_symbol *symbols, uint32_t count,
			     struct ciel_error *error)
{
	struct ciel_space space = {
		.layout = &layout,
		.levels = 4,
		.phys_base = CIEL_KERNEL_MAP - IMAGE,
		.image_start = IMAGE,
		.image_end = IMAGE + sizeof(ram),
	};
	CHECK(ciel_source_open_array(ram, sizeof(ram), &space.source, error) == CIEL_OK);
	enum ciel_status status = ciel_kallsyms_find(&space, where, symbols, count, error);
	ciel_source_destroy(space.source);
	return status;
}

static void expect_found(const struct ciel_kallsyms_tables *where, int has_percpu)
{
	struct ciel_symbol symbols[] = { { .name = "jiffies_64" }, { .name = "__start_BTF" }, { .name = "absent" },
					 { .name = "fixed_percpu_data" }, { .name = "_end" }, { .name = "static_data" },
					 { .name = "optimised" }, { .name = "private" } };
	struct ciel_error error = { 0 };

	if (find(where, symbols, sizeof(symbols) / sizeof(symbols[0]), &error)) {
		fprintf(stderr, "%s\n", error.message);
		CHECK(0);
	}
	CHECK(symbols[0].found && symbols[1].found && symbols[4].found && !symbols[2].found);
	CHECK_EQUAL(symbols[0].address, IMAGE + 0x4000);
	CHECK_EQUAL(symbols[1].address, IMAGE + 0x5000);
	CHECK_EQUAL(symbols[4].address, IMAGE + 0x200000);
	CHECK_EQUAL(symbols[5].address, IMAGE + 0x6000);
	CHECK_EQUAL(symbols[6].address, IMAGE + 0x7000);
	CHECK_EQUAL(symbols[7].address, IMAGE + 0x8000);
	if (has_percpu)
		CHECK_EQUAL(symbols[3].address, 0);
}

static void every_encoding_is_recognised(void)
{
	static const uint32_t pads[] = { 0, 3 };
	uint64_t base = IMAGE + 0x1000;

	for (int p = 0; p < 2; p++) {
		uint32_t pad = pads[p];
		struct ciel_kallsyms_tables where = tables();

		put_names(pad);
		where.addresses = IMAGE + OFFSETS;
		for (uint32_t i = 0; i < SAMPLES; i++)
			memcpy(ram + OFFSETS + (pad + i) * 8, &samples[i].address, 8);
		expect_found(&where, 1);

		put_names(pad);
		where = tables();
		where.offsets = IMAGE + OFFSETS;
		where.relative_base = IMAGE + BASE;
		memcpy(ram + BASE, &base, 8);
		for (uint32_t i = 0; i < SAMPLES; i++)
			put_offset(pad + i, (int64_t)(samples[i].address - base));
		expect_found(&where, 0);

		/* Negative offsets are relative, others absolute: per-CPU symbols. */
		for (uint32_t i = 0; i < SAMPLES; i++)
			put_offset(pad + i, samples[i].address < 0x10000 ? (int64_t)samples[i].address :
									    (int64_t)(base - 1 - samples[i].address));
		expect_found(&where, 1);

		where.relative_base = 0;
		for (uint32_t i = 0; i < SAMPLES; i++)
			put_offset(pad + i, (int64_t)(samples[i].address - (where.offsets + (pad + i) * 4)));
		expect_found(&where, 0);
	}
}

static void tables_that_lie_are_refused(void)
{
	struct ciel_symbol symbols[] = { { .name = "jiffies_64" } };
	struct ciel_kallsyms_tables where = tables();
	struct ciel_error error;
	uint32_t count = 0x7fffffff;

	put_names(0);
	where.offsets = IMAGE + OFFSETS;
	CHECK(find(&where, symbols, 1, &error) == CIEL_NO_SYMBOLS); /* no encoding gives _stext its address */
	CHECK(strstr(error.message, "_stext"));

	memcpy(ram + COUNT, &count, 4);
	CHECK(find(&where, symbols, 1, &error) == CIEL_NO_SYMBOLS);
	count = 100000; /* more symbols than the image has bytes */
	memcpy(ram + COUNT, &count, 4);
	CHECK(find(&where, symbols, 1, &error) == CIEL_NO_SYMBOLS);

	put_names(0);
	where.names = IMAGE + sizeof(ram); /* not mapped */
	CHECK(find(&where, symbols, 1, &error) == CIEL_NO_SYMBOLS);

	put_names(0);
	where = tables(); /* no address table */
	CHECK(find(&where, symbols, 1, &error) == CIEL_NO_SYMBOLS);
}

/* Every byte of the tables in turn, and random ones: never a crash, whatever the result. */
static void mutated_tables_do_not_crash(void)
{
	struct ciel_symbol symbols[] = { { .name = "jiffies_64" }, { .name = "_end" } };
	struct ciel_kallsyms_tables where = tables();
	struct ciel_error error;
	uint64_t seed = 88172645463325252ull;

	where.offsets = IMAGE + OFFSETS;
	where.relative_base = IMAGE + BASE;
	for (int round = 0; round < 3000; round++) {
		put_names(round % 4);
		for (int i = 0; i < 20; i++) {
			static const uint32_t regions[] = { NAMES, COUNT, TOKENS, INDEX, OFFSETS, BASE };
			seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
			uint32_t region = regions[seed % 6];
			uint32_t length = region == COUNT ? 3 : region == NAMES ? names_length : 512;
			ram[region + (seed >> 8) % length] = (uint8_t)(seed >> 40);
		}
		symbols[0].found = symbols[1].found = 0;
		find(&where, symbols, 2, &error);
	}
}

int main(void)
{
	every_encoding_is_recognised();
	tables_that_lie_are_refused();
	mutated_tables_do_not_crash();
	return 0;
}

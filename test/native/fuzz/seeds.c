/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seeds DIRECTORY DUMP…: writes what the fuzzers begin with, DIRECTORY/TARGET/NAME: small dumps in each format, and from each
 * dump of a real guest its BTF, kallsyms, VMCOREINFO and page tables. The dumps are those that cut-down made.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz-layout.h"
#include "loaded-ram.h"

const char *__asan_default_options(void);

static const char *directory;

static void write_seed(const char *target, const char *name, int number, const void *bytes, size_t length)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", directory, target);
	CHECK(mkdir(path, 0755) == 0 || errno == EEXIST);
	snprintf(path, sizeof(path), "%s/%s/%s-%d", directory, target, name, number);
	int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	CHECK(file >= 0 && write(file, bytes, length) == (ssize_t)length);
	close(file);
}

static void write_small_dumps(void)
{
	static uint8_t ram[16 * 4096];
	static const enum writer_compression ways[] = { WRITE_RAW, WRITE_ZLIB, WRITE_LZO, WRITE_SNAPPY, WRITE_ZSTD };
	const struct dump_content content = { .ram = ram, .pages = 16, .left_out = 5, .left_out_count = 2 };

	for (uint32_t i = 0; i < sizeof(ram); i += 64)
		ram[i] = (uint8_t)(i / 4096);
	memset(ram + 3 * 4096, 0, 4096);
	struct dump_buffer elf = write_elf(&content, 1), stream = write_stream(&content), save = write_save(&content, 0);
	write_seed("dump", "elf", 0, elf.bytes, elf.length);
	write_seed("dump", "stream", 0, stream.bytes, stream.length);
	write_seed("dump", "save", 0, save.bytes, save.length);
	for (int i = 0; i < 5; i++) {
		struct dump_buffer kdump = write_kdump(&content, ways[i]), flat = flatten(&kdump, 8192);
		write_seed("dump", "kdump", i, kdump.bytes, kdump.length);
		write_seed("dump", "flat", i, flat.bytes, flat.length);
		free(kdump.bytes);
		free(flat.bytes);
	}
	free(elf.bytes);
	free(stream.bytes);
	free(save.bytes);
}

/* As far as it goes: a cut-down dump has no page too many. */
static void copy_piece(struct ciel_guest *guest, uint64_t from, uint8_t *to, size_t length)
{
	struct ciel_error error;

	while (length > 0 && ciel_space_read(&guest->space, from, to, length, &error) != CIEL_OK)
		length /= 2;
}

static void write_kallsyms(struct ciel_guest *guest, int number)
{
	static uint8_t image[KALLSYMS_BYTES];
	const struct ciel_vmcoreinfo *info = &guest->info;

	image[0] = 3;
	memcpy(image + 8, &info->text_start, 8);
	copy_piece(guest, info->kallsyms_count, image + KALLSYMS_COUNT, 4);
	if (info->kallsyms_relative_base)
		copy_piece(guest, info->kallsyms_relative_base, image + KALLSYMS_BASE, 8);
	copy_piece(guest, info->kallsyms_token_table, image + KALLSYMS_TOKENS, 1024);
	copy_piece(guest, info->kallsyms_token_index, image + KALLSYMS_INDEX, 512);
	copy_piece(guest, info->kallsyms_offsets, image + KALLSYMS_OFFSETS, 2048);
	copy_piece(guest, info->kallsyms_names, image + KALLSYMS_NAMES, 8192);
	write_seed("kallsyms", "guest", number, image, KALLSYMS_NAMES + 8192);
}

static int find_note(void *context, uint64_t offset, const uint8_t head[CIEL_SCAN_BYTES])
{
	if (memcmp(head + 12, "VMCOREINFO", 11) != 0)
		return 0;
	*(uint64_t *)context = offset;
	return 1;
}

/* The tables on the way to one address, moved together: the walk's seed has room for few. */
static void write_tables(struct ciel_guest *guest, int number)
{
	static uint8_t input[WALK_HEADER + WALK_BYTES];
	uint64_t *header = (uint64_t *)input, table = guest->space.root, address = guest->info.init_uts_ns;
	uint32_t levels = guest->info.levels;

	header[0] = 0;
	for (int i = 1; i < 6; i++)
		header[i] = address + (uint64_t)i * 4096;
	header[1] = address;
	header[6] = levels == 5;
	for (uint32_t level = levels, page = 0; level >= 1; level--, page++) {
		uint64_t offset, left, index = address >> (12 + 9 * (level - 1)) & 511;
		uint8_t *copy = input + WALK_HEADER + page * 4096;
		CHECK(ciel_layout_find(&guest->layout, table, &offset, &left));
		memcpy(copy, loaded_of(guest->source)->bytes + offset, 4096);
		uint64_t *entry = (uint64_t *)copy + index;
		table = *entry & 0x000ffffffffff000ull;
		if (level == 1 || *entry & 1 << 7)
			break;
		*entry = (page + 1) * 4096ull | (*entry & 0xfff);
	}
	write_seed("walk", "guest", number, input, sizeof(input));
}

static void write_of_guest(const char *path, int number)
{
	struct loaded_ram ram = load_ram(path);
	struct ciel_attach_report report = { 0 };
	struct ciel_guest *guest;
	struct ciel_error error = { 0 };
	uint64_t note = 0;

	if (ciel_guest_attach(loaded_ram_source(&ram), &ram.layout, NULL, &guest, &report, &error)) {
		fprintf(stderr, "%s: %s\n", path, error.message);
		exit(1);
	}
	uint64_t start = ciel_core_value(guest, CIEL_CORE_START_BTF), length = ciel_core_value(guest, CIEL_CORE_STOP_BTF) - start;
	uint8_t *btf = malloc(length);
	CHECK(btf && ciel_space_read(&guest->space, start, btf, length, &error) == CIEL_OK);
	write_seed("btf", "guest", number, btf, length);
	free(btf);
	write_kallsyms(guest, number);
	write_tables(guest, number);
	CHECK(ciel_source_scan(guest->source, find_note, &note, &error) == CIEL_OK);
	write_seed("vmcoreinfo", "guest", number, ram.bytes + note, 4096);
	ciel_guest_destroy(guest);
}

/* A tool that ends when it is done: what it still holds then is nobody's loss. */
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "usage: seeds DIRECTORY DUMP...\n");
		return 1;
	}
	directory = argv[1];
	CHECK(mkdir(directory, 0755) == 0 || errno == EEXIST);
	write_small_dumps();
	for (int i = 2; i < argc; i++)
		write_of_guest(argv[i], i - 2);
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What older kernels, and kernels built with less, need at an attach. No guest of these can be booted here, so the memory is
 * made by hand from what their sources say:
 *
 *   VMCOREINFO up to 4.10   a static note, anywhere; up to 4.9 without the value of phys_base
 *   __ksymtab               in both forms, for kernels without CONFIG_KALLSYMS_ALL
 *   BTF                     found by its header, or in a file beside the kernel
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "locate/ksymtab.h"
#include "locate/vmcoreinfo.h"
#include "test.h"
#include "types/detached.h"

enum { RAM = 8 << 20, IMAGE_AT = 4 << 20 };
static const uint64_t IMAGE = 0xffffffff81000000ull;

static uint8_t ram[RAM];
static struct ciel_layout layout = { .count = 1, .ranges = { { .size = RAM } } };

static void put64(uint64_t at, uint64_t value)
{
	memcpy(ram + at, &value, 8);
}

static struct ciel_space open_space(void)
{
	struct ciel_space space = { .layout = &layout, .levels = 4 };
	struct ciel_error error;

	CHECK(ciel_source_open_array(ram, RAM, &space.source, &error) == CIEL_OK);
	return space;
}

/* Two large pages of image, 4 MiB into the RAM, so phys_base is negative. */
static void make_page_tables(void)
{
	memset(ram, 0, sizeof(ram));
	put64(IMAGE_AT + 0x1000 + 511 * 8, 0x10000 | 1);        /* level 4, at IMAGE + 0x1000 */
	put64(0x10000 + 510 * 8, 0x11000 | 1);                  /* level 3 */
	put64(0x11000 + 8 * 8, IMAGE_AT | 1 << 7 | 1);          /* 0x…81000000 */
	put64(0x11000 + 9 * 8, (IMAGE_AT + (2 << 20)) | 1 << 7 | 1);
}

static void put_note(uint64_t at, int with_value)
{
	char text[512];
	uint64_t phys_base = IMAGE_AT - (IMAGE - CIEL_KERNEL_MAP);
	int length = snprintf(text, sizeof(text),
			      "OSRELEASE=4.4.0-old\nPAGESIZE=4096\nSYMBOL(init_uts_ns)=%llx\nSYMBOL(_stext)=%llx\n"
			      "SYMBOL(swapper_pg_dir)=%llx\n",
			      (unsigned long long)IMAGE + 0x6000, (unsigned long long)IMAGE, (unsigned long long)IMAGE + 0x1000);

	length += with_value ? snprintf(text + length, sizeof(text) - (size_t)length, "NUMBER(phys_base)=%lld\n", (long long)phys_base) :
			       snprintf(text + length, sizeof(text) - (size_t)length, "SYMBOL(phys_base)=%llx\n",
					(unsigned long long)IMAGE + 0x3008);
	uint32_t head[3] = { 11, (uint32_t)length, 0 };
	memcpy(ram + at, head, sizeof(head));
	memcpy(ram + at + 12, "VMCOREINFO", 11);
	memcpy(ram + at + 24, text, (size_t)length);
	put64(IMAGE_AT + 0x3008, phys_base);
	strcpy((char *)ram + IMAGE_AT + 0x6004, "Linux");
	strcpy((char *)ram + IMAGE_AT + 0x6004 + 130, "4.4.0-old");
}

static void a_static_note_is_found(void)
{
	for (int with_value = 0; with_value < 2; with_value++) {
		static struct ciel_vmcoreinfo_candidates candidates;
		struct ciel_error error = { 0 };

		make_page_tables();
		put_note(IMAGE_AT + 0x5a34, with_value);
		struct ciel_space space = open_space();
		CHECK(ciel_vmcoreinfo_scan(space.source, &candidates, &error) == CIEL_NO_VMCOREINFO);
		CHECK(ciel_vmcoreinfo_scan_deep(space.source, &candidates, &error) == CIEL_OK);
		CHECK_EQUAL(candidates.count, 1);
		if (ciel_vmcoreinfo_prove(&candidates.info[0], &space, &error)) {
			fprintf(stderr, "%s\n", error.message);
			CHECK(0);
		}
		CHECK(strcmp(candidates.info[0].release, "4.4.0-old") == 0);
		CHECK_EQUAL(candidates.info[0].phys_base, IMAGE_AT - (IMAGE - CIEL_KERNEL_MAP));

		/* Another release in memory: the note is of a kernel that was. */
		memcpy(ram + IMAGE_AT + 0x6004 + 130, "4.4.1", 6);
		candidates.info[0].phys_base = with_value ? candidates.info[0].phys_base : UINT64_MAX;
		CHECK(ciel_vmcoreinfo_prove(&candidates.info[0], &space, &error) == CIEL_STALE);
		ciel_source_destroy(space.source);
	}
}

static void put_relative(uint64_t at, uint64_t target)
{
	int32_t offset = (int32_t)(target - (IMAGE + at - IMAGE_AT));
	memcpy(ram + at, &offset, 4);
}

static void exported_symbols_are_found(void)
{
	for (int is_absolute = 0; is_absolute < 2; is_absolute++) {
		struct ciel_symbol symbols[] = { { .name = "init_task" }, { .name = "jiffies_64" }, { .name = "not_exported" },
						 { .name = "known", .found = 1, .address = 42 },
						 { .name = "init_task" } };
		/* The entries lie across the end of a page. */
		uint64_t strings = IMAGE_AT + 0x20001, table = IMAGE_AT + 0x31000 - (is_absolute ? 8 : 4);

		make_page_tables();
		strcpy((char *)ram + IMAGE_AT + 0x15000, "init_task"); /* elsewhere, too: a message */
		strcpy((char *)ram + strings, "init_task");
		strcpy((char *)ram + strings + 10, "my_jiffies_64"); /* the linker keeps one name as the end of another */
		strcpy((char *)ram + strings + 30, "known");
		if (is_absolute) {
			put64(table, IMAGE + 0x40000);
			put64(table + 8, IMAGE + (strings - IMAGE_AT));
			put64(table + 16, IMAGE + 0x41000);
			put64(table + 24, IMAGE + (strings - IMAGE_AT) + 13);
		} else {
			put_relative(table, IMAGE + 0x40000);
			put_relative(table + 4, IMAGE + (strings - IMAGE_AT));
			put_relative(table + 12, IMAGE + 0x41000);
			put_relative(table + 16, IMAGE + (strings - IMAGE_AT) + 13);
		}
		struct ciel_space space = open_space();
		space.root = IMAGE_AT + 0x1000;
		ciel_ksymtab_find(&space, IMAGE, symbols, 5);
		CHECK(symbols[0].found && symbols[1].found && !symbols[2].found);
		CHECK_EQUAL(symbols[0].address, IMAGE + 0x40000);
		CHECK_EQUAL(symbols[1].address, IMAGE + 0x41000);
		CHECK_EQUAL(symbols[3].address, 42);
		CHECK(symbols[4].found && symbols[4].address == symbols[0].address);
		ciel_source_destroy(space.source);
	}
}

static void types_are_found_by_their_header(void)
{
	const uint32_t head[] = { 0x0001eb9f, 24, 0, 1000, 1000, 500 }, wrong[] = { 0x0001eb9f, 24, 0, 1000, 900, 500 };
	uint64_t address = 0;
	uint32_t length = 0;

	make_page_tables();
	struct ciel_space space = open_space();
	space.root = IMAGE_AT + 0x1000;
	CHECK(!ciel_btf_search(&space, IMAGE, &address, &length));
	memcpy(ram + IMAGE_AT + 0x8010, wrong, sizeof(wrong));
	memcpy(ram + IMAGE_AT + 0x50ffc, head, sizeof(head));
	CHECK(ciel_btf_search(&space, IMAGE, &address, &length));
	CHECK_EQUAL(address, IMAGE + 0x50ffc);
	CHECK_EQUAL(length, 1524);
	ciel_source_destroy(space.source);
}

static void types_are_found_beside_the_kernel(void)
{
	char directory[] = "/tmp/ciel-btf-XXXXXX", path[256];
	static const char *const folders[] = { "/ubuntu", "/ubuntu/18.04", "/ubuntu/18.04/x86_64" };
	struct ciel_error error = { 0 };
	uint8_t *btf = NULL;
	uint32_t length = 0;

	CHECK(mkdtemp(directory));
	CHECK(ciel_btf_detached(NULL, "4.15.0-20-generic", &btf, &length, &error) == CIEL_NO_TYPES);
	CHECK(strstr(error.message, "4.15.0-20-generic.btf"));
	CHECK(ciel_btf_detached(directory, "4.15.0-20-generic", &btf, &length, &error) == CIEL_NO_TYPES);
	CHECK(strstr(error.message, directory) && strstr(error.message, "x86_64/4.15.0-20-generic.btf"));
	CHECK(ciel_btf_detached(directory, "../../etc/passwd", &btf, &length, &error) == CIEL_NO_TYPES);
	CHECK(ciel_btf_detached(directory, "*", &btf, &length, &error) == CIEL_NO_TYPES);
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s%s", directory, folders[i]);
		CHECK(mkdir(path, 0700) == 0);
	}
	snprintf(path, sizeof(path), "%s%s/4.15.0-20-generic.btf", directory, folders[2]);
	int fd = open(path, O_CREAT | O_WRONLY, 0600);
	CHECK(fd >= 0 && write(fd, "types", 5) == 5);
	close(fd);
	CHECK(ciel_btf_detached(directory, "4.15.0-20-generic", &btf, &length, &error) == CIEL_OK);
	CHECK(length == 5 && memcmp(btf, "types", 5) == 0);
	free(btf);
	unlink(path);
	for (int i = 2; i >= 0; i--) {
		snprintf(path, sizeof(path), "%s%s", directory, folders[i]);
		rmdir(path);
	}
	rmdir(directory);
}

int main(void)
{
	a_static_note_is_found();
	exported_symbols_are_found();
	types_are_found_by_their_header();
	types_are_found_beside_the_kernel();
	return 0;
}

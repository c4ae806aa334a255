/* SPDX-License-Identifier: Apache-2.0 */
/* Page walks over the tables written down in page-tables/, by the walk and by the cached look-up of views. */
#include <dirent.h>
#include <inttypes.h>

#include "test.h"
#include "translate.h"

static void expect(struct ciel_space *space, const char *where, uint64_t address, const char *verb, const char *rest)
{
	struct ciel_extent extent;
	struct ciel_error error = { 0 };
	enum ciel_status status = ciel_space_walk(space, address, &extent, &error);

	for (int again = 0; again < 2; again++) { /* the second look-up comes from the cache */
		struct ciel_extent found;
		int is_found = ciel_space_find(space, address, &found);
		if (is_found != (status == CIEL_OK) || (is_found && found.offset != extent.offset)) {
			fprintf(stderr, "%s: walk and look-up of 0x%" PRIx64 " differ\n", where, address);
			exit(1);
		}
	}
	if (strcmp(verb, "is") == 0) {
		uint64_t physical = strtoull(rest, NULL, 16);
		if (status || extent.offset != physical) {
			fprintf(stderr, "%s: 0x%" PRIx64 " is 0x%" PRIx64 " (%s), expected 0x%" PRIx64 "\n", where, address,
				extent.offset, error.message, physical);
			exit(1);
		}
		return;
	}
	if (status != CIEL_FAULTED || !strstr(error.message, rest)) {
		fprintf(stderr, "%s: 0x%" PRIx64 ": status %d, \"%s\", expected \"%s\"\n", where, address, status,
			error.message, rest);
		exit(1);
	}
}

static int run_file(const char *path)
{
	static uint8_t ram[0x2000 * 4096ull];
	struct ciel_layout layout = { .count = 1 };
	struct ciel_source *source = NULL;
	struct ciel_error error;
	struct ciel_space space = { .layout = &layout };
	char line[256];
	int number = 0, expectations = 0;
	FILE *file = fopen(path, "r");

	CHECK(file);
	memset(ram, 0, sizeof(ram));
	while (fgets(line, sizeof(line), file)) {
		uint64_t a, b;
		unsigned index;
		char verb[16], rest[128], where[1100];

		number++;
		line[strcspn(line, "#\n")] = '\0';
		snprintf(where, sizeof(where), "%s:%d", path, number);
		if (sscanf(line, "ram %" SCNx64, &a) == 1) {
			CHECK(a * 4096 <= sizeof(ram));
			layout.ranges[0].size = a * 4096;
			CHECK(ciel_source_open_array(ram, a * 4096, &source, &error) == CIEL_OK);
			space.source = source;
		} else if (sscanf(line, "levels %u", &space.levels) == 1 || sscanf(line, "root %" SCNx64, &space.root) == 1 ||
			   sscanf(line, "mask %" SCNx64, &space.encryption_mask) == 1) {
			continue;
		} else if (sscanf(line, "entry %" SCNx64 " %u %" SCNx64, &a, &index, &b) == 3) {
			CHECK(a + 4096 <= sizeof(ram) && index < 512);
			memcpy(ram + a + index * 8, &b, 8);
		} else if (sscanf(line, "at %" SCNx64 " %15s %127[^\n]", &a, verb, rest) == 3) {
			expect(&space, where, a, verb, rest);
			expectations++;
		} else {
			CHECK(line[strspn(line, " \t")] == '\0');
		}
	}
	fclose(file);
	ciel_source_destroy(source);
	return expectations;
}

static void linear_ranges_stop_at_their_ends(void)
{
	static uint8_t ram[64 * 4096];
	struct ciel_layout layout = { .count = 1, .ranges = { { .size = sizeof(ram) } } };
	struct ciel_error error;
	struct ciel_space space = {
		.layout = &layout,
		.levels = 4,
		.root = 0x1000,
		.phys_base = 0x2000,
		.image_start = CIEL_KERNEL_MAP + 0x1000,
		.image_end = CIEL_KERNEL_MAP + 0x3000,
		.direct_start = 0xffff888000000000ull,
		.direct_end = 0xffff888000000000ull + 32 * 4096,
	};
	struct ciel_extent extent;

	CHECK(ciel_source_open_array(ram, sizeof(ram), &space.source, &error) == CIEL_OK);
	CHECK(ciel_space_find(&space, CIEL_KERNEL_MAP + 0x2ff8, &extent));
	CHECK_EQUAL(extent.offset, 0x4ff8);
	CHECK_EQUAL(extent.left, 8);
	CHECK(!ciel_space_find(&space, CIEL_KERNEL_MAP + 0x3000, &extent));
	CHECK(ciel_space_find(&space, 0xffff888000000010ull, &extent));
	CHECK_EQUAL(extent.offset, 0x10);
	CHECK(!ciel_space_find(&space, space.direct_end, &extent));

	uint8_t bytes[16];
	CHECK(ciel_space_read(&space, UINT64_MAX - 3, bytes, sizeof(bytes), &error) == CIEL_FAULTED);
	ciel_source_destroy(space.source);
}

int main(int argc, char **argv)
{
	char directory[512], path[1024];
	int files = 0;

	(void)argc;
	(void)argv;
	snprintf(directory, sizeof(directory), "%.*s/page-tables", (int)(strrchr(__FILE__, '/') - __FILE__), __FILE__);
	DIR *listing = opendir(directory);
	CHECK(listing);
	for (struct dirent *entry; (entry = readdir(listing));) {
		if (!strstr(entry->d_name, ".txt"))
			continue;
		snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
		CHECK(run_file(path) > 0);
		files++;
	}
	closedir(listing);
	CHECK(files >= 4);
	linear_ranges_stop_at_their_ends();
	return 0;
}

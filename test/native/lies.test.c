/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lies when a guest is read from outside, as far as it needs a whole kernel: on the fuzzers' seeds, which are dumps of
 * real guests. The other lies have tests of their own: flushes, counters between them, both encodings of the table of
 * indices, freed cgroups, impossible CPUs: views.c; a reboot: introspection.vm.test.ts.
 */
#include <bpf/btf.h>

#include "fuzz/loaded-ram.h"
#include "locate/vmcoreinfo.h"
#include "programme.h"

static const char *seeds_directory(void)
{
	static char path[4096];

	if (!path[0]) {
		snprintf(path, sizeof(path), "%s", __FILE__);
		snprintf(strrchr(path, '/'), 64, "/fuzz/seeds/");
	}
	return path;
}

static struct loaded_ram load_seed(const char *name)
{
	char path[4200];

	snprintf(path, sizeof(path), "%s%s", seeds_directory(), name);
	return load_ram(path);
}

static struct ciel_guest *attach(struct loaded_ram *ram)
{
	struct ciel_attach_report report = { 0 };
	struct ciel_guest *guest;
	struct ciel_error error = { 0 };

	if (ciel_guest_attach(loaded_ram_source(ram), &ram->layout, "", &guest, &report, &error)) {
		fprintf(stderr, "%s\n", error.message);
		exit(1);
	}
	return guest;
}

static uint32_t slot_of(const char *record, const char *path)
{
	uint32_t count;
	const struct ciel_slot_desc *descriptors = ciel_all_descriptors(&count);

	for (uint32_t i = 0; i < count; i++) {
		if (descriptors[i].kind == CIEL_SLOT_FIELD_OFFSET && strcmp(descriptors[i].record, record) == 0 &&
		    strcmp(descriptors[i].path, path) == 0)
			return i;
	}
	CHECK(!"no such slot");
	return 0;
}

/* Moves a member of a record in the BTF that the RAM holds. */
static void move_member(struct loaded_ram *ram, const char *record, const char *member, uint32_t bits)
{
	struct ciel_guest *guest = attach(ram);
	uint64_t start = ciel_core_value(guest, CIEL_CORE_START_BTF), length = ciel_core_value(guest, CIEL_CORE_STOP_BTF) - start;
	uint8_t *bytes = malloc(length);
	struct ciel_error error;
	uint32_t size;

	CHECK(bytes && ciel_space_read(&guest->space, start, bytes, length, &error) == CIEL_OK);
	struct btf *btf = btf__new(bytes, (uint32_t)length);
	const struct btf_type *type = btf__type_by_id(btf, (uint32_t)btf__find_by_name_kind(btf, record, BTF_KIND_STRUCT));
	const uint8_t *raw = btf__raw_data(btf, &size);
	CHECK(raw && type);
	for (uint32_t i = 0; i < btf_vlen(type); i++) {
		const struct btf_member *found = &btf_members(type)[i];
		if (strcmp(btf__str_by_offset(btf, found->name_off), member) != 0)
			continue;
		struct ciel_extent extent;
		uint32_t moved = found->offset + bits;
		uint64_t at = start + (uint64_t)((const uint8_t *)&found->offset - raw);
		CHECK(ciel_space_walk(&guest->space, at, &extent, &error) == CIEL_OK && extent.left >= sizeof(moved));
		memcpy(ram->bytes + extent.offset, &moved, sizeof(moved));
		btf__free(btf);
		free(bytes);
		ciel_guest_destroy(guest);
		return;
	}
	CHECK(!"no such member");
}

/*
 * Two guests say that they are of one release, with the same build id; one of them shows other types. Offsets are known by
 * the hash of the types themselves, so neither gets the other's, in whatever order they come.
 */
static void a_hostile_guest_does_not_change_its_neighbours_offsets(void)
{
	struct loaded_ram honest = load_seed("newest-v2.kdump"), hostile = load_seed("newest-v2.kdump");
	uint32_t serial = slot_of("cgroup_subsys_state", "serial_nr");

	move_member(&hostile, "cgroup_subsys_state", "serial_nr", 64);
	for (int i = 0; i < 2; i++) {
		struct ciel_guest *deceiver = attach(&hostile), *neighbour = attach(&honest);
		CHECK(strcmp(deceiver->info.release, neighbour->info.release) == 0);
		CHECK(memcmp(deceiver->btf_hash, neighbour->btf_hash, sizeof(deceiver->btf_hash)) != 0);
		CHECK_EQUAL(deceiver->slots[serial].value, neighbour->slots[serial].value + 8);
		ciel_guest_destroy(neighbour);
		ciel_guest_destroy(deceiver);
	}
}

/* A dead kernel's memory reads well, sample after sample: what tells is its clock, which each sample therefore has. */
static void a_dead_kernel_shows_by_its_clock(void)
{
	static uint64_t first[1 << 16], second[1 << 16];
	struct loaded_ram ram = load_seed("6.12-hybrid.kdump");
	struct ciel_guest *guest = attach(&ram);
	struct ciel_sample_header *before = (struct ciel_sample_header *)first, *after = (struct ciel_sample_header *)second;
	struct ciel_error error;
	struct ciel_extent clock;
	uint64_t jiffies;

	CHECK(ciel_sample(guest, (uint8_t *)first, sizeof(first), &error) == CIEL_OK);
	CHECK(ciel_sample(guest, (uint8_t *)second, sizeof(second), &error) == CIEL_OK);
	CHECK(before->container_count > 0 && before->jiffies > 0);
	CHECK_EQUAL(after->jiffies, before->jiffies);
	CHECK(memcmp(before->boot_id, after->boot_id, sizeof(before->boot_id)) == 0);

	/* It ticks: seen in the next sample, though that one is a repeat. */
	CHECK(ciel_space_walk(&guest->space, ciel_core_value(guest, CIEL_CORE_JIFFIES), &clock, &error) == CIEL_OK);
	jiffies = before->jiffies + 250;
	memcpy(ram.bytes + clock.offset, &jiffies, sizeof(jiffies));
	CHECK(ciel_sample(guest, (uint8_t *)second, sizeof(second), &error) == CIEL_OK);
	CHECK_EQUAL(after->jiffies, jiffies);
	ciel_guest_destroy(guest);
}

/* Memory that was given away changes, too; a clock that ticks does so in its own way. */
static void a_clock_is_told_from_other_words(void)
{
	static const uint64_t boot = 4294892296ull, tenth = 100 * 1000 * 1000; /* HZ=250, 300 s before the wrap */

	CHECK(ciel_clock_ticks(boot, boot + 1, tenth));
	CHECK(ciel_clock_ticks(boot, boot + 25, tenth));
	CHECK(ciel_clock_ticks(boot + 3600 * 250, boot + 3609 * 250, tenth)); /* after nine seconds without a tick */
	CHECK(!ciel_clock_ticks(boot, boot, tenth));
	CHECK(!ciel_clock_ticks(boot + 25, boot, tenth));
	CHECK(!ciel_clock_ticks(1, 2, tenth));                                      /* a reference count */
	CHECK(!ciel_clock_ticks(0xffff888004a3c000, 0xffff888004a3c040, tenth));    /* an address */
	CHECK(!ciel_clock_ticks(0x2f6e69622f727375, 0x2f6e69622f727376, tenth));    /* text */
	CHECK(!ciel_clock_ticks(boot, boot + 100 * 1000 * 1000, tenth));            /* too fast */
}

/* An entry of a page table that is changed leads to another page at the next sample, and not to the old one for ever. */
static void translations_do_not_outlive_a_sample(void)
{
	static uint64_t ram[6 * 512];
	static const struct ciel_layout layout = { .count = 1, .ranges = { { .size = sizeof(ram) } } };
	struct ciel_source *source;
	struct ciel_error error;
	uint64_t value;

	for (uint64_t level = 0; level < 4; level++)
		ram[level * 512] = (level + 1) << 12 | 1;
	ram[4 * 512] = 44;
	ram[5 * 512] = 55;
	CHECK(ciel_source_open_array((const uint8_t *)ram, sizeof(ram), &source, &error) == CIEL_OK);
	struct ciel_space space = { .source = source, .layout = &layout, .levels = 4 };
	CHECK(ciel_space_read(&space, 0, &value, sizeof(value), &error) == CIEL_OK);
	CHECK_EQUAL(value, 44);
	ram[3 * 512] = 5 << 12 | 1;
	ciel_space_refresh(&space);
	CHECK(ciel_space_read(&space, 0, &value, sizeof(value), &error) == CIEL_OK);
	CHECK_EQUAL(value, 55);
	ram[3 * 512] = 0;
	ciel_space_refresh(&space);
	CHECK(ciel_space_read(&space, 0, &value, sizeof(value), &error) == CIEL_FAULTED);
	ciel_source_destroy(source);
}

/* The release is the guest's word, and goes into messages and file names. */
static void a_release_is_plain_text(void)
{
	static const char *const lies[] = { "../../etc/passwd", "a/b", ".hidden", "6.1\x1b[2J", "6.1 x", "6.1\xff", "" };
	static const char rest[] = "\nSYMBOL(swapper_pg_dir)=ffffffff82000000\nSYMBOL(init_uts_ns)=ffffffff82100000\n"
				   "OFFSET(uts_namespace.name)=4\nSYMBOL(_stext)=ffffffff81000000\nNUMBER(phys_base)=0\n";
	struct ciel_vmcoreinfo info;
	struct ciel_error error;
	char text[512];

	snprintf(text, sizeof(text), "OSRELEASE=6.1.0-13+deb12~x_y.z%s", rest);
	CHECK(ciel_vmcoreinfo_parse(text, strlen(text), &info, &error) == CIEL_OK);
	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		snprintf(text, sizeof(text), "OSRELEASE=%s%s", lies[i], rest);
		CHECK(ciel_vmcoreinfo_parse(text, strlen(text), &info, &error) == CIEL_MALFORMED);
	}
}

int main(void)
{
	a_hostile_guest_does_not_change_its_neighbours_offsets();
	a_dead_kernel_shows_by_its_clock();
	a_clock_is_told_from_other_words();
	translations_do_not_outlive_a_sample();
	a_release_is_plain_text();
	return 0;
}

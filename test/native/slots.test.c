/* SPDX-License-Identifier: Apache-2.0 */
/* Slots from BTF made by hand: every kind of question, and BTF that lies. */
#include <linux/btf.h>

#include "test.h"
#include "types/slots.h"

static struct {
	uint8_t types[8192];
	uint32_t types_length;
	char strings[4096];
	uint32_t strings_length;
	uint32_t next_id;
} builder;

static uint32_t string(const char *text)
{
	uint32_t at = builder.strings_length;

	strcpy(builder.strings + at, text);
	builder.strings_length += (uint32_t)strlen(text) + 1;
	return at;
}

static void put(const void *bytes, uint32_t length)
{
	memcpy(builder.types + builder.types_length, bytes, length);
	builder.types_length += length;
}

static uint32_t type(const char *name, uint32_t kind, uint32_t vlen, uint32_t flag, uint32_t size_or_type)
{
	struct btf_type entry = { .name_off = name ? string(name) : 0, .info = kind << 24 | vlen | flag << 31,
				  .size = size_or_type };
	put(&entry, sizeof(entry));
	return builder.next_id++;
}

static uint32_t integer(const char *name, uint32_t size, uint32_t encoding)
{
	uint32_t id = type(name, BTF_KIND_INT, 0, 0, size), data = encoding << 24 | size * 8;
	put(&data, sizeof(data));
	return id;
}

static void member(const char *name, uint32_t member_type, uint32_t bits)
{
	struct btf_member entry = { .name_off = name ? string(name) : 0, .type = member_type, .offset = bits };
	put(&entry, sizeof(entry));
}

static uint32_t array(uint32_t element, uint32_t count, uint32_t index)
{
	uint32_t id = type(NULL, BTF_KIND_ARRAY, 0, 0, 0);
	struct btf_array entry = { .type = element, .index_type = index, .nelems = count };
	put(&entry, sizeof(entry));
	return id;
}

static void enumerator(const char *name, int32_t value)
{
	struct btf_enum entry = { .name_off = string(name), .val = value };
	put(&entry, sizeof(entry));
}

static void begin(void)
{
	memset(&builder, 0, sizeof(builder));
	builder.strings_length = 1;
	builder.next_id = 1;
}

static uint32_t finish(uint8_t *out)
{
	struct btf_header header = {
		.magic = BTF_MAGIC,
		.version = 1,
		.hdr_len = sizeof(header),
		.type_len = builder.types_length,
		.str_off = builder.types_length,
		.str_len = builder.strings_length,
	};
	memcpy(out, &header, sizeof(header));
	memcpy(out + sizeof(header), builder.types, builder.types_length);
	memcpy(out + sizeof(header) + builder.types_length, builder.strings, builder.strings_length);
	return (uint32_t)sizeof(header) + builder.types_length + builder.strings_length;
}

/*
 * struct cgroup {                          size 96
 *	const u64 first;                    0
 *	struct { s32 inner; union { u8 deep; u16 wide; }; };   8, 12
 *	u64 counts[3];                      16
 *	struct stat { u64 usage; } stats[2];   40, 48
 *	void *pointer;                      56
 *	u32 bits : 3;                       64
 *	u8 big[16];                         72
 *	u64 flexible[];                     96
 * };
 */
static uint32_t make_kernel(uint8_t *out)
{
	begin();
	uint32_t u64_ = integer("long unsigned int", 8, 0), s32_ = integer("int", 4, BTF_INT_SIGNED);
	uint32_t u8_ = integer("unsigned char", 1, 0), u16_ = integer("short", 2, 0);
	uint32_t named = type("u64", BTF_KIND_TYPEDEF, 0, 0, u64_), constant = type(NULL, BTF_KIND_CONST, 0, 0, named);
	uint32_t counts = array(named, 3, u64_), big = array(u8_, 16, u64_), flexible = array(u64_, 0, u64_);
	uint32_t stat = type("stat", BTF_KIND_STRUCT, 1, 0, 8);
	member("usage", u64_, 0);
	uint32_t row = array(u16_, 3, u64_), rows = array(row, 2, u64_);
	type("table", BTF_KIND_STRUCT, 1, 0, 16);
	member("rows", rows, 32);
	uint32_t stats = array(stat, 2, u64_), pointer = type(NULL, BTF_KIND_PTR, 0, 0, stat);
	uint32_t inner_union = type(NULL, BTF_KIND_UNION, 2, 0, 2);
	member("deep", u8_, 0);
	member("wide", u16_, 0);
	uint32_t inner = type(NULL, BTF_KIND_STRUCT, 2, 0, 8);
	member("inner", s32_, 0);
	member(NULL, inner_union, 32);
	type("cgroup", BTF_KIND_FWD, 0, 0, 0);
	type("cgroup", BTF_KIND_STRUCT, 8, 1, 96);
	member("first", constant, 0);
	member(NULL, inner, 64);
	member("counts", counts, 128);
	member("stats", stats, 320);
	member("pointer", pointer, 448);
	member("bits", s32_, 3u << 24 | 512);
	member("big", big, 576);
	member("flexible", flexible, 768);
	type("colour", BTF_KIND_ENUM, 2, 0, 4);
	enumerator("red", 3);
	enumerator("blue", -1);
	type(NULL, BTF_KIND_ENUM, 1, 0, 4);
	enumerator("nameless", 16);
	uint32_t anonymous = type(NULL, BTF_KIND_STRUCT, 1, 0, 4);
	member("only", s32_, 0);
	type("alias_t", BTF_KIND_TYPEDEF, 0, 0, anonymous);
	return finish(out);
}

static struct ciel_slot ask(const uint8_t *btf, uint32_t length, uint32_t kind, const char *record, const char *path)
{
	struct ciel_slot_desc descriptor = { .kind = kind, .record = record, .path = path };
	struct ciel_slot slot;
	struct ciel_error error = { 0 };

	if (ciel_slots_resolve(btf, length, &descriptor, 1, &slot, &error)) {
		fprintf(stderr, "%s\n", error.message);
		CHECK(0);
	}
	return slot;
}

static const struct {
	uint32_t kind;
	const char *record, *path;
	int available;
	uint64_t value;
	uint32_t size;
	int is_signed;
} questions[] = {
	{ CIEL_SLOT_FIELD_OFFSET, "cgroup", "first", 1, 0, 8, 0 },
	{ CIEL_SLOT_FIELD_OFFSET, "cgroup", "inner", 1, 8, 4, 1 },
	{ CIEL_SLOT_FIELD_OFFSET, "cgroup", "deep", 1, 12, 1, 0 },
	{ CIEL_SLOT_FIELD_OFFSET, "cgroup", "wide", 1, 12, 2, 0 },
	{ CIEL_SLOT_FIELD_OFFSET, "cgroup", "counts", 1, 16, 0, 0 },
	{ CIEL_SLOT_FIELD_OFFSET, "cgroup", "counts[2]", 1, 32, 8, 0 },
	{ CIEL_SLOT_FIELD_OFFSET, "cgroup", "counts[3]", 0, 0, 0, 0 },
	{ CIEL_SLOT_FIELD_OFFSET, "cgroup", "stats[1].usage", 1, 48, 8, 0 },
	{ CIEL_SLOT_FIELD_OFFSET, "cgroup", "pointer", 1, 56, 8, 0 },
	{ CIEL_SLOT_FIELD_OFFSET, "cgroup", "pointer.usage", 0, 0, 0, 0 },
	{ CIEL_SLOT_FIELD_OFFSET, "cgroup", "bits", 0, 0, 0, 0 },
	{ CIEL_SLOT_FIELD_OFFSET, "cgroup", "big", 1, 72, 0, 0 },
	{ CIEL_SLOT_FIELD_OFFSET, "cgroup", "flexible[5]", 1, 136, 8, 0 },
	{ CIEL_SLOT_FIELD_OFFSET, "cgroup", "absent", 0, 0, 0, 0 },
	{ CIEL_SLOT_FIELD_OFFSET, "absent", "first", 0, 0, 0, 0 },
	{ CIEL_SLOT_FIELD_OFFSET, "alias_t", "only", 1, 0, 4, 1 },
	{ CIEL_SLOT_FIELD_OFFSET, "table", "rows[0]", 1, 4, 2, 0 },
	{ CIEL_SLOT_FIELD_OFFSET, "table", "rows[5]", 1, 14, 2, 0 },
	{ CIEL_SLOT_FIELD_OFFSET, "table", "rows[6]", 0, 0, 0, 0 },
	{ CIEL_SLOT_ELEMENT_SIZE, "table", "rows", 1, 2, 0, 0 },
	{ CIEL_SLOT_FIELD_EXISTS, "cgroup", "stats[0].usage", 1, 1, 0, 0 },
	{ CIEL_SLOT_FIELD_EXISTS, "cgroup", "bits", 1, 1, 0, 0 },
	{ CIEL_SLOT_FIELD_EXISTS, "cgroup", "absent", 1, 0, 0, 0 },
	{ CIEL_SLOT_FIELD_SIZE, "cgroup", "counts", 1, 24, 0, 0 },
	{ CIEL_SLOT_ELEMENT_SIZE, "cgroup", "stats", 1, 8, 0, 0 },
	{ CIEL_SLOT_ELEMENT_SIZE, "cgroup", "pointer", 1, 8, 0, 0 },
	{ CIEL_SLOT_ELEMENT_SIZE, "cgroup", "first", 0, 0, 0, 0 },
	{ CIEL_SLOT_TYPE_SIZE, "cgroup", "", 1, 96, 0, 0 },
	{ CIEL_SLOT_TYPE_SIZE, "absent", "", 0, 0, 0, 0 },
	{ CIEL_SLOT_TYPE_EXISTS, "stat", "", 1, 1, 0, 0 },
	{ CIEL_SLOT_TYPE_EXISTS, "absent", "", 1, 0, 0, 0 },
	{ CIEL_SLOT_ENUM_VALUE, "colour", "red", 1, 3, 0, 0 },
	{ CIEL_SLOT_ENUM_VALUE, "colour", "blue", 1, UINT64_MAX, 0, 0 },
	{ CIEL_SLOT_ENUM_VALUE, "colour", "green", 0, 0, 0, 0 },
	{ CIEL_SLOT_ENUM_VALUE, "", "nameless", 1, 16, 0, 0 },
	{ CIEL_SLOT_ENUM_EXISTS, "colour", "green", 1, 0, 0, 0 },
	{ CIEL_SLOT_ENUM_EXISTS, "", "nameless", 1, 1, 0, 0 },
	{ CIEL_SLOT_SYMBOL, "", "init_task", 0, 0, 0, 0 },
};

static void questions_are_answered(void)
{
	uint8_t btf[16384];
	uint32_t length = make_kernel(btf);

	for (size_t i = 0; i < sizeof(questions) / sizeof(questions[0]); i++) {
		struct ciel_slot slot = ask(btf, length, questions[i].kind, questions[i].record, questions[i].path);
		if (slot.available != questions[i].available || slot.value != questions[i].value ||
		    slot.size != questions[i].size || slot.is_signed != questions[i].is_signed) {
			fprintf(stderr, "question %zu, %s.%s: available %d, value %llu, size %u, signed %d\n", i, questions[i].record,
				questions[i].path, slot.available, (unsigned long long)slot.value, slot.size, slot.is_signed);
			exit(1);
		}
	}
}

static void a_member_outside_of_its_record_is_not_available(void)
{
	uint8_t btf[16384];

	begin();
	uint32_t u64_ = integer("long", 8, 0);
	type("cgroup", BTF_KIND_STRUCT, 2, 0, 16);
	member("good", u64_, 64);
	member("beyond", u64_, 72);
	uint32_t length = finish(btf);
	CHECK(ask(btf, length, CIEL_SLOT_FIELD_OFFSET, "cgroup", "good").available);
	CHECK(!ask(btf, length, CIEL_SLOT_FIELD_OFFSET, "cgroup", "beyond").available);
}

static void types_that_refer_to_themselves_end(void)
{
	uint8_t btf[16384];

	begin();
	uint32_t loop = type("loop", BTF_KIND_TYPEDEF, 0, 0, 1);     /* typedef loop loop; */
	uint32_t endless = type(NULL, BTF_KIND_ARRAY, 0, 0, 0);       /* an array of itself */
	struct btf_array of_itself = { .type = endless, .index_type = endless, .nelems = 0xffffffff };
	put(&of_itself, sizeof(of_itself));
	/* An anonymous struct with many anonymous members of its own type: 20^depth look-ups without a bound. */
	uint32_t own = builder.next_id;
	type(NULL, BTF_KIND_STRUCT, 20, 0, 8);
	for (int i = 0; i < 20; i++)
		member(NULL, own, 0);
	type("cgroup", BTF_KIND_STRUCT, 4, 0, 64);
	member(NULL, own, 0);
	member("loop", loop, 0);
	member("endless", endless, 0);
	member("wild", 0xfffffff0, 0);
	uint32_t length = finish(btf);
	CHECK(!ask(btf, length, CIEL_SLOT_FIELD_OFFSET, "cgroup", "absent").available);
	CHECK(!ask(btf, length, CIEL_SLOT_FIELD_OFFSET, "cgroup", "loop").available);
	CHECK(!ask(btf, length, CIEL_SLOT_FIELD_SIZE, "cgroup", "endless").available);
	CHECK(!ask(btf, length, CIEL_SLOT_FIELD_OFFSET, "cgroup", "endless[1]").available);
	CHECK(!ask(btf, length, CIEL_SLOT_FIELD_OFFSET, "cgroup", "wild").available);
}

static void what_is_no_btf_is_refused(void)
{
	uint8_t btf[16384];
	uint32_t length = make_kernel(btf);
	struct ciel_slot_desc descriptor = { CIEL_SLOT_TYPE_SIZE, "cgroup", "" };
	struct ciel_slot slot;
	struct ciel_error error;

	for (uint32_t shorter = 0; shorter < length; shorter += 7)
		CHECK(ciel_slots_resolve(btf, shorter, &descriptor, 1, &slot, &error) == CIEL_NO_TYPES);
	btf[0] = 0;
	CHECK(ciel_slots_resolve(btf, length, &descriptor, 1, &slot, &error) == CIEL_NO_TYPES);
}

/* Mutated BTF: no crash, and whatever offset comes out lies within what the type claims to be. */
static void mutated_btf_does_not_crash(void)
{
	struct ciel_slot_desc descriptors[sizeof(questions) / sizeof(questions[0])];
	struct ciel_slot slots[sizeof(questions) / sizeof(questions[0])];
	uint32_t count = sizeof(questions) / sizeof(questions[0]);
	uint8_t btf[16384];
	struct ciel_error error;
	uint64_t seed = 362436069;

	for (uint32_t i = 0; i < count; i++)
		descriptors[i] = (struct ciel_slot_desc){ questions[i].kind, questions[i].record, questions[i].path };
	for (int round = 0; round < 20000; round++) {
		uint32_t length = make_kernel(btf);
		for (int i = 0; i < 4; i++) {
			seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
			btf[(seed >> 8) % length] = (uint8_t)(seed >> 40);
		}
		ciel_slots_resolve(btf, length, descriptors, count, slots, &error);
	}
}

int main(void)
{
	questions_are_answered();
	a_member_outside_of_its_record_is_not_available();
	types_that_refer_to_themselves_end();
	what_is_no_btf_is_refused();
	mutated_btf_does_not_crash();
	return 0;
}

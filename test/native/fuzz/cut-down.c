/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut-down DUMP SEED: makes a dump of a real guest small enough to be kept in the repository, as a seed of the fuzzers.
 *
 * What is left is a kdump file with the pages that an attach and a sample read: page tables, cgroup trees, per-CPU data as
 * they were. Only the two large tables are replaced, at their own addresses: kallsyms by one that holds nothing but the
 * symbols that are asked for, and BTF by one that holds nothing but the records and enums that are asked for, with all of
 * their members. The seed must then give the same sample as the dump, or nothing is written.
 */
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <unistd.h>

#include "loaded-ram.h"

const char *__asan_default_options(void);

/* ---- kallsyms ---- */

static void write_guest(struct ciel_guest *guest, struct loaded_ram *ram, uint64_t address, const void *bytes, size_t length)
{
	struct ciel_error error;

	for (size_t done = 0; done < length;) {
		struct ciel_extent extent;
		CHECK(ciel_space_walk(&guest->space, address + done, &extent, &error) == CIEL_OK);
		size_t piece = extent.left < length - done ? (size_t)extent.left : length - done;
		memcpy(ram->bytes + extent.offset, (const uint8_t *)bytes + done, piece);
		done += piece;
	}
}

static uint64_t read_guest_word(struct ciel_guest *guest, uint64_t address)
{
	struct ciel_error error;
	uint64_t word;

	CHECK(ciel_space_read(&guest->space, address, &word, sizeof(word), &error) == CIEL_OK);
	return word;
}

struct small_kallsyms {
	uint8_t names[65536];
	int32_t offsets[4096];
	uint32_t length, count;
};

/* base 0: offsets are relative to their own place (from 7.0 on), from `place` on. */
static void add_symbol(struct small_kallsyms *table, uint64_t base, uint64_t place, const char *name, uint64_t address)
{
	size_t length = strlen(name) + 1;

	CHECK(length < 128 && table->length + length + 1 < sizeof(table->names) && table->count < 4096);
	table->names[table->length++] = (uint8_t)length;
	table->names[table->length++] = 'D';
	memcpy(table->names + table->length, name, length - 1);
	table->length += (uint32_t)length - 1;
	/* The encoding "absolute-percpu": small values as they are, addresses from the base downward. */
	int32_t from_base = address < base ? (int32_t)address : (int32_t)(base - 1 - address);
	table->offsets[table->count] = base ? from_base : (int32_t)(address - (place + table->count * 4ull));
	table->count++;
}

static void replace_kallsyms(struct ciel_guest *guest, struct loaded_ram *ram, uint64_t stop_btf)
{
	static struct small_kallsyms table;
	const struct ciel_vmcoreinfo *info = &guest->info;
	uint64_t base = info->kallsyms_relative_base ? read_guest_word(guest, info->kallsyms_relative_base) : 0;
	uint32_t count;
	const struct ciel_slot_desc *descriptors = ciel_all_descriptors(&count);
	uint16_t index[256];
	uint8_t tokens[512];

	if (!info->kallsyms_names || !info->kallsyms_offsets) {
		fprintf(stderr, "VMCOREINFO of %s does not say where kallsyms is: it cannot be replaced\n", info->release);
		exit(1);
	}

	/* Reading goes ahead of what is needed, so what is left of the old names would be in the seed. */
	static const uint8_t zeros[2 << 16];
	write_guest(guest, ram, info->kallsyms_names, zeros, sizeof(zeros));
	add_symbol(&table, base, info->kallsyms_offsets, "_stext", info->text_start);
	for (uint32_t i = 0; i < count; i++) {
		const struct ciel_slot *slot = &guest->slots[i];
		const char *name = descriptors[i].path;
		if (descriptors[i].kind == CIEL_SLOT_SYMBOL && slot->available)
			add_symbol(&table, base, info->kallsyms_offsets, name, strcmp(name, "__stop_BTF") == 0 ? stop_btf : slot->value);
	}
	for (uint32_t i = 0; i < 256; i++) {
		index[i] = (uint16_t)(i * 2);
		tokens[i * 2] = (uint8_t)i;
		tokens[i * 2 + 1] = 0;
	}
	write_guest(guest, ram, info->kallsyms_names, table.names, table.length);
	write_guest(guest, ram, info->kallsyms_count, &table.count, sizeof(table.count));
	write_guest(guest, ram, info->kallsyms_token_table, tokens, sizeof(tokens));
	write_guest(guest, ram, info->kallsyms_token_index, index, sizeof(index));
	write_guest(guest, ram, info->kallsyms_offsets, table.offsets, table.count * sizeof(table.offsets[0]));
}

/* ---- BTF ---- */

struct pointer {
	uint32_t copied, pointee;
};

struct copier {
	const struct btf *from;
	struct btf *to;
	uint32_t *copies; /* by the original's id */
	struct pointer *pointers;
	uint32_t pointer_count;
};

static uint32_t copy_type(struct copier *copier, uint32_t id);

static void copy_members(struct copier *copier, const struct btf_type *record, const uint32_t *types)
{
	const struct btf_member *members = btf_members(record);

	for (uint32_t i = 0; i < btf_vlen(record); i++)
		CHECK(btf__add_field(copier->to, btf__str_by_offset(copier->from, members[i].name_off), (int)types[i],
				     btf_member_bit_offset(record, i), btf_member_bitfield_size(record, i)) == 0);
}

static int copy_record(struct copier *copier, const struct btf_type *record, const char *name)
{
	uint32_t *types = calloc(btf_vlen(record) + 1, sizeof(*types));

	for (uint32_t i = 0; i < btf_vlen(record); i++)
		types[i] = copy_type(copier, btf_members(record)[i].type);
	int id = btf_is_struct(record) ? btf__add_struct(copier->to, name, record->size) :
					 btf__add_union(copier->to, name, record->size);
	copy_members(copier, record, types);
	free(types);
	return id;
}

static int copy_enum(struct copier *copier, const struct btf_type *type, const char *name)
{
	int is_wide = btf_is_enum64(type);
	int id = is_wide ? btf__add_enum64(copier->to, name, type->size, btf_kflag(type)) :
			   btf__add_enum(copier->to, name, type->size);

	for (uint32_t i = 0; i < btf_vlen(type); i++) {
		if (is_wide)
			CHECK(btf__add_enum64_value(copier->to, btf__str_by_offset(copier->from, btf_enum64(type)[i].name_off),
						    btf_enum64_value(&btf_enum64(type)[i])) == 0);
		else
			CHECK(btf__add_enum_value(copier->to, btf__str_by_offset(copier->from, btf_enum(type)[i].name_off),
						  btf_enum(type)[i].val) == 0);
	}
	return id;
}

static uint32_t copy_type(struct copier *copier, uint32_t id)
{
	if (id == 0 || copier->copies[id])
		return id ? copier->copies[id] : 0;
	const struct btf_type *type = btf__type_by_id(copier->from, id);
	const char *name = btf__str_by_offset(copier->from, type->name_off);
	uint32_t inner;
	int copied;

	switch (btf_kind(type)) {
	case BTF_KIND_INT:
		copied = btf__add_int(copier->to, name, type->size, btf_int_encoding(type));
		break;
	case BTF_KIND_ENUM:
	case BTF_KIND_ENUM64:
		copied = copy_enum(copier, type, name);
		break;
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
		copied = copy_record(copier, type, name);
		break;
	case BTF_KIND_ARRAY:
		inner = copy_type(copier, btf_array(type)->type);
		copied = btf__add_array(copier->to, (int)copy_type(copier, btf_array(type)->index_type), (int)inner,
					btf_array(type)->nelems);
		break;
	case BTF_KIND_TYPEDEF:
		inner = copy_type(copier, type->type);
		copied = btf__add_typedef(copier->to, name, (int)inner);
		break;
	case BTF_KIND_CONST:
	case BTF_KIND_VOLATILE:
	case BTF_KIND_RESTRICT:
	case BTF_KIND_TYPE_TAG:
		inner = copy_type(copier, type->type);
		copied = btf__add_const(copier->to, (int)inner);
		break;
	case BTF_KIND_PTR:
		/* What it points to is there only when something else asks for it: else half the kernel would follow. */
		copied = btf__add_ptr(copier->to, 0);
		copier->pointers = realloc(copier->pointers, (copier->pointer_count + 1) * sizeof(*copier->pointers));
		copier->pointers[copier->pointer_count++] = (struct pointer){ .copied = (uint32_t)copied, .pointee = type->type };
		break;
	default:
		return 0;
	}
	CHECK(copied > 0);
	copier->copies[id] = (uint32_t)copied;
	return (uint32_t)copied;
}

static int has_enumerator(const struct btf *btf, const struct btf_type *type, const char *wanted)
{
	for (uint32_t i = 0; i < btf_vlen(type); i++) {
		uint32_t name = btf_is_enum64(type) ? btf_enum64(type)[i].name_off : btf_enum(type)[i].name_off;
		if (strcmp(btf__str_by_offset(btf, name), wanted) == 0)
			return 1;
	}
	return 0;
}

static int is_asked_for(const struct btf *btf, const struct btf_type *type)
{
	uint32_t count;
	const struct ciel_slot_desc *descriptors = ciel_all_descriptors(&count);
	const char *name = btf__str_by_offset(btf, type->name_off);

	if (!btf_is_composite(type) && !btf_is_any_enum(type) && !btf_is_typedef(type))
		return 0;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t kind = descriptors[i].kind;
		if (kind == CIEL_SLOT_SYMBOL || kind == CIEL_SLOT_SYMBOL_EXISTS)
			continue;
		if (name[0] ? strcmp(name, descriptors[i].record) == 0 :
			      descriptors[i].record[0] == '\0' && btf_is_any_enum(type) &&
				      has_enumerator(btf, type, descriptors[i].path))
			return 1;
	}
	return 0;
}

static uint64_t replace_btf(struct ciel_guest *guest, struct loaded_ram *ram)
{
	uint64_t start = ciel_core_value(guest, CIEL_CORE_START_BTF), stop = ciel_core_value(guest, CIEL_CORE_STOP_BTF);
	uint8_t *bytes = malloc(stop - start);
	struct ciel_error error;

	CHECK(bytes && ciel_space_read(&guest->space, start, bytes, stop - start, &error) == CIEL_OK);
	struct copier copier = { .from = btf__new(bytes, (uint32_t)(stop - start)), .to = btf__new_empty() };
	uint32_t count = btf__type_cnt(copier.from), size;
	copier.copies = calloc(count, sizeof(*copier.copies));
	for (uint32_t id = 1; id < count; id++) {
		if (is_asked_for(copier.from, btf__type_by_id(copier.from, id)))
			copy_type(&copier, id);
	}
	for (uint32_t i = 0; i < copier.pointer_count; i++) {
		struct btf_type *pointer = (struct btf_type *)btf__type_by_id(copier.to, copier.pointers[i].copied);
		pointer->type = copier.copies[copier.pointers[i].pointee];
	}
	const void *raw = btf__raw_data(copier.to, &size);
	CHECK(raw && size <= stop - start);
	write_guest(guest, ram, start, raw, size);
	printf("BTF: %u of %u types, %u of %llu bytes\n", btf__type_cnt(copier.to), count, size, (unsigned long long)(stop - start));
	return start + size;
}

/* ---- the whole ---- */

static struct ciel_guest *attach(struct loaded_ram *ram)
{
	struct ciel_source *source = loaded_ram_source(ram);
	struct ciel_attach_report report = { 0 };
	struct ciel_guest *guest;
	struct ciel_error error = { 0 };

	if (ciel_guest_attach(source, &ram->layout, NULL, &guest, &report, &error)) {
		fprintf(stderr, "attach: %s\n", error.message);
		exit(1);
	}
	guest->detail = 1;
	return guest;
}

static uint32_t sample(struct ciel_guest *guest, uint8_t *buffer, uint32_t capacity)
{
	struct ciel_error error;

	if (ciel_sample(guest, buffer, capacity, &error)) {
		fprintf(stderr, "sample: %s\n", error.message);
		exit(1);
	}
	struct ciel_sample_header *header = (struct ciel_sample_header *)buffer;
	header->at_ns = header->elapsed_ns = 0;
	return header->bytes;
}

/* A tool that ends when it is done: what it still holds then is nobody's loss. */
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}

int main(int argc, char **argv)
{
	static uint64_t before[1 << 17], after[1 << 17];

	if (argc != 3) {
		fprintf(stderr, "usage: cut-down DUMP SEED\n");
		return 1;
	}
	struct loaded_ram ram = load_ram(argv[1]);
	struct ciel_guest *guest = attach(&ram);
	uint32_t length = sample(guest, (uint8_t *)before, sizeof(before));
	uint64_t stop_btf = replace_btf(guest, &ram);
	replace_kallsyms(guest, &ram, stop_btf);
	ciel_guest_destroy(guest);

	ram.is_recording = 1;
	guest = attach(&ram);
	CHECK_EQUAL(sample(guest, (uint8_t *)after, sizeof(after)), length);
	CHECK(memcmp(before, after, length) == 0);

	struct dump_content content = { .ram = ram.bytes, .present = ram.was_read };
	for (uint64_t page = 0; page < ram.size / CIEL_PAGE_SIZE; page++) {
		if (ram.was_read[page])
			content.pages = (uint32_t)page + 1;
	}
	struct dump_buffer seed = write_kdump(&content, WRITE_ZSTD);
	int file = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC, 0644);
	CHECK(file >= 0 && write(file, seed.bytes, seed.length) == (ssize_t)seed.length);
	printf("%u containers, %zu bytes\n", ((struct ciel_sample_header *)after)->container_count, seed.length);
	return 0;
}

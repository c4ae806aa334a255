/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From BTF to slots.
 *
 * libbpf's btf__new() copies the bytes, checks that header, type and string sections lie within them, and splits the type
 * section into types. It does not check what types refer to. So here every reference goes through btf__type_by_id() and
 * btf__str_by_offset(), which refuse what is out of range, and
 *   - a chain of typedefs, qualifiers and arrays is followed at most MAX_CHAIN steps (a typedef may name itself);
 *   - anonymous members are searched at most MAX_NESTING deep, and all look-ups together visit at most MAX_VISITS members
 *     (nested anonymous members could otherwise multiply without end);
 *   - sizes and offsets are added with overflow checks, and a member must lie within its record, so no slot points
 *     outside of what its kernel type is.
 *
 * How a path is resolved, in the record `cgroup` the path `rstat_css.count[2].items`:
 *   1. the name up to the next '.' or '[' is looked up among the record's members, those of anonymous members included;
 *      its bit offset is added;
 *   2. each [i] needs an array; i must be below its length, except in a flexible array, whose length is 0;
 *   3. at a '.', the type, qualifiers and typedefs stripped, must be a struct or union: back to 1.
 * A pointer inside a path is a load of its own and therefore never part of one path.
 *
 * A kernel may have several types of one name (from different source files): the first that has the path is taken.
 */
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../cleanup.h"
#include "slots.h"

enum {
	MAX_CHAIN = 32,
	MAX_NESTING = 8,
	MAX_VISITS = 4 << 20,
	MAX_SAME_NAME = 16,
	MAX_PATH_NAME = 64,
	MAX_INDEX = 1 << 20,
	NAME_BUCKETS = 1024,
	MAX_NAMELESS_ENUMS = 32768,
};

/* Every record and enum that a descriptor names, with the types of that name. */
struct named_types {
	const char *name;
	uint32_t ids[MAX_SAME_NAME];
	uint32_t count;
	int32_t next; /* in the same bucket, or -1 */
};

struct resolver {
	struct btf *btf;
	struct named_types *names;
	uint32_t name_count;
	int32_t buckets[NAME_BUCKETS];
	uint32_t *nameless_enums; /* ids: a descriptor with an empty record asks for an enumerator of any of them */
	uint32_t nameless_count;
	uint32_t visits;
};

static void free_btf(struct btf **btf)
{
	btf__free(*btf);
}

static uint32_t hash_name(const char *name)
{
	uint32_t hash = 2166136261u;

	for (; *name; name++)
		hash = (hash ^ (uint8_t)*name) * 16777619u;
	return hash % NAME_BUCKETS;
}

static struct named_types *find_name(const struct resolver *resolver, const char *name)
{
	for (int32_t i = resolver->buckets[hash_name(name)]; i >= 0; i = resolver->names[i].next) {
		if (strcmp(resolver->names[i].name, name) == 0)
			return &resolver->names[i];
	}
	return NULL;
}

static int names_a_type(const struct btf_type *type)
{
	return btf_is_composite(type) || btf_is_typedef(type) || btf_is_any_enum(type);
}

static void index_types(struct resolver *resolver)
{
	uint32_t count = btf__type_cnt(resolver->btf);

	for (uint32_t id = 1; id < count; id++) {
		const struct btf_type *type = btf__type_by_id(resolver->btf, id);
		if (!type || !names_a_type(type))
			continue;
		if (type->name_off == 0) {
			if (btf_is_any_enum(type) && resolver->nameless_count < MAX_NAMELESS_ENUMS)
				resolver->nameless_enums[resolver->nameless_count++] = id;
			continue;
		}
		const char *name = btf__str_by_offset(resolver->btf, type->name_off);
		struct named_types *names = name ? find_name(resolver, name) : NULL;
		if (names && names->count < MAX_SAME_NAME)
			names->ids[names->count++] = id;
	}
}

/* Through typedefs and qualifiers; NULL when a reference or the chain is broken. */
static const struct btf_type *strip(const struct resolver *resolver, uint32_t id)
{
	for (int i = 0; i < MAX_CHAIN; i++) {
		const struct btf_type *type = id ? btf__type_by_id(resolver->btf, id) : NULL;
		if (!type)
			return NULL;
		if (!btf_is_mod(type) && !btf_is_typedef(type))
			return type;
		id = type->type;
	}
	return NULL;
}

static int size_of(const struct resolver *resolver, uint32_t id, uint64_t *ret)
{
	uint64_t elements = 1;

	for (int i = 0; i < MAX_CHAIN; i++) {
		const struct btf_type *type = strip(resolver, id);
		if (!type)
			return 0;
		switch (btf_kind(type)) {
		case BTF_KIND_INT:
		case BTF_KIND_ENUM:
		case BTF_KIND_ENUM64:
		case BTF_KIND_STRUCT:
		case BTF_KIND_UNION:
		case BTF_KIND_FLOAT:
			return !__builtin_mul_overflow(elements, (uint64_t)type->size, ret);
		case BTF_KIND_PTR:
			return !__builtin_mul_overflow(elements, (uint64_t)sizeof(uint64_t), ret);
		case BTF_KIND_ARRAY:
			if (__builtin_mul_overflow(elements, (uint64_t)btf_array(type)->nelems, &elements))
				return 0;
			id = btf_array(type)->type;
			break;
		default:
			return 0; /* functions, forward declarations: no size */
		}
	}
	return 0;
}

struct position {
	uint32_t type; /* id */
	uint64_t bits; /* from the start of the outermost record */
	uint8_t is_bit_field;
	uint8_t byte_field; /* of a bit-field that is made of whole bytes ("u8 kind : 8"): how many. One load reads it */
	uint8_t is_flexible; /* behind a flexible array: beyond the record's size by nature */
};

/* Looks a member up by name, in anonymous members too. 1 found, 0 not. */
static int find_member(struct resolver *resolver, const struct btf_type *record, const char *name, size_t length,
		       int nesting, struct position *position)
{
	if (nesting > MAX_NESTING)
		return 0;
	const struct btf_member *members = btf_members(record);
	for (uint32_t i = 0; i < btf_vlen(record); i++) {
		if (++resolver->visits > MAX_VISITS)
			return 0;
		uint32_t bit_offset = btf_member_bit_offset(record, i);
		if (members[i].name_off == 0) {
			const struct btf_type *inner = strip(resolver, members[i].type);
			if (!inner || !btf_is_composite(inner))
				continue;
			struct position found = *position;
			if (!find_member(resolver, inner, name, length, nesting + 1, &found))
				continue;
			found.bits += bit_offset;
			*position = found;
			return 1;
		}
		const char *member_name = btf__str_by_offset(resolver->btf, members[i].name_off);
		if (!member_name || strncmp(member_name, name, length) != 0 || member_name[length])
			continue;
		position->bits += bit_offset;
		position->type = members[i].type;
		uint32_t bit_size = btf_member_bitfield_size(record, i);
		position->is_bit_field = bit_size != 0 || bit_offset % 8 != 0;
		position->byte_field = bit_offset % 8 == 0 && (bit_size == 8 || bit_size == 16 || bit_size == 32) ?
					       (uint8_t)(bit_size / 8) :
					       0;
		return 1;
	}
	return 0;
}

/*
 * What an array is made of, and how many. int x[2][7] is 14 integers: older kernels' BTF says nothing else, newer ones' says
 * 2 arrays of 7.
 */
static int flatten(const struct resolver *resolver, const struct btf_type *array, uint32_t *ret_element, uint64_t *ret_count)
{
	uint64_t count = 1;

	for (int i = 0; i < MAX_CHAIN && array; i++) {
		uint32_t element = btf_array(array)->type;
		if (__builtin_mul_overflow(count, (uint64_t)btf_array(array)->nelems, &count))
			return 0;
		array = strip(resolver, element);
		if (array && !btf_is_array(array)) {
			*ret_element = element;
			*ret_count = count;
			return 1;
		}
	}
	return 0;
}

static int step_into_array(const struct resolver *resolver, const char **path, struct position *position)
{
	const struct btf_type *array = strip(resolver, position->type);
	char *end;
	unsigned long index = strtoul(*path + 1, &end, 10);
	uint32_t element;
	uint64_t count, size;

	if (!array || !btf_is_array(array) || end == *path + 1 || *end != ']' || index > MAX_INDEX)
		return 0;
	if (!flatten(resolver, array, &element, &count))
		return 0;
	if (count == 0)
		position->is_flexible = 1;
	else if (index >= count)
		return 0;
	if (!size_of(resolver, element, &size) || size > UINT32_MAX)
		return 0;
	position->bits += index * size * 8; /* below 2^20 · 2^32 · 2^3 */
	position->type = element;
	*path = end + 1;
	return 1;
}

static int resolve_path(struct resolver *resolver, uint32_t record, const char *path, struct position *ret)
{
	struct position position = { .type = record };
	uint64_t record_size, size;

	while (*path) {
		size_t length = strcspn(path, ".[");
		const struct btf_type *type = strip(resolver, position.type);
		if (length > 0) {
			if (!type || !btf_is_composite(type) || position.is_bit_field || length > MAX_PATH_NAME ||
			    !find_member(resolver, type, path, length, 0, &position))
				return 0;
			path += length;
		}
		while (*path == '[') {
			if (!step_into_array(resolver, &path, &position))
				return 0;
		}
		if (*path == '.')
			path++;
		else if (*path)
			return 0;
	}

	/* The member lies within its record. A flexible array's elements cannot; a forward-declared type has no size. */
	if (!size_of(resolver, record, &record_size))
		return 0;
	if (!position.is_flexible) {
		if (!size_of(resolver, position.type, &size))
			return 0;
		uint64_t offset = position.bits / 8;
		if (offset > record_size || (!position.is_bit_field && size > record_size - offset))
			return 0;
	}
	*ret = position;
	return 1;
}

/* The first type of the descriptor's record that has the path. */
static int find_path(struct resolver *resolver, const struct ciel_slot_desc *descriptor, struct position *ret)
{
	const struct named_types *names = find_name(resolver, descriptor->record);

	for (uint32_t i = 0; names && i < names->count; i++) {
		if (resolve_path(resolver, names->ids[i], descriptor->path, ret))
			return 1;
	}
	return 0;
}

static struct ciel_slot available(uint64_t value)
{
	return (struct ciel_slot){ .value = value, .available = 1 };
}

/* Size and sign of a member that one load can read. */
static void describe_scalar(const struct resolver *resolver, uint32_t id, struct ciel_slot *slot)
{
	const struct btf_type *type = strip(resolver, id);
	uint64_t size;

	if (!type || !(btf_is_int(type) || btf_is_any_enum(type) || btf_is_ptr(type)) || !size_of(resolver, id, &size))
		return;
	if (size != 1 && size != 2 && size != 4 && size != 8)
		return;
	slot->size = (uint32_t)size;
	slot->is_signed = btf_is_int(type) ? (btf_int_encoding(type) & BTF_INT_SIGNED) != 0 :
					     btf_is_any_enum(type) && btf_kflag(type);
}

static struct ciel_slot field_slot(struct resolver *resolver, const struct ciel_slot_desc *descriptor)
{
	struct position position;
	struct ciel_slot slot = { 0 };
	uint64_t size;

	int found = find_path(resolver, descriptor, &position);
	if (descriptor->kind == CIEL_SLOT_FIELD_EXISTS)
		return available((uint64_t)found);
	int is_offset = descriptor->kind == CIEL_SLOT_FIELD_OFFSET;
	if (!found || (position.is_bit_field && !(is_offset && position.byte_field)))
		return slot;

	if (is_offset) {
		slot = available(position.bits / 8);
		describe_scalar(resolver, position.type, &slot);
		if (position.byte_field && slot.size)
			slot.size = position.byte_field;
		return slot;
	}
	if (descriptor->kind == CIEL_SLOT_ELEMENT_SIZE) {
		const struct btf_type *type = strip(resolver, position.type);
		if (!type || !(btf_is_array(type) || btf_is_ptr(type)))
			return slot;
		uint64_t ignored;
		if (btf_is_ptr(type))
			position.type = type->type;
		else if (!flatten(resolver, type, &position.type, &ignored))
			return slot;
	}
	return size_of(resolver, position.type, &size) ? available(size) : slot;
}

static struct ciel_slot type_slot(const struct resolver *resolver, const struct ciel_slot_desc *descriptor)
{
	const struct named_types *names = find_name(resolver, descriptor->record);
	uint64_t size;

	for (uint32_t i = 0; names && i < names->count; i++) {
		if (size_of(resolver, names->ids[i], &size))
			return available(descriptor->kind == CIEL_SLOT_TYPE_EXISTS ? 1 : size);
	}
	return descriptor->kind == CIEL_SLOT_TYPE_EXISTS ? available(0) : (struct ciel_slot){ 0 };
}

static int find_enumerator(const struct resolver *resolver, uint32_t id, const char *name, uint64_t *ret)
{
	const struct btf_type *type = strip(resolver, id);

	if (!type || !btf_is_any_enum(type))
		return 0;
	for (uint32_t i = 0; i < btf_vlen(type); i++) {
		int is_wide = btf_is_enum64(type);
		uint32_t name_offset = is_wide ? btf_enum64(type)[i].name_off : btf_enum(type)[i].name_off;
		const char *found = btf__str_by_offset(resolver->btf, name_offset);
		if (!found || strcmp(found, name) != 0)
			continue;
		*ret = is_wide ? btf_enum64_value(&btf_enum64(type)[i]) : (uint64_t)(int64_t)btf_enum(type)[i].val;
		return 1;
	}
	return 0;
}

static struct ciel_slot enum_slot(const struct resolver *resolver, const struct ciel_slot_desc *descriptor)
{
	const struct named_types *names = find_name(resolver, descriptor->record);
	int is_nameless = descriptor->record[0] == '\0';
	const uint32_t *ids = is_nameless ? resolver->nameless_enums : names ? names->ids : NULL;
	uint32_t count = is_nameless ? resolver->nameless_count : names ? names->count : 0;
	uint64_t value;

	for (uint32_t i = 0; i < count; i++) {
		if (find_enumerator(resolver, ids[i], descriptor->path, &value))
			return available(descriptor->kind == CIEL_SLOT_ENUM_EXISTS ? 1 : value);
	}
	return descriptor->kind == CIEL_SLOT_ENUM_EXISTS ? available(0) : (struct ciel_slot){ 0 };
}

static struct ciel_slot resolve(struct resolver *resolver, const struct ciel_slot_desc *descriptor)
{
	switch ((enum ciel_slot_kind)descriptor->kind) {
	case CIEL_SLOT_FIELD_OFFSET:
	case CIEL_SLOT_FIELD_EXISTS:
	case CIEL_SLOT_FIELD_SIZE:
	case CIEL_SLOT_ELEMENT_SIZE:
		return field_slot(resolver, descriptor);
	case CIEL_SLOT_TYPE_SIZE:
	case CIEL_SLOT_TYPE_EXISTS:
		return type_slot(resolver, descriptor);
	case CIEL_SLOT_ENUM_VALUE:
	case CIEL_SLOT_ENUM_EXISTS:
		return enum_slot(resolver, descriptor);
	case CIEL_SLOT_SYMBOL:
	case CIEL_SLOT_SYMBOL_EXISTS:
		break;
	}
	return (struct ciel_slot){ 0 };
}

static void index_names(struct resolver *resolver, const struct ciel_slot_desc *descriptors, uint32_t count)
{
	memset(resolver->buckets, 0xff, sizeof(resolver->buckets));
	for (uint32_t i = 0; i < count; i++) {
		const char *name = descriptors[i].record;
		if (!name || !*name || find_name(resolver, name))
			continue;
		uint32_t bucket = hash_name(name);
		struct named_types *names = &resolver->names[resolver->name_count];
		*names = (struct named_types){ .name = name, .next = resolver->buckets[bucket] };
		resolver->buckets[bucket] = (int32_t)resolver->name_count++;
	}
}

enum ciel_status ciel_slots_resolve(const void *btf_bytes, uint32_t btf_length, const struct ciel_slot_desc *descriptors,
				    uint32_t count, struct ciel_slot *slots, struct ciel_error *error)
{
	libbpf_set_print(NULL);
	/* btf__new() would turn another byte order around; an x86 guest has no reason for it. */
	uint16_t magic = 0;
	if (btf_length >= sizeof(struct btf_header))
		memcpy(&magic, btf_bytes, sizeof(magic));
	if (magic != BTF_MAGIC)
		return ciel_fail(error, CIEL_NO_TYPES, "%u bytes that are no BTF", btf_length);

	_cleanup_(free_btf) struct btf *btf = btf__new(btf_bytes, btf_length);
	if (!btf)
		return ciel_fail(error, CIEL_NO_TYPES, "libbpf refuses the kernel's BTF of %u bytes: %s", btf_length,
				 strerror(errno));

	_cleanup_free_ struct named_types *names = calloc(count ? count : 1, sizeof(*names));
	_cleanup_free_ uint32_t *nameless = calloc(MAX_NAMELESS_ENUMS, sizeof(*nameless));
	if (!names || !nameless)
		return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory to read the kernel's types");
	struct resolver resolver = { .btf = btf, .names = names, .nameless_enums = nameless };
	index_names(&resolver, descriptors, count);
	index_types(&resolver);
	for (uint32_t i = 0; i < count; i++)
		slots[i] = resolve(&resolver, &descriptors[i]);
	return CIEL_OK;
}

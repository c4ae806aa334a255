/* SPDX-License-Identifier: Apache-2.0 */
/* The exported functions, save ciel_sample() (gather.c): arguments checked, the parts put together. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cleanup.h"
#include "guest.h"
#include "ram.h"

enum { DUMP_FORMAT_BYTES = 64 };

uint32_t ciel_abi(void)
{
	return CIEL_ABI;
}

/* Whether the nodes' blocks are as many as there is room for, and make up the RAM. */
static enum ciel_status check_nodes(const struct ciel_attach_request *request, struct ciel_error *error)
{
	uint64_t sum = 0;

	if (request->node_count > CIEL_MAX_NODES)
		return ciel_fail(error, CIEL_UNSUPPORTED, "%u NUMA nodes; at most %d are read", request->node_count, CIEL_MAX_NODES);
	for (uint32_t i = 0; i < request->node_count; i++) {
		if (__builtin_add_overflow(sum, request->node_bytes[i], &sum))
			return ciel_fail(error, CIEL_BAD_ARGUMENT, "NUMA nodes of more bytes than there can be");
	}
	if (request->node_count > 0 && sum != request->ram_bytes)
		return ciel_fail(error, CIEL_UNSUPPORTED, "NUMA nodes of %llu bytes, and RAM of %llu", (unsigned long long)sum,
				 (unsigned long long)request->ram_bytes);
	return CIEL_OK;
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void complete_report(struct ciel_attach_report *report, const struct ciel_guest *guest, uint64_t start)
{
	report->levels = guest->info.levels;
	memcpy(report->btf_hash, guest->btf_hash, sizeof(report->btf_hash));
	memcpy(report->boot_id, guest->boot_id, sizeof(report->boot_id));
	memcpy(report->release, guest->info.release, sizeof(guest->info.release));
	report->total_ns = now_ns() - start;
}

struct attach_paths {
	char cache[244];
	char btf[248];
};

static enum ciel_status attach_to(const struct ciel_attach_request *request, const struct attach_paths *paths,
				  const struct ciel_layout *layout, int upward, int *ret_is_guess, struct ciel_guest **ret,
				  struct ciel_attach_report *report, struct ciel_error *error)
{
	_cleanup_(ciel_source_cleanup) struct ciel_source *source = NULL;
	struct ciel_guest *guest = NULL;
	struct ciel_ram_blocks blocks = ciel_ram_blocks_of(request);
	enum ciel_status status = ciel_ram_open(request, &blocks, upward, &source, &report->source, ret_is_guess, error);

	if (status)
		return status;
	report->from_cache = 0;
	if (paths->cache[0] && ciel_guest_load(paths->cache, source, layout, &guest, error) == CIEL_OK)
		report->from_cache = 1;
	else if (request->cache_only)
		status = (enum ciel_status)error->status;
	else
		status = ciel_guest_attach(source, layout, paths->btf, &guest, report, error);
	/* What was read of a process that ended meanwhile may be another's. */
	if (ciel_source_alive(source, error) != CIEL_OK) {
		if (guest)
			source = NULL; /* the guest owns it */
		ciel_guest_destroy(guest);
		*ret_is_guess = 0;
		return error->status;
	}
	if (status)
		return status;
	source = NULL;
	*ret = guest;
	return CIEL_OK;
}

/* The nodes' blocks in either order. The first order's failure is told, unless the other one holds. */
static enum ciel_status attach_in_any_order(const struct ciel_attach_request *request, const struct attach_paths *paths,
					    const struct ciel_layout *layout, struct ciel_guest **ret,
					    struct ciel_attach_report *report, struct ciel_error *error)
{
	int is_guess;
	enum ciel_status status = attach_to(request, paths, layout, 0, &is_guess, ret, report, error);
	struct ciel_error other;

	if (status && is_guess && attach_to(request, paths, layout, 1, &is_guess, ret, report, &other) == CIEL_OK)
		status = CIEL_OK;
	return status;
}

int32_t ciel_attach(const struct ciel_attach_request *request, struct ciel_guest **ret, struct ciel_attach_report *report,
		    struct ciel_error *error)
{
	uint64_t start = now_ns();
	struct ciel_layout layout, above;
	struct ciel_guest *guest = NULL;
	struct attach_paths paths;

	*ret = NULL;
	*report = (struct ciel_attach_report){ 0 };
	*error = (struct ciel_error){ 0 };
	snprintf(paths.cache, sizeof(paths.cache), "%.*s", (int)sizeof(request->cache_path) - 1, request->cache_path);
	snprintf(paths.btf, sizeof(paths.btf), "%.*s", (int)sizeof(request->btf_directory) - 1, request->btf_directory);

	enum ciel_status status = check_nodes(request, error);
	if (!status)
		status = ciel_layout_of_qemu((enum ciel_machine)request->machine, request->ram_bytes, request->max_ram_below_4g,
					     &layout, error);
	if (status)
		return status;
	layout.nodes = request->node_count;
	status = attach_in_any_order(request, &paths, &layout, &guest, report, error);
	/* Without VMCOREINFO there is no kernel, wherever the RAM is. */
	if (status && status != CIEL_NO_VMCOREINFO && status != CIEL_PROCESS_GONE && ciel_layout_above_1_tib(&layout, &above)) {
		struct ciel_error other;
		if (attach_in_any_order(request, &paths, &above, &guest, report, &other) == CIEL_OK)
			status = CIEL_OK;
	}
	if (status)
		return status;

	/* A cache that cannot be written costs the next attach its time, not this one its result. */
	struct ciel_error ignored;
	if (paths.cache[0] && !report->from_cache)
		ciel_guest_save(guest, paths.cache, &ignored);
	guest->with_services = request->with_services != 0;
	guest->detail = request->detail != 0;
	guest->own_ranges = guest->layout.count;
	guest->request = malloc(sizeof(*request));
	if (guest->request)
		*guest->request = *request;
	ciel_guest_follow_plugged(guest);
	complete_report(report, guest, start);
	*ret = guest;
	return CIEL_OK;
}

int32_t ciel_attach_dump(const char *path, const char *btf_directory, struct ciel_guest **ret,
			 struct ciel_attach_report *report, char *format, struct ciel_error *error)
{
	uint64_t start = now_ns();
	struct ciel_dump_shape shape = { .format = "" };
	struct ciel_layout layout;
	_cleanup_(ciel_source_cleanup) struct ciel_source *source = NULL;
	struct ciel_guest *guest = NULL;

	*ret = NULL;
	*report = (struct ciel_attach_report){ .source = CIEL_SOURCE_DUMP };
	*error = (struct ciel_error){ 0 };
	memset(format, 0, DUMP_FORMAT_BYTES);

	enum ciel_status status = ciel_source_open_dump(path, &source, &shape, error);
	if (!status)
		status = ciel_layout_of_dump(&shape, source->size, &layout, error);
	if (!status)
		status = ciel_guest_attach(source, &layout, btf_directory, &guest, report, error);
	if (status)
		return status;
	source = NULL; /* the guest owns it */
	status = ciel_source_alive(guest->source, error);
	if (status) {
		ciel_guest_destroy(guest);
		return status;
	}
	guest->detail = 1;
	snprintf(format, DUMP_FORMAT_BYTES, "%s", shape.format);
	complete_report(report, guest, start);
	*ret = guest;
	return CIEL_OK;
}

void ciel_detach(struct ciel_guest *guest)
{
	ciel_guest_destroy(guest);
}

const char *ciel_slot_name(uint32_t slot)
{
	static const char *const kinds[] = {
		[CIEL_SLOT_FIELD_OFFSET] = "field",   [CIEL_SLOT_FIELD_EXISTS] = "field",
		[CIEL_SLOT_FIELD_SIZE] = "field",     [CIEL_SLOT_ELEMENT_SIZE] = "field",
		[CIEL_SLOT_TYPE_SIZE] = "type",	      [CIEL_SLOT_TYPE_EXISTS] = "type",
		[CIEL_SLOT_ENUM_VALUE] = "enumerator", [CIEL_SLOT_ENUM_EXISTS] = "enumerator",
		[CIEL_SLOT_SYMBOL] = "symbol",	      [CIEL_SLOT_SYMBOL_EXISTS] = "symbol",
	};
	static _Thread_local char name[256];
	uint32_t count;
	const struct ciel_slot_desc *descriptors = ciel_all_descriptors(&count);

	if (!descriptors || slot >= count || descriptors[slot].kind >= sizeof(kinds) / sizeof(kinds[0]))
		return "";
	const struct ciel_slot_desc *descriptor = &descriptors[slot];
	int has_both = descriptor->record[0] && descriptor->path[0];
	snprintf(name, sizeof(name), "%s %s%s%s", kinds[descriptor->kind], descriptor->record, has_both ? "." : "",
		 descriptor->path);
	return name;
}

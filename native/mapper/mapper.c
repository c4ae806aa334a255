/* SPDX-License-Identifier: Apache-2.0 */
/* The exported functions, save ciel_sample() (gather.c): arguments checked, the parts put together. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cleanup.h"
#include "guest.h"

enum { DUMP_FORMAT_BYTES = 64 };

uint32_t ciel_abi(void)
{
	return CIEL_ABI;
}

static enum ciel_status open_source(const struct ciel_attach_request *request, struct ciel_source **ret,
				    uint32_t *ret_kind, struct ciel_error *error)
{
	_cleanup_(ciel_process_close) struct ciel_process process = { .pidfd = -1 };
	struct ciel_ram_block block;
	enum ciel_status status = ciel_process_open((int)request->pid, request->start_time, &process, error);

	if (!status)
		status = ciel_ram_block_find(&process, request->ram_bytes, &block, error);
	if (status)
		return status;
	if (request->source == CIEL_SOURCE_AUTO || request->source == CIEL_SOURCE_MAPPED) {
		status = ciel_source_open_mapped(&process, &block, ret, error);
		*ret_kind = CIEL_SOURCE_MAPPED;
		if (status != CIEL_UNSUPPORTED || request->source == CIEL_SOURCE_MAPPED)
			return status;
	}
	if (request->source != CIEL_SOURCE_PROCESS) {
		status = ciel_source_open_file(&process, &block, ret, error);
		*ret_kind = CIEL_SOURCE_FILE;
		if (status != CIEL_UNSUPPORTED || request->source == CIEL_SOURCE_FILE)
			return status;
	}
	*ret_kind = CIEL_SOURCE_PROCESS;
	return ciel_source_open_process(&process, &block, ret, error);
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

int32_t ciel_attach(const struct ciel_attach_request *request, struct ciel_guest **ret, struct ciel_attach_report *report,
		    struct ciel_error *error)
{
	uint64_t start = now_ns();
	struct ciel_layout layout;
	_cleanup_(ciel_source_cleanup) struct ciel_source *source = NULL;
	struct ciel_guest *guest = NULL;
	char cache_path[sizeof(request->cache_path)], btf_directory[sizeof(request->btf_directory)];

	*ret = NULL;
	*report = (struct ciel_attach_report){ 0 };
	*error = (struct ciel_error){ 0 };
	memcpy(cache_path, request->cache_path, sizeof(cache_path));
	cache_path[sizeof(cache_path) - 1] = '\0';
	memcpy(btf_directory, request->btf_directory, sizeof(btf_directory));
	btf_directory[sizeof(btf_directory) - 1] = '\0';

	enum ciel_status status = ciel_layout_of_qemu((enum ciel_machine)request->machine, request->ram_bytes,
						      request->max_ram_below_4g, &layout, error);
	if (!status)
		status = open_source(request, &source, &report->source, error);
	if (status)
		return status;

	if (cache_path[0] && ciel_guest_load(cache_path, source, &layout, &guest, error) == CIEL_OK)
		report->from_cache = 1;
	else if (request->cache_only)
		status = (enum ciel_status)error->status;
	else
		status = ciel_guest_attach(source, &layout, btf_directory, &guest, report, error);
	/* What was read of a process that ended meanwhile may be another's. */
	if (ciel_source_alive(source, error) != CIEL_OK) {
		if (guest)
			source = NULL; /* the guest owns it */
		ciel_guest_destroy(guest);
		return error->status;
	}
	if (status)
		return status;
	source = NULL;

	/* A cache that cannot be written costs the next attach its time, not this one its result. */
	struct ciel_error ignored;
	if (cache_path[0] && !report->from_cache)
		ciel_guest_save(guest, cache_path, &ignored);
	guest->with_services = request->with_services != 0;
	guest->detail = request->detail != 0;
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

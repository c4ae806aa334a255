/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One sample: the views walk the cgroup tree, and what they found of each container goes into one flat buffer (mapper.h).
 *
 *   1. prove that the kernel which was attached to is still there: its boot id; its clock goes into the sample, as a dead
 *      kernel's memory reads perfectly well and only its clock stands still
 *   2. list the cgroups, recognise containers by name
 *   3. for each of them: CPU, memory, I/O, with fuel of its own, so that a fault costs that container and not the sample
 *   4. the process that owns the RAM still lives: else nothing of this counts
 *
 * Steps 1 and 2 are one recording, each view of each container is another: what has been walked before is repeated from
 * them as long as their checks hold (programme.h).
 *
 * Views check by themselves that a cgroup is the same one before and after a reading, and that no flush came between; one
 * that changed is tried again, with everything forgotten that was staged or translated.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "hierarchies.h"
#include "programme.h"
#include "ram.h"
#include "recognise.h"
#include "runtime.h"

enum {
	/* Loads of one sample: a hundred containers with eight CPUs need about 10^5. */
	FUEL_OF_SAMPLE = 2000000,
	/* A staged load may cost 3 µs. */
	FUEL_OF_STAGED_SAMPLE = 400000,
	FIRST_CGROUPS = 256,
	MAX_CGROUPS = 16384,
	MAX_PATH = 4096,
	MAX_CPU_NUMBER = 8191, /* the kernel's own limit, NR_CPUS */
	PREFETCH_AHEAD = 2, /* containers */
	SAMPLES_BETWEEN_LOOKS = 8, /* for RAM that was plugged in */
};

struct sample {
	struct ciel_guest *guest;
	struct ciel_view_context context;
	struct ciel_tank tank;
	uint8_t *buffer;
	uint64_t capacity, used;
	struct ciel_error *error;
};

/* The cgroups of the sample in progress. One list for all guests of the thread: it is used within one call only. */
static _Thread_local struct ciel_cgroup_list list;

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The message for a view that failed as a whole. */
static enum ciel_status fail_view(const struct sample *sample, int result, const char *what)
{
	const struct ciel_view_context *context = &sample->context;

	switch (result) {
	case CIEL_VIEW_FAULT:
		return ciel_fail(sample->error, CIEL_FAULTED, "%s: 0x%" PRIx64 " is not mapped, or no RAM", what,
				 context->error_address);
	case CIEL_VIEW_NO_SLOT:
		return ciel_fail(sample->error, CIEL_NO_FIELD, "%s: the kernel %s has no %s", what, sample->guest->info.release,
				 ciel_slot_name(context->error_slot));
	case CIEL_VIEW_CHANGED:
		return ciel_fail(sample->error, CIEL_TORN, "%s: changed while it was read, %d times", what, (int)CIEL_TRIES);
	default:
		return ciel_fail(sample->error, CIEL_EXHAUSTED, "%s: too many, too deep, or without end", what);
	}
}

/* Step 1. */
static enum ciel_status prove(struct sample *sample, struct view_proof *proof)
{
	struct ciel_guest *guest = sample->guest;
	uint8_t boot_id[sizeof(guest->boot_id)];
	uint64_t lent = ciel_lend(&sample->tank, CIEL_FUEL_OF_VIEW);
	int result = view_prove(proof);

	ciel_settle(&sample->tank, lent);
	if (result)
		return ciel_fail(sample->error, CIEL_STALE, "the kernel %s is no longer in the RAM (view error %d at 0x%" PRIx64 ")",
				 guest->info.release, result, sample->context.error_address);
	enum ciel_status status = ciel_guest_boot_id(guest, boot_id, sample->error);
	if (status)
		return ciel_context(sample->error, "proving that the guest has not rebooted");
	if (memcmp(boot_id, guest->boot_id, sizeof(boot_id)) != 0)
		return ciel_fail(sample->error, CIEL_STALE, "the guest has rebooted since it was attached to");
	return CIEL_OK;
}

/* The per-CPU arrays of a sample are indexed by CPU number, so the numbers must be believable. */
static int has_sane_cpus(const struct view_kernel *kernel)
{
	if (kernel->cpu_count == 0 || kernel->cpu_count > VIEW_MAX_CPUS)
		return 0;
	for (uint32_t i = 0; i < kernel->cpu_count; i++) {
		if (kernel->cpu[i] > MAX_CPU_NUMBER || (i > 0 && kernel->cpu[i] <= kernel->cpu[i - 1]))
			return 0;
	}
	return 1;
}

static enum ciel_status read_kernel(struct sample *sample)
{
	struct ciel_guest *guest = sample->guest;

	if (guest->kernel)
		return CIEL_OK;
	struct view_kernel *kernel = calloc(1, sizeof(*kernel));
	if (!kernel)
		return ciel_fail(sample->error, CIEL_OUT_OF_MEMORY, "no memory for the guest's CPUs");
	uint64_t lent = ciel_lend(&sample->tank, CIEL_FUEL_OF_VIEW);
	int result = view_kernel(kernel);
	ciel_settle(&sample->tank, lent);
	if (result) {
		free(kernel);
		return fail_view(sample, result, "reading the guest's CPUs");
	}
	if (!has_sane_cpus(kernel)) {
		free(kernel);
		return ciel_fail(sample->error, CIEL_MALFORMED, "the guest's mask of possible CPUs makes no sense");
	}
	guest->kernel = kernel;
	return CIEL_OK;
}

static enum ciel_status grow_cgroups(struct sample *sample)
{
	uint32_t capacity = list.capacity ? list.capacity * 2 : FIRST_CGROUPS;

	if (capacity > MAX_CGROUPS)
		return ciel_fail(sample->error, CIEL_EXHAUSTED, "listing cgroups: there are more than %d", (int)MAX_CGROUPS);
	if (!ciel_cgroup_list_reserve(&list, capacity))
		return ciel_fail(sample->error, CIEL_OUT_OF_MEMORY, "no memory for %u cgroups", capacity);
	return CIEL_OK;
}

/* Step 2. */
static enum ciel_status list_cgroups(struct sample *sample)
{
	struct ciel_recorder *recorder = sample->context.recorder;
	int tries = 0;

	for (;;) {
		enum ciel_status status = list.capacity ? CIEL_OK : grow_cgroups(sample);
		if (status)
			return status;
		uint64_t lent = ciel_lend(&sample->tank, sample->tank.left);
		int result = ciel_cgroup_list_walk(&list);
		ciel_settle(&sample->tank, lent);
		if (result == 0)
			return CIEL_OK;
		if (result == CIEL_VIEW_LIMIT && list.count == list.capacity)
			status = grow_cgroups(sample);
		else if (++tries == CIEL_TRIES || sample->tank.left == 0)
			status = fail_view(sample, result, "listing cgroups");
		if (status)
			return status;
		if (recorder)
			recorder->is_spoilt = 1;
		/* The tree changed under the walk: a pointer of it may have led anywhere. */
		ciel_space_refresh(&sample->guest->space);
	}
}

/* The path of a cgroup below the root, names joined by '/'. A path that is too long for the guest's own tools is cut off. */
static uint32_t build_path(uint32_t index, char path[MAX_PATH])
{
	uint32_t chain[VIEW_MAX_DEPTH + 1], depth = 0, length = 0;

	for (uint32_t at = index; list.cgroups[at].depth > 0 && depth <= VIEW_MAX_DEPTH; at = list.cgroups[at].parent)
		chain[depth++] = at;
	while (depth > 0) {
		const char *name = list.cgroups[chain[--depth]].name;
		uint32_t name_length = (uint32_t)strnlen(name, VIEW_NAME_BYTES - 1);
		if (name_length + 1 > MAX_PATH - length)
			break;
		path[length++] = '/';
		memcpy(path + length, name, name_length);
		length += name_length;
	}
	return length;
}

/* One that is recognised, of the list. 0 when memory is short. */
static int set_container(uint32_t index, enum ciel_runtime runtime, uint32_t id_offset, uint32_t id_length,
			 struct ciel_container *ret)
{
	char path[MAX_PATH];
	uint32_t path_length = build_path(index, path);
	uint32_t name_length = (uint32_t)strnlen(list.cgroups[index].name, VIEW_NAME_BYTES - 1);

	*ret = (struct ciel_container){
		.address = list.cgroups[index].address,
		.serial = list.cgroups[index].serial,
		.places = ciel_cgroup_list_places(&list, index),
		.runtime = runtime,
		.path_length = path_length,
		.path = malloc(path_length + 1),
	};
	if (!ret->path)
		return 0;
	memcpy(ret->path, path, path_length);
	/* The name is the path's last part, unless the path was cut off: then there is no id to speak of. */
	if (path_length >= name_length && memcmp(path + path_length - name_length, list.cgroups[index].name, name_length) == 0) {
		ret->id_offset = path_length - name_length + id_offset;
		ret->id_length = id_length;
	}
	return 1;
}

static enum ciel_status recognise_containers(struct sample *sample)
{
	struct ciel_container *containers = malloc((list.count + 1) * sizeof(*containers));
	uint64_t path_bytes = 0;
	uint32_t found = 0;

	for (uint32_t i = 0; containers && i < list.count; i++) {
		uint32_t id_offset, id_length;
		uint32_t parent = list.cgroups[i].parent, grandparent = list.cgroups[parent].parent;
		const struct ciel_cgroup_names names = { list.cgroups[i].name, list.cgroups[parent].name,
							 list.cgroups[grandparent].name };
		enum ciel_runtime runtime = ciel_recognise(&names, &id_offset, &id_length);
		if (runtime == CIEL_RUNTIME_NONE || !list.cgroups[i].is_online || !ciel_cgroup_list_is_first(&list, i))
			continue;
		if (runtime == CIEL_RUNTIME_SYSTEMD && !sample->guest->with_services)
			continue;
		if (!set_container(i, runtime, id_offset, id_length, &containers[found]))
			break;
		path_bytes += containers[found++].path_length;
		/* It could not be told anyway, and must not be remembered. */
		if (path_bytes > sample->capacity)
			break;
	}
	ciel_programme_set_containers(sample->guest->programme, containers, found);
	return containers ? CIEL_OK : ciel_fail(sample->error, CIEL_OUT_OF_MEMORY, "no memory for %" PRIu64 " containers", list.count);
}

/* Steps 1 and 2, repeated or anew. */
static enum ciel_status find_containers(struct sample *sample, struct view_proof *proof)
{
	struct ciel_programme *programme = sample->guest->programme;
	struct ciel_track *tree = &programme->tree;
	uint32_t used = sizeof(*proof);

	if (ciel_programme_repeat(programme, tree, proof, &used))
		return CIEL_OK;
	ciel_programme_run_begin(programme, tree, &sample->context, &sample->guest->space, proof, sizeof(*proof));
	enum ciel_status status = prove(sample, proof);
	if (!status)
		status = list_cgroups(sample);
	ciel_programme_run_end(programme, tree, &sample->context, (int)status);
	return status ? status : recognise_containers(sample);
}

/* Step 3 for one container. */
static enum ciel_status add_container(struct sample *sample, const struct ciel_sample_header *header,
				      struct ciel_container *container)
{
	static _Thread_local struct ciel_readings readings;
	const struct view_kernel *kernel = sample->guest->kernel;

	ciel_readings_take(sample->guest, &sample->tank, container, &readings);
	uint64_t bytes = ciel_readings_bytes(&readings, header->cpu_count, container->path_length);
	if (bytes > sample->capacity - sample->used)
		return ciel_fail(sample->error, CIEL_EXHAUSTED, "the sample's buffer of %" PRIu64 " bytes is full after %u containers",
				 sample->capacity, header->container_count);
	uint8_t *at = sample->buffer + sample->used;
	memset(at, 0, bytes);

	struct ciel_sample_container *record = (struct ciel_sample_container *)at;
	record->bytes = (uint32_t)bytes;
	record->runtime = container->runtime;
	record->path_length = container->path_length;
	record->id_offset = container->id_offset;
	record->id_length = container->id_length;
	record->serial = container->serial;
	memcpy(ciel_readings_write(&readings, kernel, header->cpu_count, record), container->path, container->path_length);
	sample->used += bytes;
	return CIEL_OK;
}

static enum ciel_status fill(struct sample *sample, struct ciel_sample_header *header)
{
	struct ciel_programme *programme = sample->guest->programme;
	struct view_proof proof;
	enum ciel_status status = read_kernel(sample);

	ciel_programme_begin(programme, sample->guest->source);
	if (!status)
		status = find_containers(sample, &proof);
	if (status)
		return status;

	const struct view_kernel *kernel = sample->guest->kernel;
	header->jiffies = proof.jiffies;
	memcpy(header->nodename, proof.nodename, sizeof(proof.nodename));
	header->possible_cpus = kernel->cpu_count;
	header->cpu_count = kernel->cpu[kernel->cpu_count - 1] + 1;
	for (uint32_t i = 0; i < programme->container_count; i++) {
		if (i + PREFETCH_AHEAD < programme->container_count)
			ciel_programme_prefetch(programme, &programme->containers[i + PREFETCH_AHEAD]);
		status = add_container(sample, header, &programme->containers[i]);
		if (status)
			return status;
		header->container_count++;
	}
	return CIEL_OK;
}

/* Room for what is remembered from sample to sample. */
/* A fault may be due to RAM that was plugged in since. A hostile guest may fault in each sample. */
static void follow_plugged(struct ciel_guest *guest)
{
	if (guest->samples_to_wait > 0) {
		guest->samples_to_wait--;
	} else if (guest->space.has_faulted) {
		guest->space.has_faulted = 0;
		guest->samples_to_wait = SAMPLES_BETWEEN_LOOKS;
		ciel_guest_follow_plugged(guest);
	}
}

static enum ciel_status need_programme(struct ciel_guest *guest, struct ciel_error *error)
{
	if (!guest->programme)
		guest->programme = calloc(1, sizeof(*guest->programme));
	return guest->programme ? CIEL_OK : ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory for a guest's recordings");
}

int32_t ciel_sample(struct ciel_guest *guest, uint8_t *buffer, uint64_t capacity, struct ciel_error *error)
{
	uint64_t fuel = guest->source->operations->is_staged ? FUEL_OF_STAGED_SAMPLE : FUEL_OF_SAMPLE;
	struct sample sample = {
		.guest = guest,
		.context = { .slots = guest->slots },
		.tank = { .context = &sample.context, .left = fuel },
		.buffer = buffer,
		.capacity = capacity,
		.used = sizeof(struct ciel_sample_header),
		.error = error,
	};
	struct ciel_sample_header header = {
		.abi = CIEL_ABI,
		.header_bytes = sizeof(header),
		.container_bytes = sizeof(struct ciel_sample_container),
		.at_ns = clock_ns(CLOCK_BOOTTIME),
	};
	uint64_t start = clock_ns(CLOCK_MONOTONIC);

	*error = (struct ciel_error){ 0 };
	if (capacity < sizeof(header) || ((uintptr_t)buffer & 7))
		return ciel_fail(error, CIEL_BAD_ARGUMENT, "a buffer of %" PRIu64 " bytes, aligned to 8, is needed", capacity);
	follow_plugged(guest);
	if (need_programme(guest, error))
		return error->status;
	memcpy(header.boot_id, guest->boot_id, sizeof(header.boot_id));
	memcpy(header.release, guest->info.release, sizeof(guest->info.release));

	ciel_space_refresh(&guest->space);
	ciel_runtime_enter(&sample.context, &guest->space);
	enum ciel_status status = fill(&sample, &header);
	ciel_runtime_leave();

	/* Whatever was read: of a process that has ended it may be another's memory. */
	struct ciel_error gone;
	if (ciel_source_alive(guest->source, &gone) != CIEL_OK)
		*error = gone;
	if (error->status) {
		/* Whatever it was, nothing that was found before it is to be relied on. */
		ciel_programme_clear(guest->programme);
		return error->status;
	}
	header.fuel_used = (uint32_t)(fuel - sample.tank.left);
	header.views_run = guest->programme->views_run;
	header.views_repeated = guest->programme->views_repeated;
	header.corrections = guest->programme->corrections;
	header.bytes = (uint32_t)sample.used;
	header.elapsed_ns = clock_ns(CLOCK_MONOTONIC) - start;
	memcpy(buffer, &header, sizeof(header));
	return status;
}

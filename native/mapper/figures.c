/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each view fails by itself: a fault costs the figures of one view of one container. A figure of a view that worked has a
 * status of its own.
 */
#include "figures.h"

static enum ciel_status status_of_view(int result)
{
	switch (result) {
	case 0:
		return CIEL_OK;
	case VIEW_NOT_ACCOUNTED:
		return CIEL_NOT_ACCOUNTED;
	case CIEL_VIEW_FAULT:
		return CIEL_FAULTED;
	case CIEL_VIEW_NO_SLOT:
		return CIEL_NO_FIELD;
	case CIEL_VIEW_CHANGED:
		return CIEL_TORN;
	default:
		return CIEL_EXHAUSTED;
	}
}

static void set_figure(struct ciel_sample_container *record, enum ciel_figure_name name, const struct view_figure *figure)
{
	if (figure->status == VIEW_NOT_LIMITED) {
		record->figures[name] = (struct ciel_figure){ .value = UINT64_MAX };
		return;
	}
	record->figures[name] = (struct ciel_figure){
		.value = figure->status ? 0 : figure->value,
		.status = (int32_t)status_of_view(figure->status),
		.detail = figure->slot,
	};
}

static void set_failed(struct ciel_sample_container *record, enum ciel_figure_name first, enum ciel_figure_name last,
		       const struct view_figure *result)
{
	for (enum ciel_figure_name name = first; name <= last; name++)
		set_figure(record, name, result);
}

/* What is worked out of a view's sums. */
static void finish(const struct view_kernel *kernel, struct ciel_readings *readings)
{
	if (!readings->cpu_result.status)
		readings->cpu_result.status = view_cpu_finish(kernel, &readings->cpu);
	if (!readings->memory_result.status)
		readings->memory_result.status = view_memory_finish(kernel, &readings->memory);
	if (!readings->io_result.status)
		readings->io_result.status = view_io_finish(kernel, &readings->io);
}

/* The result of a view, and the end of its loan. */
static struct view_figure end_view(struct ciel_tank *tank, uint64_t lent, int result)
{
	ciel_settle(tank, lent);
	return (struct view_figure){ .status = result, .slot = result ? tank->context->error_slot : 0 };
}

static int has_changed(const struct ciel_readings *readings)
{
	return readings->cpu_result.status == CIEL_VIEW_CHANGED || readings->memory_result.status == CIEL_VIEW_CHANGED ||
	       readings->io_result.status == CIEL_VIEW_CHANGED;
}

void ciel_readings_take(struct ciel_guest *guest, struct ciel_tank *tank, const struct view_cgroup *cgroup,
			struct ciel_readings *ret)
{
	const struct view_kernel *kernel = guest->kernel;
	uint64_t address = cgroup->address, serial = cgroup->serial, lent;

	for (int i = 0; i < CIEL_TRIES; i++) {
		lent = ciel_lend(tank, CIEL_FUEL_OF_VIEW);
		ret->cpu_result = end_view(tank, lent, view_cgroup_cpu(address, serial, kernel, &ret->cpu));
		lent = ciel_lend(tank, CIEL_FUEL_OF_VIEW);
		ret->memory_result = end_view(tank, lent, view_cgroup_memory(address, serial, kernel, &ret->memory));
		lent = ciel_lend(tank, CIEL_FUEL_OF_VIEW);
		ret->io_result = end_view(tank, lent, view_cgroup_io(address, serial, kernel, &ret->io));
		if (!has_changed(ret))
			break;
		/* Whatever was staged or translated may have led astray. */
		ciel_space_refresh(&guest->space);
	}
	finish(kernel, ret);
}

void ciel_readings_write(const struct ciel_readings *readings, struct ciel_sample_container *record)
{
	if (readings->cpu_result.status) {
		set_failed(record, CIEL_FIGURE_CPU, CIEL_FIGURE_CPU_PER_CPU, &readings->cpu_result);
	} else {
		set_figure(record, CIEL_FIGURE_CPU, &readings->cpu.usage);
		set_figure(record, CIEL_FIGURE_CPU_USER, &readings->cpu.user);
		set_figure(record, CIEL_FIGURE_CPU_SYSTEM, &readings->cpu.system);
		set_figure(record, CIEL_FIGURE_CPU_PER_CPU, &readings->cpu.per_cpu);
	}
	if (readings->memory_result.status) {
		set_failed(record, CIEL_FIGURE_MEMORY, CIEL_FIGURE_MEMORY_LIMIT, &readings->memory_result);
	} else {
		set_figure(record, CIEL_FIGURE_MEMORY, &readings->memory.current);
		set_figure(record, CIEL_FIGURE_MEMORY_ANON, &readings->memory.anon);
		set_figure(record, CIEL_FIGURE_MEMORY_FILE, &readings->memory.file);
		set_figure(record, CIEL_FIGURE_MEMORY_SWAP_CACHE, &readings->memory.swap_cache);
		set_figure(record, CIEL_FIGURE_MEMORY_LIMIT, &readings->memory.limit);
	}
	if (readings->io_result.status) {
		set_failed(record, CIEL_FIGURE_IO_READ, CIEL_FIGURE_IO_WRITE, &readings->io_result);
	} else {
		set_figure(record, CIEL_FIGURE_IO_READ, &readings->io.read_bytes);
		set_figure(record, CIEL_FIGURE_IO_WRITE, &readings->io.write_bytes);
	}
}

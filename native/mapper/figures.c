/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each view fails by itself: a fault costs the figures of one view of one container. A figure of a view that worked has a
 * status of its own.
 */
#include <stddef.h>

#include "programme.h"

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

/*
 * One view of a container: its answer and result in the readings, how it is run, and what is worked out of its sums. A view
 * that is given here is repeated when it can be.
 */
#define VIEW(name)                                                                                                     \
	static int run_##name(uint64_t address, uint64_t serial, const struct view_kernel *kernel,                     \
			      struct ciel_readings *readings)                                                          \
	{                                                                                                              \
		return view_cgroup_##name(address, serial, kernel, &readings->name);                                   \
	}                                                                                                              \
	static int finish_##name(const struct view_kernel *kernel, struct ciel_readings *readings)                     \
	{                                                                                                              \
		return view_##name##_finish(kernel, &readings->name);                                                  \
	}
VIEW(cpu)
VIEW(memory)
VIEW(io)

#define ROW(name)                                                                                                      \
	{                                                                                                              \
		.run = run_##name, .finish = finish_##name, .answer = offsetof(struct ciel_readings, name),            \
		.bytes = sizeof(((struct ciel_readings *)0)->name),                                                    \
		.result = offsetof(struct ciel_readings, name##_result),                                               \
	}
static const struct container_view {
	int (*run)(uint64_t address, uint64_t serial, const struct view_kernel *kernel, struct ciel_readings *readings);
	int (*finish)(const struct view_kernel *kernel, struct ciel_readings *readings);
	size_t answer, bytes, result; /* in the readings */
} views[CIEL_CONTAINER_VIEWS] = {
	[CIEL_VIEW_CPU] = ROW(cpu),
	[CIEL_VIEW_MEMORY] = ROW(memory),
	[CIEL_VIEW_IO] = ROW(io),
};

static int run_view(struct ciel_guest *guest, struct ciel_tank *tank, struct ciel_container *container,
		    enum ciel_container_view number, struct ciel_readings *readings)
{
	const struct container_view *view = &views[number];
	struct ciel_track *track = &container->tracks[number];
	uint64_t lent = ciel_lend(tank, CIEL_FUEL_OF_VIEW);

	ciel_programme_run_begin(guest->programme, track, tank->context, &guest->space, (uint8_t *)readings + view->answer,
				 view->bytes);
	int result = view->run(container->address, container->serial, guest->kernel, readings);
	ciel_programme_run_end(guest->programme, track, tank->context, result);
	ciel_settle(tank, lent);
	return result;
}

static void take_view(struct ciel_guest *guest, struct ciel_tank *tank, struct ciel_container *container,
		      enum ciel_container_view number, struct ciel_readings *readings)
{
	const struct container_view *view = &views[number];
	struct view_figure *result = (struct view_figure *)((uint8_t *)readings + view->result);
	int status = 0;

	if (!ciel_programme_repeat(guest->programme, &container->tracks[number], (uint8_t *)readings + view->answer,
				   &readings->used[number])) {
		readings->used[number] = (uint32_t)view->bytes;
		for (int i = 0; i < CIEL_TRIES; i++) {
			status = run_view(guest, tank, container, number, readings);
			if (status != CIEL_VIEW_CHANGED)
				break;
			/* Whatever was staged or translated may have led astray. */
			ciel_space_refresh(&guest->space);
		}
	}
	if (!status) {
		uint64_t lent = ciel_lend(tank, CIEL_FUEL_OF_VIEW);
		status = view->finish(guest->kernel, readings);
		ciel_settle(tank, lent);
	}
	*result = (struct view_figure){ .status = status, .slot = status ? tank->context->error_slot : 0 };
}

void ciel_readings_take(struct ciel_guest *guest, struct ciel_tank *tank, struct ciel_container *container,
			struct ciel_readings *ret)
{
	for (int i = 0; i < CIEL_CONTAINER_VIEWS; i++)
		take_view(guest, tank, container, i, ret);
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

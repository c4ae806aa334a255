/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each view fails by itself: a fault costs the figures of one view of one container. A figure of a view that worked has a
 * status of its own.
 */
#include <stddef.h>
#include <string.h>

#include "programme.h"

/* The result of a view that was not asked. */
enum { NOT_ASKED = 1000 };
static const struct view_figure not_asked = { .status = NOT_ASKED };

static enum ciel_status status_of_view(int result)
{
	switch (result) {
	case 0:
		return CIEL_OK;
	case NOT_ASKED:
		return CIEL_NOT_ASKED;
	case VIEW_NOT_ACCOUNTED:
		return CIEL_NOT_ACCOUNTED;
	case VIEW_PRIVATE:
		return CIEL_PRIVATE;
	case VIEW_EMPTY:
		return CIEL_EMPTY;
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

/*
 * One view of a container: its answer and result in the readings, how it is run, and what is worked out of its sums. A view
 * that is given here is repeated when it can be.
 */
#define RUN(name, ...)                                                                                                 \
	static int run_##name(uint64_t address, uint64_t serial, const struct view_kernel *kernel,                     \
			      struct ciel_readings *readings)                                                          \
	{                                                                                                              \
		(void)kernel;                                                                                          \
		return view_cgroup_##name(address, serial, __VA_ARGS__ &readings->name);                               \
	}
#define FINISH(name)                                                                                                   \
	static int finish_##name(const struct view_kernel *kernel, struct ciel_readings *readings)                     \
	{                                                                                                              \
		return view_##name##_finish(kernel, &readings->name);                                                  \
	}
RUN(cpu, kernel, )
FINISH(cpu)
RUN(memory, kernel, (uint64_t)readings->is_detailed, )
FINISH(memory)
RUN(io, kernel, )
FINISH(io)
RUN(pids, )
RUN(pressure, kernel, )
RUN(network, kernel, )

#define ROW(name)                                                                                                      \
	.run = run_##name, .answer = offsetof(struct ciel_readings, name),                                             \
	.bytes = sizeof(((struct ciel_readings *)0)->name), .result = offsetof(struct ciel_readings, name##_result),   \
	.place = offsetof(struct ciel_places, name)
static const struct container_view {
	int (*run)(uint64_t address, uint64_t serial, const struct view_kernel *kernel, struct ciel_readings *readings);
	int (*finish)(const struct view_kernel *kernel, struct ciel_readings *readings); /* or NULL */
	size_t answer, bytes, result; /* in the readings */
	size_t place; /* of its cgroup, in struct ciel_places */
	int is_on_demand;
} views[CIEL_CONTAINER_VIEWS] = {
	[CIEL_VIEW_CPU] = { ROW(cpu), .finish = finish_cpu },
	[CIEL_VIEW_MEMORY] = { ROW(memory), .finish = finish_memory },
	[CIEL_VIEW_IO] = { ROW(io), .finish = finish_io },
	[CIEL_VIEW_PIDS] = { ROW(pids), .is_on_demand = 1 },
	[CIEL_VIEW_PRESSURE] = { ROW(pressure), .is_on_demand = 1 },
	[CIEL_VIEW_NETWORK] = { ROW(network), .is_on_demand = 1 },
};

static const struct ciel_place *place_of(const struct ciel_container *container, const struct container_view *view)
{
	return (const struct ciel_place *)((const uint8_t *)&container->places + view->place);
}

static int run_view(struct ciel_guest *guest, struct ciel_tank *tank, struct ciel_container *container,
		    enum ciel_container_view number, struct ciel_readings *readings)
{
	const struct container_view *view = &views[number];
	struct ciel_track *track = &container->tracks[number];
	const struct ciel_place *place = place_of(container, view);
	uint64_t lent = ciel_lend(tank, CIEL_FUEL_OF_VIEW);

	ciel_programme_run_begin(guest->programme, track, tank->context, &guest->space, (uint8_t *)readings + view->answer,
				 view->bytes);
	int result = view->run(place->address, place->serial, guest->kernel, readings);
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

	if (view->is_on_demand && !readings->is_detailed) {
		*result = not_asked;
		return;
	}
	/* Of a hierarchy in which there is no such cgroup. */
	if (!place_of(container, view)->address) {
		*result = (struct view_figure){ .status = VIEW_NOT_ACCOUNTED };
		return;
	}
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
	if (!status && view->finish) {
		uint64_t lent = ciel_lend(tank, CIEL_FUEL_OF_VIEW);
		status = view->finish(guest->kernel, readings);
		ciel_settle(tank, lent);
	}
	*result = (struct view_figure){ .status = status, .slot = status ? tank->context->error_slot : 0 };
}

void ciel_readings_take(struct ciel_guest *guest, struct ciel_tank *tank, struct ciel_container *container,
			struct ciel_readings *ret)
{
	ret->is_detailed = guest->detail;
	for (int i = 0; i < CIEL_CONTAINER_VIEWS; i++)
		take_view(guest, tank, container, i, ret);
}

/* Whether there are devices, and interfaces, to speak of. What a view that failed left behind is none. */
static uint32_t device_count(const struct ciel_readings *readings)
{
	return readings->io_result.status ? 0 : readings->io.device_count;
}

static uint32_t interface_count(const struct ciel_readings *readings)
{
	return readings->network_result.status ? 0 : readings->network.interface_count;
}

uint64_t ciel_readings_bytes(const struct ciel_readings *readings, uint32_t cpu_count, uint32_t path_length)
{
	uint64_t bytes = sizeof(struct ciel_sample_container) + cpu_count * sizeof(uint64_t) +
			 device_count(readings) * sizeof(struct ciel_sample_device) +
			 interface_count(readings) * sizeof(struct ciel_sample_interface) + path_length;

	return (bytes + 7) & ~7ull;
}

static uint8_t *write_cpus(const struct view_cpu *cpu, const struct view_kernel *kernel, uint32_t cpu_count, uint8_t *at)
{
	memset(at, 0xff, cpu_count * sizeof(uint64_t));
	for (uint32_t i = 0; i < kernel->cpu_count && !cpu->per_cpu.status; i++)
		memcpy(at + kernel->cpu[i] * sizeof(uint64_t), &cpu->by_cpu[i], sizeof(uint64_t));
	return at + cpu_count * sizeof(uint64_t);
}

static uint8_t *write_device(const struct view_io_device *device, uint8_t *at)
{
	struct ciel_sample_device record = {
		.read_bytes = device->read_bytes,
		.write_bytes = device->write_bytes,
		.reads = device->reads,
		.writes = device->writes,
		.major = device->major,
		.minor = device->minor,
	};

	memcpy(record.name, device->name, sizeof(record.name));
	memcpy(at, &record, sizeof(record));
	return at + sizeof(record);
}

static uint8_t *write_interface(const struct view_interface *interface, uint8_t *at)
{
	const struct view_interface_counts *counts = &interface->counts;
	struct ciel_sample_interface record = {
		.status = (int32_t)status_of_view(interface->result.status),
		.detail = interface->result.slot,
		.index = interface->index,
		.flags = interface->flags,
	};

	if (!record.status) {
		record.rx_bytes = counts->rx_bytes;
		record.rx_packets = counts->rx_packets;
		record.rx_errors = counts->rx_errors;
		record.rx_dropped = counts->rx_dropped;
		record.tx_bytes = counts->tx_bytes;
		record.tx_packets = counts->tx_packets;
		record.tx_errors = counts->tx_errors;
		record.tx_dropped = counts->tx_dropped;
	}
	memcpy(record.name, interface->name, sizeof(record.name));
	memcpy(record.kind, interface->kind, sizeof(record.kind));
	memcpy(at, &record, sizeof(record));
	return at + sizeof(record);
}

static void write_figures(const struct ciel_readings *readings, struct ciel_sample_container *record)
{
	const struct view_cpu *cpu = &readings->cpu;
	const struct view_memory *memory = &readings->memory;
	const struct view_io *io = &readings->io;
	const struct view_pressure *pressure = &readings->pressure;
	const struct view_figure *mapped = readings->is_detailed ? &memory->mapped : &not_asked;
	const struct view_figure *kernel = readings->is_detailed ? &memory->kernel : &not_asked;
	const struct {
		const struct view_figure *result;
		enum ciel_figure_name first;
		const struct view_figure *figures[16]; /* in the order of their names */
	} answers[] = {
		{ &readings->cpu_result,
		  CIEL_FIGURE_CPU,
		  { &cpu->usage, &cpu->user, &cpu->system, &cpu->per_cpu, &cpu->quota, &cpu->period, &cpu->periods,
		    &cpu->throttled_periods, &cpu->throttled_time, &cpu->shares } },
		{ &readings->memory_result,
		  CIEL_FIGURE_MEMORY,
		  { &memory->current, &memory->peak, &memory->limit, &memory->swap, &memory->oom_kills, &memory->anon,
		    &memory->file, &memory->swap_cache, &memory->inactive_file, mapped, kernel } },
		{ &readings->io_result, CIEL_FIGURE_IO_READ, { &io->read_bytes, &io->write_bytes, &io->reads, &io->writes } },
		{ &readings->pids_result, CIEL_FIGURE_PIDS, { &readings->pids.current, &readings->pids.limit } },
		{ &readings->pressure_result,
		  CIEL_FIGURE_PRESSURE_CPU_SOME,
		  { &pressure->cpu_some, &pressure->cpu_full, &pressure->memory_some, &pressure->memory_full,
		    &pressure->io_some, &pressure->io_full } },
		{ &readings->network_result, CIEL_FIGURE_NETWORK, { &readings->network.inode } },
	};

	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++)
		for (uint32_t n = 0; n < 16 && answers[i].figures[n]; n++)
			set_figure(record, (enum ciel_figure_name)(answers[i].first + n),
				   answers[i].result->status ? answers[i].result : answers[i].figures[n]);
}

uint8_t *ciel_readings_write(const struct ciel_readings *readings, const struct view_kernel *kernel, uint32_t cpu_count,
			     struct ciel_sample_container *record)
{
	uint8_t *at = (uint8_t *)(record + 1);

	record->device_count = device_count(readings);
	record->interface_count = interface_count(readings);
	record->is_host_network = !readings->network_result.status && readings->network.is_initial;
	write_figures(readings, record);
	at = write_cpus(&readings->cpu, kernel, cpu_count, at);
	for (uint32_t i = 0; i < record->device_count; i++)
		at = write_device(&readings->io.devices[i], at);
	for (uint32_t i = 0; i < record->interface_count; i++)
		at = write_interface(&readings->network.interfaces[i], at);
	return at;
}

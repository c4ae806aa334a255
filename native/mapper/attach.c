/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach: from a guest's RAM to everything that a sample needs.
 *
 *   1. scan the RAM for VMCOREINFO                      0.1 to 0.2 s a resident GiB
 *   2. prove each copy: init_uts_ns through its page tables
 *   3. kallsyms of each that holds                      20 to 40 ms
 *   4. several hold after a warm reboot or a kexec: the one whose clock ticks is the running kernel
 *   5. BTF, by its hash; slots of the views and of the core   30 ms, nothing for a known kernel
 *   6. prove: banner, first task, layout (iomem_resource)
 *
 * The scan and the tables are dropped afterwards; a guest that stays attached costs its slots and some page tables.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cleanup.h"
#include "guest.h"
#include "locate/kallsyms-search.h"
#include "locate/kallsyms.h"
#include "locate/ksymtab.h"
#include "types/detached.h"
#include "programme.h"

enum {
	MAX_KNOWN_KERNELS = 64,
	/* An idle guest's clock ticks at least when its next timer fires: a second or so. */
	LIVELINESS_STEPS = 120,
	LIVELINESS_STEP_NS = 10 * 1000 * 1000,
};

static const struct ciel_slot_desc core_descriptors[CIEL_CORE_SLOTS] = {
	[CIEL_CORE_INIT_TASK] = { CIEL_SLOT_SYMBOL, "", "init_task" },
	[CIEL_CORE_LINUX_BANNER] = { CIEL_SLOT_SYMBOL, "", "linux_banner" },
	[CIEL_CORE_JIFFIES] = { CIEL_SLOT_SYMBOL, "", "jiffies_64" },
	[CIEL_CORE_START_BTF] = { CIEL_SLOT_SYMBOL, "", "__start_BTF" },
	[CIEL_CORE_STOP_BTF] = { CIEL_SLOT_SYMBOL, "", "__stop_BTF" },
	[CIEL_CORE_TEXT] = { CIEL_SLOT_SYMBOL, "", "_text" },
	[CIEL_CORE_END] = { CIEL_SLOT_SYMBOL, "", "_end" },
	[CIEL_CORE_PAGE_OFFSET_BASE] = { CIEL_SLOT_SYMBOL, "", "page_offset_base" },
	[CIEL_CORE_VMALLOC_BASE] = { CIEL_SLOT_SYMBOL, "", "vmalloc_base" },
	[CIEL_CORE_IOMEM_RESOURCE] = { CIEL_SLOT_SYMBOL, "", "iomem_resource" },
	[CIEL_CORE_NODE_DATA] = { CIEL_SLOT_SYMBOL, "", "node_data" },
	[CIEL_CORE_TASK_COMM] = { CIEL_SLOT_FIELD_OFFSET, "task_struct", "comm" },
	[CIEL_CORE_TASK_CANARY] = { CIEL_SLOT_FIELD_OFFSET, "task_struct", "stack_canary" },
	[CIEL_CORE_RESOURCE_START] = { CIEL_SLOT_FIELD_OFFSET, "resource", "start" },
	[CIEL_CORE_RESOURCE_END] = { CIEL_SLOT_FIELD_OFFSET, "resource", "end" },
	[CIEL_CORE_RESOURCE_NAME] = { CIEL_SLOT_FIELD_OFFSET, "resource", "name" },
	[CIEL_CORE_RESOURCE_SIBLING] = { CIEL_SLOT_FIELD_OFFSET, "resource", "sibling" },
	[CIEL_CORE_RESOURCE_CHILD] = { CIEL_SLOT_FIELD_OFFSET, "resource", "child" },
	[CIEL_CORE_NODE_ID] = { CIEL_SLOT_FIELD_OFFSET, "pglist_data", "node_id" },
};

const struct ciel_slot_desc *ciel_all_descriptors(uint32_t *ret_count)
{
	static _Thread_local struct ciel_slot_desc *all;

	*ret_count = ciel_view_slot_count + CIEL_CORE_SLOTS;
	if (!all) {
		all = malloc(*ret_count * sizeof(*all));
		if (!all)
			return NULL;
		memcpy(all, ciel_view_slots, ciel_view_slot_count * sizeof(*all));
		memcpy(all + ciel_view_slot_count, core_descriptors, sizeof(core_descriptors));
	}
	return all;
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int is_symbol(const struct ciel_slot_desc *descriptor)
{
	return descriptor->kind == CIEL_SLOT_SYMBOL || descriptor->kind == CIEL_SLOT_SYMBOL_EXISTS;
}

static int has_symbol(const struct ciel_symbol *symbols, uint32_t count, const char *name)
{
	for (uint32_t i = 0; i < count; i++) {
		if (strcmp(symbols[i].name, name) == 0)
			return symbols[i].found;
	}
	return 0;
}

/* Fills the slots of symbols in guest->slots. */
static enum ciel_status find_symbols(struct ciel_guest *guest, struct ciel_error *error)
{
	const struct ciel_vmcoreinfo *info = &guest->info;
	struct ciel_kallsyms_tables tables = {
		.names = info->kallsyms_names,
		.count = info->kallsyms_count,
		.token_table = info->kallsyms_token_table,
		.token_index = info->kallsyms_token_index,
		.offsets = info->kallsyms_offsets,
		.relative_base = info->kallsyms_relative_base,
		.addresses = info->kallsyms_addresses,
		.known_text = info->text_start,
	};
	uint32_t count, wished = 0;
	const struct ciel_slot_desc *descriptors = ciel_all_descriptors(&count);
	_cleanup_free_ struct ciel_symbol *symbols = calloc(count, sizeof(*symbols));

	if (!descriptors || !symbols)
		return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory for symbols");
	for (uint32_t i = 0; i < count; i++) {
		if (is_symbol(&descriptors[i]))
			symbols[wished++].name = descriptors[i].path;
	}
	enum ciel_status status = CIEL_OK;
	if (!tables.names)
		status = ciel_kallsyms_search(&guest->space, info->text_start, &tables, error);
	if (!status)
		status = ciel_kallsyms_find(&guest->space, &tables, symbols, wished, error);
	/* Without CONFIG_KALLSYMS_ALL, or without any kallsyms, what is exported is left. */
	if (!has_symbol(symbols, wished, "init_task")) {
		ciel_ksymtab_find(&guest->space, info->text_start, symbols, wished);
		if (has_symbol(symbols, wished, "init_task"))
			status = CIEL_OK;
	}
	if (status)
		return ciel_context(error, "symbols of %s", info->release);

	for (uint32_t i = 0, next = 0; i < count; i++) {
		if (!is_symbol(&descriptors[i]))
			continue;
		const struct ciel_symbol *symbol = &symbols[next++];
		int asks_existence = descriptors[i].kind == CIEL_SLOT_SYMBOL_EXISTS;
		guest->slots[i] = (struct ciel_slot){
			.value = asks_existence ? symbol->found : symbol->address,
			.available = asks_existence || symbol->found,
		};
	}
	return CIEL_OK;
}

/* Slots of the kernels seen by this process, by the hash of their BTF. Written once each, then read only. */
struct known_kernel {
	uint8_t btf_hash[CIEL_HASH_BYTES];
	struct ciel_slot *slots;
};
static _Thread_local struct known_kernel known_kernels[MAX_KNOWN_KERNELS];
static _Thread_local uint32_t known_kernel_count;

static const struct ciel_slot *known_slots(const uint8_t hash[CIEL_HASH_BYTES])
{
	for (uint32_t i = 0; i < known_kernel_count; i++) {
		if (memcmp(known_kernels[i].btf_hash, hash, CIEL_HASH_BYTES) == 0)
			return known_kernels[i].slots;
	}
	return NULL;
}

/* A hostile guest may show a new BTF at each attach: when the table is full, nothing more is remembered. */
static void remember_slots(const uint8_t hash[CIEL_HASH_BYTES], const struct ciel_slot *slots, uint32_t count)
{
	if (known_kernel_count == MAX_KNOWN_KERNELS)
		return;
	struct known_kernel *kernel = &known_kernels[known_kernel_count];
	kernel->slots = malloc(count * sizeof(*slots));
	if (!kernel->slots)
		return;
	memcpy(kernel->slots, slots, count * sizeof(*slots));
	memcpy(kernel->btf_hash, hash, CIEL_HASH_BYTES);
	known_kernel_count++;
}

/* The kernel's own types; NO_TYPES when it carries none. */
static enum ciel_status read_own_btf(struct ciel_guest *guest, uint8_t **ret, uint32_t *ret_length, struct ciel_error *error)
{
	uint64_t start = ciel_core_value(guest, CIEL_CORE_START_BTF), stop = ciel_core_value(guest, CIEL_CORE_STOP_BTF);
	uint32_t length;

	if (start && stop > start && stop - start <= CIEL_MAX_BTF)
		length = (uint32_t)(stop - start);
	else if (!ciel_btf_search(&guest->space, guest->info.text_start, &start, &length) || length > CIEL_MAX_BTF)
		return ciel_fail(error, CIEL_NO_TYPES, "the kernel %s carries no BTF", guest->info.release);
	_cleanup_free_ uint8_t *btf = malloc(length);
	if (!btf)
		return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory for %u bytes of BTF", length);
	enum ciel_status status = ciel_space_read(&guest->space, start, btf, length, error);
	if (status)
		return ciel_context(error, "reading BTF of %s", guest->info.release);
	/* Where a dump's writer, or whoever shrank the guest's RAM, left it out. */
	static const uint8_t magic[2] = { 0x9f, 0xeb };
	if (length < sizeof(magic) || memcmp(btf, magic, sizeof(magic)) != 0)
		return ciel_fail(error, CIEL_NO_TYPES, "where the kernel %s says that its BTF is, there is none",
				 guest->info.release);
	*ret_length = length;
	*ret = ciel_take(btf);
	return CIEL_OK;
}

/* Fills the slots of types in guest->slots. */
static enum ciel_status find_types(struct ciel_guest *guest, const char *btf_directory, struct ciel_error *error)
{
	uint32_t count, length;
	const struct ciel_slot_desc *descriptors = ciel_all_descriptors(&count);
	_cleanup_free_ struct ciel_slot *resolved = calloc(count, sizeof(*resolved));
	_cleanup_free_ uint8_t *btf = NULL;

	if (!descriptors || !resolved)
		return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory for the kernel's types");
	enum ciel_status status = read_own_btf(guest, &btf, &length, error);
	if (status == CIEL_NO_TYPES)
		status = ciel_btf_detached(btf_directory, guest->info.release, &btf, &length, error);
	if (status)
		return status;

	ciel_sha256(btf, length, guest->btf_hash);
	const struct ciel_slot *slots = known_slots(guest->btf_hash);
	if (!slots) {
		status = ciel_slots_resolve(btf, length, descriptors, count, resolved, error);
		if (status)
			return ciel_context(error, "types of %s", guest->info.release);
		remember_slots(guest->btf_hash, resolved, count);
		slots = resolved;
	}
	for (uint32_t i = 0; i < count; i++) {
		if (!is_symbol(&descriptors[i]))
			guest->slots[i] = slots[i];
	}
	return CIEL_OK;
}

/*
 * Compares the layout with the guest's own table: a "System RAM" above 4 GiB must reach the layout's end. (Below, firmware
 * takes pieces away, and the page tables have proved that part.) What lies beyond was plugged in (ram.h).
 */
static enum ciel_status prove_layout(struct ciel_guest *guest, struct ciel_error *error)
{
	struct ciel_system_ram ram;
	uint64_t end = ciel_layout_end(&guest->layout), highest = 0;

	if (guest->layout.count < 2)
		return CIEL_OK;
	enum ciel_status status = ciel_guest_system_ram(guest, &ram, error);
	if (status)
		return status;
	for (uint32_t i = 0; i < ram.count; i++) {
		uint64_t first = ram.ranges[i].address, size = ram.ranges[i].size;
		if (first < end)
			highest = size >= end - first ? end : first + size;
	}
	if (highest != end)
		return ciel_fail(error, CIEL_UNSUPPORTED, "the guest's RAM ends at 0x%" PRIx64 ", the machine's layout at 0x%" PRIx64,
				 highest, end);
	return CIEL_OK;
}

static struct ciel_guest *new_guest(struct ciel_source *source, const struct ciel_layout *layout)
{
	struct ciel_guest *guest = calloc(1, sizeof(*guest));

	if (!guest)
		return NULL;
	guest->slots = calloc(ciel_view_slot_count + CIEL_CORE_SLOTS, sizeof(*guest->slots));
	if (!guest->slots) {
		free(guest);
		return NULL;
	}
	guest->source = source;
	guest->layout = *layout;
	guest->space.source = source;
	guest->space.layout = &guest->layout;
	return guest;
}

/* Steps 2 and 3 for one candidate. */
static enum ciel_status try_candidate(struct ciel_source *source, const struct ciel_layout *layout,
				      const struct ciel_vmcoreinfo *info, struct ciel_guest **ret, struct ciel_error *error)
{
	_cleanup_(ciel_guest_cleanup) struct ciel_guest *guest = new_guest(NULL, layout);

	if (!guest)
		return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory for a guest");
	guest->space.source = source;
	guest->info = *info;
	enum ciel_status status = ciel_vmcoreinfo_prove(&guest->info, &guest->space, error);
	if (!status)
		status = find_symbols(guest, error);
	if (status)
		return status;
	*ret = ciel_take(guest);
	return CIEL_OK;
}

static uint64_t read_jiffies(struct ciel_guest *guest)
{
	struct ciel_error ignored;
	uint64_t address = ciel_core_value(guest, CIEL_CORE_JIFFIES), jiffies = 0;

	ciel_space_refresh(&guest->space);
	return address && ciel_space_read(&guest->space, address, &jiffies, sizeof(jiffies), &ignored) == CIEL_OK ? jiffies : 0;
}

/*
 * Which of several kernels in the RAM runs: the index of the first whose clock ticks; `count` when none does. A dead
 * kernel's memory may have been given away and change, too: then that does not look like a clock.
 */
static uint32_t find_running(struct ciel_guest **guests, uint32_t count)
{
	uint64_t before[CIEL_MAX_CANDIDATES], start = now_ns();

	for (uint32_t i = 0; i < count; i++)
		before[i] = read_jiffies(guests[i]);
	for (int step = 0; step < LIVELINESS_STEPS; step++) {
		nanosleep(&(struct timespec){ .tv_nsec = LIVELINESS_STEP_NS }, NULL);
		for (uint32_t i = 0; i < count; i++) {
			if (ciel_clock_ticks(before[i], read_jiffies(guests[i]), now_ns() - start))
				return i;
		}
	}
	return count;
}

/* Steps 2 and 3 for all of them: those that hold. */
static uint32_t try_candidates(struct ciel_source *source, const struct ciel_layout *layout,
			       const struct ciel_vmcoreinfo_candidates *candidates, struct ciel_guest **guests,
			       struct ciel_error *error)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < candidates->count; i++) {
		if (try_candidate(source, layout, &candidates->info[i], &guests[count], error) == CIEL_OK)
			count++;
	}
	return count;
}

/* Steps 1 to 4. The guest does not own the source yet. */
static enum ciel_status find_kernel(struct ciel_source *source, const struct ciel_layout *layout, struct ciel_guest **ret,
				    struct ciel_attach_report *report, struct ciel_error *error)
{
	_cleanup_free_ struct ciel_vmcoreinfo_candidates *candidates = malloc(sizeof(*candidates));
	struct ciel_guest *guests[CIEL_MAX_CANDIDATES];
	uint32_t count = 0;

	if (!candidates)
		return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory to look for VMCOREINFO");
	uint64_t start = now_ns();
	enum ciel_status status = ciel_vmcoreinfo_scan(source, candidates, error);
	uint64_t scanned = now_ns();
	if (status && status != CIEL_NO_VMCOREINFO)
		return status;
	if (!status)
		count = try_candidates(source, layout, candidates, guests, error);
	if (count == 0 && candidates->count == 0) {
		/* Old kernels have it in another form. */
		status = ciel_vmcoreinfo_scan_deep(source, candidates, error);
		scanned = now_ns();
		if (!status)
			count = try_candidates(source, layout, candidates, guests, error);
	}
	report->scan_ns = scanned - start;
	report->candidates = candidates->count;
	report->symbols_ns = now_ns() - scanned;
	if (candidates->count == 0)
		return status;
	if (count == 0)
		return ciel_context(error, "%u copies of VMCOREINFO, none describes a kernel that is there; the last one",
				    candidates->count);
	/* One of several copies may hold because the running kernel has none yet. */
	uint32_t running = candidates->count == 1 ? 0 : find_running(guests, count);
	/* No clock ticks in a dump: then what lies highest is as good as any other. */
	if (running == count && report->source == CIEL_SOURCE_DUMP)
		running = count - 1;
	for (uint32_t i = 0; i < count; i++) {
		if (i != running)
			ciel_guest_destroy(guests[i]);
	}
	if (running == count)
		return ciel_fail(error, CIEL_STALE,
				 "the RAM has held %u kernels, and no clock of one ticks: the guest is paused, or on its way to another kernel",
				 candidates->count);
	*ret = guests[running];
	return CIEL_OK;
}

enum ciel_status ciel_guest_attach(struct ciel_source *source, const struct ciel_layout *layout, const char *btf_directory,
				   struct ciel_guest **ret, struct ciel_attach_report *report, struct ciel_error *error)
{
	_cleanup_(ciel_guest_cleanup) struct ciel_guest *guest = NULL;
	enum ciel_status status = find_kernel(source, layout, &guest, report, error);

	if (status)
		return status;
	uint64_t start = now_ns();
	status = find_types(guest, btf_directory, error);
	report->types_ns = now_ns() - start;
	if (!status)
		status = ciel_guest_prove(guest, error);
	if (!status)
		status = prove_layout(guest, error);
	if (status)
		return status;
	ciel_guest_set_linear_ranges(guest);
	status = ciel_guest_boot_id(guest, guest->boot_id, error);
	if (status)
		return status;
	guest->source = source;
	*ret = ciel_take(guest);
	return CIEL_OK;
}

void ciel_guest_destroy(struct ciel_guest *guest)
{
	if (!guest)
		return;
	ciel_source_destroy(guest->source);
	free(guest->slots);
	free(guest->kernel);
	free(guest->request);
	ciel_programme_destroy(guest->programme);
	free(guest);
}

void ciel_guest_cleanup(struct ciel_guest **guest)
{
	ciel_guest_destroy(*guest);
}

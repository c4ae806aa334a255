/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Believing an attach. Everything that was found is the guest's word, or a cache's; here it is compared with the memory.
 *
 * The boot id names one boot of one kernel: a hash over what is random or placed anew at each boot — KASLR offsets of
 * image, direct map and vmalloc space, and the first task's stack canary. The kernel's own boot_id would be simpler, but
 * is filled in only when somebody first reads it, so it changes while a guest runs.
 */
#include <inttypes.h>
#include <string.h>

#include "guest.h"
#include "record.h"

static enum ciel_status prove_banner(struct ciel_guest *guest, struct ciel_error *error)
{
	static const char prefix[] = "Linux version ";
	uint64_t address = ciel_core_value(guest, CIEL_CORE_LINUX_BANNER);
	char banner[sizeof(prefix) + sizeof(guest->info.release)];

	/* It is not exported: without kallsyms init_uts_ns, which VMCOREINFO names, has to do. */
	if (!address)
		return CIEL_OK;
	size_t release_length = strlen(guest->info.release);
	enum ciel_status status =
		ciel_space_read(&guest->space, address, banner, sizeof(prefix) - 1 + release_length, error);
	if (status)
		return ciel_context(error, "reading linux_banner");
	if (memcmp(banner, prefix, sizeof(prefix) - 1) != 0 ||
	    memcmp(banner + sizeof(prefix) - 1, guest->info.release, release_length) != 0)
		return ciel_fail(error, CIEL_STALE, "linux_banner at 0x%" PRIx64 " is not that of %s", address,
				 guest->info.release);
	return CIEL_OK;
}

static enum ciel_status prove_first_task(struct ciel_guest *guest, struct ciel_error *error)
{
	static const char name[] = "swapper";
	uint64_t task = ciel_core_value(guest, CIEL_CORE_INIT_TASK);
	const struct ciel_slot *comm = ciel_core_slot(guest, CIEL_CORE_TASK_COMM);
	char found[sizeof(name) - 1];

	if (!task || !comm->available)
		return ciel_fail(error, CIEL_NO_TYPES, "the kernel's types or symbols lack init_task or task_struct.comm");
	enum ciel_status status = ciel_space_read(&guest->space, task + comm->value, found, sizeof(found), error);
	if (status)
		return ciel_context(error, "reading init_task.comm");
	if (memcmp(found, name, sizeof(found)) != 0)
		return ciel_fail(error, CIEL_STALE, "init_task.comm at 0x%" PRIx64 " is not swapper", task + comm->value);
	return CIEL_OK;
}

/*
 * That each node's RAM is the node's: what the kernel keeps of a node lies in it, with its number (x86's alloc_node_data()).
 * A guest that was told to see no nodes has nothing to compare.
 */
static enum ciel_status prove_nodes(struct ciel_guest *guest, struct ciel_error *error)
{
	uint64_t nodes = ciel_core_value(guest, CIEL_CORE_NODE_DATA);
	const struct ciel_slot *id = ciel_core_slot(guest, CIEL_CORE_NODE_ID);

	for (uint32_t i = 0; nodes && id->available && i < guest->layout.nodes; i++) {
		uint64_t node;
		uint32_t found;
		enum ciel_status status = ciel_space_read(&guest->space, nodes + i * sizeof(node), &node, sizeof(node), error);

		if (!status && node)
			status = ciel_space_read(&guest->space, node + id->value, &found, sizeof(found), error);
		if (status)
			return ciel_context(error, "reading node_data[%u]", i);
		if (node && found != i)
			return ciel_fail(error, CIEL_STALE, "node_data[%u] has the number %u: the RAM of NUMA nodes is mixed up", i,
					 found);
	}
	return CIEL_OK;
}

enum ciel_status ciel_guest_prove(struct ciel_guest *guest, struct ciel_error *error)
{
	enum ciel_status status = prove_banner(guest, error);

	if (!status)
		status = prove_first_task(guest, error);
	return status ? status : prove_nodes(guest, error);
}

/* Jiffies begin 300 s before their lower 32 bits wrap, whatever HZ is, so in a narrow range of what a word may be. */
int ciel_clock_ticks(uint64_t before, uint64_t now, uint64_t elapsed_ns)
{
	static const uint64_t highest_hz = 1000, first = (1ull << 32) - 300 * 1000, years = 100ull * 366 * 86400;
	static const uint64_t longest_sleep_s = 60, second_ns = 1000000000;
	uint64_t seconds = elapsed_ns / second_ns + 1 + longest_sleep_s;

	return before >= first && now > before && now - before <= seconds * highest_hz && now - first <= years * highest_hz;
}

/* A variable of the kernel's image, or 0: kernels without KASLR for memory regions have none of them. */
static uint64_t read_variable(struct ciel_guest *guest, enum ciel_core_slot symbol)
{
	uint64_t address = ciel_core_value(guest, symbol), value;
	struct ciel_error ignored;

	if (!address || ciel_space_read(&guest->space, address, &value, sizeof(value), &ignored) != CIEL_OK)
		return 0;
	ciel_record_check(address, sizeof(value), value);
	return value;
}

enum ciel_status ciel_guest_boot_id(struct ciel_guest *guest, uint8_t ret[16], struct ciel_error *error)
{
	struct {
		uint64_t numbers[5];
		char release[72];
	} named = {
		.numbers = {
			guest->info.text_start,
			guest->info.phys_base,
			read_variable(guest, CIEL_CORE_PAGE_OFFSET_BASE),
			read_variable(guest, CIEL_CORE_VMALLOC_BASE),
		},
	};
	const struct ciel_slot *canary = ciel_core_slot(guest, CIEL_CORE_TASK_CANARY);
	uint8_t hash[CIEL_HASH_BYTES];

	if (canary->available && canary->size == 8) {
		uint64_t address = ciel_core_value(guest, CIEL_CORE_INIT_TASK) + canary->value;
		enum ciel_status status =
			ciel_space_read(&guest->space, address, &named.numbers[4], sizeof(named.numbers[4]), error);
		if (status)
			return ciel_context(error, "reading init_task.stack_canary");
		ciel_record_check(address, sizeof(named.numbers[4]), named.numbers[4]);
	}
	memcpy(named.release, guest->info.release, sizeof(guest->info.release));
	ciel_sha256(&named, sizeof(named), hash);
	memcpy(ret, hash, 16);
	return CIEL_OK;
}

/* Whether arithmetic and page tables agree about one address. */
static int agrees(struct ciel_guest *guest, uint64_t address, uint64_t physical)
{
	struct ciel_extent walked;
	struct ciel_error ignored;
	uint64_t offset, left;

	return ciel_space_walk(&guest->space, address, &walked, &ignored) == CIEL_OK &&
	       ciel_layout_find(&guest->layout, physical, &offset, &left) && walked.offset == offset;
}

void ciel_guest_set_linear_ranges(struct ciel_guest *guest)
{
	struct ciel_space *space = &guest->space;
	uint64_t text = ciel_core_value(guest, CIEL_CORE_TEXT), end = ciel_core_value(guest, CIEL_CORE_END);
	uint64_t banner = ciel_core_value(guest, CIEL_CORE_LINUX_BANNER);
	uint64_t banner_physical = banner - CIEL_KERNEL_MAP + space->phys_base;

	if (text >= CIEL_KERNEL_MAP && end > text && agrees(guest, text, text - CIEL_KERNEL_MAP + space->phys_base) &&
	    agrees(guest, banner, banner_physical)) {
		space->image_start = text;
		space->image_end = end;
	}

	uint64_t direct = read_variable(guest, CIEL_CORE_PAGE_OFFSET_BASE), direct_end;
	if (direct && !__builtin_add_overflow(direct, ciel_layout_end(&guest->layout), &direct_end) &&
	    agrees(guest, direct + banner_physical, banner_physical)) {
		space->direct_start = direct;
		space->direct_end = direct_end;
	}
}

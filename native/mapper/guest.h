/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that has been attached to. Belongs to one thread at a time; the slots of types in it are a copy of its own, so
 * nothing of one guest is reachable from another.
 */
#ifndef CIEL_GUEST_H
#define CIEL_GUEST_H

#include "locate/vmcoreinfo.h"
#include "mapper.h"
#include "types/slots.h"
#include "views/views.h"

struct ciel_programme;

enum { CIEL_MAX_SYSTEM_RAM = 32 };

/* Upward; the offsets are not filled in. */
struct ciel_system_ram {
	uint32_t count;
	struct ciel_range ranges[CIEL_MAX_SYSTEM_RAM];
};

/* What the mapper itself asks of a kernel, beside the views: numbered behind ciel_view_slots[]. */
enum ciel_core_slot {
	CIEL_CORE_INIT_TASK,
	CIEL_CORE_LINUX_BANNER,
	CIEL_CORE_JIFFIES,
	CIEL_CORE_START_BTF,
	CIEL_CORE_STOP_BTF,
	CIEL_CORE_TEXT,
	CIEL_CORE_END,
	CIEL_CORE_PAGE_OFFSET_BASE,
	CIEL_CORE_VMALLOC_BASE,
	CIEL_CORE_IOMEM_RESOURCE,
	CIEL_CORE_NODE_DATA,
	CIEL_CORE_TASK_COMM,
	CIEL_CORE_TASK_CANARY,
	CIEL_CORE_RESOURCE_START,
	CIEL_CORE_RESOURCE_END,
	CIEL_CORE_RESOURCE_NAME,
	CIEL_CORE_RESOURCE_SIBLING,
	CIEL_CORE_RESOURCE_CHILD,
	CIEL_CORE_NODE_ID,
	CIEL_CORE_SLOTS,
};

struct ciel_guest {
	struct ciel_source *source;
	struct ciel_layout layout;
	struct ciel_vmcoreinfo info;
	struct ciel_space space;
	uint8_t btf_hash[CIEL_HASH_BYTES];
	uint8_t boot_id[16];
	struct ciel_slot *slots; /* of the views, then of the core */
	int with_services; /* samples hold systemd services, too */
	int detail;              /* figures on demand are read, too */
	struct view_kernel *kernel; /* what the views need to know of it; NULL until the first sample */
	uint8_t is_being_read, lane, is_slow, is_given_up; /* host.c's, under its lock */
	/* How the RAM was found, and how many ranges of the layout are not plugged in (ram.h). NULL: a dump, or a test's image. */
	struct ciel_attach_request *request;
	uint32_t own_ranges;
	uint32_t samples_to_wait; /* until a fault is looked into again */
	struct ciel_programme *programme; /* what is known from earlier samples; NULL until the first */
};

/* All descriptors in one array: the views' first, so that their numbers are indices, then the core's. */
const struct ciel_slot_desc *ciel_all_descriptors(uint32_t *ret_count);

static inline const struct ciel_slot *ciel_core_slot(const struct ciel_guest *guest, enum ciel_core_slot slot)
{
	return &guest->slots[ciel_view_slot_count + slot];
}

/* The value of a core slot, 0 when the kernel has none. */
static inline uint64_t ciel_core_value(const struct ciel_guest *guest, enum ciel_core_slot slot)
{
	const struct ciel_slot *found = ciel_core_slot(guest, slot);
	return found->available ? found->value : 0;
}

/* Takes over the source on success. The parts of an attach that need no process: tests attach to images. */
enum ciel_status ciel_guest_attach(struct ciel_source *source, const struct ciel_layout *layout, const char *btf_directory,
				   struct ciel_guest **ret, struct ciel_attach_report *report, struct ciel_error *error);

/* From a cache file. STALE when the file is another kernel's, boot's or build's; the source is not taken over then. */
enum ciel_status ciel_guest_load(const char *path, struct ciel_source *source, const struct ciel_layout *layout,
				 struct ciel_guest **ret, struct ciel_error *error);
enum ciel_status ciel_guest_save(const struct ciel_guest *guest, const char *path, struct ciel_error *error);

/* Proves that this kernel is in the RAM: its release, banner, first task, and (when known) its boot. */
enum ciel_status ciel_guest_prove(struct ciel_guest *guest, struct ciel_error *error);

/* Where image and direct map translate by arithmetic, from the symbols; nothing when a proof fails. */
void ciel_guest_set_linear_ranges(struct ciel_guest *guest);

enum ciel_status ciel_guest_boot_id(struct ciel_guest *guest, uint8_t ret[16], struct ciel_error *error);

/* Whether these are the jiffies of a kernel that runs, `elapsed_ns` apart. An idle kernel's stand still for a while. */
int ciel_clock_ticks(uint64_t before, uint64_t now, uint64_t elapsed_ns);

/* What the guest's kernel says of its RAM from 4 GiB on. */
enum ciel_status ciel_guest_system_ram(struct ciel_guest *guest, struct ciel_system_ram *ret, struct ciel_error *error);

void ciel_guest_destroy(struct ciel_guest *guest);
void ciel_guest_cleanup(struct ciel_guest **guest);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the guest's kernel says of its RAM: the entries "System RAM" of iomem_resource (kernel/resource.c), which /proc/iomem
 * shows. Each piece that is plugged in gets an entry of its own (mm/memory_hotplug.c, register_memory_resource()).
 */
#include <string.h>

#include "guest.h"

enum { MAX_RESOURCES = 4096 };

struct resource {
	uint64_t first, last, name, sibling;
};

static enum ciel_status read_resource(struct ciel_guest *guest, uint64_t address, struct resource *ret,
				      struct ciel_error *error)
{
	const struct {
		enum ciel_core_slot field;
		uint64_t *to;
	} fields[] = {
		{ CIEL_CORE_RESOURCE_START, &ret->first },
		{ CIEL_CORE_RESOURCE_END, &ret->last },
		{ CIEL_CORE_RESOURCE_NAME, &ret->name },
		{ CIEL_CORE_RESOURCE_SIBLING, &ret->sibling },
	};
	enum ciel_status status = CIEL_OK;

	for (size_t i = 0; !status && i < sizeof(fields) / sizeof(fields[0]); i++) {
		uint64_t at = address + ciel_core_value(guest, fields[i].field);
		status = ciel_space_read(&guest->space, at, fields[i].to, sizeof(*fields[i].to), error);
	}
	return status;
}

enum ciel_status ciel_guest_system_ram(struct ciel_guest *guest, struct ciel_system_ram *ret, struct ciel_error *error)
{
	static const uint64_t four_gib = 4ull << 30;
	static const char ram_name[] = "System RAM";
	uint64_t root = ciel_core_value(guest, CIEL_CORE_IOMEM_RESOURCE), next = 0;

	ret->count = 0;
	if (!root || !ciel_core_slot(guest, CIEL_CORE_RESOURCE_CHILD)->available)
		return ciel_fail(error, CIEL_NO_SYMBOLS, "iomem_resource is needed to prove the RAM above 4 GiB");
	root += ciel_core_value(guest, CIEL_CORE_RESOURCE_CHILD);
	enum ciel_status status = ciel_space_read(&guest->space, root, &next, sizeof(next), error);
	for (int i = 0; !status && next && i < MAX_RESOURCES; i++) {
		struct resource resource = { 0 };
		char name[sizeof(ram_name)] = "";

		status = read_resource(guest, next, &resource, error);
		if (!status)
			status = ciel_space_read(&guest->space, resource.name, name, sizeof(name), error);
		if (!status && memcmp(name, ram_name, sizeof(name)) == 0 && resource.first >= four_gib &&
		    resource.last > resource.first && resource.last != UINT64_MAX && ret->count < CIEL_MAX_SYSTEM_RAM) {
			uint64_t size = resource.last - resource.first + 1;
			ret->ranges[ret->count++] = (struct ciel_range){ .address = resource.first, .size = size };
		}
		next = resource.sibling;
	}
	return status ? ciel_context(error, "reading iomem_resource") : CIEL_OK;
}

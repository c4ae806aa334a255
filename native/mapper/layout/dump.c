/* SPDX-License-Identifier: Apache-2.0 */
/* A dump says itself where its memory is; a QEMU stream names only the machine, and its RAM lies as in a running one. */
#include <string.h>

#include "layout.h"

enum ciel_status ciel_layout_of_dump(const struct ciel_dump_shape *shape, uint64_t size, struct ciel_layout *ret,
				     struct ciel_error *error)
{
	if (!shape->machine[0]) {
		/* What lies between the pieces of RAM is not in the dump: reading it fails there. */
		*ret = (struct ciel_layout){ .count = 1, .ranges = { { .size = size } } };
		return CIEL_OK;
	}
	if (strncmp(shape->machine, "pc-q35-", 7) == 0)
		return ciel_layout_of_qemu(CIEL_MACHINE_Q35, size, 0, ret, error);
	if (strncmp(shape->machine, "pc-", 3) == 0)
		return ciel_layout_of_qemu(CIEL_MACHINE_I440FX, size, 0, ret, error);
	return ciel_fail(error, CIEL_UNSUPPORTED, "a VM of machine type %s: where that has its RAM is not known", shape->machine);
}

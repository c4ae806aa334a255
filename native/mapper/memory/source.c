/* SPDX-License-Identifier: Apache-2.0 */
#include "source.h"

enum ciel_status ciel_source_read(struct ciel_source *source, uint64_t offset, void *to, size_t length,
				  struct ciel_error *error)
{
	uint64_t end;

	if (__builtin_add_overflow(offset, length, &end) || end > source->size)
		return ciel_fail(error, CIEL_FAULTED, "RAM offset 0x%llx + %zu is beyond the RAM's end",
				 (unsigned long long)offset, length);
	return source->operations->read(source, offset, to, length, error);
}

void ciel_source_destroy(struct ciel_source *source)
{
	if (source)
		source->operations->destroy(source);
}

void ciel_source_cleanup(struct ciel_source **source)
{
	ciel_source_destroy(*source);
}

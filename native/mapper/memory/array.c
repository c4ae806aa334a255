/* SPDX-License-Identifier: Apache-2.0 */
/* RAM as an array of this process: for tests, and for images of a guest's RAM mapped from a file. */
#include <stdlib.h>
#include <string.h>

#include "source.h"

struct array_source {
	struct ciel_source source;
	const uint8_t *bytes;
};

static const struct array_source *array_of(const struct ciel_source *source)
{
	return (const struct array_source *)source;
}

static const volatile uint8_t *array_page(struct ciel_source *source, uint64_t offset)
{
	return array_of(source)->bytes + offset;
}

static enum ciel_status array_read(struct ciel_source *source, uint64_t offset, void *to, size_t length,
				   struct ciel_error *error)
{
	(void)error;
	memcpy(to, array_of(source)->bytes + offset, length);
	return CIEL_OK;
}

static enum ciel_status array_scan(struct ciel_source *source, ciel_scan_visitor visit, void *context,
				   struct ciel_error *error)
{
	(void)error;
	for (uint64_t offset = 0; offset < source->size; offset += CIEL_PAGE_SIZE) {
		if (visit(context, offset, array_of(source)->bytes + offset))
			break;
	}
	return CIEL_OK;
}

static void array_refresh(struct ciel_source *source)
{
	(void)source;
}

static const volatile uint8_t *array_array(struct ciel_source *source)
{
	return array_of(source)->bytes;
}

static int array_resident(struct ciel_source *source, uint64_t offset)
{
	(void)source;
	(void)offset;
	return 1;
}

static enum ciel_status array_alive(struct ciel_source *source, struct ciel_error *error)
{
	(void)source;
	(void)error;
	return CIEL_OK;
}

static void array_destroy(struct ciel_source *source)
{
	free(source);
}

static const struct ciel_source_operations array_operations = {
	.name = "array",
	.page = array_page,
	.read = array_read,
	.scan = array_scan,
	.refresh = array_refresh,
	.array = array_array,
	.resident = array_resident,
	.alive = array_alive,
	.destroy = array_destroy,
};

enum ciel_status ciel_source_open_array(const uint8_t *bytes, uint64_t size, struct ciel_source **ret,
					struct ciel_error *error)
{
	if (size & ~CIEL_PAGE_MASK)
		return ciel_fail(error, CIEL_BAD_ARGUMENT, "RAM of %llu bytes is not whole pages", (unsigned long long)size);

	struct array_source *array = malloc(sizeof(*array));
	if (!array)
		return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory for an array source");
	*array = (struct array_source){ .source = { .operations = &array_operations, .size = size }, .bytes = bytes };
	*ret = &array->source;
	return CIEL_OK;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All guests in one call: a guest that blocks costs the others nothing, is answered at once as long as it does, and is
 * destroyed by its lane when it was detached from meanwhile. The guests here have no kernel: their answer is an error.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"
#include "test.h"

enum { GUESTS = 20, BLOCKED = 7, BUFFER = 1 << 20 };

static atomic_int is_blocking, is_inside, destroyed;

static const volatile uint8_t *no_page(struct ciel_source *source, uint64_t offset)
{
	(void)source, (void)offset;
	return NULL;
}

static const volatile uint8_t *blocked_page(struct ciel_source *source, uint64_t offset)
{
	atomic_store(&is_inside, 1);
	while (atomic_load(&is_blocking))
		usleep(1000);
	return no_page(source, offset);
}

static enum ciel_status no_read(struct ciel_source *source, uint64_t offset, void *to, size_t length, struct ciel_error *error)
{
	(void)offset, (void)to, (void)length;
	source->operations->page(source, 0);
	return ciel_fail(error, CIEL_FAULTED, "there is nothing");
}

static void nothing(struct ciel_source *source)
{
	(void)source;
}

static enum ciel_status alive(struct ciel_source *source, struct ciel_error *error)
{
	(void)source, (void)error;
	return CIEL_OK;
}

static void destroy(struct ciel_source *source)
{
	atomic_fetch_add(&destroyed, 1);
	free(source);
}

static const struct ciel_source_operations empty = {
	.name = "empty", .page = no_page, .read = no_read, .refresh = nothing, .alive = alive, .destroy = destroy
};
static const struct ciel_source_operations blocking = {
	.name = "blocking", .page = blocked_page, .read = no_read, .refresh = nothing, .alive = alive, .destroy = destroy
};

static struct ciel_guest *make_guest(const struct ciel_source_operations *operations)
{
	struct ciel_guest *guest = calloc(1, sizeof(*guest));
	uint32_t count;

	ciel_all_descriptors(&count);
	guest->source = calloc(1, sizeof(*guest->source));
	*guest->source = (struct ciel_source){ .operations = operations, .size = 1 << 20 };
	guest->layout = (struct ciel_layout){ .ranges = { { .size = 1 << 20 } }, .count = 1 };
	guest->space = (struct ciel_space){ .source = guest->source, .layout = &guest->layout, .levels = 4 };
	guest->slots = calloc(count, sizeof(*guest->slots));
	/* Symbols lead to the page tables at 0, and so to the source. */
	for (uint32_t i = 0; i < count; i++)
		guest->slots[i] = (struct ciel_slot){ .value = 0x1000, .size = 8, .available = 1 };
	return guest;
}

static _Alignas(8) uint8_t buffer[BUFFER];

static const struct ciel_board_row *row_of(uint32_t row)
{
	return (const struct ciel_board_row *)(buffer + sizeof(struct ciel_board_header)) + row;
}

static const struct ciel_error *error_of(uint32_t row)
{
	return (const struct ciel_error *)(buffer + row_of(row)->at);
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

int main(void)
{
	struct ciel_guest *guests[GUESTS];
	struct ciel_host *host;
	struct ciel_error error;
	const struct ciel_board_header *header = (const struct ciel_board_header *)buffer;

	for (int i = 0; i < GUESTS; i++)
		guests[i] = i == 3 ? NULL : make_guest(i == BLOCKED ? &blocking : &empty);
	CHECK_EQUAL(ciel_host_open(&host, &error), CIEL_OK);

	/* One that blocks: all others have been read, and it has not. */
	atomic_store(&is_blocking, 1);
	CHECK_EQUAL(ciel_host_sample(host, guests, GUESTS, 42, buffer, BUFFER, 60000000000, &error), CIEL_OK);
	CHECK(atomic_load(&is_inside));
	CHECK_EQUAL(header->tag, 42);
	CHECK_EQUAL(header->count, GUESTS);
	for (uint32_t i = 0; i < GUESTS; i++) {
		if (i == 3) {
			CHECK_EQUAL(row_of(i)->bytes, 0);
			continue;
		}
		CHECK_EQUAL(row_of(i)->bytes, sizeof(struct ciel_error));
		CHECK_EQUAL(error_of(i)->status, row_of(i)->status);
		CHECK(i == BLOCKED ? row_of(i)->elapsed_ns == 0 : row_of(i)->elapsed_ns > 0);
	}
	CHECK_EQUAL(row_of(BLOCKED)->status, CIEL_EXHAUSTED);
	uint32_t lanes_reading = 0;
	for (int i = 0; i < CIEL_LANES; i++)
		lanes_reading += header->reading[i] == BLOCKED + 1;
	CHECK_EQUAL(lanes_reading, 1);

	/* The next tick does not wait for it, and says again who it is that is being read. */
	uint64_t start = now_ms();
	CHECK_EQUAL(ciel_host_sample(host, guests, GUESTS, 43, buffer, BUFFER, 60000000000, &error), CIEL_OK);
	CHECK(now_ms() - start < CIEL_BUDGET_NS / 1000000);
	CHECK_EQUAL(row_of(BLOCKED)->status, CIEL_EXHAUSTED);
	CHECK(row_of(GUESTS - 1)->elapsed_ns > 0);
	lanes_reading = 0;
	for (int i = 0; i < CIEL_LANES; i++)
		lanes_reading += header->reading[i] == BLOCKED + 1;
	CHECK_EQUAL(lanes_reading, 1);

	/* Detached while it is being read: left to its lane. */
	ciel_host_detach(host, guests[BLOCKED]);
	CHECK_EQUAL(atomic_load(&destroyed), 0);
	guests[BLOCKED] = NULL;
	atomic_store(&is_blocking, 0);
	while (!atomic_load(&destroyed))
		usleep(1000);
	CHECK_EQUAL(ciel_host_sample(host, guests, GUESTS, 44, buffer, BUFFER, 60000000000, &error), CIEL_OK);
	CHECK_EQUAL(row_of(BLOCKED)->bytes, 0);
	for (int i = 0; i < CIEL_LANES; i++)
		CHECK_EQUAL(header->reading[i], 0);

	/* A buffer that has room for some is full for the others. */
	uint64_t small = sizeof(struct ciel_board_header) + GUESTS * sizeof(struct ciel_board_row) + 5 * sizeof(struct ciel_error);
	CHECK_EQUAL(ciel_host_sample(host, guests, GUESTS, 45, buffer, small, 60000000000, &error), CIEL_OK);
	uint32_t told = 0;
	for (uint32_t i = 0; i < GUESTS; i++)
		told += row_of(i)->bytes > 0;
	CHECK_EQUAL(told, 5);
	CHECK_EQUAL(ciel_host_sample(host, guests, GUESTS, 46, buffer, 64, 60000000000, &error), CIEL_BAD_ARGUMENT);

	for (int i = 0; i < GUESTS; i++) {
		if (guests[i])
			ciel_host_detach(host, guests[i]);
	}
	CHECK_EQUAL(atomic_load(&destroyed), GUESTS - 1);
	ciel_host_close(host);
	return 0;
}

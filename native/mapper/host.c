/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All guests of a host in one call: ciel_host_sample().
 *
 * Samples are taken on lanes, threads that draw the next guest from the tick's rows. Each writes to a scratch of its own;
 * what is finished in time is copied behind the rows of the shared buffer.
 *
 *   rows      │0│1│2│3│4│5│…          a row: status, where its sample is
 *   fast ───▶ lanes 0 and 1 draw from here
 *   slow ───▶ lane 2: guests that took longer than SLOW_NS the last time; fast ones, when there are none of those
 *
 * So a guest that blocks (its RAM is swapped out, or behind a userfaultfd) holds one lane, the first time a fast one. The
 * call ends when all rows are done, or when none was finished for BUDGET_NS: what is left then has spent its budget. As
 * long as a lane still has it, its row says so at once; detached, it is left to the lane to destroy.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"

enum {
	SLOW_LANE = CIEL_LANES - 1,
	SCRATCH_BYTES = 16 << 20,
	MAX_ROWS = 65536,
	NO_ROW = -1,
};
static const uint64_t SLOW_NS = 20 * 1000 * 1000;

enum row_state { ROW_OPEN, ROW_READING, ROW_DONE };

struct lane {
	struct ciel_host *host;
	uint32_t number;
	pthread_t thread;
	uint8_t *scratch;
};

struct ciel_host {
	pthread_mutex_t lock; /* over all of this, and the guests' lane states; not held while a guest is read */
	pthread_cond_t wanted, finished;
	int is_closing;
	struct lane lanes[CIEL_LANES];
	uint32_t lane_count;
	/* The tick in progress; nothing is open between two. */
	uint64_t tick;
	struct ciel_guest **guests;
	uint8_t *states; /* enum row_state */
	uint32_t count, undone, cursors[2];
	uint64_t progress_ns; /* when a row was finished last */
	uint8_t *buffer;
	uint64_t capacity;
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static struct ciel_board_header *header_of(const struct ciel_host *host)
{
	return (struct ciel_board_header *)host->buffer;
}

static struct ciel_board_row *rows_of(const struct ciel_host *host)
{
	return (struct ciel_board_row *)(host->buffer + sizeof(struct ciel_board_header));
}

/* --- rows, under the lock ---------------------------------------------------------------------------------------------- */

static void finish_row(struct ciel_host *host, uint32_t row, int32_t status, const void *bytes, uint32_t length,
		       uint64_t elapsed_ns)
{
	struct ciel_board_header *header = header_of(host);
	uint32_t padded = (length + 7) & ~7u;

	host->states[row] = ROW_DONE;
	host->undone--;
	if (padded > host->capacity - header->used) {
		rows_of(host)[row] = (struct ciel_board_row){ .status = CIEL_EXHAUSTED };
		return;
	}
	memcpy(host->buffer + header->used, bytes, length);
	rows_of(host)[row] = (struct ciel_board_row){
		.status = status, .bytes = length, .at = header->used, .elapsed_ns = elapsed_ns
	};
	header->used += padded;
}

static void give_up_row(struct ciel_host *host, uint32_t row)
{
	struct ciel_error error;

	ciel_fail(&error, CIEL_EXHAUSTED, "reading this guest takes longer than its budget of %d ms",
		  (int)(CIEL_BUDGET_NS / 1000000));
	finish_row(host, row, error.status, &error, sizeof(error), 0);
}

static void skip_row(struct ciel_host *host, uint32_t row)
{
	host->states[row] = ROW_DONE;
	host->undone--;
}

static int draw(struct ciel_host *host, int is_slow)
{
	for (uint32_t *cursor = &host->cursors[is_slow]; *cursor < host->count; ++*cursor) {
		uint32_t row = *cursor;
		if (host->states[row] == ROW_OPEN && host->guests[row]->is_slow == is_slow)
			return (int)row;
	}
	return NO_ROW;
}

static int draw_row(struct ciel_host *host, uint32_t lane)
{
	int row = lane == SLOW_LANE ? draw(host, 1) : NO_ROW;

	return row == NO_ROW ? draw(host, 0) : row;
}

/* --- lanes ------------------------------------------------------------------------------------------------------------- */

static void read_row(struct lane *lane, uint32_t row)
{
	struct ciel_host *host = lane->host;
	struct ciel_guest *guest = host->guests[row];
	uint64_t tick = host->tick, start = now_ns();
	uint32_t *reading = &header_of(host)->reading[lane->number];
	struct ciel_error error;

	guest->is_being_read = 1;
	guest->lane = (uint8_t)lane->number;
	host->states[row] = ROW_READING;
	*reading = row + 1;
	pthread_mutex_unlock(&host->lock);

	int32_t status = ciel_sample(guest, lane->scratch, SCRATCH_BYTES, &error);
	uint64_t elapsed = now_ns() - start;

	pthread_mutex_lock(&host->lock);
	guest->is_being_read = 0;
	guest->is_slow = elapsed > SLOW_NS;
	*reading = 0;
	header_of(host)->reading[lane->number] = 0; /* a later tick may have found it still here */
	if (host->tick == tick && host->undone > 0) {
		host->progress_ns = now_ns();
		if (host->states[row] == ROW_READING) {
			const struct ciel_sample_header *sample = (const struct ciel_sample_header *)lane->scratch;
			if (status)
				finish_row(host, row, status, &error, sizeof(error), elapsed);
			else
				finish_row(host, row, status, sample, sample->bytes, elapsed);
		}
		pthread_cond_signal(&host->finished);
	}
	if (guest->is_given_up) {
		pthread_mutex_unlock(&host->lock);
		ciel_guest_destroy(guest);
		pthread_mutex_lock(&host->lock);
	}
}

static void *run_lane(void *argument)
{
	struct lane *lane = argument;
	struct ciel_host *host = lane->host;

	pthread_mutex_lock(&host->lock);
	while (!host->is_closing) {
		int row = host->undone > 0 ? draw_row(host, lane->number) : NO_ROW;
		if (row == NO_ROW)
			pthread_cond_wait(&host->wanted, &host->lock);
		else
			read_row(lane, (uint32_t)row);
	}
	pthread_mutex_unlock(&host->lock);
	return NULL;
}

/* --- the interface ----------------------------------------------------------------------------------------------------- */

static void close_lanes(struct ciel_host *host)
{
	pthread_mutex_lock(&host->lock);
	host->is_closing = 1;
	pthread_cond_broadcast(&host->wanted);
	pthread_mutex_unlock(&host->lock);
	for (uint32_t i = 0; i < host->lane_count; i++) {
		pthread_join(host->lanes[i].thread, NULL);
		munmap(host->lanes[i].scratch, SCRATCH_BYTES);
	}
}

int32_t ciel_host_open(struct ciel_host **ret, struct ciel_error *error)
{
	struct ciel_host *host = calloc(1, sizeof(*host));
	pthread_condattr_t monotonic;

	*error = (struct ciel_error){ 0 };
	if (!host)
		return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory for a host");
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_mutex_init(&host->lock, NULL);
	pthread_cond_init(&host->wanted, NULL);
	pthread_cond_init(&host->finished, &monotonic);
	pthread_condattr_destroy(&monotonic);
	for (; host->lane_count < CIEL_LANES; host->lane_count++) {
		struct lane *lane = &host->lanes[host->lane_count];
		void *scratch = mmap(NULL, SCRATCH_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
				     -1, 0);

		*lane = (struct lane){ .host = host, .number = host->lane_count, .scratch = scratch };
		if (scratch == MAP_FAILED || pthread_create(&lane->thread, NULL, run_lane, lane) != 0) {
			if (scratch != MAP_FAILED)
				munmap(scratch, SCRATCH_BYTES);
			ciel_host_close(host);
			return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no thread for lane %u", lane->number);
		}
	}
	*ret = host;
	return CIEL_OK;
}

void ciel_host_close(struct ciel_host *host)
{
	if (!host)
		return;
	close_lanes(host);
	pthread_mutex_destroy(&host->lock);
	pthread_cond_destroy(&host->wanted);
	pthread_cond_destroy(&host->finished);
	free(host->guests);
	free(host->states);
	free(host);
}

static enum ciel_status make_room(struct ciel_host *host, uint32_t count, struct ciel_error *error)
{
	struct ciel_guest **guests = realloc(host->guests, (count + 1) * sizeof(*guests));
	if (guests)
		host->guests = guests;
	uint8_t *states = realloc(host->states, count + 1);
	if (states)
		host->states = states;
	return guests && states ? CIEL_OK : ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory for %u rows", count);
}

/* Rows before the samples: those of guests that an earlier tick has left on a lane are answered at once. */
static void begin_tick(struct ciel_host *host, struct ciel_guest *const *guests, uint32_t count, uint64_t tag,
		       uint8_t *buffer, uint64_t capacity)
{
	host->tick++;
	host->buffer = buffer;
	host->capacity = capacity;
	host->count = host->undone = count;
	host->cursors[0] = host->cursors[1] = 0;
	host->progress_ns = now_ns();
	memcpy(host->guests, guests, count * sizeof(*guests));
	memset(host->states, ROW_OPEN, count);
	memset(rows_of(host), 0, count * sizeof(struct ciel_board_row));
	*header_of(host) = (struct ciel_board_header){
		.abi = CIEL_ABI,
		.count = count,
		.tag = tag,
		.used = sizeof(struct ciel_board_header) + count * sizeof(struct ciel_board_row),
	};
	for (uint32_t row = 0; row < count; row++) {
		if (!host->guests[row])
			skip_row(host, row);
		else if (host->guests[row]->is_being_read) {
			header_of(host)->reading[host->guests[row]->lane] = row + 1;
			give_up_row(host, row);
		}
	}
	pthread_cond_broadcast(&host->wanted);
}

int32_t ciel_host_sample(struct ciel_host *host, struct ciel_guest *const *guests, uint32_t count, uint64_t tag,
			 uint8_t *buffer, uint64_t capacity, uint64_t limit_ns, struct ciel_error *error)
{
	uint64_t deadline = now_ns() + limit_ns;

	*error = (struct ciel_error){ 0 };
	if (count > MAX_ROWS || ((uintptr_t)buffer & 7) ||
	    capacity < sizeof(struct ciel_board_header) + count * sizeof(struct ciel_board_row))
		return ciel_fail(error, CIEL_BAD_ARGUMENT, "%u rows do not fit into %" PRIu64 " bytes", count, capacity);
	pthread_mutex_lock(&host->lock);
	enum ciel_status status = make_room(host, count, error);
	if (!status)
		begin_tick(host, guests, count, tag, buffer, capacity);
	while (!status && host->undone > 0) {
		uint64_t wake = host->progress_ns + CIEL_BUDGET_NS < deadline ? host->progress_ns + CIEL_BUDGET_NS : deadline;
		struct timespec until = { .tv_sec = (time_t)(wake / 1000000000), .tv_nsec = (long)(wake % 1000000000) };

		if (now_ns() >= wake)
			break;
		pthread_cond_timedwait(&host->finished, &host->lock, &until);
	}
	for (uint32_t row = 0; !status && row < count; row++) {
		if (host->states[row] != ROW_DONE)
			give_up_row(host, row);
	}
	pthread_mutex_unlock(&host->lock);
	return status;
}

void ciel_host_detach(struct ciel_host *host, struct ciel_guest *guest)
{
	pthread_mutex_lock(&host->lock);
	int is_being_read = guest->is_being_read;
	guest->is_given_up = 1;
	pthread_mutex_unlock(&host->lock);
	if (!is_being_read)
		ciel_guest_destroy(guest);
}

/* --- the shared buffer ------------------------------------------------------------------------------------------------- */

int32_t ciel_board_create(uint64_t bytes, struct ciel_error *error)
{
	int file = memfd_create("ciel-samples", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	*error = (struct ciel_error){ 0 };
	if (file < 0 || ftruncate(file, (off_t)bytes) != 0 ||
	    fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
		ciel_fail_errno(error, errno, "making a buffer of %" PRIu64 " bytes", bytes);
		if (file >= 0)
			close(file);
		return -1;
	}
	return file;
}

uint8_t *ciel_board_map(int32_t file, uint64_t bytes, int32_t is_writable, struct ciel_error *error)
{
	int access = is_writable ? PROT_READ | PROT_WRITE : PROT_READ;
	void *board = mmap(NULL, bytes, access, MAP_SHARED | MAP_NORESERVE, file, 0);

	*error = (struct ciel_error){ 0 };
	if (board != MAP_FAILED)
		return board;
	ciel_fail_errno(error, errno, "mapping the buffer of samples");
	return NULL;
}

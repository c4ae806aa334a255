/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A real guest's RAM, torn apart: mutate IMAGE i440fx|q35 ROUNDS SEED
 *
 * IMAGE is a copy of a guest's RAM. A clean sample is taken first, and the pages that it touched are noted: mutations hit
 * only those, so nearly each one lands in something that is read — cgroups, lists, counters, page tables, names. A round
 * changes a few 8-byte words in one of the ways below, samples, and puts the words back.
 *
 * Right is: an error, or figures; no sanitizer report, no hang. Built with sanitizers by `make mutate`.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"
#include "layout/layout.h"
#include "test.h"

enum { MAX_TOUCHED = 65536, MAX_WORDS = 64, BUFFER = 1 << 20, ATTACHES_EVERY = 500 };
static const uint64_t SLOWEST_NS = 10ull * 1000 * 1000 * 1000;

/* An array source that notes which pages are read while `is_recording`. */
static struct ciel_source_operations recording_operations;
static const struct ciel_source_operations *plain;
static uint64_t touched[MAX_TOUCHED];
static uint32_t touched_count;
static int is_recording;

static void note(uint64_t offset)
{
	for (uint32_t i = 0; i < touched_count; i++) {
		if (touched[i] == offset)
			return;
	}
	if (touched_count < MAX_TOUCHED)
		touched[touched_count++] = offset;
}

static const volatile uint8_t *recording_page(struct ciel_source *source, uint64_t offset)
{
	if (is_recording)
		note(offset);
	return plain->page(source, offset);
}

static enum ciel_status recording_read(struct ciel_source *source, uint64_t offset, void *to, size_t length,
				       struct ciel_error *error)
{
	for (uint64_t page = offset & CIEL_PAGE_MASK; is_recording && page < offset + length; page += CIEL_PAGE_SIZE)
		note(page);
	return plain->read(source, offset, to, length, error);
}

static struct ciel_source *open_recording(const uint8_t *ram, uint64_t size)
{
	struct ciel_source *source;
	struct ciel_error error;

	CHECK(ciel_source_open_array(ram, size, &source, &error) == CIEL_OK);
	plain = source->operations;
	recording_operations = *plain;
	recording_operations.page = recording_page;
	recording_operations.read = recording_read;
	source->operations = &recording_operations;
	return source;
}

static uint64_t seed;

static uint64_t draw(void)
{
	seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
	return seed;
}

/* What a word becomes: junk, nothing, a small number, a flipped bit, a neighbour, any other word that is read. */
static uint64_t mutate(uint8_t *ram, uint64_t at, uint64_t old)
{
	uint64_t other;

	switch (draw() % 8) {
	case 0:
		return draw();
	case 1:
		return 0;
	case 2:
		return draw() % 4096;
	case 3:
		return old ^ 1ull << draw() % 64;
	case 4:
		return old + (draw() % 64 - 32) * 8;
	case 5:
		return UINT64_MAX - draw() % 16;
	case 6:
		memcpy(&other, ram + (at ^ 8), sizeof(other));
		return other;
	default:
		memcpy(&other, ram + touched[draw() % touched_count] + draw() % 512 * 8, sizeof(other));
		return other;
	}
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int main(int argc, char **argv)
{
	if (argc != 5) {
		fprintf(stderr, "usage: mutate IMAGE i440fx|q35 ROUNDS SEED\n");
		return 1;
	}
	int file = open(argv[1], O_RDONLY);
	struct stat status;
	CHECK(file >= 0 && fstat(file, &status) == 0);
	uint64_t size = (uint64_t)status.st_size;
	uint8_t *ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file, 0);
	CHECK(ram != MAP_FAILED);
	seed = strtoull(argv[4], NULL, 10) * 0x9e3779b97f4a7c15ull + 1;

	struct ciel_layout layout;
	struct ciel_error error = { 0 };
	struct ciel_attach_report report;
	struct ciel_guest *guest;
	enum ciel_machine machine = strcmp(argv[2], "q35") == 0 ? CIEL_MACHINE_Q35 : CIEL_MACHINE_I440FX;
	CHECK(ciel_layout_of_qemu(machine, size, 0, &layout, &error) == CIEL_OK);
	if (ciel_guest_attach(open_recording(ram, size), &layout, &guest, &report, &error)) {
		fprintf(stderr, "%s: %s\n", argv[1], error.message);
		return 1;
	}

	static uint64_t buffer[BUFFER / 8];
	is_recording = 1;
	CHECK(ciel_sample(guest, (uint8_t *)buffer, sizeof(buffer), &error) == CIEL_OK);
	is_recording = 0;
	uint32_t containers = ((struct ciel_sample_header *)buffer)->container_count;

	uint64_t outcomes[32] = { 0 }, slowest = 0, rounds = strtoull(argv[3], NULL, 10);
	for (uint64_t round = 0; round < rounds; round++) {
		uint64_t places[MAX_WORDS], words[MAX_WORDS], count = draw() % MAX_WORDS + 1;
		for (uint64_t i = 0; i < count; i++) {
			places[i] = touched[draw() % touched_count] + draw() % 512 * 8;
			memcpy(&words[i], ram + places[i], 8);
			uint64_t changed = mutate(ram, places[i], words[i]);
			memcpy(ram + places[i], &changed, 8);
		}
		uint64_t start = now_ns();
		int32_t outcome;
		if (round % ATTACHES_EVERY == 0) {
			/* The whole way, over the torn memory. */
			struct ciel_source *source = open_recording(ram, size);
			struct ciel_guest *again;
			outcome = ciel_guest_attach(source, &layout, &again, &report, &error);
			if (outcome == CIEL_OK)
				ciel_guest_destroy(again);
			else
				ciel_source_destroy(source);
		} else {
			free(guest->kernel); /* so that the CPUs are read from torn memory, too */
			guest->kernel = NULL;
			outcome = ciel_sample(guest, (uint8_t *)buffer, sizeof(buffer), &error);
		}
		uint64_t took = now_ns() - start;
		slowest = took > slowest ? took : slowest;
		CHECK(outcome >= 0 && outcome < 32);
		outcomes[outcome]++;
		for (uint64_t i = count; i > 0; i--)
			memcpy(ram + places[i - 1], &words[i - 1], 8);
	}

	/* What was put back reads as before. */
	free(guest->kernel);
	guest->kernel = NULL;
	CHECK(ciel_sample(guest, (uint8_t *)buffer, sizeof(buffer), &error) == CIEL_OK);
	CHECK_EQUAL(((struct ciel_sample_header *)buffer)->container_count, containers);
	CHECK(slowest < SLOWEST_NS);
	printf("%" PRIu64 " rounds over %u pages of %u containers, slowest %" PRIu64 " ms; by status:", rounds, touched_count,
	       containers, slowest / 1000000);
	for (int i = 0; i < 32; i++) {
		if (outcomes[i])
			printf(" %d: %" PRIu64, i, outcomes[i]);
	}
	printf("\n");
	ciel_guest_destroy(guest);
	munmap(ram, size);
	close(file);
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory SEED ROUNDS RANDOM_SEED [MINUTES]: samples, and attaches to, the torn memory of a real guest.
 *
 * SEED is a dump, best one made by cut-down. A first attach and sample note which pages are read; each round then spoils
 * some words of those pages, samples or attaches, looks whether the answer is well formed, and puts the words back. What a
 * word becomes depends on what it is: pointers become other pointers (of the same guest, so that walks go on in the wrong
 * place), to themselves, to their own page's end; numbers become small, huge, negative; bytes of text become controls and
 * broken UTF-8; whole pages change places, or are no longer there. Rounds take turns: an attach; a walk; and repeats of what
 * was recorded in good memory. In all of them the memory is sampled twice while it is torn. (What is recorded then may be
 * of use to nobody: it is forgotten.) With the words put back, a walk must find every figure as it was.
 *
 * While the mapper reads, the RAM is read-only: a write would be a SIGSEGV. Whatever the outcome, it must come without a
 * sanitizer's report and within SLOWEST_NS. Built by `make fuzz-programs`, views with ASan too.
 */
#include <inttypes.h>
#include <time.h>

#include "loaded-ram.h"
#include "programme.h"

enum { MAX_READ = 65536, MAX_WORDS = 64, BUFFER = 1 << 20, PAGES_EVERY = 8, STATUSES = 32 };
static const uint64_t SLOWEST_NS = 10ull * 1000 * 1000 * 1000;

static struct loaded_ram ram;
static uint64_t read_pages[MAX_READ]; /* offsets */
static uint32_t read_count;
static uint64_t random_state;

static uint64_t draw(void)
{
	random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
	return random_state * 0x2545f4914f6cdd1dull;
}

static uint64_t word_at(uint64_t offset)
{
	uint64_t word;

	memcpy(&word, ram.bytes + offset, sizeof(word));
	return word;
}

static uint64_t any_place(void)
{
	return read_pages[draw() % read_count] + draw() % 512 * 8;
}

static int is_pointer(uint64_t word)
{
	return word >= 0xff00000000000000ull && word < UINT64_MAX - 4096;
}

/* A place with something in it: most words of a page are zeros that nobody looks at. */
static uint64_t draw_place(void)
{
	uint64_t place = any_place();

	for (int i = 0; i < 4 && word_at(place) == 0; i++)
		place = any_place();
	return place;
}

static uint64_t another_pointer(uint64_t otherwise)
{
	for (int i = 0; i < 64; i++) {
		uint64_t word = word_at(any_place());
		if (is_pointer(word))
			return word;
	}
	return otherwise;
}

static uint64_t mutate_text(uint64_t old)
{
	static const uint8_t bytes[] = { 0, 0x1b, '\n', '/', '.', 0x7f, 0x80, 0xc0, 0xe2, 0xff };
	uint32_t shift = (uint32_t)(draw() % 8 * 8);

	return (old & ~(0xffull << shift)) | (uint64_t)bytes[draw() % sizeof(bytes)] << shift;
}

static uint64_t mutate(uint64_t place, uint64_t old)
{
	switch (draw() % 12) {
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
		return mutate_text(old);
	case 7:
		return is_pointer(old) ? old | 0xfff : 1ull << draw() % 64; /* across the page's end */
	case 8:
		return word_at(place ^ 8);
	case 9:
		return word_at(any_place());
	default:
		return another_pointer(old);
	}
}

/* One round's changes, to be put back. */
static struct {
	uint64_t places[MAX_WORDS], words[MAX_WORDS];
	uint32_t count;
	uint64_t hidden; /* the page that is not there in this round; UINT64_MAX: none */
	uint64_t page_place;
	uint8_t page[4096];
} change;

static void spoil(void)
{
	change.count = (uint32_t)(draw() % MAX_WORDS + 1);
	change.hidden = change.page_place = UINT64_MAX;
	if (draw() % PAGES_EVERY == 0) {
		change.hidden = read_pages[draw() % read_count] / CIEL_PAGE_SIZE;
		ram.present[change.hidden] = 0;
	}
	if (draw() % PAGES_EVERY == 0) {
		change.page_place = read_pages[draw() % read_count];
		memcpy(change.page, ram.bytes + change.page_place, sizeof(change.page));
		memmove(ram.bytes + change.page_place, ram.bytes + read_pages[draw() % read_count], sizeof(change.page));
	}
	for (uint32_t i = 0; i < change.count; i++) {
		change.places[i] = draw_place();
		change.words[i] = word_at(change.places[i]);
		uint64_t word = mutate(change.places[i], change.words[i]);
		memcpy(ram.bytes + change.places[i], &word, sizeof(word));
	}
}

static void restore(void)
{
	for (uint32_t i = change.count; i > 0; i--)
		memcpy(ram.bytes + change.places[i - 1], &change.words[i - 1], 8);
	if (change.page_place != UINT64_MAX)
		memcpy(ram.bytes + change.page_place, change.page, sizeof(change.page));
	if (change.hidden != UINT64_MAX)
		ram.present[change.hidden] = 1;
}

static void protect(int protection)
{
	CHECK(mprotect(ram.bytes, ram.size, protection) == 0);
}

/* What the reader of a sample relies on, whatever the guest says. */
static uint32_t check_sample(const uint8_t *buffer)
{
	const struct ciel_sample_header *header = (const struct ciel_sample_header *)buffer;
	uint64_t at = header->header_bytes;

	CHECK(header->bytes <= BUFFER && header->cpu_count >= header->possible_cpus && header->possible_cpus > 0);
	CHECK(memchr(header->nodename, 0, sizeof(header->nodename)) && memchr(header->release, 0, sizeof(header->release)));
	for (uint32_t i = 0; i < header->container_count; i++) {
		const struct ciel_sample_container *container = (const struct ciel_sample_container *)(buffer + at);
		CHECK(at + sizeof(*container) <= header->bytes && container->bytes <= header->bytes - at);
		uint64_t listed = container->device_count * sizeof(struct ciel_sample_device) +
				  container->interface_count * sizeof(struct ciel_sample_interface);
		CHECK(container->device_count <= VIEW_MAX_DEVICES && container->interface_count <= VIEW_MAX_INTERFACES);
		CHECK(header->container_bytes + header->cpu_count * 8ull + listed + container->path_length <= container->bytes);
		CHECK((uint64_t)container->id_offset + container->id_length <= container->path_length);
		for (int figure = 0; figure < CIEL_FIGURE_COUNT; figure++)
			CHECK(container->figures[figure].status >= 0 && container->figures[figure].status < STATUSES);
		at += container->bytes;
	}
	CHECK_EQUAL(at, header->bytes);
	return header->container_count;
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static enum ciel_status attach(struct ciel_guest **ret, struct ciel_error *error)
{
	struct ciel_attach_report report = { 0 };

	enum ciel_status status = ciel_guest_attach(loaded_ram_source(&ram), &ram.layout, NULL, ret, &report, error);
	if (!status)
		(*ret)->detail = 1;
	return status;
}

static uint64_t buffer[BUFFER / 8], whole[BUFFER / 8];

static enum ciel_status sample(struct ciel_guest *guest, uint64_t to[BUFFER / 8])
{
	struct ciel_error error = { 0 };
	enum ciel_status status = (enum ciel_status)ciel_sample(guest, (uint8_t *)to, BUFFER, &error);

	if (!status)
		check_sample((uint8_t *)to);
	CHECK(memchr(error.message, 0, sizeof(error.message)));
	return status;
}

static void forget(struct ciel_guest *guest)
{
	ciel_programme_destroy(guest->programme);
	guest->programme = NULL;
	free(guest->kernel);
	guest->kernel = NULL;
}

/* The containers of both samples, byte by byte: the memory stands still. */
static void check_whole_again(struct ciel_guest *guest, uint64_t round)
{
	const struct ciel_sample_header *expected = (const struct ciel_sample_header *)whole;
	const struct ciel_sample_header *found = (const struct ciel_sample_header *)buffer;

	forget(guest);
	CHECK(sample(guest, buffer) == CIEL_OK);
	if (found->bytes == expected->bytes && found->jiffies == expected->jiffies &&
	    memcmp((uint8_t *)buffer + found->header_bytes, (uint8_t *)whole + expected->header_bytes,
		   expected->bytes - expected->header_bytes) == 0)
		return;
	fprintf(stderr, "round %" PRIu64 ": the whole memory no longer reads as before (%u containers, then %u)\n", round,
		expected->container_count, found->container_count);
	exit(1);
}

enum turn { ATTACH, WALK, REPEAT };

/* Attaches take most of the time and least of the code. */
static enum turn turn_of(uint64_t round)
{
	return round % 16 == 0 ? ATTACH : round % 2 == 0 ? WALK : REPEAT;
}

/* The torn memory, looked at in one of the ways; the status of the first look. */
static enum ciel_status look(struct ciel_guest *attached, enum turn turn)
{
	struct ciel_error error = { 0 };
	struct ciel_guest *guest = attached;

	if (turn == ATTACH) {
		enum ciel_status status = attach(&guest, &error);
		if (status)
			return status;
	}
	enum ciel_status status = sample(guest, buffer);
	sample(guest, buffer);
	if (turn == ATTACH)
		ciel_guest_destroy(guest);
	return status;
}

int main(int argc, char **argv)
{
	if (argc != 4 && argc != 5) {
		fprintf(stderr, "usage: memory SEED ROUNDS RANDOM_SEED [MINUTES]\n");
		return 1;
	}
	uint64_t rounds = strtoull(argv[2], NULL, 10), start = now_ns(), slowest = 0, outcomes[STATUSES] = { 0 }, round;
	uint64_t limit = argc == 5 ? (uint64_t)(strtod(argv[4], NULL) * 60e9) : UINT64_MAX;
	struct ciel_guest *guest;
	struct ciel_error error = { 0 };

	random_state = strtoull(argv[3], NULL, 10) * 0x9e3779b97f4a7c15ull + 1;
	ram = load_ram(argv[1]);
	ram.is_copied = strtoull(argv[3], NULL, 10) % 2 == 1;
	ram.is_recording = 1;
	if (attach(&guest, &error)) {
		fprintf(stderr, "%s: %s\n", argv[1], error.message);
		return 1;
	}
	CHECK(sample(guest, whole) == CIEL_OK);
	ram.is_recording = 0;
	for (uint64_t page = 0; page < ram.size / CIEL_PAGE_SIZE && read_count < MAX_READ; page++) {
		if (ram.was_read[page])
			read_pages[read_count++] = page * CIEL_PAGE_SIZE;
	}
	uint32_t containers = check_sample((uint8_t *)whole);
	CHECK(containers > 0);

	for (round = 0; round < rounds && now_ns() - start < limit; round++) {
		/* A recording is used once it has been made twice. */
		for (int i = 0; i < (turn_of(round) == REPEAT ? 2 : 0); i++)
			CHECK(sample(guest, buffer) == CIEL_OK);
		spoil();
		protect(PROT_READ);
		uint64_t before = now_ns();
		enum ciel_status status = look(guest, turn_of(round));
		uint64_t took = now_ns() - before;
		protect(PROT_READ | PROT_WRITE);
		slowest = took > slowest ? took : slowest;
		CHECK(status >= 0 && status < STATUSES);
		if (took > SLOWEST_NS) {
			fprintf(stderr, "round %" PRIu64 " of seed %s took %" PRIu64 " ms\n", round, argv[3], took / 1000000);
			return 1;
		}
		outcomes[status]++;
		restore();
		check_whole_again(guest, round);
	}
	printf("%" PRIu64 " rounds over %u pages of %u containers, %s, %" PRIu64 " s, slowest %" PRIu64 " ms; by status:", round, read_count,
	       containers, ram.source.operations->name, (now_ns() - start) / 1000000000, slowest / 1000000);
	for (int i = 0; i < STATUSES; i++) {
		if (outcomes[i])
			printf(" %d: %" PRIu64, i, outcomes[i]);
	}
	printf("\n");
	ciel_guest_destroy(guest);
	return 0;
}

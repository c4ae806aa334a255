/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "programme.h"

enum {
	MAX_BYTES = 4 << 20,
	REPEATS = 256,
	/* Each page is asked for once in so many samples whether it is still resident. */
	RESIDENCY_SAMPLES = 64,
	/* After so many misses only every so many-th sample is recorded. */
	MISSES = 4,
	SELDOM = 32,
	/* Bytes between two pieces that are rather copied than left out. */
	GAP = 512,
};

static void drop(struct ciel_programme *programme, struct ciel_track *track)
{
	if (!track->recording)
		return;
	programme->bytes -= ciel_recording_bytes(track->recording);
	programme->is_changed = 1;
	free(track->recording);
	track->recording = NULL;
}

static void drop_container(struct ciel_programme *programme, struct ciel_container *container)
{
	for (int i = 0; i < CIEL_CONTAINER_VIEWS; i++)
		drop(programme, &container->tracks[i]);
	free(container->path);
}

void ciel_programme_clear(struct ciel_programme *programme)
{
	drop(programme, &programme->tree);
	for (uint32_t i = 0; i < programme->container_count; i++) {
		for (int j = 0; j < CIEL_CONTAINER_VIEWS; j++)
			drop(programme, &programme->containers[i].tracks[j]);
	}
	programme->ram = NULL;
	programme->is_gathered = 0;
}

void ciel_programme_destroy(struct ciel_programme *programme)
{
	if (!programme)
		return;
	drop(programme, &programme->tree);
	for (uint32_t i = 0; i < programme->container_count; i++)
		drop_container(programme, &programme->containers[i]);
	free(programme->containers);
	free(programme->pages);
	free(programme->pieces);
	free(programme->copies);
	free(programme);
}

/* --- pages and pieces -------------------------------------------------------------------------------------------------- */

/* Calls `visit` for the recordings that are in use. */
typedef void (*recording_visitor)(struct ciel_recording *recording, void *context);

static void visit_recordings(const struct ciel_programme *programme, recording_visitor visit, void *context)
{
	if (programme->tree.recording)
		visit(programme->tree.recording, context);
	for (uint32_t i = 0; i < programme->container_count; i++) {
		for (int j = 0; j < CIEL_CONTAINER_VIEWS; j++) {
			struct ciel_recording *recording = programme->containers[i].tracks[j].recording;
			if (recording)
				visit(recording, context);
		}
	}
}

/* Where a term or a check is, and where to write down where its copy will be. */
struct wanted {
	uint64_t where;
	uint32_t *staged;
};

struct collection {
	uint32_t *pages;
	struct wanted *terms, *checks;
	size_t page_count, term_count, check_count;
};

static void count_recording(struct ciel_recording *recording, void *context)
{
	struct collection *total = context;

	total->page_count += recording->page_count;
	total->term_count += recording->term_count;
	total->check_count += recording->check_count;
}

static void collect_pages(struct ciel_recording *recording, void *context)
{
	struct collection *all = context;

	memcpy(all->pages + all->page_count, recording->pages, recording->page_count * sizeof(uint32_t));
	all->page_count += recording->page_count;
}

static void collect_wanted(struct ciel_recording *recording, void *context)
{
	struct collection *all = context;

	for (uint32_t i = 0; i < recording->term_count; i++)
		all->terms[all->term_count++] = (struct wanted){ recording->terms[i].where, &recording->terms[i].staged };
	for (uint32_t i = 0; i < recording->check_count; i++)
		all->checks[all->check_count++] = (struct wanted){ recording->checks[i].where, &recording->checks[i].staged };
	recording->is_linked = 1;
}

static int compare_pages(const void *a, const void *b)
{
	uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;

	return left < right ? -1 : left > right;
}

static int compare_wanted(const void *a, const void *b)
{
	uint64_t left = ((const struct wanted *)a)->where, right = ((const struct wanted *)b)->where;

	return left < right ? -1 : left > right;
}

static int find_pages(struct ciel_programme *programme, size_t count)
{
	struct collection all = { .pages = malloc((count + 1) * sizeof(uint32_t)) };
	uint32_t unique = 0;

	if (!all.pages)
		return 0;
	visit_recordings(programme, collect_pages, &all);
	qsort(all.pages, all.page_count, sizeof(uint32_t), compare_pages);
	for (size_t i = 0; i < all.page_count; i++) {
		if (unique == 0 || all.pages[unique - 1] != all.pages[i])
			all.pages[unique++] = all.pages[i];
	}
	free(programme->pages);
	programme->pages = all.pages;
	programme->page_count = unique;
	return 1;
}

/* Pieces for what is wanted, appended. Returns where in the copies the next one begins. */
static size_t cut_pieces(struct wanted *wanted, size_t count, struct ciel_piece *pieces, uint32_t *piece_count,
			 size_t copied)
{
	struct ciel_piece *piece = NULL;

	qsort(wanted, count, sizeof(*wanted), compare_wanted);
	for (size_t i = 0; i < count; i++) {
		uint64_t offset = ciel_where_offset(wanted[i].where), end = offset + ciel_where_size(wanted[i].where);

		if (!piece || offset > piece->offset + piece->length + GAP) {
			copied += piece ? piece->length : 0;
			piece = &pieces[(*piece_count)++];
			*piece = (struct ciel_piece){ .offset = offset & ~7ull, .length = 0 };
		}
		if (end > piece->offset + piece->length)
			piece->length = ((end + 7) & ~7ull) - piece->offset;
		*wanted[i].staged = (uint32_t)(copied + offset - piece->offset);
	}
	return copied + (piece ? piece->length : 0);
}

/* Terms first: what is checked is copied after what it vouches for. */
static int link_copies(struct ciel_programme *programme, const struct collection *total)
{
	size_t wanted = total->term_count + total->check_count;
	_cleanup_free_ struct wanted *terms = malloc((wanted + 1) * sizeof(*terms));
	struct ciel_piece *pieces = malloc((wanted + 1) * sizeof(*pieces));
	struct collection all = { .terms = terms, .checks = terms + total->term_count };
	uint32_t count = 0;

	free(programme->pieces);
	free(programme->copies);
	programme->pieces = pieces;
	programme->copies = NULL;
	programme->piece_count = 0;
	if (!terms || !pieces)
		return 0;
	visit_recordings(programme, collect_wanted, &all);
	size_t bytes = cut_pieces(all.terms, all.term_count, pieces, &count, 0);
	bytes = cut_pieces(all.checks, all.check_count, pieces, &count, bytes);
	programme->copies = malloc(bytes + 1);
	if (!programme->copies)
		return 0;
	/* What the merging has saved is given back. */
	pieces = realloc(pieces, (count + 1) * sizeof(*pieces));
	if (pieces)
		programme->pieces = pieces;
	programme->piece_count = count;
	return 1;
}

/* A part of the pages, in turn: what a balloon has taken must not be loaded from, or it would come back. */
static int are_resident(struct ciel_programme *programme, struct ciel_source *source)
{
	uint32_t count = (programme->page_count + RESIDENCY_SAMPLES - 1) / RESIDENCY_SAMPLES;

	for (uint32_t i = 0; i < count; i++) {
		programme->next_page = (programme->next_page + 1) % programme->page_count;
		if (!source->operations->resident(source, programme->pages[programme->next_page] * CIEL_PAGE_SIZE))
			return 0;
	}
	return 1;
}

void ciel_programme_begin(struct ciel_programme *programme, struct ciel_source *source)
{
	const struct ciel_source_operations *operations = source->operations;
	struct collection total = { 0 };
	struct ciel_error ignored;

	programme->samples++;
	programme->views_run = programme->views_repeated = 0;
	programme->ram = NULL;
	programme->is_gathered = 0;
	visit_recordings(programme, count_recording, &total);
	if (total.page_count == 0 || (!operations->array && !operations->gather))
		return;
	if (programme->is_changed) {
		if (!find_pages(programme, total.page_count) || (!operations->array && !link_copies(programme, &total)))
			return;
		programme->is_changed = 0;
	}
	if (!are_resident(programme, source)) {
		ciel_programme_clear(programme);
		return;
	}
	if (operations->array)
		programme->ram = operations->array(source);
	else
		programme->is_gathered = operations->gather(source, programme->pieces, programme->piece_count,
							    programme->copies, &ignored) == CIEL_OK;
}

/* --- repeating and running --------------------------------------------------------------------------------------------- */

int ciel_programme_repeat(struct ciel_programme *programme, struct ciel_track *track, void *answer, uint32_t *used)
{
	struct ciel_recording *recording = track->recording;
	int holds;

	if (!recording || !recording->is_proven)
		return 0;
	if (programme->ram)
		holds = ciel_recording_repeat(recording, programme->ram, answer);
	else if (programme->is_gathered && recording->is_linked)
		holds = ciel_recording_repeat_staged(recording, programme->copies, answer);
	else
		return 0;
	if (*used > recording->constant_bytes)
		memset((uint8_t *)answer + recording->constant_bytes, 0, *used - recording->constant_bytes);
	*used = recording->constant_bytes;
	if (!holds) {
		drop(programme, track);
		track->misses++;
		return 0;
	}
	/* It is made anew, and should come out the same. */
	if (recording->uses >= REPEATS)
		return 0;
	recording->uses++;
	programme->views_repeated++;
	return 1;
}

void ciel_programme_run_begin(struct ciel_programme *programme, struct ciel_track *track,
			      struct ciel_view_context *context, struct ciel_space *space, void *answer, size_t answer_bytes)
{
	const struct ciel_source_operations *operations = space->source->operations;
	int is_seldom = track->misses >= MISSES && programme->samples % SELDOM != 0;

	programme->views_run++;
	if (is_seldom || (!operations->array && !operations->gather))
		return;
	memset(answer, 0, answer_bytes);
	ciel_record_begin(context, space, answer, answer_bytes);
}

void ciel_programme_run_end(struct ciel_programme *programme, struct ciel_track *track, struct ciel_view_context *context,
			    int result)
{
	struct ciel_recording *made = NULL, *known = track->recording;

	if (result == 0)
		made = ciel_record_end(context);
	else
		ciel_record_abort(context);
	/* A flush that came between spoils the recording of this moment, not the one that is there. */
	if (!made && known && result == 0)
		return;
	if (made && known && ciel_recording_equals(made, known)) {
		free(made);
		/* Not all of them at the same sample. */
		known->uses = known->is_proven ? 0 : (uint32_t)((uintptr_t)known / 64 % REPEATS);
		known->is_proven = 1;
		track->misses = 0;
		return;
	}
	if (known) {
		track->misses++;
		programme->corrections += known->is_proven;
	}
	drop(programme, track);
	if (!made)
		return;
	if (programme->bytes + ciel_recording_bytes(made) > MAX_BYTES) {
		free(made);
		return;
	}
	programme->bytes += ciel_recording_bytes(made);
	programme->is_changed = 1;
	track->recording = made;
}

void ciel_programme_prefetch(const struct ciel_programme *programme, const struct ciel_container *container)
{
	if (!programme->ram)
		return;
	for (int i = 0; i < CIEL_CONTAINER_VIEWS; i++) {
		const struct ciel_recording *recording = container->tracks[i].recording;
		if (recording)
			ciel_recording_prefetch(recording, programme->ram);
	}
}

/* --- containers -------------------------------------------------------------------------------------------------------- */

/* Both lists are in the tree's order, so the search for the next one begins behind the last one that was found. */
void ciel_programme_set_containers(struct ciel_programme *programme, struct ciel_container *containers, uint32_t count)
{
	struct ciel_container *old = programme->containers;
	uint32_t old_count = programme->container_count, next = 0;
	uint64_t steps_left = 4ull * ((uint64_t)old_count + count);

	for (uint32_t i = 0; i < count; i++) {
		for (uint32_t tried = 0; tried < old_count && steps_left > 0; tried++, steps_left--) {
			uint32_t at = (next + tried) % old_count;

			if (old[at].address != containers[i].address || old[at].serial != containers[i].serial)
				continue;
			memcpy(containers[i].tracks, old[at].tracks, sizeof(old[at].tracks));
			memset(old[at].tracks, 0, sizeof(old[at].tracks));
			next = at + 1;
			break;
		}
	}
	for (uint32_t i = 0; i < old_count; i++)
		drop_container(programme, &old[i]);
	free(old);
	programme->containers = containers;
	programme->container_count = count;
}

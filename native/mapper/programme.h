/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is known of a guest between samples: its containers, and for each view of each of them a recording (record.h).
 *
 *   sample ─▶ begin: pages still resident? gather, if the source needs copies
 *          ─▶ the tree's recording holds ─▶ the containers are those of before
 *             else walk: prove, list, and keep the recordings of containers that are still there
 *          ─▶ each view of each container: its recording holds ─▶ the answer; else the view runs, and is recorded
 *
 * A recording is used once another walk has made the same; from then on the view runs again every REPEATS samples (each at
 * its own), and when a check fails. A view whose recordings never come out the same is recorded ever more seldom.
 *
 * All of it belongs to the guest and is at most MAX_BYTES: what does not fit is not remembered, and runs.
 */
#ifndef CIEL_PROGRAMME_H
#define CIEL_PROGRAMME_H

#include "figures.h"
#include "record.h"

struct ciel_track {
	struct ciel_recording *recording; /* NULL: none */
	uint32_t misses; /* recordings in a row that were not to be used */
};

struct ciel_container {
	uint64_t address, serial; /* its cgroup's identity */
	struct ciel_places places; /* where its figures are */
	uint32_t runtime, id_offset, id_length, path_length;
	char *path; /* not terminated */
	struct ciel_track tracks[CIEL_CONTAINER_VIEWS];
};

struct ciel_programme {
	struct ciel_track tree;
	struct ciel_container *containers; /* as of the tree's recording, or of the sample in progress */
	uint32_t container_count;
	uint64_t samples;
	size_t bytes; /* of recordings and containers */
	int is_changed; /* recordings came or went since what follows was made of them */
	uint32_t *pages; /* of all recordings, each once, ascending */
	uint32_t page_count, next_page;
	struct ciel_piece *pieces;
	uint32_t piece_count;
	uint8_t *copies;
	/* Of the sample in progress: the RAM or its copies can be repeated from. */
	const volatile uint8_t *ram;
	int is_gathered;
	uint32_t views_run, views_repeated;
	/* Since the attach: recordings that were used and whose checks held, and that came out otherwise when made anew. */
	uint32_t corrections;
};

/* At the beginning of a sample. Whatever fails only makes views run. */
void ciel_programme_begin(struct ciel_programme *programme, struct ciel_source *source);

/*
 * 1: the view's answer is there. 0: run it, between the following two. *used says how many bytes of `answer` may be other
 * than 0, before and afterwards.
 */
int ciel_programme_repeat(struct ciel_programme *programme, struct ciel_track *track, void *answer, uint32_t *used);

/* `answer` must be all 0 then. */
void ciel_programme_run_begin(struct ciel_programme *programme, struct ciel_track *track,
			      struct ciel_view_context *context, struct ciel_space *space, void *answer, size_t answer_bytes);
void ciel_programme_run_end(struct ciel_programme *programme, struct ciel_track *track, struct ciel_view_context *context,
			    int result);

/* Asks the processor for what the views of a container will load. */
void ciel_programme_prefetch(const struct ciel_programme *programme, const struct ciel_container *container);

/* Other containers, whose paths are the programme's to free from now on; those known before keep their tracks. */
void ciel_programme_set_containers(struct ciel_programme *programme, struct ciel_container *containers, uint32_t count);

/* Forgets all recordings. */
void ciel_programme_clear(struct ciel_programme *programme);
void ciel_programme_destroy(struct ciel_programme *programme);

#endif

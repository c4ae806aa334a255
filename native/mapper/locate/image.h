/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Looking for bytes in the kernel's image, through its page tables: for what no table names. Unmapped pages are passed
 * over (kernels give back what they need no more), and matches may cross from page to page.
 */
#ifndef CIEL_IMAGE_H
#define CIEL_IMAGE_H

#include "../translate.h"

/* Told of a page, with what was kept of the one before in front of it. Returns 0 to go on, 1 to end. */
typedef int (*ciel_image_piece_visitor)(void *context, uint64_t address, const uint8_t *bytes, size_t length, size_t kept);

/* Visits the pages of the image, each with up to `overlap` (at most CIEL_MAX_PATTERN) bytes of its neighbour before it. */
int ciel_image_pieces(struct ciel_space *space, uint64_t start, size_t overlap, ciel_image_piece_visitor visit, void *context);

/* Told the guest-virtual address of a match. Returns 0 to go on, 1 to end the search. */
typedef int (*ciel_image_visitor)(void *context, uint64_t address);

/* Images have up to a hundred MiB; what is looked for is behind the text and at most so far. */
enum { CIEL_IMAGE_BYTES = 256 << 20, CIEL_MAX_PATTERN = 64 };

/* Returns 1 when a visitor ended the search, 0 when the image ended. */
int ciel_image_search(struct ciel_space *space, uint64_t start, const void *pattern, size_t length,
		      ciel_image_visitor visit, void *context);

#endif

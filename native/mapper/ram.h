/* SPDX-License-Identifier: Apache-2.0 */
/* The RAM of a VM that runs: opening the blocks that QEMU has for it, and following what is plugged in and out. */
#ifndef CIEL_RAM_H
#define CIEL_RAM_H

#include "guest.h"

enum { CIEL_MAX_BLOCKS = CIEL_MAX_NODES + CIEL_MAX_RANGES };

/* Sizes of blocks, which lie one behind the other in the source. */
struct ciel_ram_blocks {
	uint64_t sizes[CIEL_MAX_BLOCKS];
	uint32_t count;
};

/* Those that QEMU's command line names: one, or one a NUMA node. */
struct ciel_ram_blocks ciel_ram_blocks_of(const struct ciel_attach_request *request);

/* upward, *ret_is_guess: see ciel_ram_blocks_find(). *ret_kind: enum ciel_source_choice. */
enum ciel_status ciel_ram_open(const struct ciel_attach_request *request, const struct ciel_ram_blocks *blocks, int upward,
			       struct ciel_source **ret, uint32_t *ret_kind, int *ret_is_guess, struct ciel_error *error);

/* Takes up RAM that was plugged in, and gives up what was plugged out. Nothing changes when it cannot be told which is which. */
void ciel_guest_follow_plugged(struct ciel_guest *guest);

#endif

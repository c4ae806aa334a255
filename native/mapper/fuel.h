/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fuel of one sample. Each view is lent a part of it, so that what one container costs is bounded, and all of them.
 */
#ifndef CIEL_FUEL_H
#define CIEL_FUEL_H

#include "view-runtime.h"

enum { CIEL_FUEL_OF_VIEW = 200000 };

struct ciel_tank {
	struct ciel_view_context *context;
	uint64_t left;
};

/* Before each view: at most `limit` of what is left. Returns what was lent. */
static inline uint64_t ciel_lend(struct ciel_tank *tank, uint64_t limit)
{
	tank->context->fuel = tank->left < limit ? tank->left : limit;
	return tank->context->fuel;
}

/* After it: what was burnt is gone. */
static inline void ciel_settle(struct ciel_tank *tank, uint64_t lent)
{
	tank->left -= lent - tank->context->fuel;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Scope guards: what a function opened is closed on each of its ways out. */
#ifndef CIEL_CLEANUP_H
#define CIEL_CLEANUP_H

#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(function) __attribute__((cleanup(function)))
#define _cleanup_free_ _cleanup_(ciel_free_pointer)
#define _cleanup_close_ _cleanup_(ciel_close_descriptor)

static inline void ciel_free_pointer(void *pointer)
{
	free(*(void **)pointer);
}

static inline void ciel_close_descriptor(const int *descriptor)
{
	if (*descriptor >= 0)
		close(*descriptor);
}

/* Hands a guarded pointer to the caller: `*ret = ciel_take(thing)`. */
#define ciel_take(pointer)                    \
	({                                        \
		__typeof__(pointer) taken = (pointer); \
		(pointer) = NULL;                     \
		taken;                                \
	})

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Enters and leaves the views: whose memory g_map() reads on this thread. */
#ifndef CIEL_RUNTIME_H
#define CIEL_RUNTIME_H

#include "translate.h"
#include "view-runtime.h"

/* Views called until ciel_runtime_leave() read this space with this context. */
void ciel_runtime_enter(struct ciel_view_context *context, struct ciel_space *space);
void ciel_runtime_leave(void);

#endif

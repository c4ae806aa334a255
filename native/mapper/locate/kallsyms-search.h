/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the kallsyms tables are in kernels whose VMCOREINFO does not say it (before 6.0): found by what they look like.
 */
#ifndef CIEL_KALLSYMS_SEARCH_H
#define CIEL_KALLSYMS_SEARCH_H

#include "kallsyms.h"

/* NO_SYMBOLS when there are no such tables behind _stext, which is `text_start`. */
enum ciel_status ciel_kallsyms_search(struct ciel_space *space, uint64_t text_start, struct ciel_kallsyms_tables *ret,
				      struct ciel_error *error);

#endif

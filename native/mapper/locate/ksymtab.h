/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exported symbols: what is left of a kernel's data symbols without CONFIG_KALLSYMS_ALL. Where modules find them, an
 * attach does, too.
 */
#ifndef CIEL_KSYMTAB_H
#define CIEL_KSYMTAB_H

#include "kallsyms.h"

/* Fills in those of `symbols` that are not found yet and that the kernel exports. */
void ciel_ksymtab_find(struct ciel_space *space, uint64_t text_start, struct ciel_symbol *symbols, uint32_t count);

/* The kernel's BTF by what it looks like: *ret and its length, or 0. */
int ciel_btf_search(struct ciel_space *space, uint64_t text_start, uint64_t *ret, uint32_t *ret_length);

#endif

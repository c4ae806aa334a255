/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kallsyms: the kernel's own symbol table, compressed, in its image. Only the symbols that are asked for are kept.
 */
#ifndef CIEL_KALLSYMS_H
#define CIEL_KALLSYMS_H

#include "../translate.h"

struct ciel_symbol {
	const char *name;
	uint64_t address;
	uint32_t index; /* in kallsyms; used while decoding */
	uint8_t found;
};

/* Where the tables are, guest-virtual. VMCOREINFO names them from 6.0 on. */
struct ciel_kallsyms_tables {
	uint64_t names, count, token_table, token_index;
	uint64_t offsets;       /* kallsyms_offsets, 0 when the kernel keeps absolute addresses */
	uint64_t relative_base; /* of kallsyms_relative_base, 0 from 7.x on */
	uint64_t addresses;     /* kallsyms_addresses */
	uint64_t known_text;    /* the value of _stext, by VMCOREINFO: decides the encoding */
};

/*
 * Fills `found` and `address` of each symbol in `symbols`. Symbols that the kernel does not have stay not found; that is
 * no error. NO_SYMBOLS when the tables do not decode.
 */
enum ciel_status ciel_kallsyms_find(struct ciel_space *space, const struct ciel_kallsyms_tables *tables,
				    struct ciel_symbol *symbols, uint32_t count, struct ciel_error *error);

#endif

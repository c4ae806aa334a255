/* SPDX-License-Identifier: Apache-2.0 */
/* Where the inputs of the fuzzers have what: shared with the program that writes their seeds (seeds.c). */
#ifndef CIEL_FUZZ_LAYOUT_H
#define CIEL_FUZZ_LAYOUT_H

#define KALLSYMS_IMAGE 0xffffffff81000000ull

enum {
	KALLSYMS_COUNT = 0x40,
	KALLSYMS_BASE = 0x80,
	KALLSYMS_TOKENS = 0x1000,
	KALLSYMS_INDEX = 0x3000,
	KALLSYMS_OFFSETS = 0x4000,
	KALLSYMS_NAMES = 0x8000,
	KALLSYMS_BYTES = 0x20000,

	/* Page tables: a header, then the RAM. */
	WALK_HEADER = 64,
	WALK_BYTES = 16 * 4096,
};

#endif

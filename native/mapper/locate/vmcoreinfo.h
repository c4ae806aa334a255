/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VMCOREINFO: the text that every Linux kernel with kexec support keeps in its RAM for crash tools, and from which an
 * attach starts: release, page-table root, KASLR offset, from 6.0 on the kallsyms tables.
 *
 * Two forms exist:
 *   4.15 and later  a page of its own: ELF note header {namesz 11, descsz, type 0, "VMCOREINFO"}, then the text;
 *   up to 4.10      a static u32[] with the same note, 4-byte aligned anywhere in the kernel's bss.
 * The scan looks at the first bytes of each resident page, so it finds the first form; the deep one looks at every byte,
 * several times slower, and finds the second.
 *
 * Copies survive warm reboots and kexec: what a scan finds are candidates. The text is the guest's word; ciel_locate_*
 * check it against the memory it describes.
 */
#ifndef CIEL_VMCOREINFO_H
#define CIEL_VMCOREINFO_H

#include "../translate.h"

struct ciel_vmcoreinfo {
	char release[65];
	uint64_t page_table_root; /* SYMBOL(swapper_pg_dir): virtual */
	uint64_t phys_base; /* UINT64_MAX: not told, up to 4.9; found when it is proved */
	uint64_t phys_base_symbol; /* where the variable is, up to 4.9 */
	uint64_t encryption_mask;
	uint64_t text_start;    /* SYMBOL(_stext) */
	uint64_t init_uts_ns;
	uint64_t uts_name_offset; /* OFFSET(uts_namespace.name); UINT64_MAX: not told, before 5.11 */
	uint32_t levels;
	/* 0 when absent: before 6.0. */
	uint64_t kallsyms_names, kallsyms_count, kallsyms_token_table, kallsyms_token_index;
	uint64_t kallsyms_offsets, kallsyms_relative_base, kallsyms_addresses;
};

/* Parses the note's text. MALFORMED when something that is needed is missing. */
enum ciel_status ciel_vmcoreinfo_parse(const char *text, size_t length, struct ciel_vmcoreinfo *ret,
				       struct ciel_error *error);

enum { CIEL_MAX_CANDIDATES = 32 };

struct ciel_vmcoreinfo_candidates {
	struct ciel_vmcoreinfo info[CIEL_MAX_CANDIDATES];
	uint32_t count;
};

/* Scans the RAM; copies that say the same are one candidate. NO_VMCOREINFO when there is none. */
enum ciel_status ciel_vmcoreinfo_scan(struct ciel_source *source, struct ciel_vmcoreinfo_candidates *ret,
				      struct ciel_error *error);

/* The same for old kernels: reads every byte that is resident. */
enum ciel_status ciel_vmcoreinfo_scan_deep(struct ciel_source *source, struct ciel_vmcoreinfo_candidates *ret,
					   struct ciel_error *error);

/* Prepares a space from a candidate and proves it: init_uts_ns, read through its page tables, holds its release. */
enum ciel_status ciel_vmcoreinfo_prove(struct ciel_vmcoreinfo *info, struct ciel_space *space, struct ciel_error *error);

#endif

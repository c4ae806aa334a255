/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Types of kernels that carry none: a detached BTF file, found by the kernel's release in a directory that the operator
 * keeps. As BTFHub lays it out, DIR/<distribution>/<version>/x86_64/<release>.btf, or simply DIR/<release>.btf.
 */
#ifndef CIEL_DETACHED_H
#define CIEL_DETACHED_H

#include "../status.h"

enum { CIEL_MAX_BTF = 64 << 20 };

/*
 * `directory`: NULL or empty when there is none. NO_TYPES, and what was looked for, when the file is not there. The caller
 * frees *ret.
 */
enum ciel_status ciel_btf_detached(const char *directory, const char *release, uint8_t **ret, uint32_t *ret_length,
				   struct ciel_error *error);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Status and message of everything that can fail in the mapper.
 *
 * A function that can fail returns an enum ciel_status and fills the caller's struct ciel_error. The status is for
 * switching on (it becomes the reason of an unavailable reading), the message is for people: it names the symbol and the
 * address, and grows outward ("reading init_uts_ns: page not present at 0xffff…"). The library prints nothing.
 */
#ifndef CIEL_STATUS_H
#define CIEL_STATUS_H

#include <stdint.h>

enum ciel_status {
	CIEL_OK = 0,
	CIEL_NO_VMCOREINFO = 1,     /* no Linux kernel found: another system, or still booting */
	CIEL_NO_SYMBOLS = 2,        /* kallsyms could not be located or decoded */
	CIEL_NO_TYPES = 3,          /* the kernel carries no BTF */
	CIEL_NO_FIELD = 4,          /* this kernel keeps no such figure */
	CIEL_FAULTED = 5,           /* a guest address does not translate, or is not backed by RAM */
	CIEL_EXHAUSTED = 6,         /* fuel, time or size bound of a walk */
	CIEL_TORN = 7,              /* changed while it was read, more often than is retried */
	CIEL_MALFORMED = 8,         /* the guest's data contradicts itself */
	CIEL_STALE = 9,             /* what was cached does not describe the kernel in this RAM (any more) */
	CIEL_PERMISSION_DENIED = 10,
	CIEL_PROCESS_GONE = 11,
	CIEL_UNSUPPORTED = 12,      /* a machine, RAM backend or format that the mapper does not know */
	CIEL_OUT_OF_MEMORY = 13,    /* of this process */
	CIEL_BAD_ARGUMENT = 14,     /* a mistake of the caller */
	CIEL_NOT_ACCOUNTED = 15,    /* the kernel could keep the figure, but its controller is off for this cgroup */
	CIEL_NOT_ASKED = 16,        /* a figure on demand that was not demanded */
	CIEL_PRIVATE = 17,          /* a driver of the guest keeps it in records that are not known here */
	CIEL_EMPTY = 18,            /* no process is there whose it could be */
};

struct ciel_error {
	int32_t status;
	char message[508];
};
_Static_assert(sizeof(struct ciel_error) == 512, "read by the FFI border");

/* Sets status and message; returns the status, so that `return ciel_fail(…)` reads well. */
enum ciel_status ciel_fail(struct ciel_error *error, enum ciel_status status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Puts what was being done before the message that is there; returns the status that is there. */
enum ciel_status ciel_context(struct ciel_error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ciel_fail() with the meaning of an errno: EACCES and EPERM are PERMISSION_DENIED, ESRCH is PROCESS_GONE, … */
enum ciel_status ciel_fail_errno(struct ciel_error *error, int number, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's records and the host's answer that the pass's tests use. The guest that behaviour.c makes up lays them out
 * otherwise than this declaration does.
 */
#ifndef LLVIEW_TEST_RECORDS_H
#define LLVIEW_TEST_RECORDS_H

#include "views/guest.h"

GUEST_RECORDS_BEGIN

struct link {
	struct link GUEST *next;
};

struct pair {
	u32 left;
	u32 right;
};

struct item {
	s32 number;
	u64 large;
	s64 widened; /* any size, any sign: the slot says */
	struct link link;
	struct pair pairs[4];
	u32 grid[3][4];
	struct item GUEST *others[4];
	union {
		u32 in_union;
		u64 unused;
	};
	struct {
		u32 in_struct;
	};
	u64 absent; /* no guest has it */
};

enum color { second_color GUEST_ENUMERATOR };
enum ___nameless { nameless_flag GUEST_ENUMERATOR, absent_flag GUEST_ENUMERATOR };

GUEST_RECORDS_END

struct answer {
	u64 number;
	u64 numbers[8];
	char name[16];
};

#endif

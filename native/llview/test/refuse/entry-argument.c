// SPDX-License-Identifier: Apache-2.0
// expect: takes host pointers and 32 or 64 bit integers only
#include "../records.h"

int view(struct item GUEST *item)
{
	return item->number;
}

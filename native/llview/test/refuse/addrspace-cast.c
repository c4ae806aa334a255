// SPDX-License-Identifier: Apache-2.0
// expect: a pointer cast between host and guest
#include "../records.h"

int view(u64 address)
{
	struct item GUEST *item = (struct item GUEST *)address;

	return *(u32 *)&item->number;
}

// SPDX-License-Identifier: Apache-2.0
// expect: a host pointer made from an integer
#include "../records.h"

int view(u64 address)
{
	return *(s32 *)((struct item GUEST *)address)->large;
}

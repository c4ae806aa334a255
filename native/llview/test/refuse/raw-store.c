// SPDX-License-Identifier: Apache-2.0
// expect: a store through a guest pointer
#include "../records.h"

int view(u64 address)
{
	*(u64 GUEST *)address = 1;
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
// expect: a store through a guest pointer
#include "../records.h"

int view(u64 address)
{
	((struct item GUEST *)address)->number = 1;
	return 0;
}

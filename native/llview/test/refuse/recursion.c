// SPDX-License-Identifier: Apache-2.0
// expect: recursion
#include "../records.h"

int view(u64 address)
{
	return address ? view(address - 1) : 0;
}

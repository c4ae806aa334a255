// SPDX-License-Identifier: Apache-2.0
// expect: pointer arithmetic over guest records
#include "../records.h"

int view(u64 address)
{
	return (((struct item GUEST *)address) + 3)->number;
}

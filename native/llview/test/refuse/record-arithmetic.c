// SPDX-License-Identifier: Apache-2.0
// expect: pointer arithmetic over guest records
#include "../records.h"

int view(u64 address, u64 index)
{
	return ((struct item GUEST *)address)[index].number;
}

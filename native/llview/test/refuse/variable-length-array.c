// SPDX-License-Identifier: Apache-2.0
// expect: a variable whose size is only known when the view runs
#include "../records.h"

int view(u64 count)
{
	u8 bytes[count];

	bytes[0] = 1;
	return bytes[0];
}

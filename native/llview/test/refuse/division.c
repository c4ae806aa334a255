// SPDX-License-Identifier: Apache-2.0
// expect: a division by what may be 0
#include "../records.h"

int view(u64 address, struct answer *answer)
{
	answer->number = 1000 / ((struct item GUEST *)address)->large;
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
// expect: a guest record copied as a whole
#include "../records.h"

int view(u64 address, struct answer *answer)
{
	struct item copy = *(struct item GUEST *)address;

	answer->number = copy.number;
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
// expect: the bound of this index is larger than the host array
#include "../records.h"

int view(u64 address, struct answer *answer)
{
	answer->numbers[ciel_bounded(((struct item GUEST *)address)->number, 1000)] = 1;
	return 0;
}

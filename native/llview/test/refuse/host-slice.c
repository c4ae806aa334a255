// SPDX-License-Identifier: Apache-2.0
// expect: takes an array and its capacity as the mapper passed them
#include "../records.h"

int view(u64 address, struct answer *answers)
{
	struct item GUEST *item = (struct item GUEST *)address;

	host_slice(answers, item->large, item->number).number = 1;
	return 0;
}

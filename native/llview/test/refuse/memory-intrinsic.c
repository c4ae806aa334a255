// SPDX-License-Identifier: Apache-2.0
// expect: a memory intrinsic
#include "../records.h"

int view(struct answer *answer, u64 count)
{
	__builtin_memmove(answer->numbers, answer->name, count);
	return 0;
}

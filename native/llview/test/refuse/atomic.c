// SPDX-License-Identifier: Apache-2.0
// expect: an atomic operation or fence
#include "../records.h"

int view(struct answer *answer)
{
	return (s32)__atomic_fetch_add(&answer->number, 1, __ATOMIC_SEQ_CST);
}

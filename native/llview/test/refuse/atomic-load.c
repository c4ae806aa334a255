// SPDX-License-Identifier: Apache-2.0
// expect: an atomic load through a guest pointer
#include "../records.h"

int view(u64 address)
{
	return __atomic_load_n(&((struct item GUEST *)address)->number, __ATOMIC_ACQUIRE);
}

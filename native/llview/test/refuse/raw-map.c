// SPDX-License-Identifier: Apache-2.0
// expect: a call of 'g_map', which is neither a view nor part of the runtime
#include "../records.h"

int view(u64 address)
{
	return *(const volatile u8 *)g_map(address, 1);
}

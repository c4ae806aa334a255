// SPDX-License-Identifier: Apache-2.0
// expect: inline assembly
#include "../records.h"

int view(u64 address)
{
	__asm__ volatile("%0 = 1" : "=r"(address));
	return (s32)address;
}

// SPDX-License-Identifier: Apache-2.0
// expect: its address is taken
#include "../records.h"

int view(u64 address)
{
	return (s32)address;
}

int (*const view_table[])(u64) = {view};

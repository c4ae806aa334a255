// SPDX-License-Identifier: Apache-2.0
// expect: a promise to the compiler that some code is never reached
#include "../records.h"

int view(u64 address)
{
	if (address == 1)
		__builtin_unreachable();
	return 0;
}

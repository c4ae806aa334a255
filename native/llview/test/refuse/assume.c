// SPDX-License-Identifier: Apache-2.0
// expect: a promise to the compiler
#include "../records.h"

int view(u64 address)
{
	__builtin_assume(address != 1);
	return 0;
}

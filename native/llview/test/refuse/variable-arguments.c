// SPDX-License-Identifier: Apache-2.0
// expect: a variable number of arguments
#include "../records.h"

int view(int count, ...)
{
	return count;
}
